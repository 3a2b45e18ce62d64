"""The gateway as one thing: built by the daemon, told events, asked for handlers and for a view of itself."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.batch import BatchPolicy
from supervisord_ai.core.cache_policy import Freshness
from supervisord_ai.core.calls import Call, Kind, Matched, find_route
from supervisord_ai.core.events import AgentAsked, AgentEnded, AgentStarted, Event, GatewayRefused, LevelChanged, ReliefDecided
from supervisord_ai.core.identity import Caller, CallerKind
from supervisord_ai.core.model_facts import canonical_name
from supervisord_ai.core.patience import Patience
from supervisord_ai.core.policies import (
    BackendSpec,
    BreakerPolicy,
    CachePolicy,
    LevelsPolicy,
    LimitsPolicy,
    ModelsPolicy,
    QueuePolicy,
)
from supervisord_ai.core.queue_mode import MODES, QueueMode, QueueVerb, starts
from supervisord_ai.core.relief import AdmitAll, AdmitUrgent, DropCache
from supervisord_ai.core.residency import UnloadPolicy
from supervisord_ai.core.roster import ClassPolicy, Roster
from supervisord_ai.core.samples import Load
from supervisord_ai.core.scheduler import Scheduler, SchedulerPolicy
from supervisord_ai.duty import every, kept_up
from supervisord_ai.errors import Refused, UpstreamFault
from supervisord_ai.gateway.admit import Admit
from supervisord_ai.gateway.backends import Backend, BackendState
from supervisord_ai.gateway.backlog import Backlog
from supervisord_ai.gateway.cache import AnswerCache
from supervisord_ai.gateway.callers import Callers
from supervisord_ai.gateway.calls_under_way import CallsUnderWay
from supervisord_ai.gateway.desk import Desk
from supervisord_ai.gateway.dispatch import Dispatch
from supervisord_ai.gateway.forward import Forward
from supervisord_ai.gateway.headers import not_granted, rfc3339
from supervisord_ai.gateway.inference import Inference
from supervisord_ai.gateway.ingest import Ingest
from supervisord_ai.gateway.level import LevelInForce
from supervisord_ai.gateway.looks import priority_views, queue_view
from supervisord_ai.gateway.measures import Measures, MeasuresView, Took
from supervisord_ai.gateway.models import Models
from supervisord_ai.gateway.outlook import Outlook
from supervisord_ai.gateway.reading import Reading, in_own_thread, pins_of
from supervisord_ai.gateway.recovery import Recovery
from supervisord_ai.gateway.refusals import answer_refusal
from supervisord_ai.gateway.rejoin import Rejoin
from supervisord_ai.gateway.settle import Settle
from supervisord_ai.gateway.spool import SpoolSpace
from supervisord_ai.gateway.stand_in import StandIn
from supervisord_ai.gateway.tally import Ending, Tally
from supervisord_ai.gateway.upkeep import Lanes, Upkeep
from supervisord_ai.gateway.view import CacheReport, GatewayPulse, GatewayView, LedgerView
from supervisord_ai.gateway.vram import VRAM_EVERY_S, VramKeeper
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.serve.http import Exchange, Handler
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.disk import RunSync
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.rows import RequestRow
from supervisord_ai.wire.gzip_body import is_gzip
from supervisord_ai.wire.ollama import unload_body

log = logging.getLogger(__name__)

RETENTION_EVERY_S = 60.0
WAITING_SHOWN = 1000


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
        vram: Callable[[], float | None] = lambda: None,
        unload_at: float = 0.90,
        note: Callable[[str, Mapping[str, object]], None] = lambda _kind, _detail: None,
        restarts: Mapping[str, Callable[[], Awaitable[object]]] | None = None,
        levels: LevelsPolicy | None = None,
    ) -> None:
        patience = patience or Patience()
        self._callers = Callers(roster)
        self._calls_under_way = CallsUnderWay(tell)
        self._queue = queue
        self._limits = limits
        self._requests = requests
        self._clock = clock
        self._tell = tell
        pins = pins_of(models)
        self._reading = Reading(pins, run_sync)
        self._tally = Tally()
        self._space = SpoolSpace(spool_dir, memory_bytes=limits.spool_bytes, disk_bytes=limits.spool_disk_bytes)
        self._scheduler = Scheduler(
            {spec.name: spec.slots for spec, _ in backends},
            SchedulerPolicy(
                batch=BatchPolicy(requests_max=queue.batch_max, window_s=queue.batch_window_s),
                urgent=(levels or LevelsPolicy()).priority_only,
            ),
            on_cpu={spec.name for spec, _ in backends if spec.device == "cpu"},
        )
        self._outlook = Outlook(self._scheduler, clock)
        self._level = LevelInForce(levels or LevelsPolicy(), self._outlook, clock, deadline_s=queue.deadline_s)
        self._cache = AnswerCache(cache, cache_file, clock)
        self._named = frozenset(canonical_name(name) for name in named_models(models, levels))
        self._measures = Measures(self._is_model)
        settle = Settle(
            scheduler=self._scheduler,
            requests=requests,
            cache=self._cache,
            tally=self._tally,
            measures=self._measures,
            clock=clock,
            on_free=self._pump,
        )
        self._backends = [
            Backend(
                spec,
                client,
                scheduler=self._scheduler,
                models=models,
                patience=patience,
                clock=clock,
                on_change=self._pump,
                tell=tell,
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
            level=self._level,
        )
        self._rejoin = Rejoin(backlog=self._backlog, requests=requests, patience=patience, clock=clock)
        self._recovery = Recovery(
            queue=queue,
            requests=requests,
            backlog=self._backlog,
            rejoin=self._rejoin,
            space=self._space,
            tally=self._tally,
            clock=clock,
            tell=tell,
            judge=self._judge,
        )
        self._dispatch = Dispatch(
            scheduler=self._scheduler,
            backlog=self._backlog,
            backends={backend.spec.name: backend for backend in self._backends},
            requests=requests,
            settle=settle,
            measures=self._measures,
            patience=patience,
            pins=pins,
            clock=clock,
            level=self._level,
        )
        upkeep = partial(
            Upkeep, scheduler=self._scheduler, pins=pins, clock=clock, on_change=self._pump, give_up=self._dispatch.give_up
        )
        self._upkeeps = [upkeep(backend) for backend in self._backends]
        self._lanes = Lanes(self._upkeeps, self._scheduler)
        self._vram = VramKeeper(
            self._upkeeps, scheduler=self._scheduler, policy=UnloadPolicy(at=unload_at), used=vram, clock=clock, note=note
        )
        self.models = Models(self._backends, self._lanes)
        self._forward = Forward()
        self._ingest = Ingest(limits.ingest_bytes)
        self._desk = Desk(
            callers=self._callers,
            backlog=self._backlog,
            scheduler=self._scheduler,
            requests=requests,
            tally=self._tally,
            clock=clock,
        )
        self._inference = Inference(
            callers=self._callers,
            cache=self._cache,
            admit=Admit(
                queue=queue,
                scheduler=self._scheduler,
                backlog=self._backlog,
                callers=self._callers,
                clock=clock,
                level=self._level,
            ),
            backlog=self._backlog,
            rejoin=self._rejoin,
            settle=settle,
            tally=self._tally,
            clock=clock,
            new_id=new_id,
            backend_of=self._backend,
            comment=self._desk.comment,
            on_fault=self._tell_refused,
            stand_in=StandIn(
                level=self._level,
                callers=self._callers,
                cache=self._cache,
                pins=pins,
                backend_of=self._backend,
                read=lambda path, body: self._reading.call("POST", path, body, is_owner=False),
            ),
        )

    def __repr__(self) -> str:
        return f"<Gateway {self._scheduler.queued} queued, {self._tally.totals()}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover the journal, then serve until cancelled. Started when every recovered row is back in the backlog."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._backlog.run)
            cut = await self._recovery.run()
            for backend in self._backends:
                backend.suspect(cut)
            await nursery.start(self._dispatch.run)
            for backend in self._backends:
                nursery.start_soon(kept_up, f"watching {backend.spec.name}", backend.watch)
            for upkeep in self._upkeeps:
                nursery.start_soon(kept_up, f"the upkeep of {upkeep.backend.spec.name}", upkeep.watch)
            nursery.start_soon(kept_up, "retention", self._forget_old)
            nursery.start_soon(every, VRAM_EVERY_S, "looking after the graphics memory", self._vram.look)
            task_status.started()

    def tell(self, event: Event) -> None:
        """Note that an agent started or ended, or that another level holds."""
        self._desk.tell(event)
        match event:
            case AgentStarted(agent=agent, generation=generation):
                self._backlog.agent_started(agent, generation)
            case AgentEnded(agent=agent, generation=generation):
                self._backlog.agent_ended(agent, generation)
                self._callers.ended(agent)
            case ReliefDecided(deed=DropCache()):
                log.info("%d answers in memory were dropped, so that their memory comes back", self._cache.drop_memory())
            case ReliefDecided(deed=AdmitUrgent() | AdmitAll() as deed):
                self._level.admit_urgent_only(isinstance(deed, AdmitUrgent))
            case LevelChanged():
                self._level.follow(event)
                effects = self._level.effects
                if effects.light_model is None:
                    self._backlog.ask_as_asked()
                self.follow_cache(Freshness(ttl_factor=effects.ttl_factor, allow_stale=effects.allow_stale))
            case _:
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
                if refused.status in {429, 503}:
                    self._tell_refused(caller)  # first: it may end when it reads this
                await answer_refusal(exchange, refused)

        return handle

    def _tell_refused(self, caller: Caller) -> None:
        """Tell of what an agent may end of, and is not to blame for."""
        if caller.kind is CallerKind.AGENT:
            self._tell(GatewayRefused(caller.name, caller.generation))

    async def _serve(self, exchange: Exchange, caller: Caller) -> None:
        head = exchange.head
        if caller.kind is CallerKind.AGENT:
            self._tell(AgentAsked(caller.name, caller.generation))
        is_owner = caller.kind is CallerKind.OWNER
        matched = find_route(head.method, head.path)
        # What is refused whatever its body says is refused without reading it: no `100 Continue`, no 64 MB for nothing.
        if not isinstance(matched, Matched) or (matched.route.kind is Kind.ADMIN and not is_owner):
            await self._serve_call(exchange, caller, await self._read(exchange, caller, b""))
            return
        is_packed = is_gzip(head.headers) and matched.route.kind is not Kind.ADMIN  # a blob is stored as it comes
        declared = head.body_bytes if not is_packed else None  # None: in chunks, or packed, so it is counted as it comes
        limit = self._limits.body_bytes
        with self._ingest.held(min(declared or 0, limit)) as hold:
            await exchange.receive_body(limit, gunzip=is_packed, take=hold.more if declared is None else None)
            # What was read of it is what is kept from here on: the bytes themselves would lie beside it for as long as it waits.
            await self._serve_call(exchange, caller, await self._read(exchange, caller, exchange.take_body()))

    async def _read(self, exchange: Exchange, caller: Caller, body: bytes | bytearray) -> Call:
        head, is_owner = exchange.head, caller.kind is CallerKind.OWNER
        return await self._reading.call(head.method, head.path, body, is_owner=is_owner, query=head.query)

    async def _serve_call(self, exchange: Exchange, caller: Caller, call: Call) -> None:
        match call.route.kind:
            case Kind.INFERENCE if call.is_unload:
                await self._unload(exchange, call)
            case Kind.INFERENCE:
                with self._calls_under_way.held(caller):
                    await self._inference.serve(exchange, caller, call)
            case Kind.METADATA:
                await self._forward.metadata(exchange, call, self._backend(call.canonical_model))
            case Kind.ADMIN:
                await self._forward.admin(exchange, call, self._backend(call.canonical_model))
            case Kind.SUPERVISOR:
                await self._desk.serve(exchange, caller, call)
            case Kind.REFUSED:
                raise Refused(403, "this route is not carried")

    def _backend(self, model: str | None = None) -> Backend:
        """The backend for what needs no slot: the first that answers, of those that have the model if any has."""
        holders = [backend for backend in self._backends if model is not None and backend.has(model)]
        ready = [backend for backend in holders or self._backends if backend.state is BackendState.READY]
        return (ready or holders or self._backends)[0]

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
        mode = self._inference.mode = MODES[verb]
        self._scheduler.is_paused = not starts(mode)
        log.info("queue %s: it is %s", verb, mode)
        self._pump()
        return mode

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

    def follow_cache(self, rule: Freshness) -> None:
        """Give kept answers by another rule of what is fresh from now on: the level of pressure decides it."""
        self._cache.follow(rule)

    def cache_report(self, *, with_prompts: bool = False) -> CacheReport:
        """Return what the cache holds, was good for, and what to do about it. Prompts are shown only where they are asked for."""
        return self._cache.report(with_prompts=with_prompts)

    async def clear_cache(self, *, l1: bool = True, l2: bool = True, l3: bool = True) -> int:
        """Forget the answers of a tier; returns how many.

        Raises:
            StoreFault: the file cannot be written.
        """
        gone = await self._cache.clear(l1=l1, l2=l2, l3=l3)
        log.info("cache cleared by the owner: %d answers", gone)
        return gone

    # --- duties --------------------------------------------------------------------------------------------------------

    async def _judge(self, row: RequestRow) -> tuple[Call, ClassPolicy]:
        """Read a row of the journal as when it was accepted.

        Raises:
            Refused: its asker is gone, or it cannot be read any more.
        """
        policy = self._callers.row_policy(row.agent, row.agent_class)
        if policy is None:
            raise Refused(403, f"{row.agent} is not in the roster any more")
        is_owner = row.agent_class == CallerKind.OWNER
        return await self._reading.call(row.method, row.path, row.body, is_owner=is_owner), policy

    async def _forget_old(self) -> None:
        """Kept answers are kept for `result_keep`, then their rows go."""
        while True:
            await trio.sleep(RETENTION_EVERY_S)
            older_than_wall = self._clock.wall() - self._queue.result_keep_s
            await self._requests.forget(older_than_wall)
            self._rejoin.forget(older_than_wall)

    # --- looks ---------------------------------------------------------------------------------------------------------

    def explain(self, request_id: str) -> dict[str, object] | None:
        """Return where a request stands and why it waits, or how it ended; None when it is unknown."""
        return self._desk.explain(request_id)

    def load(self) -> Load:
        """Return what is asked of Ollama at this instant, for the sampler."""
        return self._outlook.load(sum(len(self._scheduler.leases(backend.spec.name)) for backend in self._backends))

    def ledger(self) -> dict[str, LedgerView]:
        """Return what each agent asked and what it cost since the daemon started; who asked nothing has no line."""
        return self._tally.ledger()

    def ended(self) -> dict[tuple[str, Ending], int]:
        """Return how many requests of each class ended how, since the daemon started."""
        return self._tally.ended()

    def measures(self) -> MeasuresView:
        """Return how long requests took, by part, class and model."""
        return self._measures.view()

    def took(self, since: float) -> list[Took]:
        """Return the times of the last requests, of those that ended after that monotonic second, latest first."""
        return list(itertools.takewhile(lambda one: one.at > since, reversed(self._measures.recent)))

    def _is_model(self, model: str) -> bool:
        return model in self._named or any(backend.has(model) for backend in self._backends)

    def pulse(self) -> GatewayPulse:
        """Return what costs nothing to ask."""
        return GatewayPulse(
            backends=tuple(backend.pulse() for backend in self._backends),
            queued=self._scheduler.queued,
            queued_async=self._scheduler.queued_async(),
            running=sum(self._scheduler.busy(backend.spec.name) for backend in self._backends),
            totals=self._tally.totals(),
            models_on_cpu=self._vram.fallen,
            models_slow=tuple(sorted(name for backend in self._backends for name in backend.speeds.slow)),
        )

    def statistics(self, waiting_max: int = WAITING_SHOWN) -> GatewayView:
        """Return everything at this instant; of those who wait, at most so many one by one."""
        now = self._clock.monotonic()
        backends = tuple(backend.view(self._dispatch.running(backend.spec.name)) for backend in self._backends)
        return GatewayView(
            backends=backends,
            queued=self._backlog.queued,
            running=sum(len(backend.running) for backend in backends),
            by_priority=priority_views(self._scheduler, now),
            queue=queue_view(self._scheduler, self._backlog, waiting_max, now),
            cache=self._cache.statistics(),
            spool=self._space.statistics(),
            totals=self._tally.totals(),
            mode=self._inference.mode.value,
        )


def named_models(models: ModelsPolicy, levels: LevelsPolicy | None) -> list[str]:
    """Return the models that the config names."""
    return [*(name for name, _ in models.each), *([levels.light_model] if levels and levels.light_model else [])]
