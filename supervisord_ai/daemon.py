"""Builds everything, opens the nurseries, wires events. The nesting of the nurseries is the order of shutdown.

    store       the journal and the cache: the last to close, so that whatever ends can still be written down
      agents    the fleet; inside it the engines we keep, which outlive the agents and end before their cages are given back
        requests  the gateway: recovery, slots, relays
          accept    llm.sock, the loopback face, control.sock

Starting goes inward: the sockets are bound first (a caller who is early waits in the kernel's backlog), the agents of a daemon
that was killed are taken over, or ended where that is not certain, the journal is recovered, and then callers are let in while
the other agents start in batches. Stopping goes outward: nobody new is let in, work in hand is dropped (its rows stay, and are
answered after the next start), the agents are ended, the files are closed. All of it fits into 8 seconds, because WSL cuts the
power after 10. Told to leave (USR1), or brought down by a fault of ours, it does the same within 2 seconds and leaves the agents
running.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import assert_never

import trio

from supervisord_ai import __version__
from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.agents.output import LogFolder
from supervisord_ai.clock import Clock, SystemClock
from supervisord_ai.config import Config
from supervisord_ai.control.api import Control
from supervisord_ai.control.chronicle import Chronicle
from supervisord_ai.control.figures import Figures
from supervisord_ai.control.history import History
from supervisord_ai.control.lives import Lives
from supervisord_ai.control.reload import Reload
from supervisord_ai.control.report import Usage
from supervisord_ai.control.scrape import Counted, Metrics
from supervisord_ai.control.verbs import Verbs
from supervisord_ai.control.web import Web
from supervisord_ai.core.alerts import AlertRule, rules_of
from supervisord_ai.core.downtime import LastLife, downtime
from supervisord_ai.core.events import Event
from supervisord_ai.core.identity import EXTERNAL_GENERATION, IdentityPolicy
from supervisord_ai.core.injection import injected
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.places import CONTROL_SOCKET, LLM_SOCKET
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.core.progress import Signs
from supervisord_ai.core.relief import ReliefPolicy
from supervisord_ai.core.roster import AgentSpec, Roster
from supervisord_ai.core.samples import Sample
from supervisord_ai.core.units import has_other_users
from supervisord_ai.duty import every, kept_up
from supervisord_ai.errors import HostFault, SpawnFailed, SupervisorError, UsageError
from supervisord_ai.gateway.accept import Accept
from supervisord_ai.gateway.gateway import Gateway, in_own_thread, shape_refusal
from supervisord_ai.health.alerts import Alerts
from supervisord_ai.health.alive import stay_alive
from supervisord_ai.health.back_doors import LOOK_EVERY_S, BackDoors, Connections
from supervisord_ai.health.ladder import Ladder
from supervisord_ai.health.notify import Courier, RealCourier
from supervisord_ai.health.relief import ReliefWatch
from supervisord_ai.health.sampler import EVERY_S, Sampler, in_sensor_thread
from supervisord_ai.health.view import HealthView
from supervisord_ai.host import memory, sockets, wsl
from supervisord_ai.host.activation import PassedSockets
from supervisord_ai.host.cages import Form, find_cages
from supervisord_ai.host.cgroup import Cages, Guarantee
from supervisord_ai.host.connections import KernelConnections
from supervisord_ai.host.fence import FenceFolder
from supervisord_ai.host.firewall import WANTS, Firewall, Nft
from supervisord_ai.host.heap import keep_large_blocks_apart
from supervisord_ai.host.machine import MachineDoor, RealMachine, free_bytes
from supervisord_ai.host.notify import NotifyDoor, NotifyFolder
from supervisord_ai.host.peers import KernelPeers
from supervisord_ai.host.process import Account, ProcessDoor, Processes, account, allow_open_files
from supervisord_ai.host.rehearsed import RehearsedMachine
from supervisord_ai.host.signals import Asked, signals_asked
from supervisord_ai.host.state_folder import StateFolder, make_folder
from supervisord_ai.host.systemd import Notifier
from supervisord_ai.ollama.transport import Dialer
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.http import Bounds, Handler, serve_listener
from supervisord_ai.store.alerts import AlertJournal
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.database import Database, Durability
from supervisord_ai.store.disk import Disk, RunSync, in_thread
from supervisord_ai.store.journal import EventJournal, FleetJournal
from supervisord_ai.store.peaks import PeakJournal
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.schema import JOURNAL
from supervisord_ai.upstreams import EngineDoors, Upstreams

log = logging.getLogger(__name__)

RETENTION_EVERY_S = 3600.0
ALIVE_EVERY_S = 10.0
ONLY_FOR_MIGRATIONS = frozenset({"sqlite_utils", "sqlite_fts4", "click", "pluggy", "dateutil"})
STOP_AGENTS_WITHIN_S = 7.0  # the rest of the 8 s is for the files


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to a config. `ledger`: where the embedded engine counts its calls. `is_rehearsal`: what others
    do on this machine is left out of the level.

    `read_config` reads the config again, for a reload: it may block, and raises what `config.load` raises.
    """

    cages: Form = "auto"
    ledger: Path | None = None
    model_file: Path | None = None
    is_rehearsal: bool = False
    read_config: Callable[[], Config] | None = field(default=None, compare=False)


