"""Commands that their owner starts himself and wants to be of the fleet: `ai-supervisor exec -- CMD`.

The process asks on control.sock, before it becomes the command. We pin it, number it, limit it, move it into its cage and write
it down; only then it is answered and executes. So it keeps its terminal, its parent and its exit code, and the cap binds before
the command's first instruction. It is not restarted, and no child of ours: as of one that was taken over, its end is seen through
its pidfd. It ends at the latest with this supervisor: no later one would know what to make of it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio

from supervisord_ai.agents.environment import RUN_TAG
from supervisord_ai.agents.generation import KILL_S, Doors, Generation, run_tag
from supervisord_ai.core.adoption import Baseline
from supervisord_ai.core.events import AgentEnded
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.core.verdict import SHUTDOWN
from supervisord_ai.errors import HostFault, SupervisorError, UsageError
from supervisord_ai.host.cgroup import put_into

LEAVING_GRACE_S = 1.0  # of the two that a supervisor has that leaves its agents to the next one

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Boarded:
    """What a process does before it becomes its command: take these limits, and these variables."""

    generation: int
    environment: dict[str, str]
    rlimits: tuple[tuple[str, int], ...]


class Wraps:
    """Every wrapped command of one supervisor. `run` it beside the agents."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._running: dict[str, Generation] = {}
        self._boarding: set[str] = set()
        self._nursery: trio.Nursery | None = None
        self._gone = trio.Event()  # one of them

    def __repr__(self) -> str:
        return f"<{len(self._running)} wrapped commands>"

    def __len__(self) -> int:
        return len(self._running)

    async def run(self) -> None:
        """Watch them until cancelled; then nothing of them is left."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def take_in(self, spec: AgentSpec, pid: int, start_ticks: int, uid: int) -> Boarded:
        """Make a living process one of the fleet.

        Raises:
            UsageError: one of that name runs, or the supervisor is being stopped.
            HostFault: it cannot be pinned or caged; it is not one of the fleet.
            StoreFault: it could not be written down.
        """
        if self._nursery is None:
            raise UsageError("the fleet is being stopped")
        if spec.name in self._running or spec.name in self._boarding:
            raise UsageError(f"{spec.name} runs already: end it first, or name another")
        self._boarding.add(spec.name)
        try:
            return await self._take_in(self._nursery, spec, pid, start_ticks, uid)
        finally:
            self._boarding.discard(spec.name)

    async def _take_in(self, nursery: trio.Nursery, spec: AgentSpec, pid: int, start_ticks: int, uid: int) -> Boarded:
        doors, boot_id = self._doors, self._doors.processes.boot_id()
        handle = doors.processes.find(pid, start_ticks, boot_id)
        if handle is None:
            raise HostFault(f"process {pid} has ended")
        try:
            number = await doors.journal.next_generation(spec.name, spec.run_digest)
            tag, cage = run_tag(spec.name, number), doors.cages.cage(spec.name)
            if left := await cage.kill(within_s=KILL_S):
                raise HostFault(f"processes {', '.join(map(str, left))} of its last run do not end when killed")
            cage.prepare(None if doors.is_observed else spec.policy.memory_bytes, tag)
            before, outside = cage.counters(), cage.outside()
            put_into(cage.join_files, pid)
            cage.started(pid)
        except BaseException:
            handle.close()
            raise
        generation = Generation(
            spec, number, doors, cage=cage, handle=handle, notify=None, counted=(before, outside), log_offset=0,
            adopted_since=doors.clock.monotonic(),
        )  # fmt: skip
        generation.is_adopted = False  # it begins here
        baseline = Baseline(
            started_wall=doors.clock.wall(), log_offset=0, cap_bytes=spec.policy.memory_bytes, uid=uid, oom_kills=before.oom_kills
        )
        self._running[spec.name] = generation
        nursery.start_soon(self._watch, generation)
        await doors.journal.started(spec.name, number, pid, start_ticks, boot_id, cage.record, tag, baseline)
        generation.announce(tag, uid)
        given = {**doors.environ_for(spec, number, tag), **dict(spec.env), RUN_TAG: tag}
        return Boarded(number, given, cage.rlimits)

    async def wait_none(self) -> None:
        """Return when nobody is left."""
        while self._running:
            self._gone = trio.Event()
            await self._gone.wait()

    async def stop_all(self, within_s: float) -> None:
        """End every one of them, politely for half of that time."""
        async with trio.open_nursery() as nursery:
            for generation in list(self._running.values()):
                nursery.start_soon(self._end, generation, within_s / 2)

    async def _end(self, generation: Generation, grace_s: float) -> None:
        generation.intend(SHUTDOWN)
        await self._clear(generation, min(grace_s, generation.spec.policy.grace_s))

    async def _clear(self, generation: Generation, grace_s: float) -> None:
        """Ask everyone in it to end, and kill who does not."""
        await generation.terminate()
        with trio.move_on_after(grace_s):
            await generation.wait_empty()
            return
        generation.was_killed = True
        await generation.kill()

    async def _watch(self, generation: Generation) -> None:
        """From its start to its verdict."""
        name, doors = generation.spec.name, self._doors
        try:
            status = await generation.handle.wait()
            generation.ended_at = doors.clock.monotonic()
            if await generation.cage.members():  # what it left running is of its run
                await self._clear(generation, generation.spec.policy.grace_s)
            verdict = generation.judge(status)
            logger.info("exec: %s generation %d: %s %s", name, generation.number, verdict.word, verdict.detail)
            await doors.journal.ended(name, generation.number, verdict.word, verdict.detail, verdict.peak_bytes)
            doors.tell(AgentEnded(name, generation.number, verdict.word, verdict.peak_bytes, generation.cap_bytes))
        except SupervisorError as exc:
            logger.error("exec: %s: %s", name, exc)
        finally:
            with trio.CancelScope(shield=True):
                # Nobody, unless the supervisor goes.
                await self._clear(generation, LEAVING_GRACE_S)
            del self._running[name]
            self._gone.set()
            generation.close()
            generation.cage.remove()
