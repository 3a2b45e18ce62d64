"""One run of an agent, from the cage to the verdict.

The order is the point. Number, cage and limits first; then the child, which enters the cage and waits; then the journal, so that
a later supervisor knows of it; then the other rooms, so that its first request finds it known; and only then `go`.
At the end: the main process has ended, everyone else in the cage has ended, and only then the counters are read and compared.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import trio

from supervisord_ai.agents.environment import environment
from supervisord_ai.agents.output import LogFolder
from supervisord_ai.clock import Clock
from supervisord_ai.core.adoption import Baseline, Standing
from supervisord_ai.core.cap import CapDeed, CapWatch
from supervisord_ai.core.events import AgentStarted, Event
from supervisord_ai.core.observed import Excess
from supervisord_ai.core.roster import AgentSpec, Ready
from supervisord_ai.core.verdict import Evidence, ExitStatus, Verdict, decide
from supervisord_ai.errors import HostFault, SpawnFailed
from supervisord_ai.host import signals
from supervisord_ai.host.cgroup import Cage, Cages, Counters, Guarantee, Outside
from supervisord_ai.host.fence import FenceFolder
from supervisord_ai.host.notify import Notice, NotifyDoor, NotifySocket
from supervisord_ai.host.process import Launch, ProcessDoor, ProcessHandle
from supervisord_ai.store.rows import AgentRecord

logger = logging.getLogger(__name__)

UNHEARD_S = 0.1  # strangers who talk and talk cost us no more than ten looks a second
KILL_S = 5.0  # a killed process that is still there then sits in the kernel
OOM_SCORE_CRITICAL = 300  # the kernel takes agents before anything else of the machine, and these after the others
OOM_SCORE_OTHERS = 500

EnvironFor = Callable[[AgentSpec, int, str], Mapping[str, str]]


class Journal(Protocol):
    """What is kept of the fleet across supervisors; `store.journal.FleetJournal` is the real one."""

    def load(self) -> dict[str, AgentRecord]: ...

    def keep_spec(self, spec: AgentSpec) -> None: ...

    def spec(self, digest: str) -> AgentSpec | None: ...

    def forget_specs(self, keep: Collection[str]) -> None: ...

    def rollout(self) -> str | None: ...

    async def keep_rollout(self, told: str) -> None: ...

    async def next_generation(self, name: str, digest: str) -> int: ...

    async def started(  # noqa: PLR0917 - the store's signature
        self,
        name: str,
        generation: int,
        pid: int,
        start_ticks: int,
        boot_id: str,
        cgroup: str | None,
        run_tag: str,
        baseline: Baseline | None = None,
    ) -> None: ...

    def intent(self, name: str, generation: int, reason: str) -> None: ...

    def stands(self, name: str, standing: Standing | None) -> None: ...

    async def ended(self, name: str, generation: int, verdict: str, detail: str, peak_bytes: int | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Doors:
    """The outside things that every agent's task uses."""

    processes: ProcessDoor
    cages: Cages
    journal: Journal
    logs: LogFolder
    clock: Clock
    tell: Callable[[Event], None]
    environ_for: EnvironFor
    own_uids: frozenset[int]  # uids that belong to one agent alone
    notify: NotifyDoor
    fences: FenceFolder | None = None  # None: nobody else could start one
    is_observed: bool = False  # caps are compared with what is used, and bind nobody


def run_tag(name: str, number: int) -> str:
    """Return the mark of one generation in the environment of its processes; nobody can guess another's."""
    return f"{name}.{number}.{secrets.token_hex(8)}"


