"""Cages of cgroup v2: memory.max binds, memory.oom.group takes the whole agent, cgroup.kill leaves nobody.

A group with processes of its own may not hand controllers to groups below it (cgroups(7), "no internal processes"), except
the root of the hierarchy. So where our own group is to carry the agents, this process first moves into a leaf beside them;
that fails with EBUSY when somebody else is in our group (a login session, an interactive shell), and then, as root, the
groups go directly below the root of the hierarchy.

In a holder unit none of that is done: its own process sits in a leaf already, ours is in another unit, whose group is left alone
(a service whose group hands controllers down cannot be started again by systemd while it is populated: EBUSY, 219/CGROUP).
"""

from __future__ import annotations

import signal
from pathlib import Path

import trio

from supervisord_ai.errors import HostFault
from supervisord_ai.host import cgroup
from supervisord_ai.host.cgroup import Cage, Counters, Guarantee, KeptFile, Mount, Outside
from supervisord_ai.host.uncaged import Census, UncagedCage


class V2Cage:
    """One agent's group."""

    rlimits: tuple[tuple[str, int], ...] = (("core", 0),)

    def __init__(self, group: Path, identity: str | None) -> None:
        self._group = group
        self._usage = KeptFile(group / "memory.current")
        self._events = KeptFile(group / "memory.events")
        self._stat = KeptFile(group / "memory.stat")
        self.identity = identity
        self.record: str | None = f"v2\t{group}"
        self.join_files = (str(group / "cgroup.procs"),)

    def __repr__(self) -> str:
        return f"<cage {self._group}>"

    def prepare(self, cap_bytes: int | None, run_tag: str) -> None:  # noqa: ARG002 - the group itself tells the runs apart
        cgroup.make(self._group)
        self._limit(cap_bytes)
        if (self._group / "memory.oom.group").exists():  # 4.19
            cgroup.write(self._group / "memory.oom.group", "1")

    def limit(self, cap_bytes: int | None) -> None:
        # Below what is used the kernel reclaims what it can and then kills, without a word.
        if cap_bytes is not None and (used := cgroup.number(self._group / "memory.current") or 0) > cap_bytes:
            raise HostFault(f"{self._group}: {used} bytes are used, more than {cap_bytes}")
        self._limit(cap_bytes)

    def _limit(self, cap_bytes: int | None) -> None:
        if (self._group / "memory.swap.max").exists():  # the cap is the cap: no second one on disk
            cgroup.write(self._group / "memory.swap.max", "max" if cap_bytes is None else "0")
        cgroup.write(self._group / "memory.max", "max" if cap_bytes is None else str(cap_bytes))

    def started(self, pid: int) -> None:
        pass

    def oom_kills(self) -> int:
        return self._events.value("oom_kill")

    def memory_bytes(self) -> int | None:
        return self._usage.number()

    async def needed_bytes(self) -> int | None:
        return cgroup.without_files(self.memory_bytes(), self._stat, ("active_file", "inactive_file"))

    def counters(self) -> Counters:
        events = cgroup.keyed(self._group / "memory.events")
        local = cgroup.keyed(self._group / "memory.events.local")  # 5.2; memory.events sums the groups below
        return Counters(
            oom_kills=events.get("oom_kill", 0),
            own_limit_hits=(local or events).get("oom", 0),
            memory_bytes=self.memory_bytes(),
            # 5.19; counts since the group was made: only 6.12 can reset it, and only for one open file.
            peak_bytes=cgroup.number(self._group / "memory.peak"),
        )

    def outside(self) -> Outside:
        # agents, our own folder and, in a holder, the holder: its limit is the fleet's. The slice above it is the machine's.
        shared = list(self._group.parents)[:3]
        hits = [cgroup.keyed(group / "memory.events.local").get("oom") for group in shared]
        return Outside(
            fleet_limit_hits=None if hits[0] is None else sum(hit or 0 for hit in hits),
            oomd_kills=cgroup.oomd_kills((self._group, *shared)),
        )

    def _procs(self) -> list[int]:
        return cgroup.procs(self._group)

    async def members(self) -> tuple[int, ...]:
        return tuple(self._procs())

    async def signal(self, signum: int) -> None:
        cgroup.signal_group(self._procs, signum)

    async def kill(self, *, within_s: float) -> tuple[int, ...]:
        deadline = trio.current_time() + within_s
        if not self._group.is_dir():
            return ()
        if (self._group / "cgroup.kill").exists():  # 5.14: takes concurrent forks and frozen tasks too
            cgroup.write(self._group / "cgroup.kill", "1")
            return await cgroup.until_empty(self._procs, deadline=deadline)
        try:
            cgroup.write(self._group / "cgroup.freeze", "1")
            while True:
                cgroup.signal_group(self._procs, signal.SIGKILL)  # v2 kills a frozen task without thawing it
                left = await cgroup.until_empty(self._procs, deadline=min(deadline, trio.current_time() + 0.1))
                if not left or trio.current_time() >= deadline:
                    return left
        finally:
            cgroup.write(self._group / "cgroup.freeze", "0")

    def remove(self) -> None:
        self._usage.close()
        self._events.close()
        self._stat.close()
        cgroup.remove(self._group)


