"""The fleet: takes over or ends what the last supervisor left, starts all agents in batches, keeps them running, ends them all.

`follow` makes it another fleet while it runs: who is new is started, through the batches of the first start, and who is gone is
ended. Whose spec has changed in what a generation is made of runs on, outdated, until his next start or a rollout; who rests in
trouble is tried with his new spec at once.

The agents decide for themselves (`lifecycle.py`); the fleet says when it is their turn, carries what concerns one to that one,
and does what is done for all of them at once: a look at memory, the logs, orphans.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import trio

from supervisord_ai.agents.adopt import take_over
from supervisord_ai.agents.generation import Doors, EnvironFor, Journal
from supervisord_ai.agents.lifecycle import Agent
from supervisord_ai.agents.managed import ManagedEngine
from supervisord_ai.agents.memory_watch import HIGHS_EVERY_S, MemoryWatch, PeakNotes
from supervisord_ai.agents.output import LogFolder
from supervisord_ai.agents.pressure import Shedding
from supervisord_ai.agents.recycling import Recycling
from supervisord_ai.agents.rollout import Rollouts
from supervisord_ai.agents.view import AgentView, FleetPulse, FleetView
from supervisord_ai.agents.wrapped import Boarded, Wraps
from supervisord_ai.clock import Clock
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.effects import effects_at
from supervisord_ai.core.events import AgentAsked, AgentCalls, AgentEnded, Event, GatewayRefused, LevelChanged, ReliefDecided
from supervisord_ai.core.memory_plan import Enforce
from supervisord_ai.core.policies import LevelsPolicy, LogsPolicy, RestartPolicy, RolloutPolicy, StartPolicy
from supervisord_ai.core.relief import Deed, FleetRoom, PauseStarts, RestoreAgent, ResumeStarts, ShedAgents
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.core.startup import StartGate
from supervisord_ai.core.verdict import AT_OWN_CAP, REMOVED, SHUTDOWN
from supervisord_ai.duty import every
from supervisord_ai.errors import HostFault, SpawnFailed, UsageError
from supervisord_ai.host.cgroup import Cages, Guarantee
from supervisord_ai.host.fence import FenceFolder
from supervisord_ai.host.notify import NotifyDoor
from supervisord_ai.host.process import ProcessDoor

logger = logging.getLogger(__name__)

LOOK_S = 1.0  # orphans, and memory where no group limits it
ROTATE_S = 10.0
LOOKS_AFTER_A_KILL = 3  # a child's is told a look after it was seen, and the kernel counts it in two places, one after the other
KILL_MARGIN_S = 2.0  # of the time a full stop has: what is left for killing and counting


class Fleet:
    """All agents of one supervisor."""

    def __init__(
        self,
        specs: Mapping[str, AgentSpec],
        *,
        start: StartPolicy,
        restart: RestartPolicy,
        logs: LogsPolicy,
        cages: Cages,
        processes: ProcessDoor,
        journal: Journal,
        notify: NotifyDoor,
        clock: Clock,
        tell: Callable[[Event], None],
        environ_for: EnvironFor,
        log_dir: Path,
        rng: random.Random,
        rollout: RolloutPolicy | None = None,
        levels: LevelsPolicy | None = None,
        fences: FenceFolder | None = None,
        enforce: Enforce = Enforce.HARD,
        peaks: PeakNotes | None = None,
        engines: Mapping[str, ManagedEngine] | None = None,
    ) -> None:
        """`engines` are those that we keep: of the last supervisor's, they go on like agents, and have tasks of their own."""
        specs = {name: spec for name, spec in specs.items() if not spec.external}
        self._start = start
        self._engines = engines or {}
        self._cages = cages
        self._processes = processes
        self._clock = clock
        self._logs = LogFolder(log_dir, logs)
        self._own_uids = _own_uids(specs, processes)
        self._is_observed = enforce is Enforce.OBSERVE
        rooms = self._logs, clock, tell, environ_for, self._own_uids, notify, fences, self._is_observed
        doors = self._doors = Doors(processes, cages, journal, *rooms)
        gate = StartGate()
        self._agents: dict[str, Agent] = {}
        self._memory = None if peaks is None else MemoryWatch(self._agents, cages=cages, notes=peaks, tell=tell)
        self._calling: dict[str, int] = {}  # who has calls in the gateway, and which generation of his
        self._rollouts = Rollouts(
            rollout or RolloutPolicy(),
            agents=self._agents,
            journal=journal,
            clock=clock,
            tell=tell,
            is_busy=self._calling.__contains__,
        )
        self._recycling = Recycling(
            agents=self._agents,
            group_size=(rollout or RolloutPolicy()).group_size,
            clock=clock,
            rng=rng,
            is_busy=self._calling.__contains__,
            is_held=lambda: self._is_stopping or not self._may_start.is_set() or self._rollouts.is_under_way,
        )
        self._make = partial(Agent, doors=doors, restart=restart, gate=gate, rng=rng, witness=self._rollouts)
        self._agents.update((name, self._make(spec)) for name, spec in specs.items())
        self._levels = levels or LevelsPolicy()
        self._may_start = trio.Event()  # unset while new batches are held up
        self._may_start.set()
        self._held_up_by: set[str] = set()  # the level, or the relief of memory
        self._shedding = Shedding(self._agents, clock=clock, tell=tell, is_busy=self._calling.__contains__)
        self._leaving: dict[str, trio.CancelScope] = {}  # around the wait for the end of who is no longer of the fleet
        self._wraps = Wraps(doors)
        self._nursery: trio.Nursery | None = None
        self._more_to_start = trio.Event()
        self._is_running = False
        self._is_stopping = False
        self._kills_seen: int | None = None  # of the whole machine
        self._looks_due = 0  # at the group of each agent, for what the OOM killer took
        self._is_left = False  # the supervisor goes and the agents stay
        self._swept = trio.Event()
        self._has_ended = trio.Event()
        self._starting = trio.CancelScope()

    def __repr__(self) -> str:
        states = Counter(str(agent.state) for agent in self._agents.values())
        return f"<fleet of {len(self._agents)}: {', '.join(f'{n} {state}' for state, n in sorted(states.items()))}>"

    # --- the task ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Supervise until cancelled; started when nothing of an earlier supervisor is left.

        Stop first (`stop_all`): cancelled with agents running, it kills them without grace.
        """
        self._is_running = True
        try:
            self._processes.become_subreaper()
            await take_over(self._doors, self._agents, self._engines)
            self._rollouts.recall()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for agent in self._agents.values():
                    nursery.start_soon(agent.run)
                nursery.start_soon(every, LOOK_S, "reaping orphans", self._reap)
                nursery.start_soon(every, ROTATE_S, "rotating logs", self._rotate)
                if self._memory is not None:
                    nursery.start_soon(every, HIGHS_EVERY_S, "writing down peaks of memory", self._memory.look_for_highs)
                if self._memory is not None and self._is_observed:
                    nursery.start_soon(every, LOOK_S, "comparing memory with caps", self._memory.look_for_excess)
                elif self._cages.guarantee is Guarantee.SOFT_RLIMIT:
                    nursery.start_soon(every, LOOK_S, "looking at memory", self._look)
                if self._cages.guarantee is not Guarantee.SOFT_RLIMIT:
                    nursery.start_soon(every, LOOK_S, "looking for killed children", self._look_for_killed)
                nursery.start_soon(self._start_in_batches)
                nursery.start_soon(self._rollouts.run)
                nursery.start_soon(self._wraps.run)
                nursery.start_soon(every, LOOK_S, "looking for those who have run long enough", self._recycling.look)
                self._swept.set()
                task_status.started()
        finally:
            self._is_running = False
            self._swept.set()
            self._has_ended.set()
            if not self._is_left:
                self._cages.close()
            self._logs.close()

    async def _start_in_batches(self) -> None:
        with self._starting:
            while True:
                waiting = [agent for agent in self._agents.values() if agent.awaits_turn]
                if not waiting:
                    self._more_to_start = trio.Event()
                    await self._more_to_start.wait()
                    continue
                if not self._may_start.is_set():
                    logger.info("%d agents wait for the pressure to pass", len(waiting))
                    await self._may_start.wait()
                    continue
                batch = waiting[: self._start.batch_size]
                names = ", ".join(agent.name for agent in batch)
                logger.info("a batch of %d, %d more wait: %s", len(batch), len(waiting) - len(batch), names)
                for agent in batch:
                    agent.your_turn()
                with trio.move_on_after(self._start.batch_delay_s):
                    for agent in batch:
                        await agent.wait_settled()

    # --- another roster ---

    def follow(self, specs: Mapping[str, AgentSpec]) -> None:
        """Be the fleet of these specs from now on. Returns at once; ends and starts take their time.

        Who is gone is ended, and is shown until nothing of him is left. Who was stopped by his owner stays stopped.

        Raises:
            UsageError: the fleet is being stopped.
        """
        if self._is_stopping or self._nursery is None:
            raise UsageError("the fleet is being stopped" if self._is_stopping else "the fleet does not run yet")
        specs = {name: spec for name, spec in specs.items() if not spec.external}
        for name, agent in self._agents.items():
            if name not in specs and name not in self._leaving:
                logger.info("agent %s leaves the fleet", name)
                self._leaving[name] = trio.CancelScope()
                agent.want_down(REMOVED)
                self._nursery.start_soon(self._let_go, agent, self._leaving[name])
        for name, spec in specs.items():
            if name not in self._agents:
                self._take_in(spec)
                continue
            self._agents[name].take(spec)
            leaving = self._leaving.pop(name, None)
            if leaving is not None:  # he has not ended yet, and is wanted again
                leaving.cancel()
                self._agents[name].want_up()
        self._rollouts.follow()
        self._more_to_start.set()

    def _take_in(self, spec: AgentSpec) -> None:
        assert self._nursery is not None
        logger.info("agent %s is new in the fleet", spec.name)
        agent = self._agents[spec.name] = self._make(spec)
        record = self._doors.journal.load().get(spec.name)
        if record is not None:  # he was here before
            agent.recall(record)
        self._nursery.start_soon(agent.run)

    async def _let_go(self, agent: Agent, scope: trio.CancelScope) -> None:
        with scope:
            await agent.wait_down()
            del self._agents[agent.name], self._leaving[agent.name]
            agent.leave()

    def leave(self) -> None:
        """Have everyone run on when `run` is cancelled: the next supervisor takes them over. Nobody is started afterwards."""
        self._is_stopping = self._is_left = True
        self._starting.cancel()
        self._rollouts.close()
        for agent in self._agents.values():
            agent.let_be()

    async def stop_all(self, *, within_s: float = 7.0) -> None:
        """End everyone in parallel and return when nothing is left, or after `within_s`. Nobody is started afterwards.

        Everyone has his own grace, but at the latest two seconds before the end he is killed.
        """
        self._is_stopping = True
        self._starting.cancel()
        self._rollouts.close()
        if not self._is_running:  # it ended of a fault and took everyone along
            return
        deadline = self._clock.monotonic() + within_s
        kill_at = max(self._clock.monotonic(), deadline - KILL_MARGIN_S)
        for agent in self._agents.values():
            agent.want_down(SHUTDOWN, kill_at=kill_at)
        with trio.move_on_at(deadline):
            await self._swept.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_ended, nursery.cancel_scope)
                nursery.start_soon(self._wraps.stop_all, within_s - KILL_MARGIN_S)
                for agent in list(self._agents.values()):
                    await agent.wait_down()
                await self._wraps.wait_none()
                nursery.cancel_scope.cancel()
            logger.info("all agents have ended")
            return
        left = [agent.name for agent in self._agents.values() if agent.view(log_path="").pid is not None]
        logger.error("after %.0f s these have not ended: %s", within_s, ", ".join(left))

    async def _until_ended(self, scope: trio.CancelScope) -> None:
        """A `run` that was cancelled has killed everyone on its way out: nobody else will say that he is down."""
        await self._has_ended.wait()
        scope.cancel()

    async def wrap(self, spec: AgentSpec, pid: int, start_ticks: int, uid: int) -> Boarded:
        """Make a process that its owner started one of the fleet; see `wrapped.py`. Raises: as `Wraps.take_in`."""
        if self._is_stopping:
            raise UsageError("the fleet is being stopped")
        if spec.name in self._agents:
            raise UsageError(f"{spec.name} is an agent that we start: name another, or an external one")
        return await self._wraps.take_in(spec, pid, start_ticks, uid)

    @property
    def rollouts(self) -> Rollouts:
        """Its one rollout, for whoever begins, watches or turns it."""
        return self._rollouts

    def room(self) -> FleetRoom:
        """Return what it can still give back of its memory."""
        return self._shedding.room()

    # --- messages ---

    def tell(self, event: Event) -> None:
        """Take note of what another room saw."""
        match event:
            case AgentAsked(agent, generation) if agent in self._agents:
                self._shedding.asked(agent)
                self._agents[agent].asked(generation)
            case AgentCalls(agent, generation, is_under_way):
                self._note_calls(agent, generation, is_under_way)
            case LevelChanged(after=level):
                self._hold_up("level", effects_at(self._levels, level).pauses_starts)
            case ReliefDecided(deed=deed, reason=reason):
                self._relieve(deed, reason)
            case GatewayRefused(agent, generation) if agent in self._agents:
                self._agents[agent].refused(generation)
            case AgentEnded(agent, verdict=verdict, cap_bytes=cap_bytes) if verdict in AT_OWN_CAP and self._memory is not None:
                self._memory.killed(agent, cap_bytes)
            case _:
                pass

    def _note_calls(self, name: str, generation: int, is_under_way: bool) -> None:
        if name in self._agents:
            self._agents[name].calls(generation, are_under_way=is_under_way)
        if is_under_way:
            self._calling[name] = generation
        elif self._calling.get(name) == generation:
            del self._calling[name]
            self._shedding.asked(name)
            self._rollouts.calls_changed()

    def _relieve(self, deed: Deed, reason: str) -> None:
        match deed:
            case PauseStarts():
                self._hold_up("memory", True)
            case ResumeStarts():
                self._hold_up("memory", False)
            case ShedAgents(need_bytes) if not self._is_stopping:
                self._shedding.give(need_bytes, reason)
            case RestoreAgent(room_bytes) if not self._is_stopping:
                self._shedding.give_back(room_bytes)
            case _:
                pass

    def _hold_up(self, whose: str, is_held: bool) -> None:
        """Begin no batch and no group of a rollout while anybody holds them up."""
        (self._held_up_by.add if is_held else self._held_up_by.discard)(whose)
        is_held = bool(self._held_up_by)
        if is_held and self._may_start.is_set():
            self._may_start = trio.Event()
        elif not is_held:
            self._may_start.set()
        self._rollouts.hold_up(is_held)

    def start(self, name: str) -> None:
        """Start an agent that rests, or release it from quarantine.

        Raises:
            UsageError: there is no such agent, or the fleet is being stopped.
        """
        agent = self._agent(name)
        if self._is_stopping:
            raise UsageError("the fleet is being stopped")
        agent.want_up()

    def release(self, name: str) -> None:
        """Let an agent out of quarantine and forget what led there.

        Raises:
            UsageError: there is no such agent, it is not in quarantine, or the fleet is being stopped.
        """
        if self._agent(name).state is not AgentState.QUARANTINED:
            raise UsageError(f"{name} is not in quarantine, it is {self._agent(name).state}")
        self.start(name)

    def stop(self, name: str) -> None:
        """End an agent and leave it down.

        Raises:
            UsageError: there is no such agent.
        """
        self._agent(name).want_down("owner")
        self._rollouts.stopped(name)

    def restart(self, name: str) -> None:
        """End an agent and start it again.

        Raises:
            UsageError: there is no such agent, or the fleet is being stopped.
        """
        agent = self._agent(name)
        if self._is_stopping:
            raise UsageError("the fleet is being stopped")
        agent.restart("restart")

    def _agent(self, name: str) -> Agent:
        if name not in self._agents:
            raise UsageError(f"there is no agent {name}")
        if name in self._leaving:
            raise UsageError(f"{name} is not in the roster any more, it is being ended")
        return self._agents[name]

    # --- duties ---

    async def _reap(self) -> None:
        self._processes.reap_strays()

    async def _look(self) -> None:
        for name, used in (await self._cages.usage()).items():
            if name in self._agents:
                self._agents[name].measured(used)

    async def _look_for_killed(self) -> None:
        kills_seen = self._cages.kills_seen()
        if kills_seen is None or kills_seen != self._kills_seen:
            self._kills_seen, self._looks_due = kills_seen, LOOKS_AFTER_A_KILL
        for agent in list(self._agents.values()):
            agent.look(for_killed=self._looks_due > 0)
        self._looks_due = max(0, self._looks_due - 1)

    async def _rotate(self) -> None:
        for name in list(self._agents):
            if self._logs.is_due(name):
                try:
                    await trio.to_thread.run_sync(self._logs.rotate, name)
                except HostFault as exc:
                    logger.warning("the log of %s was not cut: %s", name, exc)

    # --- what people see ---

    def pulse(self) -> FleetPulse:
        """Return what costs nothing to ask."""
        return FleetPulse(Counter(agent.state for agent in self._agents.values()), self._shedding.shed)

    def statistics(self) -> FleetView:
        """Return everyone as he is now. Reads a few kernel files for each that runs."""
        agents = tuple(agent.view(log_path=str(self._logs.path(name))) for name, agent in self._agents.items())
        guarantee, detail = str(self._cages.guarantee), self._cages.detail
        if self._is_observed:
            guarantee, detail = "observed", f"caps are compared and bind nobody; {detail}"
        return FleetView(agents, guarantee, detail, shed=self._shedding.shed)


def _uid(processes: ProcessDoor, spec: AgentSpec) -> int | None:
    try:
        return processes.account(spec.policy.user).uid
    except SpawnFailed:  # no such user: its start says so
        return None


def _own_uids(specs: Mapping[str, AgentSpec], processes: ProcessDoor) -> frozenset[int]:
    """Return the uids that belong to one agent and to nobody else."""
    uses = Counter(_uid(processes, spec) for spec in specs.values())
    return frozenset(uid for uid, count in uses.items() if count == 1 and uid not in {None, 0, os.geteuid()} and uid is not None)


__all__ = ["AgentView", "Fleet", "FleetView"]
