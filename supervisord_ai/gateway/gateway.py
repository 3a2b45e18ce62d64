"""The gateway as one thing: built by the daemon, told events, asked for handlers and for a view of itself."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.admission import Asked, Rejected, read_asked
from supervisord_ai.core.batch import BatchPolicy
from supervisord_ai.core.calls import Call, Kind, Matched, ModelPins, Pins, find_route
from supervisord_ai.core.coalesce import shares_as
from supervisord_ai.core.events import AgentAsked, AgentEnded, AgentReady, AgentStarted, Event, GatewayRefused
from supervisord_ai.core.identity import Caller, CallerKind
from supervisord_ai.core.model_facts import canonical_name
from supervisord_ai.core.patience import Patience
from supervisord_ai.core.policies import BackendSpec, BreakerPolicy, CachePolicy, LimitsPolicy, ModelsPolicy, QueuePolicy
from supervisord_ai.core.queue_mode import MODES, RETRY_AFTER_S, QueueMode, QueueVerb, admits, starts
from supervisord_ai.core.roster import ClassPolicy, Roster
from supervisord_ai.core.scheduler import Scheduler, SchedulerPolicy
from supervisord_ai.duty import kept_up
from supervisord_ai.errors import PeerGone, Refused, UpstreamFault
from supervisord_ai.gateway.admit import Admit
from supervisord_ai.gateway.backends import Backend, BackendState
from supervisord_ai.gateway.backlog import Backlog, Kept
from supervisord_ai.gateway.cache import AnswerCache, Place, replay
from supervisord_ai.gateway.callers import Callers
from supervisord_ai.gateway.classify import classify
from supervisord_ai.gateway.desk import Desk
from supervisord_ai.gateway.dispatch import Dispatch
from supervisord_ai.gateway.forward import Forward
from supervisord_ai.gateway.headers import accepted_headers, hit_headers, kept_headers, location_of, not_granted, rfc3339
from supervisord_ai.gateway.ingest import Ingest
from supervisord_ai.gateway.models import Models
from supervisord_ai.gateway.relay import deliver, respond_fault
from supervisord_ai.gateway.request import End, Request
from supervisord_ai.gateway.settle import Settle
from supervisord_ai.gateway.spool import SpoolSpace
from supervisord_ai.gateway.tally import Tally
from supervisord_ai.gateway.upkeep import Lanes, Upkeep
from supervisord_ai.gateway.view import GatewayView, PriorityView, QueuedView
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.serve.http import Exchange, Handler
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.disk import RunSync
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.rows import RequestRow
from supervisord_ai.wire.faces import refusal
from supervisord_ai.wire.gzip_body import is_gzip
from supervisord_ai.wire.http1 import RequestHead
from supervisord_ai.wire.ollama import unload_body

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

RETENTION_EVERY_S = 60.0
READ_ELSEWHERE_BYTES = 1_000_000  # reading this much takes about 20 ms

_reading = trio.CapacityLimiter(1)  # threads that read bodies take turns at the interpreter anyhow


async def in_own_thread(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run it in a thread that is for reading bodies only: an acknowledgement must not wait behind it."""
    return await trio.to_thread.run_sync(fn, *args, limiter=_reading)


