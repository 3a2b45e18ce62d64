"""Steps 7 and 8: a free slot takes the next request, calls Ollama and hands the end to `settle`.

`pump` asks the scheduler and starts what it says; it is called whenever something changed (a request queued or gone, a slot
free, a backend found) and by one timer for what the passing of time alone changes. It never waits.

A slot job is one of the four places where exceptions are caught broadly: whatever fails in one, its slot comes free and its
caller gets an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import assert_never

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.calls import Pins
from supervisord_ai.core.patience import Patience, may_ask_again
from supervisord_ai.core.request_state import RowEvent
from supervisord_ai.core.scheduler import Effect, Expire, Load, Scheduler, Start
from supervisord_ai.errors import StoreFault, UpstreamFault, UpstreamUnreachable
from supervisord_ai.gateway.backends import Backend
from supervisord_ai.gateway.backlog import Backlog
from supervisord_ai.gateway.relay import pull
from supervisord_ai.gateway.request import End, Outcome, Request
from supervisord_ai.gateway.settle import Settle
from supervisord_ai.gateway.view import RunningView
from supervisord_ai.store.requests import Requests
from supervisord_ai.wire.ollama import load_request

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
        patience: Patience,
        pins: Pins,
        clock: Clock,
    ) -> None:
        self._scheduler = scheduler
        self._backlog = backlog
        self._backends = backends
        self._requests = requests
        self._settle = settle
        self._patience = patience
        self._pins = pins
        self._clock = clock
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start what may start, until cancelled; slot jobs end with this."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                self.pump()
                self._changed = trio.Event()
                with trio.CancelScope(deadline=self._scheduler.next_decision_at(self._clock.monotonic())):
                    await self._changed.wait()

    def pump(self) -> None:
        """Start everything that may start now. Does nothing before `run`."""
        if self._nursery is None:
            return
        for effect in self._scheduler.decide(self._clock.monotonic()):
            match effect:
                case Expire(ticket):
                    self._backlog.expire(ticket)
                case Start() | Load():
                    self._nursery.start_soon(self._job, effect)
                case _:
                    assert_never(effect)
        self._changed.set()  # the timer looks again at when time alone will change something

    # --- one slot job --------------------------------------------------------------------------------------------------

    async def _job(self, effect: Start | Load) -> None:
        try:
            await self._do(effect)
        except Exception:
            log.exception("a slot job failed: %r", effect)
            self._end_of_failed(effect)
        self.pump()

    async def _do(self, effect: Start | Load) -> None:
        backend = self._backends[effect.backend]
        match effect:
            case Load(_, model, is_embedding):
                await self._load(backend, model, is_embedding=is_embedding)
            case Start(ticket, _):
                request = self._backlog.get(ticket.id)
                assert request is not None, f"{ticket} was started and is nobody's"
                await self._run(request, backend)
            case _:
                assert_never(effect)

    def _end_of_failed(self, effect: Effect) -> None:
        """The deed failed at a place nobody thought of: what it held is given back all the same."""
        match effect:
            case Load(backend, model, _):
                self._scheduler.loaded(backend, model, is_resident=False)
            case Start(ticket, backend):
                request = self._backlog.get(ticket.id)
                if request is None:
                    self._scheduler.settle(ticket.id, self._clock.monotonic(), ended_well=False)
                    return
                self._settle.after_bug(request, Outcome(End.FAULT, 500, "internal error of the supervisor, see its log"))
                self._backlog.ended(request)
            case Expire():
                pass
            case _:
                assert_never(effect)

    async def _run(self, request: Request, backend: Backend) -> None:
        now = self._clock.monotonic()
        request.move(RowEvent.CLAIMED)
        request.times.started_at = now
        request.times.load_s = backend.load_wait_s(request.call.canonical_model, request.times.accepted_at)
        log.info("request %s of %s starts on %s, attempt %d", request.id, request.agent, backend.spec.name, request.attempt)
        try:
            outcome = await self._call(request, backend)
        except UpstreamUnreachable as exc:
            backend.lost(str(exc))
            if self._waits_again(request, exc):
                return
            outcome = Outcome(End.FAULT, 502, f"Ollama cannot be reached: {exc}") if not request.is_abandoned else _LEFT
        await self._settle.after_slot(request, outcome)
        self._backlog.ended(request)
        if outcome.end is End.FAULT and outcome.status == 502:
            backend.ask_now()
        if request.ticket.is_load:
            await self._after_load(backend, request.call.canonical_model or "", now)

    async def _call(self, request: Request, backend: Backend) -> Outcome:
        try:
            # Before the call: a row found running after a crash was perhaps answered, and that is what attempts count.
            await self._requests.claim(request.id, request.attempt)
        except StoreFault as exc:
            log.warning("request %s of %s runs without a mark in the journal: %s", request.id, request.agent, exc)
        if request.is_abandoned:
            return _LEFT
        return await pull(request, backend.client, self._clock, self._patience, partial(self._arrived, request))

    def _arrived(self, request: Request) -> None:
        self._scheduler.arrived(request.id)
        self.pump()

    def _waits_again(self, request: Request, fault: UpstreamUnreachable) -> bool:
        """Put a request that brought nothing back into the backlog, unless nobody waits or it had its tries."""
        request.tries += fault.was_sent
        if request.is_abandoned or not may_ask_again(request.tries, self._patience):
            return False
        log.info("request %s of %s waits again: %s", request.id, request.agent, fault)
        request.move(RowEvent.RETURNED)
        self._scheduler.put_back(request.id)
        return True

    # --- the load lane -------------------------------------------------------------------------------------------------

    async def _load(self, backend: Backend, model: str, *, is_embedding: bool) -> None:
        """Load a model so that its callers find it loaded. Ours alone, so no leaver can end it."""
        pins = self._pins.of(model)
        path, body = load_request(model, is_embedding=is_embedding, num_ctx=pins.num_ctx, keep_alive_s=pins.keep_alive_s)
        began_at = self._clock.monotonic()
        is_loaded = False
        log.info("backend %s loads %s", backend.spec.name, model)
        try:
            async with backend.client.open("POST", path, body=body) as reply:
                is_loaded = reply.status == 200
                while await reply.next_chunk() is not None:
                    pass
        except UpstreamFault as exc:
            is_loaded = False
            backend.lost(str(exc))
        if is_loaded:
            await self._after_load(backend, model, began_at)
        else:
            log.warning("backend %s did not load %s: its callers are told why", backend.spec.name, model)
        self._scheduler.loaded(backend.spec.name, model, is_resident=is_loaded)

    async def _after_load(self, backend: Backend, model: str, began_at: float) -> None:
        """A load may have pushed another model out: look."""
        backend.note_load(model, began_at, self._clock.monotonic())
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
                views.append(
                    RunningView(request.id, request.agent, call.model, call.path, since_s, lease.ticket.priority, request.attempt)
                )
        return tuple(views)
