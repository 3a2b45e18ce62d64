"""Cages where there are no cgroups: a limit on each process, a look at everyone's memory, and a tag to find a tree by.

A process belongs to a generation when its environment carries the generation's AI_SUPERVISOR_RUN, or it is in the session of
the generation's main process, or its parent belongs to it, or it was once seen to belong. Only a program that scrubs its
environment, makes a session of its own and leaves its parent between two looks is not found. That is the honest limit of
this form, and the reason why it is called soft.

RLIMIT_DATA (each process, at 1.25 caps) stops private memory only: neither shared memory nor two processes together. The cap
itself is enforced by looking once a second. Resident memory of a tree that forked counts shared pages more than once, so
whoever seems to be over is measured again by its proportional share (smaps_rollup), which costs the kernel a walk.

One look reads all of /proc, in a thread, and serves everyone who asked before it began: 131 agents that end together are found
by one.
"""

from __future__ import annotations

import math
import os
import resource
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from supervisord_ai.core.cap import CapPolicy
from supervisord_ai.host import procfs
from supervisord_ai.host.cgroup import Counters, Guarantee, Outside
from supervisord_ai.host.pinned import signal_pinned

TAG = "AI_SUPERVISOR_RUN"
THOROUGH_EVERY = 10


@dataclass(slots=True)
class Tree:
    """One generation: how its processes are known, and who they were at the last look, by pid with start ticks and memory."""

    tag: str
    main_pid: int | None = None
    members: dict[int, procfs.ProcStat] = field(default_factory=dict)


class Census:
    """Looks at all processes and tells every tree its members."""

    def __init__(self) -> None:
        self.trees: dict[str, Tree] = {}
        self._tags: dict[tuple[int, int], str] = {}  # (pid, start ticks): a tag that was once read
        self._strangers: frozenset[int] = frozenset()  # who belonged to nobody when he was last looked at
        self._seen: frozenset[int] = frozenset()
        self._passing = 0  # how many looks ago that was
        self._is_thorough = False
        self._looking = trio.Lock()
        self._begun = 0
        self._finished = 0

    async def look(self, *, in_passing: bool = False) -> None:
        """Return when a look that was begun after this call has brought every tree up to date.

        In passing, strangers are passed over: most of a machine's processes are, and always were. One becomes ours without
        changing its number only by executing something with our tag, so every tenth look is thorough all the same.
        """
        self._is_thorough |= not in_passing
        wanted = self._begun + 1
        while self._finished < wanted:
            async with self._looking:
                if self._finished >= wanted:  # the one before us in the queue looked for us
                    break
                self._begun += 1
                number = self._begun
                is_thorough = self._is_thorough or self._passing >= THOROUGH_EVERY
                self._is_thorough = False
                self._passing = 0 if is_thorough else self._passing + 1
                passed = frozenset() if is_thorough else self._strangers
                pids, stats, tags = await trio.to_thread.run_sync(_look, self._tags, passed)
                self._tags = tags
                self._assign(stats)
                ours = {pid for tree in self.trees.values() for pid in tree.members}
                # Seen twice: a child between fork and exec has no tag yet.
                self._strangers = (pids & self._seen) - ours
                self._seen = pids
                self._finished = number

    def _assign(self, stats: dict[int, procfs.ProcStat]) -> None:
        """One pass for all trees: by what was known, by tag, by session, then by parent."""
        remembered = {(pid, seen.start_ticks): tree for tree in self.trees.values() for pid, seen in tree.members.items()}
        by_session = {tree.main_pid: tree for tree in self.trees.values() if tree.main_pid is not None}
        owner: dict[int, Tree | None] = {os.getpid(): None, 1: None, 0: None}
        for pid, seen in stats.items():
            if pid in owner:
                continue
            key = pid, seen.start_ticks
            tree = remembered.get(key) or self.trees.get(self._tags.get(key, "")) or by_session.get(seen.session)
            if tree is not None:
                owner[pid] = tree
        for pid in stats:
            path = []
            at = pid
            while at not in owner and at in stats:
                path.append(at)
                at = stats[at].ppid
            found = owner.get(at)
            owner.update((descendant, found) for descendant in path)
        for tree in self.trees.values():
            tree.members = {}
        for pid, seen in stats.items():
            tree = owner[pid]
            if tree is not None:
                tree.members[pid] = seen


def _look(
    known: dict[tuple[int, int], str], passed: frozenset[int]
) -> tuple[frozenset[int], dict[int, procfs.ProcStat], dict[tuple[int, int], str]]:
    """Return all pids, the processes that were not passed over, and their tags.

    A tag that was read once stays: the memory it is read from belongs to the process, which may scribble over it.
    """
    pids = frozenset(procfs.pids())
    stats = {pid: seen for pid in pids - passed if (seen := procfs.stat(pid)) is not None and seen.state != "Z"}
    tags: dict[tuple[int, int], str] = {}
    for pid, seen in stats.items():
        key = pid, seen.start_ticks
        tag = known.get(key)
        if tag is None and (tag := procfs.environ_value(pid, TAG)) is not None:
            # A child between vfork and exec has its parent's memory, the whole of ours: it may have had when it was looked at.
            stats[pid] = procfs.stat(pid) or seen
        if tag is not None:
            tags[key] = tag
    return pids, stats, tags


