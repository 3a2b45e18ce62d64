"""Step 10: the end of a request, once, whatever ended it: slot, cache, row, readers, in this order.

The slot is freed, and given to the next, before anything is waited for: a disk that takes 5 ms is not to leave it idle so long.
The row comes before the readers' end: whoever has seen an answer end well finds it in the journal after a crash. What a fault
left behind is not kept: its row is cancelled, so that a caller who asks again with the same key is served and not told the old
error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import cast

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.batch import weight_of
from supervisord_ai.core.cache_policy import is_embedding
from supervisord_ai.core.calls import Call, Face, Form, JsonObject
from supervisord_ai.core.model_facts import canonical_name
from supervisord_ai.core.request_state import RowEvent, RowState
from supervisord_ai.core.scheduler import Scheduler, Ticket
from supervisord_ai.errors import StoreFault
from supervisord_ai.gateway.cache import AnswerCache
from supervisord_ai.gateway.measures import Measures
from supervisord_ai.gateway.request import End, Head, Outcome, Request, SlotJob
from supervisord_ai.gateway.tally import Ending, Tally
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.rows import Answer
from supervisord_ai.wire.ending import ended_at_length, served_model
from supervisord_ai.wire.faces import error_text, why_not_kept_raw
from supervisord_ai.wire.ollama import why_not_kept
from supervisord_ai.wire.usage import generated_tokens

log = logging.getLogger(__name__)

SETTLE_WITHIN_S = 5.0  # a hanging disk must not hold the daemon's end
KEPT_ANSWER_BYTES = 32_000_000  # one row of the journal; a larger answer is given, but not kept for a return


class Settle:
    """Ends requests. The one writer of answers, in the journal and in the cache."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        requests: Requests,
        cache: AnswerCache,
        tally: Tally,
        measures: Measures,
        clock: Clock,
        on_free: Callable[[], None],
    ) -> None:
        self._on_free = on_free
        self._scheduler = scheduler
        self._requests = requests
        self._cache = cache
        self._tally = tally
        self._measures = measures
        self._clock = clock

    async def after_slot(self, job: SlotJob, outcome: Outcome) -> None:
        """End the requests of a slot job. The slot has its next call when this first waits: both are written with one sync."""
        requests = job.requests
        is_typical = outcome.end is End.WHOLE and all(answer.head and answer.head.status == 200 for answer in job.answers)
        self._charge(job, ended_well=is_typical)
        for answer in job.answers:
            answer.close()
        rows = [(request, kept) for request in requests if (kept := self._keep(request, outcome)) is not None]
        self._on_free()
        with trio.CancelScope(deadline=self._clock.monotonic() + SETTLE_WITHIN_S, shield=True):
            async with trio.open_nursery() as nursery:
                for request, kept in rows:
                    nursery.start_soon(self._finish_row, request, kept)
        for request in requests:
            if not request.is_over:  # left while the rows were written
                self._end(request, outcome)

    def _charge(self, job: SlotJob, *, ended_well: bool) -> None:
        now, parts = self._clock.monotonic(), parts_of(job)
        lease = self._scheduler.settle(job.holder.id, now, ended_well=ended_well, parts=parts)
        whole = sum(weight for _, weight in parts)
        for ticket, weight in parts:
            spent_s = (now - lease.started_at) * weight / whole
            self._tally.of(ticket.agent).slot_s += spent_s
            self._measures.held_slot(ticket.agent_class, spent_s)

    def after_bug(self, job: SlotJob, outcome: Outcome) -> None:
        """End the requests of a slot job that failed where nobody expected it, perhaps in `after_slot`. Waits for nothing."""
        if self._scheduler.holds_slot(job.holder.id):
            self._scheduler.settle(job.holder.id, self._clock.monotonic(), ended_well=False)
        for answer in job.answers:
            answer.close()
        for request in job.requests:
            self.without_slot(request, outcome, outcome.message)

    def look_again(self, job: SlotJob) -> bool:
        """Whether all that a slot job would bring was stored while its requests waited."""
        requests = job.requests
        if all(self.look_again_for(request) for request in requests):
            return True
        for request in requests:
            request.found = None
        return False

    def look_again_for(self, request: Request) -> bool:
        """Whether what a request waits for was stored meanwhile: it is answered with that then."""
        if request.shares_as is not None:
            request.found = self._cache.again(
                request.shares_as, request.agent, request.row.agent_class, request.call, request.wish
            )
        return request.found is not None

    async def give_found(self, request: Request) -> None:
        """End a request that never got a slot with what was found for it."""
        with trio.CancelScope(deadline=self._clock.monotonic() + SETTLE_WITHIN_S, shield=True):
            if (kept := self._keep(request, Outcome(End.WHOLE))) is not None:
                await self._finish_row(request, kept)
        if not request.is_over:
            self._end(request, Outcome(End.WHOLE))

    def without_slot(self, request: Request, outcome: Outcome, reason: str) -> None:
        """End a request that waited, or never got so far."""
        if request.is_durable:
            self._requests.cancel(request.id, reason)
        self._end(request, outcome)

    def _keep(self, request: Request, outcome: Outcome) -> Answer | None:
        """Return what its row is to hold, None where nothing is kept. What others may have of it is in the cache then: whoever
        gets the slot next looks there first."""
        if request.found is not None:
            request.cache_status = request.found.status if request.found.ttl_s <= 0 else "hit; detail=waited"
            return request.found.answer
        answer = self._answer(request, outcome)
        if answer is None:
            request.why_unkept = _why_unkept(request, outcome)
            self._requests.cancel(request.id, request.why_unkept or outcome.reason)
            return None
        if request is request.answer.first:
            tokens = generated_tokens(answer.body)
            self._tally.tokens += tokens
            self._tally.of(request.agent).tokens += tokens
            self._measures.generated(request.row.agent_class, request.call.canonical_model, tokens)
            if request.stores_as is not None and not _why_not_kept(request, answer):
                self._cache.put(request.stores_as, answer, request.call, request.agent, cost_s=self._cost_s(request))
                request.cache_status += "; stored"
        return answer

    def _cost_s(self, request: Request) -> float:
        """Return the slot-seconds of an answer: of a batch, its part."""
        started_at, job = request.times.started_at, request.answer.job
        spent_s = self._clock.monotonic() - started_at if started_at is not None else 0.0
        return spent_s / max(len(job.answers) if job is not None else 1, 1)

    async def _finish_row(self, request: Request, answer: Answer) -> None:
        try:
            await self._requests.finish(request.id, answer)
        except StoreFault as exc:
            # The answer itself is good, and waits for the journal; after a crash before that the row would run again, and say so.
            log.warning("request %s of %s: its answer is not in the journal yet: %s", request.id, request.agent, exc)
            request.awaits_journal = True
            self._requests.finish_later(request.id, answer)

    def _answer(self, request: Request, outcome: Outcome) -> Answer | None:
        """What is kept of an answer for a caller who comes back; None when asking again is better."""
        head = request.head
        if outcome.end is not End.WHOLE or head is None or head.status >= 500 or len(request.spool) > KEPT_ANSWER_BYTES:
            return None
        return Answer(
            status=head.status,
            content_type=head.content_type,
            body=request.spool.whole(),
            form=kept_form(request, head).value,
            cut=False,
            finished_wall=self._clock.wall(),
        )

    def note_hit(self, agent: str, call: Call) -> None:
        """An agent was answered from the cache."""
        account = self._tally.of(agent)
        account.answered += 1
        account.cached += 1
        account.cached_saved_s += self._usual_s(call)

    def _usual_s(self, call: Call) -> float:
        return self._scheduler.service.of(call.canonical_model, is_embedding=is_embedding(call.route.op))

    def _end(self, request: Request, outcome: Outcome) -> None:
        account = self._tally.of(request.agent)
        match outcome.end:
            case End.WHOLE if request.found is not None:
                self._tally.end(request.row.agent_class, Ending.CACHED)
                self.note_hit(request.agent, request.call)
            case End.WHOLE | End.UNFINISHED | End.ERROR:
                self._tally.end(request.row.agent_class, Ending.ANSWERED)
                account.answered += 1
            case End.LEFT:
                self._tally.end(request.row.agent_class, Ending.CANCELLED)
            case End.FAULT if request.state is RowState.QUEUED:
                self._tally.end(request.row.agent_class, Ending.REFUSED)
            case End.FAULT:
                self._tally.end(request.row.agent_class, Ending.FAILED)
        request.move(RowEvent.ANSWERED if outcome.end is End.WHOLE else RowEvent.CANCELLED)
        now, times = self._clock.monotonic(), request.times
        if request.is_collapsed and outcome.end is not End.LEFT:
            self._tally.coalesced += 1
            account.coalesced += 1
            account.coalesced_saved_s += self._usual_s(request.call)
        elif times.started_at is not None and request.found is None:
            self._tally.waited_s += times.started_at - times.accepted_at
            account.waited_s += times.started_at - times.accepted_at
            self._tally.generated_s += now - times.started_at
            self._measures.took(request.row.agent_class, request.call.canonical_model, times, now)
        request.finish(outcome, now)
        started_at = now if times.started_at is None else times.started_at
        log.info(
            "request %s of %s: %s %s after %.2f s of waiting and %.2f s on a slot%s",
            request.id,
            request.agent,
            request.call.path,
            outcome.end,
            started_at - times.accepted_at,
            now - started_at,
            f" ({outcome.message})" if outcome.message else "",
        )


