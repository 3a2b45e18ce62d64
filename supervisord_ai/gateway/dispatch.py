"""Steps 7 and 8: a free slot takes the next request, calls Ollama and hands the end to `settle`.

`pump` asks the scheduler and starts what it says; it is called whenever something changed (a request queued or gone, a slot
free, a backend found) and by one timer for what the passing of time alone changes. It never waits.

A slot job is one of the four places where exceptions are caught broadly: whatever fails in one, its slot comes free and its
caller gets an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import assert_never

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.breaker import CallEnd, is_upstream_fault
from supervisord_ai.core.calls import Pins
from supervisord_ai.core.degraded import Degraded, bound_of
from supervisord_ai.core.patience import Patience, may_ask_again
from supervisord_ai.core.request_state import RowEvent
from supervisord_ai.core.scheduler import Expire, Load, Scheduler, Start
from supervisord_ai.errors import UpstreamFault, UpstreamUnreachable
from supervisord_ai.gateway.backends import Backend, BackendState
from supervisord_ai.gateway.backlog import Backlog
from supervisord_ai.gateway.batch import BatchFailed, pull_batch
from supervisord_ai.gateway.level import LevelInForce
from supervisord_ai.gateway.measures import Measures
from supervisord_ai.gateway.relay import pull
from supervisord_ai.gateway.request import End, Outcome, Request, SlotJob
from supervisord_ai.gateway.settle import Settle
from supervisord_ai.gateway.view import RunningView
from supervisord_ai.store.requests import Requests
from supervisord_ai.wire.ollama import bounded, load_request
from supervisord_ai.wire.usage import TAIL_BYTES, generated_tokens

log = logging.getLogger(__name__)

_LEFT = Outcome(End.LEFT, 499, "request canceled")


class Dispatch:
    """The slots. The one caller of `Scheduler.decide`."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        backlog: Backlog,
        backends: Mapping[str, Backend],
        requests: Requests,
        settle: Settle,
        measures: Measures,
        patience: Patience,
        pins: Pins,
        clock: Clock,
        level: LevelInForce,
    ) -> None:
        self._level = level
        self._scheduler = scheduler
        self._backlog = backlog
        self._backends = backends
        self._requests = requests
        self._settle = settle
        self._measures = measures
        self._patience = patience
        self._pins = pins
        self._clock = clock
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self.turns = 0  # how often it looked for work: proof that it still does

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start what may start, until cancelled; slot jobs end with this."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    self.pump()
                    self.turns += 1
                    self._changed = trio.Event()
                    with trio.CancelScope(deadline=self._scheduler.next_decision_at(self._clock.monotonic())):
                        await self._changed.wait()
            finally:
                self._nursery = None  # who gives back a slot while everything ends starts nothing more

    def pump(self) -> None:
        """Start everything that may start now. Does nothing before `run` and after it."""
        if self._nursery is None:
            return
        for effect in self._scheduler.decide(self._clock.monotonic()):
            match effect:
                case Expire(ticket):
                    self._backlog.expire(ticket)
                case Start() if self._backlog.asleep.get(effect.ticket.id) is not None:
                    woken, dropped = partial(self._run_sleeper, effect), partial(self._drop_sleeper, effect)
                    self._nursery.start_soon(self._slot_job, woken, dropped)
                case Start():
                    # Now, and not in the job's first step: who leaves in between must find itself running.
                    self._begin(effect, self._nursery)
                case Load():
                    self._nursery.start_soon(self._slot_job, partial(self._load, effect), partial(self._drop_load, effect))
                case _:
                    assert_never(effect)
        self._changed.set()  # the timer looks again at when time alone will change something

    # --- one slot job --------------------------------------------------------------------------------------------------

    def _board(self, start: Start) -> SlotJob:
        """Put everybody who comes along into one job."""
        now = self._clock.monotonic()
        found = [self._backlog.get(ticket.id) for ticket in (start.ticket, *start.riders)]
        requests = [request for request in found if request is not None]
        assert len(requests) == len(found), f"{start} is of a request that is nobody's"
        job = SlotJob(requests[0], list(dict.fromkeys(request.answer for request in requests)))
        for answer in job.answers:
            answer.job = job
        backend = self._backends[start.backend]
        for request in requests:
            request.move(RowEvent.CLAIMED)
            request.times.started_at = now
            request.times.load_s = backend.load_wait_s(request.call.canonical_model, request.times.accepted_at)
            log.debug("request %s of %s starts on %s, attempt %d", request.id, request.agent, start.backend, request.attempt)
        return job

    async def _slot_job(self, deed: Callable[[], Awaitable[None]], give_back: Callable[[], None]) -> None:
        """Boundary: one slot job. Whatever fails in it, what it held is given back and who waits for it is told."""
        try:
            await deed()
        except Exception:
            log.exception("a slot job failed")
            give_back()
        self.pump()

    def _begin(self, start: Start, nursery: trio.Nursery) -> None:
        job = self._board(start)
        nursery.start_soon(self._slot_job, partial(self._run, job, self._backends[start.backend]), partial(self._drop, job))

    def _drop(self, job: SlotJob) -> None:
        requests = job.requests
        self._settle.after_bug(job, Outcome(End.FAULT, 500, "internal error of the supervisor, see its log"))
        self._backlog.ended(requests)

    async def _run_sleeper(self, start: Start) -> None:
        """The slot is taken while the body is read back from the disk."""
        request = await self._backlog.wake(start.ticket.id, start.ticket)
        if request is None:
            self._scheduler.settle(start.ticket.id, self._clock.monotonic(), ended_well=False)
        elif self._nursery is not None:
            self._begin(start, self._nursery)

    def _drop_sleeper(self, start: Start) -> None:
        self._backlog.asleep.leave(start.ticket.id, "it cannot be read back")
        self._scheduler.settle(start.ticket.id, self._clock.monotonic(), ended_well=False)

    async def _run(self, job: SlotJob, backend: Backend) -> None:
        began_at = self._clock.monotonic()
        for request in job.requests:
            if request.place_late is not None:
                await request.place_late()
        # Before the call: a row found running after a crash was perhaps answered, and that is what attempts count.
        await self._backlog.claim(job.requests)
        if self._settle.look_again(job):  # after that: what the slot's last call brought is in the cache's file by now
            outcome = Outcome(End.WHOLE)
        else:
            try:
                outcome = await self._call(job, backend)
            except UpstreamUnreachable as exc:
                if not job.is_given_up:
                    backend.lost(str(exc))
                if self._waits_again(job, exc):
                    return
                outcome = Outcome(End.FAULT, 502, f"Ollama cannot be reached: {exc}") if not job.is_abandoned else _LEFT
            except BatchFailed as exc:
                log.info("a batch of %d is asked for one by one: %s", len(job.answers), exc)
                if not job.is_abandoned:
                    self._backlog.wait_again(job, is_alone=True)
                    return
                outcome = _LEFT
        requests = job.requests
        if outcome.end is End.WHOLE:
            self._note_speed(job.holder, backend)
        await self._settle.after_slot(job, outcome)
        self._backlog.ended(requests)
        if outcome.end is End.FAULT and outcome.status == 502:
            backend.ask_now()
        if job.holder.ticket.is_load:
            await self._after_load(backend, job.holder.call.canonical_model or "", began_at)

    async def _call(self, job: SlotJob, backend: Backend) -> Outcome:
        if job.is_abandoned:
            return _LEFT
        await self._bound(job, backend)
        called, model = job.id, job.holder.call.canonical_model
        end, was_silent, was_mute = CallEnd.UNKNOWN, False, False
        backend.call_started(called, model, is_streamed=job.holder.call.upstream_streams)
        try:
            outcome = await self._pull(job, backend)
            if job.is_given_up and all(answer.head is None for answer in job.answers):
                raise UpstreamUnreachable("its slot is perhaps lost", was_sent=True)
            end = blame(job, outcome)
            was_silent = outcome.status == 504
            was_mute = was_silent and all(answer.head is None for answer in job.answers)
        except UpstreamUnreachable:
            end = CallEnd.UNKNOWN if job.is_given_up else blame(job, Outcome(End.FAULT, 502))
            raise
        finally:
            backend.call_ended(called, model, end, was_silent=was_silent)
        if was_mute and backend.state is not BackendState.READY:
            # Not this call alone: the backend answers nothing. It may be asked again once it is back.
            raise UpstreamUnreachable(outcome.message, was_sent=True)
        return outcome

    def give_up(self, backend: str, models: Collection[str]) -> None:
        """Break off the calls of these models that have had no byte. Their requests wait again; it was one of their tries."""
        for lease in self._scheduler.leases(backend):
            request = self._backlog.get(lease.ticket.id)
            job = None if request is None else request.answer.job
            if lease.ticket.model in models and not lease.has_arrived and job is not None and job.scope is not None:
                job.is_given_up = True
                job.scope.cancel()

    def _note_speed(self, request: Request, backend: Backend) -> None:
        """Have the backend know how fast its model answered."""
        began_at, model = request.times.first_byte_at, request.call.canonical_model
        if began_at is None or model is None:
            return
        spool = request.spool
        tokens = generated_tokens(spool.read(max(0, len(spool) - TAIL_BYTES), TAIL_BYTES))
        backend.note_speed(model, tokens, self._clock.monotonic() - began_at)

    async def _bound(self, job: SlotJob, backend: Backend) -> None:
        """Put a bound on an answer that nobody bounded, where the level in force says so. Now and not when it was asked: then
        whoever starts at level 0 gets all of it."""
        answer, call, effects = job.holder.answer, job.holder.call, self._level.effects
        answer.sends = answer.degraded = None
        if effects.num_predict is None or len(job.answers) > 1:
            return
        num_predict = bound_of(call, await backend.facts(call.canonical_model or ""), effects)
        if num_predict is not None:
            answer.sends = bounded(call.route.op, call.upstream_body, num_predict)
            answer.degraded = Degraded(effects.level, num_predict)

    async def _pull(self, job: SlotJob, backend: Backend) -> Outcome:
        begun = partial(self._arrived, job, backend)
        if len(job.answers) > 1:
            log.info("%d embeds go to %s as one", len(job.answers), backend.spec.name)
            return await pull_batch(job, backend.client, self._clock, self._patience, begun)
        return await pull(job.holder, backend.client, self._clock, self._patience, begun)

    def _arrived(self, job: SlotJob, backend: Backend) -> None:
        backend.call_spoke(job.id, job.holder.call.canonical_model)
        self._scheduler.arrived(job.holder.id)
        self.pump()

    def _waits_again(self, job: SlotJob, fault: UpstreamUnreachable) -> bool:
        """Put requests that were brought nothing back into the backlog, unless nobody waits or they had their tries."""
        requests = job.requests
        for request in requests:
            request.tries += fault.was_sent
        if job.is_abandoned or not may_ask_again(max(request.tries for request in requests), self._patience):
            return False
        log.info("request %s of %s waits again: %s", job.holder.id, job.holder.agent, fault)
        self._backlog.wait_again(job, is_alone=fault.was_sent and len(job.answers) > 1)
        return True

    # --- the load lane -------------------------------------------------------------------------------------------------

    def _drop_load(self, load: Load) -> None:
        self._scheduler.loaded(load.backend, load.model, is_resident=False)

    async def _load(self, load: Load) -> None:
        """Load a model so that its callers find it loaded. Ours alone, so no leaver can end it."""
        backend, model, is_embedding = self._backends[load.backend], load.model, load.is_embedding
        pins = self._pins.of(model)
        path, body = load_request(model, is_embedding=is_embedding, num_ctx=pins.num_ctx, keep_alive_s=pins.keep_alive_s)
        began_at = self._clock.monotonic()
        is_loaded = False
        await backend.facts(model)  # how many calls it serves at once is known before the first one
        log.info("backend %s loads %s", backend.spec.name, model)
        try:
            async with backend.client.open("POST", path, body=body) as reply:
                is_loaded = reply.status == 200
                told = bytearray()
                while (chunk := await reply.next_chunk()) is not None:
                    told += chunk[:1000]
            backend.refusal = "" if is_loaded else told.decode("utf-8", "replace")[:1000].strip()
            backend.judge(CallEnd.WELL if is_loaded else CallEnd.UNKNOWN)
        except UpstreamFault as exc:
            is_loaded = False
            backend.lost(str(exc))
            backend.judge(CallEnd.BADLY)
        if is_loaded:
            await self._after_load(backend, model, began_at)
        else:
            log.warning("backend %s did not load %s: its callers are told why", backend.spec.name, model)
        self._scheduler.loaded(backend.spec.name, model, is_resident=is_loaded)

    async def _after_load(self, backend: Backend, model: str, began_at: float) -> None:
        """A load may have pushed another model out: look."""
        ended_at = self._clock.monotonic()
        backend.note_load(model, began_at, ended_at)
        self._measures.loaded(model, ended_at - began_at)
        try:
            await backend.refresh(also_resident=model)
        except UpstreamFault as exc:
            backend.lost(str(exc))

    # --- looks ---------------------------------------------------------------------------------------------------------

    def running(self, backend: str) -> tuple[RunningView, ...]:
        """Return what holds the slots of a backend, oldest first."""
        now = self._clock.monotonic()
        views = []
        for lease in self._scheduler.leases(backend):
            request = self._backlog.get(lease.ticket.id)
            if request is not None:
                call = request.call
                since_s = now - lease.started_at
                tokens = None if request.head is None else request.spool.pieces
                who = request.id, request.agent, call.model, call.path
                views.append(RunningView(*who, since_s, lease.ticket.priority, request.attempt, tokens))
        return tuple(views)


def blame(job: SlotJob, outcome: Outcome) -> CallEnd:
    """Say what the end of a call tells of the backend. Leavers, callers' own faults and ours are no fault of Ollama's."""
    if job.is_abandoned:
        return CallEnd.UNKNOWN
    match outcome.end:
        case End.FAULT:
            return CallEnd.BADLY if outcome.status in {502, 504} else CallEnd.UNKNOWN
        case End.LEFT:
            return CallEnd.UNKNOWN
        case End.ERROR:
            return CallEnd.BADLY if is_upstream_fault(500, outcome.message) else CallEnd.WELL
        case End.WHOLE | End.UNFINISHED:
            head = job.holder.head
            if head is None or head.status < 500:
                return CallEnd.WELL
            said = job.holder.spool.read(0, 4096).decode("utf-8", "replace")
            return CallEnd.BADLY if is_upstream_fault(head.status, said) else CallEnd.WELL
        case _:
            assert_never(outcome.end)