def _random_id() -> str:
    return secrets.token_urlsafe(16)


def _settle_memory() -> None:
    """What exists now lives as long as the daemon: a full collection over it would only be a pause.

    What made or migrated the files is not needed again: 4 MB, which the agents then use.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] in ONLY_FOR_MIGRATIONS]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True)
class Doors:
    """What of the machine the daemon uses: the real things, unless a simulation brings its own.

    With `run_sync` inline, a mock clock and made-up processes the whole daemon lives in virtual time (tests/sim).
    """

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    new_id: Callable[[], str] = _random_id
    processes: Callable[[], ProcessDoor] = Processes
    cages: Callable[..., Cages] = find_cages
    notify: Callable[..., NotifyDoor] = NotifyFolder
    machine: Callable[..., MachineDoor] = RealMachine
    courier: Callable[[], Courier] = RealCourier
    sense: RunSync = in_sensor_thread
    connections: Callable[[], Connections] = KernelConnections
    firewall: Callable[[], Firewall] = Nft
    dial: Callable[[BackendSpec], Dialer | None] = lambda _spec: None
    run_sync: RunSync = in_thread  # the store's
    read_elsewhere: RunSync = in_own_thread  # the gateway's, for large bodies
    disk: Disk | None = None
    settle_memory: Callable[[], None] = _settle_memory


def run(config: Config, options: Options = Options()) -> int:
    """Run the daemon until it is told to stop; return its exit code.

    Raises:
        AlreadyRunning, UsageError, HostFault, StoreFault: it cannot start here; nothing was started.
    """
    # A thread that wants the interpreter back gets it within 0.1 ms: behind a busy loop the default of 5 ms makes an
    # acknowledgement wait for its fdatasync's thread for up to seconds.
    sys.setswitchinterval(1e-4)
    keep_large_blocks_apart()
    allow_open_files()
    with ExitStack() as held:
        daemon = Daemon(config, options, held)
        try:
            trio.run(daemon.main, strict_exception_groups=True)
        except BaseExceptionGroup as group:
            told = _only(group)
            if told is None:
                raise
            raise told from group
    return 0


def _only(group: BaseExceptionGroup[BaseException]) -> SupervisorError | None:
    """Return the one error of ours that ended everything, so that people read one line; None when it is anything else."""
    while len(group.exceptions) == 1:
        (inner,) = group.exceptions
        if not isinstance(inner, BaseExceptionGroup):
            return inner if isinstance(inner, SupervisorError) else None
        group = inner
    return None


class Daemon:
    """One daemon: built from a config, lived by `main`. What it takes before the loop runs is given back by `held`."""

    def __init__(self, config: Config, options: Options, held: ExitStack, doors: Doors | None = None) -> None:
        doors = doors if doors is not None else Doors()
        clock, rng = doors.clock, doors.rng
        self._config = config
        self._clock = clock
        self._stop_asked = trio.Event()
        self._is_leaving = False  # and the agents stay
        self._stop_why = ""
        self._settle_memory = doors.settle_memory
        self._notifier = Notifier()
        where = config.daemon
        state_dir, log_dir, self._runtime_dir = map(Path, (where.state_dir, where.log_dir, where.runtime_dir))

        state = StateFolder(state_dir)
        held.callback(state.close)
        self._state = state
        make_folder(log_dir, 0o750)
        is_shared = has_other_users(config.roster, os.geteuid())
        sockets.make_runtime_dir(self._runtime_dir, for_others=is_shared)
        self._bind(held, is_shared)

        file = partial(Database, run_sync=doors.run_sync, disk=doors.disk)
        self._journal = file(state_dir / "journal.db", JOURNAL, durability=Durability(where.durability.value))
        held.callback(self._journal.close)
        self._requests = Requests(self._journal, clock)
        self._events = EventJournal(self._journal, clock)
        self._processes = doors.processes()
        self._cache_file = CacheFile(
            state_dir / "cache.db",
            config.cache.l2_bytes,
            large_bytes=config.cache.l3_bytes,
            large_min_bytes=config.cache.l3_min_entry_bytes,
            boot=self._processes.boot_id(),
            run_sync=doors.run_sync,
            disk=doors.disk,
        )

        self._boot_id = self._processes.boot_id()
        self._down = downtime(last_life(state.last_alive_wall, self._events), boot_id=self._boot_id, now_wall=clock.wall())
        self._chronicle, self._lives = Chronicle(self._events, clock), Lives()
        self._metrics = Metrics(self._counted, run_sync=doors.read_elsewhere)
        self._cages = cages = doors.cages(state_dir, form=options.cages)
        fleet_journal, self._peaks = FleetJournal(self._journal, clock), PeakJournal(self._journal, clock)
        engine_logs = LogFolder(log_dir, config.logs)
        held.callback(engine_logs.close)
        self._upstreams = Upstreams(
            config,
            EngineDoors(self._processes, cages, fleet_journal, engine_logs, clock, rng, doors.dial),
            ours=tuple(listener.getsockname()[:2] for listener in self._tcp),
            ledger=options.ledger,
            model_file=options.model_file,
        ).build()
        self._fleet = Fleet(
            config.roster.agents,
            start=config.start,
            restart=config.restart,
            logs=config.logs,
            cages=cages,
            processes=self._processes,
            journal=fleet_journal,
            notify=doors.notify(self._runtime_dir / "notify", for_others=is_shared),
            clock=clock,
            tell=self._tell,
            environ_for=self._environ_for,
            log_dir=log_dir,
            rng=rng,
            rollout=config.rollout,
            levels=config.levels,
            fences=FenceFolder(self._runtime_dir / "fences"),
            enforce=config.memory.enforce,
            peaks=self._peaks,
        )
        caged = cages.cage("any").identity  # not one of the roster: a reload may bring the first agent
        fleet_cgroup = caged.rpartition("/")[0] if caged is not None else None
        firewall = doors.firewall() if config.isolation_mode == "nft" else None
        if firewall is not None and (fleet_cgroup is None or cages.guarantee is not Guarantee.HARD):
            raise UsageError(f'{WANTS} needs cgroup v2, by which agents are told from others: {cages.detail}')
        self._accept = Accept(_identity_policy(config, fleet_cgroup), state.secret(), externals=config.roster.externals)
        self._gateway = Gateway(
            roster=config.roster,
            queue=config.queue,
            limits=config.limits,
            cache=config.cache,
            models=config.models,
            backends=[(one.spec, one.client) for one in self._upstreams],
            requests=self._requests,
            cache_file=self._cache_file,
            clock=clock,
            tell=self._tell,
            new_id=doors.new_id,
            spool_dir=state_dir / "spool",
            run_sync=doors.read_elsewhere,
            breaker=config.breaker,
            levels=config.levels,
            vram=self._vram_used,
            unload_at=config.gpu_unload_at,
            note=lambda kind, detail: self._events.note(kind, detail=detail),
            restarts={one.spec.name: restart for one in self._upstreams if (restart := one.restart()) is not None},
        )
        self._ladder = Ladder(config.levels, reserve_bytes=config.memory.reserve_bytes, tell=self._tell, clock=clock)
        self._relief = ReliefWatch(
            ReliefPolicy(config.memory.reserve_bytes, calm_s=config.levels.dwell_s),
            fleet=self._fleet.room,
            tell=self._tell,
            clock=clock,
        )
        self._sampler = Sampler(
            RehearsedMachine() if options.is_rehearsal else doors.machine(fleet=cages.group, engine_pids=self._engine_pids),
            load=self._gateway.load,
            tell=self._sampled,
            clock=clock,
            run_sync=doors.sense,
        )
        self._back_doors = BackDoors(
            config.backends,
            facts=partial(wsl.facts, ours=tuple(listener.getsockname()[:2] for listener in self._tcp)),
            fleet=fleet_cgroup,
            firewall=firewall,
            connections=doors.connections(),
            agent_of=self._accept.agent_of,
            found=lambda agent, who, backend: self._events.note("bypass", agent, detail={"who": who, "backend": backend}),
            clock=clock,
            run_sync=doors.sense,
        )
        self._alerts = self._watch_for(config, doors, state_dir)
        self._reload = Reload(
            config,
            read=options.read_config,
            follow=self._follow,
            follow_alerts=lambda changed: self._alerts.follow(_alert_rules(changed)),
            run_sync=doors.run_sync,
        )
        self._control = Control(
            version=__version__,
            pid=os.getpid(),
            clock=clock,
            roster=config.roster,
            memory=config.memory,
            fleet=self._fleet.statistics,
            gateway=self._gateway.statistics,
            explain=self._gateway.explain,
            identity=self._accept.statistics,
            usage=_own_usage,
            health=self._health,
            peers=KernelPeers(),
            may_control=self._accept.may_control,
            environment=lambda spec: self._environ_for(spec, EXTERNAL_GENERATION, None),
            stop=partial(self.stop, "its owner said so (ai-supervisor stop)"),
            events=self._events,
            down=self._down,
            happened=lambda: self._chronicle.happened,
            metrics=self._metrics,
            peaks=self._peaks.of_days,
            wrap=self._fleet.wrap,
            verbs=Verbs(
                agents=self._fleet,
                queue=self._gateway,
                models=self._gateway.models,
                events=self._events,
                reload=self._reload,
                alerts=self._alerts,
                levels=self._ladder,
            ),
        )

    def __repr__(self) -> str:
        return f"<daemon {self._fleet!r} {self._gateway!r}>"

    def _bind(self, held: ExitStack, is_shared: bool) -> None:
        """Have every socket before anything is started: a taken port or a second daemon changes nothing."""
        passed = PassedSockets()
        held.callback(passed.close)
        # Who may call is decided by the kernel's word on each connection, not by the mode of a file.
        llm, mode = self._runtime_dir / LLM_SOCKET, 0o666 if is_shared else 0o600
        self._llm = passed.unix(llm) or sockets.bind_unix(llm, mode=mode)
        held.callback(self._llm.close)
        self._owner_door = sockets.bind_unix(self._runtime_dir / CONTROL_SOCKET, mode=0o600, uid=_owner(self._config).uid)
        held.callback(self._owner_door.close)
        self._tcp: list[socket.socket] = []
        for where in self._config.listen.tcp:
            self._tcp.append(passed.tcp(where) or sockets.bind_tcp(where))
            held.callback(self._tcp[-1].close)
        passed.close()
        self._web_door = _bound_page(self._config.web_listen)
        if self._web_door is not None:
            held.callback(self._web_door.close)

    def stop(self, why: str = "it was stopped") -> None:
        """Have `live` end, outward."""
        self._stop_why = self._stop_why or why
        self._stop_asked.set()

    def _engine_pids(self) -> list[int]:
        """Return the engines that we keep and that run. Asked from the sensor thread."""
        return [pid for one in self._upstreams if one.engine is not None and (pid := one.engine.pid) is not None]

    def _watch_for(self, config: Config, doors: Doors, state_dir: Path) -> Alerts:
        """Make the alerts, and the figures that they are about."""
        figures = Figures(
            sample=lambda: self._sampler.latest,
            fleet=self._fleet.pulse,
            gateway=self._gateway.pulse,
            level=self._ladder.statistics,
            usage=_own_usage,
            disk_free_bytes=partial(free_bytes, state_dir),
            reserve_bytes=config.memory.reserve_bytes,
            clock=self._clock,
        )
        return Alerts(
            _alert_rules(config),
            values=figures,
            journal=AlertJournal(self._journal),
            courier=doors.courier(),
            clock=self._clock,
            note=lambda kind, detail: self._events.note(kind, detail=detail),
            host=os.uname().nodename,
        )

    def _vram_used(self) -> float | None:
        """The share of graphics memory in use on the fullest GPU."""
        sample = self._sampler.latest
        shares = [] if sample is None else [gpu.used for gpu in sample.machine.gpus or () if gpu.used is not None]
        return max(shares, default=None)

    def _sampled(self, sample: Sample) -> None:
        """Have a sample judged: what it asks for goes to every room."""
        self._ladder.take(sample)
        self._relief.take(sample)

    def _health(self) -> HealthView:
        return HealthView(
            sample=self._sampler.latest,
            level=self._ladder.statistics(),
            bypasses=self._back_doors.statistics(),
            alerts=self._alerts.statistics(),
            relief=self._relief.statistics(),
        )

    @property
    def fleet(self) -> Fleet:
        """The agents, for whoever looks."""
        return self._fleet

    @property
    def gateway(self) -> Gateway:
        """The path of a request; a simulation hands it connections."""
        return self._gateway

    def _page(self) -> Web:
        return Web(
            moment=self._control.moment,
            fleet=self._fleet.statistics,
            counted=self._counted,
            took=self._gateway.took,
            now=self._clock.monotonic,
            history=History(
                clock=self._clock,
                sample=lambda: self._sampler.latest,
                level=self._ladder.statistics,
                gateway=self._gateway.pulse,
                took=self._gateway.took,
                states=lambda: self._fleet.pulse().states,
            ),
            metrics=self._metrics,
            check=self._accept.check_origin,
        )

    def _counted(self) -> Counted:
        return Counted(
            measures=self._gateway.measures(),
            ended=self._gateway.ended(),
            lives=self._lives.view(),
            ledger=self._gateway.ledger(),
        )

    # --- wiring ----------------------------------------------------------------------------------------------------------

    def _follow(self, roster: Roster, memory: MemoryPolicy) -> None:
        """Have every room go by another roster, in one turn of the loop."""
        self._fleet.follow(roster.agents)
        self._accept.follow(roster.externals)
        self._gateway.follow(roster)
        self._control.follow(roster, memory)

    def _tell(self, event: Event) -> None:
        """Carry a fact to every room; each takes what concerns it."""
        self._accept.tell(event)
        self._gateway.tell(event)
        self._fleet.tell(event)
        self._chronicle.tell(event)
        self._lives.tell(event)

    def _environ_for(self, spec: AgentSpec, generation: int, run_tag: str | None) -> dict[str, str]:
        return injected(
            spec.policy.inject,
            agent=spec.name,
            run_tag=run_tag,
            llm_socket=str(self._llm.path),
            tcp_url=_url_of(self._tcp[0].getsockname()) if self._tcp else None,
            token=self._accept.token_for(spec.name, generation),
        )

    async def _on_llm(self, connection: Connection) -> Handler:
        return await self._accept.unix_handler(connection, self._gateway.handler_for)

    async def _on_tcp(self, connection: Connection) -> Handler:
        return await self._accept.tcp_handler(connection, self._gateway.handler_for)

    # --- the life of the daemon --------------------------------------------------------------------------------------------

    async def main(self) -> None:
        """Start inward, wait, stop outward."""
        # Before the first agent: a TERM that nobody catches would end us and leave them running.
        with signals_asked() as signals:
            async with trio.open_nursery() as watch:
                watch.start_soon(self._watch_signals, signals)
                await self.live()
                watch.cancel_scope.cancel()
        log.info("stopped")

    async def live(self) -> None:
        """Live without ears for signals: `stop` ends it."""
        async with trio.open_nursery() as store:
            await store.start(self._journal.run)
            await store.start(self._cache_file.run)
            store.start_soon(every, RETENTION_EVERY_S, "forgetting old events", self._forget_events)
            self._back_doors.close()
            store.start_soon(every, ALIVE_EVERY_S, "leaving a sign of life", self._mark_alive)
            async with trio.open_nursery() as agents:
                await agents.start(self._fleet.run)
                # The last daemon's agents are settled now; an Ollama among them had the address of ours.
                async with trio.open_nursery() as engines:
                    for one in self._upstreams:
                        if one.engine is not None:
                            engines.start_soon(one.engine.run, one.client.version)
                    try:
                        await self._serve()
                    finally:
                        # A fault of ours is no reason to end anybody: the next daemon takes the agents over.
                        if self._is_leaving or not (self._stop_asked.is_set() or self._cages.why_not_outlived):
                            log.info("leaving: agents go on")
                            self._fleet.leave()
                            for one in self._upstreams:
                                if one.engine is not None:
                                    one.engine.let_be()
                        else:
                            log.info("stopping: agents have %.0f s", STOP_AGENTS_WITHIN_S)
                            with trio.CancelScope(shield=True):
                                await self._fleet.stop_all(within_s=STOP_AGENTS_WITHIN_S)
                            self._back_doors.open()
                    engines.cancel_scope.cancel()
                agents.cancel_scope.cancel()
            for one in self._upstreams:
                await one.client.aclose()
            store.cancel_scope.cancel()

    async def _mark_alive(self) -> None:
        self._state.mark_alive(self._clock.wall())

    async def _forget_events(self) -> None:
        before_wall = self._clock.wall() - self._config.retention_events_s
        await self._events.forget(before_wall)
        await self._peaks.forget(before_wall)

    def _signs(self) -> Signs:
        journal = self._journal.statistics()
        return Signs(journal.commits + journal.syncs + journal.failures, journal.waiting, self._gateway.turns)

    async def _serve(self) -> None:
        bounds = Bounds(
            headers_bytes=self._config.limits.headers_bytes,
            body_bytes=self._config.limits.body_bytes,
            idle_s=self._config.limits.idle_s,
        )
        async with trio.open_nursery() as requests:
            await requests.start(self._gateway.run)
            requests.start_soon(every, EVERY_S, "sampling", self._sampler.sample)
            requests.start_soon(every, LOOK_EVERY_S, "looking at the back doors", self._back_doors.look)
            await requests.start(self._alerts.run)
            if (within_s := self._notifier.watchdog_s) is not None:
                feed = partial(stay_alive, self._notifier.alive, within_s, look=self._signs, nudge=self._gateway.nudge)
                requests.start_soon(kept_up, "feeding the watchdog", feed)
            async with trio.open_nursery() as accept:
                for_callers = partial(serve_listener, bounds=bounds, shape=shape_refusal)
                accept.start_soon(partial(for_callers, self._llm.socket, self._on_llm, kind="unix"))
                for listener in self._tcp:
                    accept.start_soon(partial(for_callers, listener, self._on_tcp, kind="tcp"))
                accept.start_soon(
                    partial(serve_listener, self._owner_door.socket, self._control.on_connection, Bounds(), kind="unix")
                )
                accept.start_soon(self._control.feed.run)
                if self._web_door is not None:
                    web = self._page()
                    accept.start_soon(web.run)
                    accept.start_soon(partial(serve_listener, self._web_door, web.on_connection, Bounds(), kind="web"))
                    log.info("the page is at %s", _url_of(self._web_door.getsockname()))
                self._settle_memory()
                where = [str(self._llm.path), *(_url_of(listener.getsockname()) for listener in self._tcp)]
                log.info("serving on %s", ", ".join(where))
                if self._down is not None:
                    log.info("nobody supervised for %.0f s: %s", self._down.to_wall - self._down.from_wall, self._down.why)
                self._chronicle.began(__version__, os.getpid(), self._boot_id, self._down)
                self._notifier.ready(f"serving {len(self._config.roster.agents)} agents")
                await self._stop_asked.wait()
                self._chronicle.ends(self._stop_why)
                self._notifier.stopping()
                accept.cancel_scope.cancel()
            requests.cancel_scope.cancel()

    async def _watch_signals(self, signals: AsyncIterator[Asked]) -> None:
        async for asked in signals:
            match asked:
                case Asked.STOP:
                    log.info("stop: asked for by a signal")
                    self.stop("a signal told it to (TERM or INT)")
                case Asked.RELOAD:
                    await self._reload.on_signal()
                case Asked.LEAVE:
                    if self._cages.why_not_outlived:
                        log.warning("agents cannot outlive this daemon, they are stopped: %s", self._cages.why_not_outlived)
                    else:
                        log.info("leaving: asked for by a signal; agents stay, and are taken over by the next daemon")
                        self._is_leaving = True
                    self.stop("it was restarted or upgraded (USR1)")
                case _:
                    assert_never(asked)


def last_life(alive_wall: float | None, events: EventJournal) -> LastLife | None:
    """Return what is known of the daemon before this one; None when there was none."""
    started, stopped = events.last("daemon.started"), events.last("daemon.stopped")
    if alive_wall is None or started is None:
        return None
    boot_id = str(started.detail.get("boot_id", ""))
    if stopped is None or stopped.seq < started.seq:
        return LastLife(alive_wall, boot_id)
    return LastLife(alive_wall, boot_id, stopped.at_wall, str(stopped.detail.get("why", "")))


def _owner(config: Config) -> Account:
    """Return whose daemon this is: `daemon.owner`, else whoever runs it."""
    try:
        return account(config.daemon.owner or None)
    except SpawnFailed as exc:
        raise HostFault(f"daemon.owner: {exc.detail}") from exc


def _identity_policy(config: Config, fleet_cgroup: str | None) -> IdentityPolicy:
    owner = _owner(config)
    users = {spec.policy.user for spec in config.roster.agents.values()} - {None}
    return IdentityPolicy(
        owner_uid=owner.uid,
        owner_gid=owner.gid,
        daemon_uid=os.geteuid(),
        guests=config.guests_allow.value,
        anonymous=config.listen.anonymous.value,
        fleet_uids=frozenset(account(user).uid for user in users),
        fleet_cgroup=fleet_cgroup,
        inherited_tag=os.environ.get("AI_SUPERVISOR_RUN"),
    )


def _alert_rules(config: Config) -> tuple[AlertRule, ...]:
    return rules_of(config.alerts, config.notify, [backend.name for backend in config.backends])


def _bound_page(where: str) -> socket.socket | None:
    """Return the page's listener. A taken port costs the page, not the daemon."""
    if not where:
        return None
    try:
        return sockets.bind_tcp(where)
    except HostFault as exc:
        log.warning("no page: [web] listen: %s", exc)
        return None


def _url_of(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _own_usage() -> Usage:
    used = memory.own_usage()
    return Usage(rss_bytes=used.rss_bytes, cpu_s=used.cpu_s)