class Generation:
    """A caged child and what is needed to judge its end. Compares by identity."""

    def __init__(
        self,
        spec: AgentSpec,
        number: int,
        doors: Doors,
        *,
        cage: Cage,
        handle: ProcessHandle,
        notify: NotifySocket | None,
        counted: tuple[Counters, Outside],
        log_offset: int,
        adopted_since: float | None = None,
    ) -> None:
        self.spec = spec
        self.number = number
        self.handle = handle
        self.cage = cage
        self.is_adopted = adopted_since is not None
        self.started_at = doors.clock.monotonic() if adopted_since is None else adopted_since
        self.intent: str | None = None  # as written down
        self.was_killed = False
        self.refused_at: float | None = None  # by the gateway, last
        self.ended_at = math.inf
        self._doors = doors
        self._notify = notify
        self._before, self._outside = counted
        self._log_offset = log_offset
        self._kills_told = self._kills_seen = self._before.oom_kills
        self.cap_bytes = spec.policy.memory_bytes
        self.excess = Excess()
        self._cap = CapWatch(spec.policy.memory_bytes)

    def __repr__(self) -> str:
        return f"<{self.spec.name} generation {self.number} pid {self.handle.pid}>"

    @classmethod
    async def start(cls, spec: AgentSpec, number: int, doors: Doors) -> Generation:
        """Cage a child, write it down and tell the other rooms. It does not run before `go`. Cancelled, it leaves nothing.

        Raises:
            SpawnFailed: it could not be caged or executed.
            StoreFault: it could not be written down.
        """
        tag = run_tag(spec.name, number)
        account = doors.processes.account(spec.policy.user)
        cage = doors.cages.cage(spec.name)
        notify = None
        try:
            notify = notify_socket(spec, doors, account.uid)
            # Whoever could not be killed when the last one ended: a second copy beside him would be worse than none.
            if left := await cage.kill(within_s=KILL_S):
                raise SpawnFailed("failed:cage", f"processes {', '.join(map(str, left))} of its last run do not end when killed")
            cage.prepare(None if doors.is_observed else spec.policy.memory_bytes, tag)
            before, outside = cage.counters(), cage.outside()
            async with nullcontext() if doors.fences is None else doors.fences.taken(spec.name) as fence_fd:
                with doors.logs.appending(spec.name) as (log_fd, log_offset):
                    launch = Launch(
                        argv=spec.command,
                        env=environment(spec, account, {**doors.environ_for(spec, number, tag), **_named(notify)}, tag),
                        cwd=spec.cwd or "/",
                        stdout_fd=log_fd,
                        join_files=cage.join_files,
                        rlimits=cage.rlimits,
                        account=account,
                        oom_score_adj=OOM_SCORE_CRITICAL if spec.policy.critical else OOM_SCORE_OTHERS,
                        fence_fd=fence_fd,
                    )
                    handle = await doors.processes.spawn(launch, hold=True)
        except BaseException as exc:
            if notify is not None:
                notify.close()
            if isinstance(exc, HostFault) and not isinstance(exc, SpawnFailed):
                raise SpawnFailed("failed:cage", str(exc)) from exc
            raise
        cage.started(handle.pid)
        counted = before, outside
        generation = cls(spec, number, doors, cage=cage, handle=handle, notify=notify, counted=counted, log_offset=log_offset)
        baseline = Baseline(
            started_wall=doors.clock.wall(),
            log_offset=log_offset,
            cap_bytes=0 if doors.is_observed else spec.policy.memory_bytes,
            uid=account.uid,
            oom_kills=before.oom_kills,
            own_limit_hits=before.own_limit_hits,
            fleet_limit_hits=outside.fleet_limit_hits,
            oomd_kills=outside.oomd_kills,
        )
        try:
            boot_id = doors.processes.boot_id()
            facts = handle.pid, handle.start_ticks, boot_id, cage.record, tag
            await doors.journal.started(spec.name, number, *facts, baseline)
        except BaseException:
            await generation.abandon()
            raise
        generation.announce(tag, account.uid)
        return generation

    def announce(self, run_tag: str, uid: int) -> None:
        """Tell the other rooms who it is, before they hear of it from itself."""
        self._doors.tell(
            AgentStarted(
                agent=self.spec.name,
                agent_class=self.spec.policy.name,
                generation=self.number,
                pid=self.handle.pid,
                start_ticks=self.handle.start_ticks,
                cgroup=self.cage.identity,
                run_tag=run_tag,
                uid=uid,
                own_uid=uid in self._doors.own_uids,
                is_adopted=self.is_adopted,
            )
        )

    def go(self) -> None:
        """Let it run, if it does not yet."""
        if not self.is_adopted:
            self.handle.go()

    def limit(self, cap_bytes: int) -> None:
        """Have another memory cap from now on.

        Raises:
            HostFault: it does not bind; the old one does.
        """
        self.cage.limit(None if self._doors.is_observed else cap_bytes)
        self.cap_bytes = self._cap.cap_bytes = cap_bytes

    def measured(self, used_bytes: int) -> CapDeed:
        """Take a sample of its memory, where no group limits it, and return what is to be done."""
        if self._doors.is_observed or self._doors.cages.guarantee is not Guarantee.SOFT_RLIMIT:
            return CapDeed.NOTHING
        return self._cap.judge(used_bytes)

    def children_killed(self) -> int:
        """Return how many of it the OOM killer took since the last look, once it has outlived that by a look.

        The counter rises before the end of a main process that was taken is seen; that end has a verdict and is no child's.
        """
        seen = self._kills_seen
        self._kills_seen = self.cage.oom_kills()
        killed = seen - self._kills_told
        self._kills_told = seen
        return killed

    async def hear(self) -> Notice:
        """Return the next thing that a process of this generation says of itself."""
        if self._notify is None:
            await trio.sleep_forever()
        while True:
            notice = await self._notify.receive()
            # While we look it still runs: who waits for our answer (BARRIER=1) is answered when the next one is read.
            if notice.pid == self.handle.pid or notice.pid in await self.cage.members():
                return notice
            logger.warning("agent %s: process %d is none of it and was not heard", self.spec.name, notice.pid)
            await trio.sleep(UNHEARD_S)

    def intend(self, reason: str) -> None:
        """Write down why it is about to be ended."""
        self.intent = reason
        self._doors.journal.intent(self.spec.name, self.number, reason)

    async def terminate(self) -> None:
        """Ask everyone in it to end. CONT because a stopped process acts on TERM only when it runs again."""
        await self.cage.signal(signals.TERM)
        await self.cage.signal(signals.CONT)

    async def kill(self) -> tuple[int, ...]:
        """End everyone in it; returns the pids that are still there after KILL_S."""
        self.handle.signal(signals.KILL)  # the main process first: it is pinned, and found without looking
        return await self.cage.kill(within_s=KILL_S)

    async def wait_empty(self) -> None:
        """Return when those who outlived the main process have ended by themselves."""
        pause_s = 0.01
        while await self.cage.members():
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.2)

    async def abandon(self) -> None:
        """Kill it without further ado, whatever becomes of the task that asks."""
        with trio.move_on_after(KILL_S, shield=True) as scope:
            await self.kill()
            await self.handle.wait()
            self.close()
        if scope.cancelled_caught:
            logger.error("%s does not end when killed", self)

    def let_be(self) -> None:
        """Stop watching it, and let it run on: a later supervisor takes it over."""
        if self._notify is not None:
            self._notify.close()

    def close(self) -> None:
        """Give up what is held of it. Its main process has ended."""
        self.handle.close()
        if self._notify is not None:
            self._notify.close()

    def judge(self, status: ExitStatus) -> Verdict:
        """Return the verdict. Everyone is gone; the cage has not been used again."""
        after, outside = self.cage.counters(), self.cage.outside()
        return decide(
            Evidence(
                status=status,
                intent=self.intent,
                was_killed_by_us=self.was_killed,
                oom_kills=after.oom_kills - self._kills_told,
                children_killed=self._kills_told - self._before.oom_kills,
                own_limit_hits=_grown(self._before.own_limit_hits, after.own_limit_hits),
                fleet_limit_hits=_grown(self._outside.fleet_limit_hits, outside.fleet_limit_hits) or 0,
                oomd_kills=_grown(self._outside.oomd_kills, outside.oomd_kills) or 0,
                peak_bytes=after.peak_bytes,
                cap_bytes=self.cap_bytes,
                is_capped_by_rlimit=self._doors.cages.guarantee is Guarantee.SOFT_RLIMIT and not self._doors.is_observed,
                refused_s=None if self.refused_at is None else max(0.0, self.ended_at - self.refused_at),
                last_lines=self._doors.logs.tail(self.spec.name, since=self._log_offset),
            )
        )


def _grown(before: int | None, after: int | None) -> int | None:
    """Return by how much a counter grew; None where one of the readings is missing."""
    return None if before is None or after is None else after - before


def notify_socket(spec: AgentSpec, doors: Doors, uid: int) -> NotifySocket | None:
    """Make its notify socket; only who cannot be ready without one fails for want of it."""
    try:
        return doors.notify.open(spec.name, uid=uid)
    except HostFault as exc:
        if spec.policy.ready is Ready.NOTIFY:
            raise
        logger.warning("agent %s has no notify socket: %s", spec.name, exc)
        return None


def _named(notify: NotifySocket | None) -> dict[str, str]:
    return {} if notify is None else {"NOTIFY_SOCKET": notify.path}