class V2Cages:
    """The groups of one supervisor below `base`."""

    guarantee = Guarantee.HARD

    def __init__(
        self,
        base: Path,
        base_identity: str,
        folder: str,
        *,
        mount: Mount,
        moved: bool = False,
        is_in_holder: bool = False,
        dies_with: str = "",
    ) -> None:
        self._base = base
        self._is_in_holder = is_in_holder
        self._mount = mount
        self.why_not_outlived = dies_with
        self._top = base / folder
        self._identity = f"{base_identity.rstrip('/')}/{folder}/agents"
        self._moved = moved
        self._cages: dict[str, V2Cage] = {}
        self._machine = cgroup.machine_kills()
        self._census = Census()
        self.detail = f"cgroup v2 at {self._top}"

    def __repr__(self) -> str:
        return f"<cages {self._top}>"

    @classmethod
    def probe(cls, mounts: list[Mount], folder: str) -> V2Cages:
        """Return the cages if a group can be made, limited and removed.

        Raises:
            HostFault: why not, one reason for each place that was tried.
        """
        mount = next((m for m in mounts if m.is_v2), None)
        if mount is None:
            raise HostFault("no cgroup v2 is mounted")
        root_identity = mount.root
        places = [(mount.own_dir, mount.own)]
        if mount.own_dir != mount.point:
            places.append((mount.point, root_identity))
        refusals = []
        for base, identity in places:
            try:
                moved = _open_place(base, folder, is_root=base == mount.point)
            except HostFault as exc:
                refusals.append(str(exc))
                continue
            is_below_a_service = base == mount.own_dir and cgroup.is_of_a_service([mount])
            dies_with = "systemd ends everyone of a service with it, and no holder unit was named" if is_below_a_service else ""
            return cls(base, identity, folder, mount=mount, moved=moved, dies_with=dies_with)
        raise HostFault("; ".join(refusals))

    @classmethod
    def in_holder(cls, mounts: list[Mount], folder: str, holder: str) -> V2Cages:
        """Return the cages below the group of a holder unit, given as systemd names it.

        Raises:
            HostFault: there is no such group, or it cannot hand memory limits down.
        """
        mount = next((m for m in mounts if m.is_v2), None)
        if mount is None:
            raise HostFault("no cgroup v2 is mounted")
        inside = holder.removeprefix(mount.root) if mount.root != "/" else holder
        base = mount.point / inside.strip("/")
        # An empty answer of systemd must never mean the root of the hierarchy.
        if not inside.strip("/") or not base.is_dir():
            raise HostFault(f"the holder unit's group {holder!r} is not there")
        _open_place(base, folder, is_root=True)
        return cls(base, holder, folder, mount=mount, is_in_holder=True)

    @property
    def group(self) -> Path:
        return self._top / "agents"

    def cage(self, name: str) -> V2Cage:
        if name not in self._cages:
            self._cages[name] = V2Cage(self._top / "agents" / name, f"{self._identity}/{name}")
        return self._cages[name]

    def adopt(self, name: str, record: str | None) -> V2Cage | None:
        cage = self._of_record(record)
        if cage is None or (self._is_in_holder and cage.record != self.cage(name).record):
            return None  # outside the holder it is not below the fleet's limit, and systemd may end it
        self._cages[name] = cage
        return cage

    def _of_record(self, record: str | None) -> V2Cage | None:
        """An earlier supervisor may have been started in another group of the machine; the record has the path."""
        form, _, path = (record or "").partition("\t")
        # A journal is our own file, but nothing outside a folder of ours is ever killed on its word.
        if form != "v2" or Path(path).parent.parent.name != self._top.name:
            return None
        group = Path(path)
        own = self._top / "agents" / group.name
        return V2Cage(group, f"{self._identity}/{group.name}" if group == own else cgroup.identity_of(group, self._mount))

    def leftovers(self) -> tuple[str, ...]:
        return tuple(sorted(d.name for d in (self._top / "agents").glob("*/")))

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
        if cgroup.remove(self._top / "agents") and self._moved:
            _move_back(self._base, self._top)
        cgroup.remove(self._top)


def _open_place(base: Path, folder: str, *, is_root: bool) -> bool:
    """Make `base/folder/agents` able to limit memory; returns whether this process moved into a leaf for it.

    `is_root`: the group is not ours to empty, since it is the root, or a holder's.
    """
    available = _words(base / "cgroup.controllers")
    if "memory" not in available:
        raise HostFault(f"{base}: the memory controller is not handed to this group")
    top = base / folder
    cgroup.make(top)
    moved = False
    try:
        if "memory" not in _words(base / "cgroup.subtree_control"):
            if not is_root:
                moved = True
                cgroup.make(top / "daemon")
                cgroup.write(top / "daemon" / "cgroup.procs", "0")
            cgroup.write(base / "cgroup.subtree_control", "+memory")
        cgroup.write(top / "cgroup.subtree_control", "+memory")
        cgroup.make(top / "agents")
        cgroup.write(top / "agents" / "cgroup.subtree_control", "+memory")
        probe = top / "agents" / ".probe"
        cgroup.make(probe)
        try:
            cgroup.write(probe / "memory.max", str(64 << 20))
            _open_for_writing(probe / "cgroup.procs")
            _open_for_writing(base / "cgroup.procs")  # a child enters only where it may write the common ancestor's too
        finally:
            cgroup.remove(probe)
    except HostFault:
        if cgroup.remove(top / "agents") and moved:
            _move_back(base, top)
        cgroup.remove(top)
        raise
    return moved


def _move_back(base: Path, top: Path) -> None:
    """Undo what `_open_place` did to the group we were started in."""
    try:
        cgroup.write(top / "cgroup.subtree_control", "-memory")
        cgroup.write(base / "cgroup.subtree_control", "-memory")
        cgroup.write(base / "cgroup.procs", "0")
    except HostFault:
        return  # it stays in its leaf: nothing is lost but the order


def _open_for_writing(file: Path) -> None:
    try:
        with file.open("w"):
            pass
    except OSError as exc:
        raise HostFault(f"{file}: {exc.strerror}") from exc


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
