"""Embeddings in their three forms: /api/embed (normalised, a list), /api/embeddings (raw, one), /v1/embeddings."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio

from .catalogue import CloudName, ModelSpec, NotValid, without_source
from .gojson import JsonObject, float32, held32, quote
from .machine import Ask, Machine, nanoseconds
from .native import cloud_refusal
from .options import BadOption, checked, settings_for
from .runner import Context, Runner
from .scheduler import TOO_LONG, CallerLeft, CannotRun


@dataclass(frozen=True, slots=True)
class Embedded:
    """What came of one embed call."""

    vectors: list[list[float]]
    prompt_tokens: int
    total_s: float
    load_s: float

    def native(self, model: str) -> JsonObject:
        answer: JsonObject = {"model": model, "embeddings": self.vectors}
        if not self.vectors:
            return answer
        answer |= {"total_duration": nanoseconds(self.total_s), "load_duration": nanoseconds(self.load_s)}
        return answer | ({"prompt_eval_count": self.prompt_tokens} if self.prompt_tokens else {})

    def openai(self, model: str, *, is_base64: bool) -> JsonObject:
        data = [
            {"object": "embedding", "embedding": _base64(vector) if is_base64 else vector, "index": index}
            for index, vector in enumerate(self.vectors)
        ]
        usage = {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens}
        return {"object": "list", "data": data, "model": model, "usage": usage}


async def embed(machine: Machine, body: JsonObject, context: Context, path: str) -> Embedded:
    """One /api/embed call.

    Raises: CannotRun, CallerLeft.
    """
    inputs = _inputs(body.get("input"))
    spec = _find(machine, body.get("model", ""), is_legacy=False)
    began = trio.current_time()
    runner = await _lend(machine, spec, body, context)
    loaded = trio.current_time()
    if not inputs:
        return Embedded([], 0, 0.0, 0.0)
    vectors: dict[int, list[float]] = {}
    tokens = 0
    machine.enter(spec.name)
    try:
        for text in inputs:
            tokens += _token_count(machine, runner, body, text, path)
        await _each_in_a_slot(machine, runner, inputs, context, vectors)
    finally:
        machine.leave(spec.name)
    ordered = [_normalised(vectors[index][: body.get("dimensions") or None]) for index in range(len(inputs))]
    return Embedded(ordered, tokens, trio.current_time() - began, loaded - began)


async def embed_one(machine: Machine, body: JsonObject, context: Context, path: str) -> list[float]:
    """One /api/embeddings call: the vector as the runner gave it.

    Raises: CannotRun, CallerLeft.
    """
    spec = _find(machine, body.get("model", ""), is_legacy=True)
    runner = await _lend(machine, spec, body, context)
    text: str = body.get("prompt", "")
    if not text:
        return []
    machine.enter(spec.name)
    try:
        _token_count(machine, runner, body, text, path)
        vectors: dict[int, list[float]] = {}
        await _each_in_a_slot(machine, runner, [text], context, vectors)
    finally:
        machine.leave(spec.name)
    return [int(value) if float(value).is_integer() else value for value in vectors[0]]


def _inputs(value: Any) -> list[str]:
    match value:
        case None | "":
            return []
        case str():
            return [value]
        case list() if all(isinstance(item, str) for item in value):
            return value
        case _:
            raise CannotRun(400, "invalid input type")


def _find(machine: Machine, name: str, *, is_legacy: bool) -> ModelSpec:
    if not name:
        raise CannotRun(400, "model is required") if is_legacy else CannotRun(404, "model '' not found")
    try:
        spec = machine.catalogue.find(without_source(name), is_case_sensitive=is_legacy)
    except CloudName:
        raise cloud_refusal(machine) from None
    except NotValid as problem:
        raise CannotRun(400, str(problem)) from None
    if spec is None:
        raise CannotRun(404, f"model {quote(name)} not found, try pulling it first")
    return spec


async def _lend(machine: Machine, spec: ModelSpec, body: JsonObject, context: Context) -> Runner:
    try:
        options = checked(body.get("options", {}))
    except BadOption as problem:
        raise CannotRun(500, str(problem)) from None
    settings = settings_for(spec, options, shift=None, server=machine.options)
    return await machine.scheduler.lend(spec, settings, keep_alive_s=body.get("keep_alive"), context=context)


def _token_count(machine: Machine, runner: Runner, body: JsonObject, text: str, path: str) -> int:
    """Words stand for tokens. Raises: CannotRun for a text that is scripted to fail, or too long."""
    script = machine.script_for(Ask(path, runner.spec.name, text))
    if script.fail_status is not None:
        raise CannotRun(script.fail_status, script.fail_text or "fake embedding error")
    count = len(text.split())
    if count > runner.settings.num_ctx and body.get("truncate") is False:
        raise CannotRun(400, TOO_LONG)
    return min(count, runner.settings.num_ctx)


async def _each_in_a_slot(
    machine: Machine, runner: Runner, inputs: Sequence[str], context: Context, vectors: dict[int, list[float]]
) -> None:
    """Every input is a call of its own to the runner, so a list waits for slots as single ones do."""

    async def one(index: int, text: str) -> None:
        if await runner.embed(context, machine.options.embed_s):
            vectors[index] = machine.vector(text)

    async with trio.open_nursery() as nursery:
        for index, text in enumerate(inputs):
            nursery.start_soon(one, index, text)
    if len(vectors) < len(inputs):
        raise CallerLeft


def _normalised(vector: Sequence[float]) -> list[float]:
    """Unit length by way of the norm's reciprocal in float32, as Ollama computes it: the last digit depends on it."""
    scale = held32(1 / max(math.sqrt(sum(value * value for value in vector)), 1e-12))
    return [float32(value * scale) for value in vector]


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