class UncagedCage:
    """One agent without a group. Its members are found, not kept."""

    identity: str | None = None
    record: str | None = None
    join_files: tuple[str, ...] = ()

    def __init__(self, name: str, census: Census, policy: CapPolicy) -> None:
        self._name = name
        self._census = census
        self._policy = policy
        self._tree: Tree | None = None
        self._cap_bytes: int | None = None
        self._memory_bytes: int | None = None
        self._peak_bytes: int | None = None
        self.rlimits: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        return f"<no cage {self._name}>"

    def prepare(self, cap_bytes: int | None, run_tag: str) -> None:
        self.rlimits = (("core", 0), *self._data(cap_bytes))
        self.track(run_tag)
        self._cap_bytes = cap_bytes
        self._memory_bytes = self._peak_bytes = None

    def _data(self, cap_bytes: int | None) -> tuple[tuple[str, int], ...]:
        return () if cap_bytes is None else (("data", math.ceil(cap_bytes * self._policy.data_ratio)),)

    def limit(self, cap_bytes: int | None) -> None:
        self._cap_bytes = cap_bytes
        data = self._data(cap_bytes)
        self.rlimits = (("core", 0), *data)
        data_bytes = data[0][1] if data else resource.RLIM_INFINITY
        for pid in self._tree.members if self._tree is not None else ():
            # Gone, or not ours to limit (another user's, and we are not root): then looking is what limits it.
            with suppress(ProcessLookupError, PermissionError):
                resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes, data_bytes))

    @classmethod
    def tracking(cls, name: str, census: Census, run_tag: str | None) -> UncagedCage:
        """Return one that finds an earlier generation by its tag."""
        cage = cls(name, census, CapPolicy())
        if run_tag is not None:
            cage.track(run_tag)
        return cage

    def track(self, run_tag: str) -> None:
        """Have the census look for this generation."""
        self.remove()
        self._tree = self._census.trees[run_tag] = Tree(run_tag)

    def started(self, pid: int) -> None:
        assert self._tree is not None
        self._tree.main_pid = pid

    def oom_kills(self) -> int:
        return 0  # nobody counts

    async def needed_bytes(self) -> int | None:
        members = tuple(self._tree.members) if self._tree is not None else ()
        if len(members) < 2:
            return self._memory_bytes
        return await trio.to_thread.run_sync(proportional_bytes, members)

    def counters(self) -> Counters:
        return Counters(memory_bytes=self._memory_bytes, peak_bytes=self._peak_bytes)

    def outside(self) -> Outside:
        return Outside()

    async def members(self) -> tuple[int, ...]:
        if self._tree is None:
            return ()
        await self._census.look()
        return tuple(self._tree.members)

    async def signal(self, signum: int) -> None:
        self._signal(await self.members(), signum)

    def _signal(self, pids: tuple[int, ...], signum: int) -> None:
        """Pinned, then looked at again one by one: the start time says whether it is still the one that was found."""
        assert self._tree is not None
        members = self._tree.members

        def still() -> frozenset[int]:
            now = {pid: procfs.stat(pid) for pid in pids}
            return frozenset(
                pid for pid, seen in now.items() if seen and pid in members and seen.start_ticks == members[pid].start_ticks
            )

        signal_pinned(pids, still, signum)

    async def kill(self, *, within_s: float) -> tuple[int, ...]:
        """Two empty looks in a row: a process that forked while the first one passed it is in the second."""
        deadline = trio.current_time() + within_s
        empty = 0
        pause_s = 0.01
        while empty < 2:
            left = await self.members()
            if not left:
                empty += 1
                continue
            empty = 0
            if trio.current_time() >= deadline:
                return left
            self._signal(left, signal.SIGKILL)
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.2)
        return ()

    async def measure(self) -> int | None:
        """Return the memory of the members as the last look saw them; None when there are none."""
        if self._tree is None or not self._tree.members:
            return None
        used = sum(seen.rss_bytes for seen in self._tree.members.values())
        if self._cap_bytes is not None and used > self._cap_bytes and len(self._tree.members) > 1:
            used = await trio.to_thread.run_sync(proportional_bytes, tuple(self._tree.members))
        self._memory_bytes = used
        self._peak_bytes = max(self._peak_bytes or 0, used)
        return used

    def remove(self) -> None:
        if self._tree is not None:
            self._census.trees.pop(self._tree.tag, None)
            self._tree = None


class UncagedCages:
    """Agents without cgroups."""

    guarantee = Guarantee.SOFT_RLIMIT
    group = None

    def __init__(self, why: str, policy: CapPolicy | None = None) -> None:
        self.detail = f"sampled once a second: {why}"
        self.why_not_outlived = "without cgroups nobody limits or ends them while no supervisor runs"
        self._policy = policy or CapPolicy()
        self._census = Census()
        self._cages: dict[str, UncagedCage] = {}

    def __repr__(self) -> str:
        return f"<no cages: {len(self._cages)} agents>"

    def cage(self, name: str) -> UncagedCage:
        if name not in self._cages:
            self._cages[name] = UncagedCage(name, self._census, self._policy)
        return self._cages[name]

    def adopt(self, name: str, record: str | None) -> UncagedCage | None:  # noqa: ARG002
        return None

    def leftovers(self) -> tuple[str, ...]:
        return ()

    def recorded(self, name: str, record: str | None, run_tag: str | None) -> tuple[UncagedCage]:  # noqa: ARG002
        return (UncagedCage.tracking(name, self._census, run_tag),)

    def kills_seen(self) -> int:
        return 0  # nobody counts, so `oom_kills` never rises

    async def usage(self) -> dict[str, int]:
        await self._census.look(in_passing=True)
        return {name: used for name, cage in self._cages.items() if (used := await cage.measure()) is not None}

    def close(self) -> None:
        for cage in self._cages.values():
            cage.remove()


def proportional_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes with shared pages counted once (the sum of Pss of smaps_rollup, 4.14)."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
