"""Cages of cgroup v1: a memory group for the cap, and a freezer group, where there is one, so that nobody forks away from a kill.

Differs from v2 as follows (kernel documentation, admin-guide/cgroup-v1/memory.rst): the limit of memory and the limit of
memory and swap together are two files, and the second may never be below the first, so the order of writing matters; only
`oom_kill` in memory.oom_control tells of a kill (failcnt stays 0); the OOM killer takes one process and not the group; frozen
tasks act on SIGKILL only when they are thawed.
"""

from __future__ import annotations

import signal
from pathlib import Path

import trio

from supervisord_ai.errors import HostFault
from supervisord_ai.host import cgroup
from supervisord_ai.host.cgroup import Cage, Counters, Guarantee, KeptFile, Mount, Outside
from supervisord_ai.host.uncaged import Census, UncagedCage

FREEZE_TIMEOUT_S = 0.5


class V1Cage:
    """One agent's groups."""

    rlimits: tuple[tuple[str, int], ...] = (("core", 0),)

    def __init__(self, memory: Path, freezer: Path | None, identity: str | None) -> None:
        self._memory = memory
        self._freezer = freezer
        self._usage = KeptFile(memory / "memory.usage_in_bytes")
        self._oom = KeptFile(memory / "memory.oom_control")
        self._stat = KeptFile(memory / "memory.stat")
        self._groups = (memory,) if freezer is None else (memory, freezer)
        self.identity = identity
        self.record: str | None = "\t".join(("v1", *map(str, self._groups)))
        self.join_files = tuple(str(group / "cgroup.procs") for group in self._groups)

    def __repr__(self) -> str:
        return f"<cage {self._memory}>"

    def prepare(self, cap_bytes: int | None, run_tag: str) -> None:  # noqa: ARG002 - the group itself tells the runs apart
        for group in self._groups:
            cgroup.make(group)
        self._limit(cap_bytes)
        cgroup.write(self._memory / "memory.max_usage_in_bytes", "0")

    def limit(self, cap_bytes: int | None) -> None:
        self._limit(cap_bytes)  # EBUSY below what is used and cannot be reclaimed

    def _limit(self, cap_bytes: int | None) -> None:
        both = self._memory / "memory.memsw.limit_in_bytes"
        files = [self._memory / "memory.limit_in_bytes"]
        if both.exists():  # no swap accounting otherwise
            # Memory may never exceed memory and swap: raise the sum first, lower it last.
            is_raised = cap_bytes is None or cap_bytes > (cgroup.number(both) or 0)
            files = [both, *files] if is_raised else [*files, both]
        for file in files:
            cgroup.write(file, "-1" if cap_bytes is None else str(cap_bytes))

    def started(self, pid: int) -> None:
        pass

    def oom_kills(self) -> int:
        return self._oom.value("oom_kill")

    def memory_bytes(self) -> int | None:
        return self._usage.number()

    async def needed_bytes(self) -> int | None:
        return cgroup.without_files(self.memory_bytes(), self._stat, ("total_active_file", "total_inactive_file"))

    def counters(self) -> Counters:
        return Counters(
            oom_kills=self.oom_kills(),
            memory_bytes=self.memory_bytes(),
            peak_bytes=cgroup.number(self._memory / "memory.max_usage_in_bytes"),
        )

    def outside(self) -> Outside:
        # Which limit stood in the way is counted where it stood, and reclaim that helped is counted too; so it is asked only
        # about an end by the OOM killer below the agent's own cap. Memory and swap together are charged first.
        shared = (self._memory.parent, self._memory.parent.parent)
        files = [group / name for group in shared for name in ("memory.failcnt", "memory.memsw.failcnt")]
        return Outside(fleet_limit_hits=sum(cgroup.number(file) or 0 for file in files))

    def _procs(self) -> list[int]:
        return sorted({pid for group in self._groups for pid in cgroup.procs(group)})

    async def members(self) -> tuple[int, ...]:
        return tuple(self._procs())

    async def signal(self, signum: int) -> None:
        cgroup.signal_group(self._procs, signum)

    async def kill(self, *, within_s: float) -> tuple[int, ...]:
        deadline = trio.current_time() + within_s
        while self._procs():
            try:
                await self._freeze()
                cgroup.signal_group(self._procs, signal.SIGKILL)
            finally:
                self._thaw()
            # Short: whoever forked while we could not freeze is seen on the next round.
            left = await cgroup.until_empty(self._procs, deadline=min(deadline, trio.current_time() + 0.1))
            if left and trio.current_time() >= deadline:
                return left
        return ()

    async def _freeze(self) -> None:
        if self._freezer is None or not self._freezer.is_dir():
            return
        state = self._freezer / "freezer.state"
        cgroup.write(state, "FROZEN")
        with trio.move_on_after(FREEZE_TIMEOUT_S):
            # FREEZING while a task sits in the kernel, which tells nobody when it is done.
            while cgroup.word(state) == "FREEZING":  # noqa: ASYNC110
                await trio.sleep(0.002)

    def _thaw(self) -> None:
        if self._freezer is not None and self._freezer.is_dir():
            cgroup.write(self._freezer / "freezer.state", "THAWED")

    def remove(self) -> None:
        self._usage.close()
        self._oom.close()
        self._stat.close()
        for group in self._groups:
            cgroup.remove(group)