def parts_of(job: SlotJob) -> list[tuple[Ticket, float]]:
    """Who is charged for a slot's time, with weights: an answer by its size, those who share one alike."""
    parts = []
    for answer in job.answers:
        waiting = answer.waiting
        parts += [(request.ticket, weight_of(request.ticket) / len(waiting)) for request in waiting]
    return parts


def kept_form(request: Request, head: Head) -> Form:
    """A native answer is kept as lines, from which either form is made again; an embed is one line. Others as they were sent."""
    if head.form is Form.LINES:
        return Form.LINES
    is_embed = head.status == 200 and request.call.face is Face.OLLAMA and request.call.cache_key is not None
    return Form.LINES if is_embed else Form.RAW


def _why_unkept(request: Request, outcome: Outcome) -> str:
    """Say why a whole answer is not there for who comes back; "" where it is none: its end says why."""
    head = request.head
    if outcome.end is not End.WHOLE or head is None:
        return ""
    if head.status >= 500:
        return f"Ollama answered {head.status}: {error_text(request.spool.whole())}"
    return f"its answer of {len(request.spool)} bytes is too large to be kept"


def _why_not_kept(request: Request, answer: Answer) -> str:
    """Say why an answer is not kept: it is not whole, or it is not what the key says.

    A key stands for the model that was asked, and for an answer as long as the model would have it: one that another model
    gave, or that ended at a length which its caller did not ask for, would be a lie to the next.
    """
    call, op = request.call, request.call.route.op
    served = served_model(answer.body, is_lines=answer.form == Form.LINES)
    if served is not None and canonical_name(served) != call.canonical_model:
        return f"{served} answered"
    if not call.num_predict and ended_at_length(answer.body, is_lines=answer.form == Form.LINES):
        return "it ended at a length that was not asked for"
    if answer.form == Form.LINES:
        lines = [cast("JsonObject", json.loads(line)) for line in answer.body.splitlines()]
        return why_not_kept(op, answer.status, lines)
    return why_not_kept_raw(op, answer.status, answer.body, is_stream=request.call.asked_stream)
