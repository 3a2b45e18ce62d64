"""Builds the rooms of a daemon and wires them: who is given what, and who hears of what. `daemon.py` then lives them.

What is taken before the loop runs (files, sockets, log descriptors) is given back by `held`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from supervisord_ai import __version__
from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.agents.output import LogFolder
from supervisord_ai.config import Config
from supervisord_ai.control.api import Control
from supervisord_ai.control.chronicle import Chronicle, last_life
from supervisord_ai.control.figures import Figures
from supervisord_ai.control.history import History
from supervisord_ai.control.lives import Lives
from supervisord_ai.control.reload import Reload
from supervisord_ai.control.report import Usage
from supervisord_ai.control.scrape import Counted, Metrics
from supervisord_ai.control.verbs import Verbs
from supervisord_ai.control.web import Web
from supervisord_ai.core.alerts import AlertRule, rules_of
from supervisord_ai.core.downtime import downtime
from supervisord_ai.core.events import Event
from supervisord_ai.core.identity import EXTERNAL_GENERATION, IdentityPolicy
from supervisord_ai.core.injection import injected
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.relief import ReliefPolicy
from supervisord_ai.core.roster import AgentSpec, Roster
from supervisord_ai.core.samples import Sample
from supervisord_ai.core.units import has_other_users
from supervisord_ai.doors import Doors, Options
from supervisord_ai.errors import HostFault, SpawnFailed, UsageError
from supervisord_ai.gateway.accept import Accept
from supervisord_ai.gateway.gateway import Gateway
from supervisord_ai.health.alerts import Alerts
from supervisord_ai.health.back_doors import BackDoors
from supervisord_ai.health.ladder import Ladder
from supervisord_ai.health.relief import ReliefWatch
from supervisord_ai.health.sampler import Sampler
from supervisord_ai.health.view import HealthView
from supervisord_ai.host import memory, sockets, wsl
from supervisord_ai.host.cgroup import Guarantee
from supervisord_ai.host.fence import FenceFolder
from supervisord_ai.host.firewall import WANTS
from supervisord_ai.host.machine import free_bytes
from supervisord_ai.host.peers import KernelPeers
from supervisord_ai.host.process import Account, account
from supervisord_ai.host.rehearsed import RehearsedMachine
from supervisord_ai.host.state_folder import StateFolder, make_folder
from supervisord_ai.listeners import bind
from supervisord_ai.store.alerts import AlertJournal
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.database import Database, Durability
from supervisord_ai.store.journal import EventJournal, FleetJournal
from supervisord_ai.store.peaks import PeakJournal
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.schema import JOURNAL
from supervisord_ai.upstreams import EngineDoors, Upstreams


class Rooms:
    """The store, the fleet, the gateway, the watch over the machine, and the owner's view, wired by one `Event` type.

    `stop` is what the owner's `stop` calls. Raises what a config that this machine cannot keep raises: AlreadyRunning,
    UsageError, HostFault, StoreFault; then nothing was started.
    """

    def __init__(self, config: Config, options: Options, doors: Doors, held: ExitStack, *, stop: Callable[[str], None]) -> None:
        clock, where = doors.clock, config.daemon
        self._config, self._options, self._doors = config, options, doors
        self._stop = stop
        state_dir, log_dir, runtime_dir = map(Path, (where.state_dir, where.log_dir, where.runtime_dir))
        self._state_dir, self._log_dir, self._runtime_dir = state_dir, log_dir, runtime_dir
        self.state = StateFolder(state_dir)
        held.callback(self.state.close)
        make_folder(log_dir, 0o750)
        self._is_shared = has_other_users(config.roster, os.geteuid())
        sockets.make_runtime_dir(runtime_dir, for_others=self._is_shared)
        self.listeners = bind(
            runtime_dir,
            config.listen.tcp,
            config.web_listen,
            owner_uid=_owner(config).uid,
            is_shared=self._is_shared,
            held=held,
        )

        file = partial(Database, run_sync=doors.run_sync, disk=doors.disk)
        self.journal = file(state_dir / "journal.db", JOURNAL, durability=Durability(where.durability.value))
        held.callback(self.journal.close)
        self._processes = doors.processes()
        self.boot_id = self._processes.boot_id()
        self.cache_file = CacheFile(
            state_dir / "cache.db",
            config.cache.l2_bytes,
            large_bytes=config.cache.l3_bytes,
            large_min_bytes=config.cache.l3_min_entry_bytes,
            boot=self.boot_id,
            run_sync=doors.run_sync,
            disk=doors.disk,
        )
        self.events = EventJournal(self.journal, clock)
        self.peaks = PeakJournal(self.journal, clock)
        last = last_life(self.state.last_alive_wall, self.events)
        self.down = downtime(last, boot_id=self.boot_id, now_wall=clock.wall())
        self.chronicle, self._lives = Chronicle(self.events, clock), Lives()
        self._metrics = Metrics(self._counted, run_sync=doors.read_elsewhere)

        self.cages = doors.cages(state_dir, form=options.cages)
        caged = self.cages.cage("any").identity  # not one of the roster: a reload may bring the first agent
        self._fleet_cgroup = caged.rpartition("/")[0] if caged is not None else None
        fleet_journal = FleetJournal(self.journal, clock)
        engine_logs = LogFolder(log_dir, config.logs)
        held.callback(engine_logs.close)
        self.upstreams = Upstreams(
            config,
            EngineDoors(self._processes, self.cages, fleet_journal, engine_logs, clock, doors.rng, doors.dial),
            ours=self.listeners.addresses,
            ledger=options.ledger,
            model_file=options.model_file,
        ).build()
        self.fleet = self._new_fleet(fleet_journal)
        self.accept = Accept(_identity_policy(config, self._fleet_cgroup), self.state.secret(), externals=config.roster.externals)
        self.gateway = self._new_gateway()
        self._ladder = Ladder(config.levels, reserve_bytes=config.memory.reserve_bytes, tell=self._tell, clock=clock)
        self._relief = ReliefWatch(
            ReliefPolicy(config.memory.reserve_bytes, calm_s=config.levels.dwell_s),
            fleet=self.fleet.room,
            tell=self._tell,
            clock=clock,
        )
        self.sampler = self._new_sampler()
        self.back_doors = self._new_back_doors()
        self.alerts = self._new_alerts()
        self.reload = Reload(
            config,
            read=options.read_config,
            follow=self._follow,
            follow_alerts=lambda changed: self.alerts.follow(_alert_rules(changed)),
            run_sync=doors.run_sync,
        )
        self.control = self._new_control()

    def __repr__(self) -> str:
        return f"<rooms {self.fleet!r} {self.gateway!r}>"

    # --- building: each of these is called once, in the order of `__init__` ---------------------------------------------------

    def _new_fleet(self, journal: FleetJournal) -> Fleet:
        config, doors = self._config, self._doors
        return Fleet(
            config.roster.agents,
            start=config.start,
            restart=config.restart,
            logs=config.logs,
            cages=self.cages,
            processes=self._processes,
            journal=journal,
            notify=doors.notify(self._runtime_dir / "notify", for_others=self._is_shared),
            clock=doors.clock,
            tell=self._tell,
            environ_for=self._environ_for,
            log_dir=self._log_dir,
            rng=doors.rng,
            rollout=config.rollout,
            levels=config.levels,
            fences=FenceFolder(self._runtime_dir / "fences"),
            enforce=config.memory.enforce,
            peaks=self.peaks,
            engines={one.engine.launch.name: one.engine for one in self.upstreams if one.engine is not None},
        )

    def _new_gateway(self) -> Gateway:
        config, doors = self._config, self._doors
        return Gateway(
            roster=config.roster,
            queue=config.queue,
            limits=config.limits,
            cache=config.cache,
            models=config.models,
            backends=[(one.spec, one.client) for one in self.upstreams],
            requests=Requests(self.journal, doors.clock),
            cache_file=self.cache_file,
            clock=doors.clock,
            tell=self._tell,
            new_id=doors.new_id,
            spool_dir=self._state_dir / "spool",
            run_sync=doors.read_elsewhere,
            breaker=config.breaker,
            levels=config.levels,
            vram=self._vram_used,
            unload_at=config.gpu_unload_at,
            note=lambda kind, detail: self.events.note(kind, detail=detail),
            restarts={one.spec.name: restart for one in self.upstreams if (restart := one.restart()) is not None},
        )

    def _new_sampler(self) -> Sampler:
        doors = self._doors
        real = doors.machine(fleet=self.cages.group, engine_pids=self._engine_pids)
        return Sampler(
            RehearsedMachine() if self._options.is_rehearsal else real,
            load=self.gateway.load,
            tell=self._sampled,
            clock=doors.clock,
            run_sync=doors.sense,
        )

    def _new_back_doors(self) -> BackDoors:
        config, doors = self._config, self._doors
        firewall = doors.firewall() if config.isolation_mode == "nft" else None
        if firewall is not None and (self._fleet_cgroup is None or self.cages.guarantee is not Guarantee.HARD):
            raise UsageError(f"{WANTS} needs cgroup v2, by which agents are told from others: {self.cages.detail}")
        return BackDoors(
            config.backends,
            facts=partial(wsl.facts, ours=self.listeners.addresses),
            fleet=self._fleet_cgroup,
            firewall=firewall,
            connections=doors.connections(),
            agent_of=self.accept.agent_of,
            found=lambda agent, who, backend: self.events.note("bypass", agent, detail={"who": who, "backend": backend}),
            clock=doors.clock,
            run_sync=doors.sense,
        )

    def _new_alerts(self) -> Alerts:
        config, clock = self._config, self._doors.clock
        figures = Figures(
            sample=lambda: self.sampler.latest,
            fleet=self.fleet.pulse,
            gateway=self.gateway.pulse,
            level=self._ladder.statistics,
            usage=_own_usage,
            disk_free_bytes=partial(free_bytes, self._state_dir),
            reserve_bytes=config.memory.reserve_bytes,
            clock=clock,
        )
        return Alerts(
            _alert_rules(config),
            values=figures,
            journal=AlertJournal(self.journal),
            courier=self._doors.courier(),
            clock=clock,
            note=lambda kind, detail: self.events.note(kind, detail=detail),
            host=os.uname().nodename,
        )

    def _new_control(self) -> Control:
        config = self._config
        return Control(
            version=__version__,
            pid=os.getpid(),
            clock=self._doors.clock,
            roster=config.roster,
            memory=config.memory,
            fleet=self.fleet.statistics,
            gateway=self.gateway.statistics,
            explain=self.gateway.explain,
            identity=self.accept.statistics,
            usage=_own_usage,
            health=self._health,
            peers=KernelPeers(),
            may_control=self.accept.may_control,
            environment=lambda spec: self._environ_for(spec, EXTERNAL_GENERATION, None),
            stop=partial(self._stop, "its owner said so (ai-supervisor stop)"),
            events=self.events,
            down=self.down,
            happened=lambda: self.chronicle.happened,
            metrics=self._metrics,
            peaks=self.peaks.of_days,
            wrap=self.fleet.wrap,
            verbs=Verbs(
                agents=self.fleet,
                queue=self.gateway,
                models=self.gateway.models,
                events=self.events,
                reload=self.reload,
                alerts=self.alerts,
                levels=self._ladder,
            ),
        )

    def page(self) -> Web:
        """Make the page for the browser."""
        return Web(
            moment=self.control.moment,
            fleet=self.fleet.statistics,
            counted=self._counted,
            took=self.gateway.took,
            now=self._doors.clock.monotonic,
            history=History(
                clock=self._doors.clock,
                sample=lambda: self.sampler.latest,
                level=self._ladder.statistics,
                gateway=self.gateway.pulse,
                took=self.gateway.took,
                states=lambda: self.fleet.pulse().states,
            ),
            metrics=self._metrics,
            check=self.accept.check_origin,
        )

    # --- wiring: who hears of what ------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        """Carry a fact to every room; each takes what concerns it."""
        self.accept.tell(event)
        self.gateway.tell(event)
        self.fleet.tell(event)
        self.chronicle.tell(event)
        self._lives.tell(event)

    def _sampled(self, sample: Sample) -> None:
        """Have a sample judged: what it asks for goes to every room."""
        self._ladder.take(sample)
        self._relief.take(sample)

    def _follow(self, roster: Roster, memory: MemoryPolicy) -> None:
        """Have every room go by another roster, in one turn of the loop."""
        self.fleet.follow(roster.agents)
        self.accept.follow(roster.externals)
        self.gateway.follow(roster)
        self.control.follow(roster, memory)

    def _engine_pids(self) -> list[int]:
        """Return the engines that we keep and that run. Asked from the sensor thread."""
        return [pid for one in self.upstreams if one.engine is not None and (pid := one.engine.pid) is not None]

    def _vram_used(self) -> float | None:
        """The share of graphics memory in use on the fullest GPU."""
        sample = self.sampler.latest
        shares = [] if sample is None else [gpu.used for gpu in sample.machine.gpus or () if gpu.used is not None]
        return max(shares, default=None)

    def _health(self) -> HealthView:
        return HealthView(
            sample=self.sampler.latest,
            level=self._ladder.statistics(),
            bypasses=self.back_doors.statistics(),
            alerts=self.alerts.statistics(),
            relief=self._relief.statistics(),
        )

    def _counted(self) -> Counted:
        return Counted(
            measures=self.gateway.measures(),
            ended=self.gateway.ended(),
            lives=self._lives.view(),
            ledger=self.gateway.ledger(),
        )

    def _environ_for(self, spec: AgentSpec, generation: int, run_tag: str | None) -> dict[str, str]:
        return injected(
            spec.policy.inject,
            agent=spec.name,
            run_tag=run_tag,
            llm_socket=str(self.listeners.llm.path),
            tcp_url=next(iter(self.listeners.urls), None),
            token=self.accept.token_for(spec.name, generation),
        )


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


def _own_usage() -> Usage:
    used = memory.own_usage()
    return Usage(rss_bytes=used.rss_bytes, cpu_s=used.cpu_s)