def shape_refusal(head: RequestHead | None, refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
    """Shape a refusal in the caller's face; for `serve_listener(..., shape=...)`."""
    return refusal(head.method, head.path, refused) if head is not None else refusal("GET", "/", refused)


class Gateway:
    """The path of every request. One task runs it (`run`); handlers run in their connections' tasks."""

    def __init__(
        self,
        *,
        roster: Roster,
        queue: QueuePolicy,
        limits: LimitsPolicy,
        cache: CachePolicy,
        models: ModelsPolicy,
        backends: Sequence[tuple[BackendSpec, OllamaClient]],
        requests: Requests,
        cache_file: CacheFile,
        clock: Clock,
        tell: Callable[[Event], None],
        new_id: Callable[[], str],
        spool_dir: Path,
        patience: Patience | None = None,
        run_sync: RunSync = in_own_thread,
        breaker: BreakerPolicy | None = None,
        restarts: Mapping[str, Callable[[], Awaitable[object]]] | None = None,
    ) -> None:
        patience = patience or Patience()
        self._run_sync = run_sync
        self._callers = Callers(roster)
        self._queue = queue
        self._limits = limits
        self._requests = requests
        self._clock = clock
        self._tell = tell
        self._new_id = new_id
        self._pins = pins_of(models)
        self._mode = QueueMode.OPEN
        self._tally = Tally()
        self._space = SpoolSpace(spool_dir, memory_bytes=limits.spool_bytes, disk_bytes=limits.spool_disk_bytes)
        self._scheduler = Scheduler(
            {spec.name: spec.slots for spec, _ in backends},
            SchedulerPolicy(batch=BatchPolicy(requests_max=queue.batch_max, window_s=queue.batch_window_s)),
        )
        self._cache = AnswerCache(cache, cache_file, clock)
        settle = Settle(scheduler=self._scheduler, requests=requests, cache=self._cache, tally=self._tally, clock=clock)
        self._backends = [
            Backend(
                spec,
                client,
                scheduler=self._scheduler,
                models=models,
                patience=patience,
                clock=clock,
                on_change=self._pump,
                breaker=breaker,
                restart=(restarts or {}).get(spec.name),
            )
            for spec, client in backends
        ]
        self._backlog = Backlog(
            queue=queue,
            patience=patience,
            scheduler=self._scheduler,
            requests=requests,
            settle=settle,
            space=self._space,
            tally=self._tally,
            clock=clock,
            new_id=new_id,
            on_change=self._pump,
            judge=self._judge,
        )
        self._admit = Admit(
            queue=queue, scheduler=self._scheduler, backlog=self._backlog, callers=self._callers, clock=clock
        )
        self._dispatch = Dispatch(
            scheduler=self._scheduler,
            backlog=self._backlog,
            backends={backend.spec.name: backend for backend in self._backends},
            requests=requests,
            settle=settle,
            patience=patience,
            pins=self._pins,
            clock=clock,
        )
        self._upkeeps = [
            Upkeep(backend, scheduler=self._scheduler, pins=self._pins, clock=clock, on_change=self._pump)
            for backend in self._backends
        ]
        self._lanes = Lanes(self._upkeeps, self._scheduler)
        self.models = Models(self._backends, self._lanes)
        self._forward = Forward()
        self._ingest = Ingest(limits.ingest_bytes)
        self._desk = Desk(callers=self._callers, backlog=self._backlog, scheduler=self._scheduler, requests=requests, clock=clock)

    def __repr__(self) -> str:
        return f"<Gateway {self._scheduler.queued} queued, {self._tally.totals()}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover the journal, then serve until cancelled. Started when every recovered row is back in the backlog."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._backlog.run)
            await self._recover()
            await nursery.start(self._dispatch.run)
            for backend in self._backends:
                nursery.start_soon(kept_up, f"watching {backend.spec.name}", backend.watch)
            for upkeep in self._upkeeps:
                nursery.start_soon(kept_up, f"the upkeep of {upkeep.backend.spec.name}", upkeep.watch)
            nursery.start_soon(kept_up, "retention", self._forget_old)
            task_status.started()

    def tell(self, event: Event) -> None:
        """Note that an agent started or ended."""
        self._desk.tell(event)
        match event:
            case AgentStarted(agent=agent, generation=generation):
                self._backlog.agent_started(agent, generation)
            case AgentEnded(agent=agent, generation=generation):
                self._backlog.agent_ended(agent, generation)
                self._callers.ended(agent)
            case AgentReady() | AgentAsked():
                pass

    def _pump(self) -> None:
        self._dispatch.pump()

    @property
    def turns(self) -> int:
        """How often the dispatcher looked for work; `nudge` makes it look once more."""
        return self._dispatch.turns

    def nudge(self) -> None:
        self._dispatch.pump()

    # --- one request ---------------------------------------------------------------------------------------------------

    def handler_for(self, caller: Caller) -> Handler:
        """Return the handler of one caller's requests (on TCP `Accept.tcp_handler` finds the caller first)."""

        async def handle(exchange: Exchange) -> None:
            try:
                await self._serve(exchange, caller)
            except Refused as refused:
                if exchange.is_started:
                    raise
                self._tell_refused(caller, is_refused=refused.status in {429, 503})  # first: it may end when it reads this
                await answer_refusal(exchange, refused)

        return handle

    def _tell_refused(self, caller: Caller, *, is_refused: bool) -> None:
        """Tell of what an agent may end of, and is not to blame for."""
        if is_refused and caller.kind is CallerKind.AGENT:
            self._tell(GatewayRefused(caller.name, caller.generation))

    async def _serve(self, exchange: Exchange, caller: Caller) -> None:
        head = exchange.head
        if caller.kind is CallerKind.AGENT:
            self._tell(AgentAsked(caller.name, caller.generation))
        is_owner = caller.kind is CallerKind.OWNER
        matched = find_route(head.method, head.path)
        # What is refused whatever its body says is refused without reading it: no `100 Continue`, no 64 MB for nothing.
        if not isinstance(matched, Matched) or (matched.route.kind is Kind.ADMIN and not is_owner):
            await self._serve_body(exchange, caller, b"")
            return
        is_packed = is_gzip(head.headers) and matched.route.kind is not Kind.ADMIN  # a blob is stored as it comes
        declared = head.body_bytes if not is_packed else None  # None: in chunks, or packed, so it is counted once it is here
        limit = self._limits.body_bytes if declared is not None else min(self._limits.body_bytes, self._ingest.free_bytes)
        with self._ingest.held(min(declared or 0, self._limits.body_bytes)):
            body = await exchange.body(limit, gunzip=is_packed)
            with self._ingest.held(len(body) if declared is None else 0):
                await self._serve_body(exchange, caller, body)

    async def _serve_body(self, exchange: Exchange, caller: Caller, body: bytes) -> None:
        head = exchange.head
        is_owner = caller.kind is CallerKind.OWNER
        call = await self._classify(head.method, head.path, body, is_owner=is_owner, query=head.query)
        match call.route.kind:
            case Kind.INFERENCE:
                await self._infer(exchange, caller, call)
            case Kind.METADATA:
                await self._forward.metadata(exchange, call, self._backend(call.canonical_model))
            case Kind.ADMIN:
                await self._forward.admin(exchange, call, self._backend(call.canonical_model))
            case Kind.SUPERVISOR:
                await self._desk.serve(exchange, caller, call)
            case Kind.REFUSED:
                raise Refused(403, "this route is not carried")

    async def _classify(self, method: str, path: str, body: bytes, *, is_owner: bool, query: str = "") -> Call:
        """Read a body. A large one (images) takes up to a second, in which everybody else would wait: not on the loop."""
        judge = partial(classify, method, path, body, is_admin_allowed=is_owner, pins=self._pins, query=query)
        return judge() if len(body) < READ_ELSEWHERE_BYTES else await self._run_sync(judge)

    def _backend(self, model: str | None = None) -> Backend:
        """The backend for what needs no slot: the first that answers, of those that have the model if any has."""
        holders = [backend for backend in self._backends if model is not None and backend.has(model)]
        ready = [backend for backend in holders or self._backends if backend.state is BackendState.READY]
        return (ready or holders or self._backends)[0]

    async def _infer(self, exchange: Exchange, caller: Caller, call: Call) -> None:
        asked = read_asked(exchange.head.headers.get)
        if call.is_unload:
            await self._unload(exchange, call)
            return
        await self._backlog.wake_keyed(caller.name, asked.key)
        came_back = self._backlog.rejoin(caller, call, asked.key)
        if came_back is None:
            place = await self._cache.place(call, caller, self._backend(call.canonical_model))
            if await self._from_cache(exchange, caller, call, asked, place):
                return
            await self._backlog.wake_keyed(caller.name, asked.key)
            # Nothing is awaited from here to `enter`: two requests with one key must become one.
            came_back = self._backlog.rejoin(caller, call, asked.key) or self._take_in(exchange, caller, call, asked, place)
        else:
            self._tally.rejoined += 1
        if isinstance(came_back, Kept):
            await self._give_kept(exchange, call, came_back)
        elif asked.is_async and came_back.row.is_async and not came_back.is_over:
            await self._acknowledge(exchange, came_back)
        else:
            await self._attend(exchange, came_back)
            is_ours = came_back.outcome is not None and came_back.outcome.end is End.FAULT
            self._tell_refused(caller, is_refused=is_ours)

    def _take_in(self, exchange: Exchange, caller: Caller, call: Call, asked: Asked, place: Place) -> Request:
        """Admit a new request and put it into the backlog. Raises: Refused."""
        self._tally.asked += 1
        if not admits(self._mode):
            self._tally.refused += 1
            raise Refused(503, "the owner drains the queue: nothing new is taken in", retry_after_s=RETRY_AFTER_S)
        policy = self._callers.policy(caller)
        decision = self._admit.decide(caller, policy, call, asked)
        if isinstance(decision, Rejected):
            self._tally.refused += 1
            log.info("%s refused: %d %s", caller.name, decision.status, decision.message)
            raise Refused(decision.status, decision.message, retry_after_s=decision.retry_after_s)
        request = self._backlog.enter(caller, policy, call, decision, key=asked.key, method=exchange.head.method)
        request.wish = asked.cache
        put_in_place(request, asked, place)
        if not place.is_known:
            request.place_late = partial(self._place_late, request, caller, asked)
        return request

    async def _place_late(self, request: Request, caller: Caller, asked: Asked) -> None:
        """The model of a request could not be asked about when it came; now that it starts it can."""
        request.place_late = None
        place = await self._cache.place(request.call, caller, self._backend(request.call.canonical_model))
        put_in_place(request, asked, place)

    async def _from_cache(self, exchange: Exchange, caller: Caller, call: Call, asked: Asked, place: Place) -> bool:
        """Answer from the cache if it can be; the caller may also have asked for nothing else."""
        began_at = self._clock.monotonic()
        answer = self._cache.get(place, caller.name, asked.cache)
        if answer is None:
            if asked.cache.only_if_cached:
                self._tally.asked += 1
                self._tally.refused += 1
                raise Refused(504, f"only-if-cached was asked, and it is not: {place.why or 'nobody asked this before'}")
            return False
        self._tally.asked += 1
        self._tally.cached += 1
        now = self._clock.monotonic()
        fresh_id = self._new_id()
        await replay(
            exchange,
            call,
            answer,
            hit_headers(fresh_id, call, took_s=now - began_at),
            took_s=now - began_at,
            now_wall=self._clock.wall(),
            fresh_id=fresh_id,
        )
        return True

    async def _give_kept(self, exchange: Exchange, call: Call, kept: Kept) -> None:
        headers = kept_headers(kept.row.id, kept.row.attempt, call)
        now_wall = self._clock.wall()
        await replay(exchange, call, kept.answer, headers, took_s=0.0, now_wall=now_wall, fresh_id=kept.row.id)

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
                await deliver(exchange, request, self._clock, self._desk.comment)
                is_delivered = True
                nursery.cancel_scope.cancel()
        finally:
            # When the daemon stops its callers have not left: their rows stay, and are answered after the next start.
            is_stopping = trio.current_effective_deadline() == float("-inf")
            self._backlog.detach(request, has_left=not is_delivered and not is_stopping)
        if has_left and not is_delivered:
            raise PeerGone

    async def _unload(self, exchange: Exchange, call: Call) -> None:
        """An unload needs no slot. Granted to the owner only; for others it is answered as if, and nothing happens."""
        if call.is_granted:
            backend = self._backend(call.canonical_model)
            try:
                async with self._lanes.of(backend).drained(call.canonical_model or ""):
                    await self._forward.admin(exchange, call, backend)
            except UpstreamFault as exc:
                raise Refused(504, str(exc)) from exc
            return
        body = unload_body(call.route.op, call.model or "", rfc3339(self._clock.wall()))
        options = [("X-AI-Options", not_granted(call.not_granted))] if call.not_granted else []
        await exchange.respond(200, [("Content-Type", "application/json; charset=utf-8"), *options], body)

    # --- what the owner says -------------------------------------------------------------------------------------------

    def follow(self, roster: Roster) -> None:
        """Go by another roster from now on. Requests that wait keep the place and the deadline they were promised."""
        self._callers.follow(roster)

    def tell_queue(self, verb: QueueVerb) -> QueueMode:
        """Pause, drain or open the queue."""
        self._mode = MODES[verb]
        self._scheduler.is_paused = not starts(self._mode)
        log.info("queue %s: it is %s", verb, self._mode)
        self._pump()
        return self._mode

    def cancel(self, request_id: str) -> bool:
        """Take a request out of the queue, or off its slot; False when it does not live. Its caller is told so."""
        if self._backlog.asleep.leave(request_id, "its owner cancelled it"):
            return True
        request = self._backlog.get(request_id)
        if request is None or request.is_over:
            return False
        log.info("request %s of %s is cancelled by the owner", request.id, request.agent)
        self._backlog.leave(request, "its owner cancelled it")
        return True

    async def clear_cache(self, *, l1: bool = True, l2: bool = True) -> int:
        """Forget the answers of a tier; returns how many.

        Raises:
            StoreFault: the file cannot be written.
        """
        gone = await self._cache.clear(l1=l1, l2=l2)
        log.info("cache cleared by the owner: %d answers", gone)
        return gone

    # --- duties --------------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Bring the rows of the last life back into the backlog."""
        ids = self._requests.unfinished()
        for request_id in ids:  # one body at a time: all of them may not fit into memory
            row = self._requests.row(request_id)
            if row is None:
                continue
            try:
                call, policy = await self._judge(row)
            except Refused as refused:
                self._backlog.give_up(row, refused.message)
                continue
            await self._backlog.restore(row, call, policy)
            await trio.lowlevel.checkpoint()
        if ids:
            log.info("%d requests of the last life are back", len(ids))

    async def _judge(self, row: RequestRow) -> tuple[Call, ClassPolicy]:
        """Read a row of the journal as when it was accepted.

        Raises:
            Refused: its asker is gone, or it cannot be read any more.
        """
        policy = self._callers.row_policy(row.agent, row.agent_class)
        if policy is None:
            raise Refused(403, f"{row.agent} is not in the roster any more")
        is_owner = row.agent_class == CallerKind.OWNER
        return await self._classify(row.method, row.path, row.body, is_owner=is_owner), policy

    async def _forget_old(self) -> None:
        """Kept answers are kept for `result_keep`, then their rows go."""
        while True:
            await trio.sleep(RETENTION_EVERY_S)
            older_than_wall = self._clock.wall() - self._queue.result_keep_s
            await self._requests.forget(older_than_wall)
            self._backlog.forget_returns(older_than_wall)

    # --- looks ---------------------------------------------------------------------------------------------------------

    def explain(self, request_id: str) -> dict[str, object] | None:
        """Return where a request stands and why it waits, or how it ended; None when it is unknown."""
        return self._desk.explain(request_id)

    def statistics(self) -> GatewayView:
        """Return everything at this instant."""
        now = self._clock.monotonic()
        waiting = self._scheduler.order()
        queue = []
        for ticket in waiting:
            request, sleeper = self._backlog.get(ticket.id), self._backlog.asleep.get(ticket.id)
            if request is not None:
                model, path, accepted_at = request.call.model, request.call.path, request.times.accepted_at
            elif sleeper is not None:
                model, path, accepted_at = sleeper.model, sleeper.path, sleeper.accepted_at
            else:
                continue
            reason = self._scheduler.reason(ticket, now)
            queue.append(QueuedView(ticket.id, ticket.agent, model, path, now - accepted_at, ticket.priority, reason))
        counts = Counter(view.priority for view in queue)
        levels = tuple(
            PriorityView(level, counts[level], max(view.waited_s for view in queue if view.priority == level))
            for level in sorted(counts)
        )
        backends = tuple(backend.view(self._dispatch.running(backend.spec.name)) for backend in self._backends)
        return GatewayView(
            backends=backends,
            queued=self._backlog.queued,
            running=sum(len(backend.running) for backend in backends),
            by_priority=levels,
            queue=tuple(queue),
            cache=self._cache.statistics(),
            spool=self._space.statistics(),
            totals=self._tally.totals(),
            mode=self._mode.value,
        )


async def answer_refusal(exchange: Exchange, refused: Refused) -> None:
    """Answer a refusal in the caller's face."""
    headers, body = shape_refusal(exchange.head, refused)
    if refused.retry_after_s is not None:
        headers = [*headers, ("Retry-After", f"{max(1, min(60, -int(-refused.retry_after_s // 1)))}")]
    if refused.close:
        exchange.keeps_connection = False
    await exchange.respond(refused.status, headers, body)


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


def pins_of(models: ModelsPolicy) -> Pins:
    """Return what the gateway pins for each model: its own `num_ctx` where the config names one, else the common one."""
    default = ModelPins(num_ctx=models.num_ctx, keep_alive_s=models.keep_alive_s)
    each = {
        canonical_name(name): ModelPins(num_ctx=policy.num_ctx or models.num_ctx, keep_alive_s=models.keep_alive_s)
        for name, policy in models.each
    }
    return Pins(default=default, each=each)
