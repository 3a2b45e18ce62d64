"""Steps 3 to 6 for one request of a model, in the task of its connection: back again, cached, or new; then its answer.

Who comes back (by key, or after a crash) is joined to what it left. A hit needs no slot. What is new is admitted and waits; its
caller is given the answer as it comes, and is watched: who leaves is out of whatever step it was in.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.admission import Asked, Rejected, read_asked
from supervisord_ai.core.calls import Call, Form
from supervisord_ai.core.coalesce import shares_as
from supervisord_ai.core.identity import Caller
from supervisord_ai.core.model_facts import canonical_name
from supervisord_ai.core.queue_mode import RETRY_AFTER_S, QueueMode, admits
from supervisord_ai.errors import PeerGone, Refused
from supervisord_ai.gateway.admit import Admit
from supervisord_ai.gateway.backends import Backend
from supervisord_ai.gateway.backlog import Backlog
from supervisord_ai.gateway.cache import AnswerCache, Place, replay
from supervisord_ai.gateway.callers import Callers
from supervisord_ai.gateway.headers import accepted_headers, hit_headers, kept_headers, location_of
from supervisord_ai.gateway.memory import Held
from supervisord_ai.gateway.rejoin import Kept, Rejoin
from supervisord_ai.gateway.relay import deliver, respond_fault
from supervisord_ai.gateway.request import End, Request
from supervisord_ai.gateway.settle import Settle
from supervisord_ai.gateway.stand_in import Light, StandIn
from supervisord_ai.gateway.tally import Ending, Tally
from supervisord_ai.serve.http import Exchange
from supervisord_ai.wire.ending import served_model

log = logging.getLogger(__name__)


class Inference:
    """What becomes of a request for a model. `on_fault` is told of a caller whose request failed by no fault of its own."""

    def __init__(
        self,
        *,
        callers: Callers,
        cache: AnswerCache,
        admit: Admit,
        backlog: Backlog,
        rejoin: Rejoin,
        settle: Settle,
        tally: Tally,
        clock: Clock,
        new_id: Callable[[], str],
        backend_of: Callable[[str | None], Backend],
        comment: Callable[[Request], bytes],
        on_fault: Callable[[Caller], None],
        stand_in: StandIn,
    ) -> None:
        self._stand_in = stand_in
        self.mode = QueueMode.OPEN
        self._callers = callers
        self._cache = cache
        self._admit = admit
        self._backlog = backlog
        self._rejoin = rejoin
        self._settle = settle
        self._tally = tally
        self._clock = clock
        self._new_id = new_id
        self._backend_of = backend_of
        self._comment = comment
        self._on_fault = on_fault

    def __repr__(self) -> str:
        return f"<Inference {self.mode}, {self._tally.totals()}>"

    async def serve(self, exchange: Exchange, caller: Caller, call: Call) -> None:
        """Answer one request, or see its caller leave. Raises: Refused, PeerGone."""
        came_at, asked = self._clock.monotonic(), read_asked(exchange.head.headers.get)
        await self._backlog.wake_keyed(caller.name, asked.key)
        came_back = self._rejoin.find(caller, call, asked.key)
        if came_back is None:
            place = await self._cache.place(call, caller, self._backend_of(call.canonical_model))
            if await self._from_cache(exchange, caller, call, asked, place):
                return
            light = await self._stand_in.of(call, caller, asked)
            await self._backlog.wake_keyed(caller.name, asked.key)
            # Nothing is awaited from here to `enter`: two requests with one key must become one.
            came_back = self._rejoin.find(caller, call, asked.key) or self._take_in(
                exchange, caller, call, asked, place, light=light, came_at=came_at
            )
        else:
            self._tally.rejoined += 1
        if isinstance(came_back, Kept):
            await self._give_kept(exchange, call, came_back)
        elif asked.is_async and came_back.row.is_async and not came_back.is_over:
            await self._acknowledge(exchange, came_back)
        else:
            await self._attend(exchange, came_back)
            if came_back.outcome is not None and came_back.outcome.end is End.FAULT:
                self._on_fault(caller)

    def _take_in(
        self, exchange: Exchange, caller: Caller, call: Call, asked: Asked, place: Place, *, light: Light | None, came_at: float
    ) -> Request:
        """Admit a new request and put it into the backlog. Raises: Refused."""
        self._tally.asked += 1
        self._tally.of(caller.name).asked += 1
        self._tally.not_granted += bool(call.not_granted)
        if not admits(self.mode):
            self._tally.end(caller.agent_class, Ending.REFUSED)
            raise Refused(503, "the owner drains the queue: nothing new is taken in", retry_after_s=RETRY_AFTER_S)
        policy = self._callers.policy(caller)
        decision = self._admit.decide(caller, policy, light.call if light is not None else call, asked, came_at=came_at)
        if isinstance(decision, Rejected):
            self._tally.end(caller.agent_class, Ending.REFUSED)
            log.info("%s refused: %d %s", caller.name, decision.status, decision.message)
            raise Refused(decision.status, decision.message, retry_after_s=decision.retry_after_s)
        request = self._backlog.enter(caller, policy, call, decision, key=asked.key, method=exchange.head.method)
        request.wish = asked.cache
        put_in_place(request, asked, place)
        if light is not None:
            shared = shares_as(light.place.key, asked.cache)
            self._backlog.stand_in(request, light.call, light.level, shares_as=shared)
        elif not place.is_known:
            request.place_late = partial(self._place_late, request, caller, asked)
        return request

    async def _place_late(self, request: Request, caller: Caller, asked: Asked) -> None:
        """The model of a request could not be asked about when it came; now that it starts it can."""
        request.place_late = None
        place = await self._cache.place(request.call, caller, self._backend_of(request.call.canonical_model))
        put_in_place(request, asked, place)

    async def _from_cache(self, exchange: Exchange, caller: Caller, call: Call, asked: Asked, place: Place) -> bool:
        """Answer from the cache if it can be; the caller may also have asked for nothing else."""
        began_at = self._clock.monotonic()
        sought = (place.key, caller.name, caller.agent_class, call, asked.cache)
        hit = self._cache.get(*sought) or await self._cache.get_slowly(*sought)
        if hit is None or place.key is None:
            if asked.cache.only_if_cached:
                self._tally.asked += 1
                self._tally.end(caller.agent_class, Ending.REFUSED)
                raise Refused(504, f"only-if-cached was asked, and it is not: {place.why or 'nobody asked this before'}")
            return False
        self._tally.asked += 1
        self._tally.end(caller.agent_class, Ending.CACHED)
        self._tally.of(caller.name).asked += 1
        self._tally.not_granted += bool(call.not_granted)
        self._settle.note_hit(caller.name, call)
        now = self._clock.monotonic()
        fresh_id = self._new_id()
        await replay(
            exchange,
            call,
            hit.held,
            hit_headers(fresh_id, call, hit.status, took_s=now - began_at),
            took_s=now - began_at,
            now_wall=self._clock.wall(),
            fresh_id=fresh_id,
        )
        self._cache.was_given(place.key, caller.name, hit)
        return True

    async def _give_kept(self, exchange: Exchange, call: Call, kept: Kept) -> None:
        headers = kept_headers(kept.row.id, kept.row.attempt, call)
        served = served_model(kept.answer.body, is_lines=kept.answer.form == Form.LINES)
        if served is not None and call.canonical_model not in {None, canonical_name(served)}:
            # It was answered by another model; told again it must not seem to be of the one that was asked for.
            headers.append(("X-AI-Degraded", f'asked="{call.model}"; served="{served}"'))
            call = replace(call, model=served)
        now_wall = self._clock.wall()
        await replay(exchange, call, Held(kept.answer), headers, took_s=0.0, now_wall=now_wall, fresh_id=kept.row.id)

    async def _acknowledge(self, exchange: Exchange, request: Request) -> None:
        """Say that a request is accepted and where its answer will be, once its row is safe. RFC 7240 section 4.1."""
        if not await self._backlog.wait_durable(request):
            outcome = await request.wait_over()
            await respond_fault(exchange, request.call.face, outcome, [("X-Request-Id", request.id)])
            return
        told = {"id": request.id, "state": request.state.value, "location": location_of(request.id)}
        await exchange.respond(202, accepted_headers(request.id), json.dumps(told, separators=(",", ":")).encode())

    async def _attend(self, exchange: Exchange, request: Request) -> None:
        """Give a request's answer to its caller, and notice when the caller leaves."""
        is_delivered = has_left = False

        async def watch(scope: trio.CancelScope) -> None:
            nonlocal has_left
            await exchange.wait_gone()
            has_left = True
            scope.cancel()

        self._backlog.attach(request)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, nursery.cancel_scope)
                await deliver(exchange, request, self._clock, self._comment)
                is_delivered = True
                nursery.cancel_scope.cancel()
        finally:
            # When the daemon stops its callers have not left: their rows stay, and are answered after the next start.
            is_stopping = trio.current_effective_deadline() == float("-inf")
            self._backlog.detach(request, has_left=not is_delivered and not is_stopping)
        if has_left and not is_delivered:
            raise PeerGone


def put_in_place(request: Request, asked: Asked, place: Place) -> None:
    """Note where a request's answer is kept, and who may share it."""
    request.stores_as = None if asked.cache.no_store else place.key
    request.shares_as = shares_as(place.key, asked.cache)
    request.cache_status = miss_status(asked, place)


def miss_status(asked: Asked, place: Place) -> str:
    """Return what RFC 9211 calls the reason an answer came from Ollama."""
    if place.key is None or asked.cache.no_store:
        return "fwd=bypass"
    return "fwd=request" if asked.cache.no_cache else "fwd=uri-miss"