class V1Cages:
    """The groups of one supervisor, below its own group in the memory and freezer hierarchies."""

    guarantee = Guarantee.HARD_V1

    def __init__(self, memory: Mount, freezer: Mount | None, folder: str, *, is_service: bool = False) -> None:
        self._mount = memory
        # The hierarchy by which systemd knows whom to end is a third one, which agents do not leave.
        self.why_not_outlived = "systemd ends everyone of a service with it, and no holder unit was named" if is_service else ""
        self._memory = memory.own_dir / folder
        self._freezer = None if freezer is None else freezer.own_dir / folder
        self._identity = f"{memory.own.rstrip('/')}/{folder}/agents"
        self._cages: dict[str, V1Cage] = {}
        self._machine = cgroup.machine_kills()
        self._census = Census()
        frozen = "" if freezer is not None else "; no freezer, a fork bomb may outrun a kill"
        self.detail = f"cgroup v1 memory at {self._memory}{frozen}"

    def __repr__(self) -> str:
        return f"<cages {self._memory}>"

    @classmethod
    def probe(cls, mounts: list[Mount], folder: str) -> V1Cages:
        """Return the cages if a group can be made, limited and removed.

        Raises:
            HostFault: why not.
        """
        memory = next((m for m in mounts if "memory" in m.controllers), None)
        if memory is None:
            raise HostFault("no cgroup v1 memory controller is mounted")
        _try_group(memory.own_dir / f"{folder}.probe", limit=True)
        freezer = next((m for m in mounts if "freezer" in m.controllers), None)
        if freezer is not None:
            try:
                _try_group(freezer.own_dir / f"{folder}.probe", limit=False)
            except HostFault:
                freezer = None
        return cls(memory, freezer, folder, is_service=cgroup.is_of_a_service(mounts))

    @property
    def group(self) -> Path:
        return self._memory / "agents"

    def cage(self, name: str) -> V1Cage:
        if name not in self._cages:
            freezer = None if self._freezer is None else self._freezer / "agents" / name
            self._cages[name] = V1Cage(self._memory / "agents" / name, freezer, f"{self._identity}/{name}")
        return self._cages[name]

    def adopt(self, name: str, record: str | None) -> V1Cage | None:
        cage = self._of_record(record)
        if cage is not None:
            self._cages[name] = cage
        return cage

    def _of_record(self, record: str | None) -> V1Cage | None:
        """An earlier supervisor may have been started in another group of the machine; the record has the paths."""
        form, *paths = (record or "").split("\t")
        # A journal is our own file, but nothing outside a folder of ours is ever killed on its word.
        if form != "v1" or not paths or any(Path(p).parent.parent.name != self._memory.name for p in paths):
            return None
        memory = Path(paths[0])
        own = self._memory / "agents" / memory.name
        identity = f"{self._identity}/{memory.name}" if memory == own else cgroup.identity_of(memory, self._mount)
        return V1Cage(memory, Path(paths[1]) if len(paths) > 1 else None, identity)

    def leftovers(self) -> tuple[str, ...]:
        tops = [self._memory] if self._freezer is None else [self._memory, self._freezer]
        return tuple(sorted({d.name for top in tops for d in (top / "agents").glob("*/")}))

    def recorded(self, name: str, record: str | None, run_tag: str | None) -> tuple[Cage, ...]:
        group = self._of_record(record) or self.cage(name)
        return group, UncagedCage.tracking(name, self._census, run_tag)

    def kills_seen(self) -> int | None:
        return self._machine.find("oom_kill")

    async def usage(self) -> dict[str, int]:
        return {name: used for name, cage in self._cages.items() if (used := cage.memory_bytes())}

    def close(self) -> None:
        self._machine.close()
        for cage in self._cages.values():
            cage.remove()
        for top in (self._memory, self._freezer):
            if top is not None:
                cgroup.remove(top)


def _try_group(path: Path, *, limit: bool) -> None:
    cgroup.make(path)
    try:
        if limit:
            cgroup.write(path / "memory.limit_in_bytes", str(64 << 20))
        # Opening it for writing is what a child of ours will do.
        with (path / "cgroup.procs").open("w"):
            pass
    except OSError as exc:
        raise HostFault(f"{path}/cgroup.procs: {exc.strerror}") from exc
    finally:
        cgroup.remove(path)
