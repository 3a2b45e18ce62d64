"""Several embeds as one upstream call: their texts in one list, the vectors given back to whoever asked for them.

Only `/api/embed`: what it answers can be taken apart exactly. The vectors of `/v1/embeddings` may be base64 and those of
`/api/embeddings` are not normalised, so these two stay calls of their own. Whatever goes wrong with a list is nobody's answer:
its members are asked for again one by one, so that a text which fails, fails alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.batch import BatchPolicy, apportion, plan
from supervisord_ai.core.cache_policy import hash_of
from supervisord_ai.core.calls import Call, Form, Json, JsonObject, Op
from supervisord_ai.core.patience import Patience
from supervisord_ai.core.waiting import Mergeable
from supervisord_ai.errors import UpstreamCut, UpstreamUnreachable
from supervisord_ai.gateway.relay import JSON
from supervisord_ai.gateway.request import End, Head, Outcome, SharedAnswer, SlotJob
from supervisord_ai.gateway.spool import SpoolFull
from supervisord_ai.ollama.client import OllamaClient, Reply
from supervisord_ai.wire.json_go import NotJson, decode, encode

log = logging.getLogger(__name__)

_LEFT = Outcome(End.LEFT, 499, "request canceled")


class BatchFailed(Exception):  # noqa: N818
    """The list as a whole brought no answer; each of its members may bring one."""


def mergeable(call: Call) -> Mergeable | None:
    """Return what this call may be merged by: all that Ollama is sent but the texts; None when it goes alone."""
    texts, policy = call.embed_inputs, BatchPolicy()
    if call.route.op is not Op.EMBED or not texts or len(texts) > policy.items_max:
        return None
    chars = sum(len(text) for text in texts)
    if chars > policy.chars_max:
        return None
    common = {name: value for name, value in _fields(call).items() if name not in {"input", "model"}}
    return Mergeable(hash_of([call.canonical_model, dict(sorted(common.items()))]), len(texts), chars)


async def pull_batch(
    job: SlotJob, client: OllamaClient, clock: Clock, patience: Patience, on_begin: Callable[[], None]
) -> Outcome:
    """Make the upstream call of a batch and write each of its answers.

    Raises:
        UpstreamUnreachable: not one byte of an answer came; it may be asked again.
        BatchFailed: ask for each of them alone.
    """
    texts = [answer.first.call.embed_inputs or () if answer.first is not None else () for answer in job.answers]
    planned = plan(texts)
    call = job.holder.call
    body = encode(_fields(call) | {"input": cast("list[Json]", list(planned.texts))})
    job.scope = trio.CancelScope(deadline=clock.monotonic() + patience.silence_s)
    with job.scope as scope:
        try:
            async with client.open("POST", call.upstream_path, body=body) as reply:
                on_begin()
                whole = _read(reply.status, await _body(reply))
            weights = [float(sum(len(text) for text in each)) for each in texts]
            counts = apportion(_count(whole), weights)
            vectors = _vectors(whole, len(planned.texts))
            for answer, places, count in zip(job.answers, planned.places, counts, strict=True):
                answer.is_merged = answer is not job.holder.answer
                _write(answer, whole, [vectors[place] for place in places], count, clock.monotonic())
        except UpstreamCut as exc:
            raise BatchFailed(f"the answer was broken off after {exc.after_bytes} bytes") from exc
        except SpoolFull:
            return Outcome(End.FAULT, 507, "the answer is larger than the spool has room for")
        finally:
            job.scope = None
    if scope.cancelled_caught:
        if job.is_given_up:
            raise UpstreamUnreachable("its slot is perhaps lost", was_sent=True)
        if not job.is_abandoned:
            raise BatchFailed(f"Ollama was silent for {patience.silence_s:.0f} s")
        return _LEFT
    return Outcome(End.WHOLE)


def _fields(call: Call) -> JsonObject:
    value = decode(bytes(call.upstream_body))
    assert isinstance(value, dict), "classify has read it"
    return value


async def _body(reply: Reply) -> bytes:
    body = bytearray()
    while (chunk := await reply.next_chunk()) is not None:
        body += chunk
    return bytes(body)


def _read(status: int, body: bytes) -> JsonObject:
    try:
        value = decode(body)
    except NotJson as exc:
        raise BatchFailed(f"status {status}, and no JSON") from exc
    if status != 200 or not isinstance(value, dict):
        raise BatchFailed(f"status {status}")
    return value


def _count(whole: JsonObject) -> int:
    count = whole.get("prompt_eval_count")
    return count if isinstance(count, int) else 0


def _vectors(whole: JsonObject, expected: int) -> list[Json]:
    vectors = whole.get("embeddings")
    if not isinstance(vectors, list) or len(vectors) != expected:
        raise BatchFailed(f"{expected} texts, and not as many vectors")
    return vectors


def _write(answer: SharedAnswer, whole: JsonObject, vectors: list[Json], count: int, now: float) -> None:
    """One member's answer: as if it had asked alone, but that its count is a part of the sum and its times are the list's."""
    asked_by = answer.first
    if asked_by is None:
        return  # they have all left
    answer.asked_by = asked_by
    fields = dict(whole)
    fields["model"] = asked_by.call.model
    fields["embeddings"] = vectors
    if count:
        fields["prompt_eval_count"] = count
    else:
        fields.pop("prompt_eval_count", None)
    answer.begin(Head(200, JSON, Form.RAW, has_length=True), now)
    answer.spool.write(encode(fields))
