"""The door to cages: one interface, three forms (cgroup v2, cgroup v1, none), found by trying and never assumed.

Every agent has a group of its own, below `ai-supervisor-<hash of the state folder>/agents/`, itself below the group of the
holder unit (AI_SUPERVISOR_HOLDER), which systemd never restarts, or else below the group this process was started in. The hash
finds those who outlived a supervisor that was killed, and keeps two supervisors apart. The group is made and limited before the
agent is started, and the agent enters it before its first instruction. It is used again by the next generation: a group removed
and made anew in a crash loop leaves dying ones behind in the kernel.

Which hierarchy, and where, is read from /proc/self/cgroup and /proc/self/mountinfo (proc(5), cgroups(7)); whether it works is
found by making a group, limiting it and removing it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import trio

from supervisord_ai.errors import HostFault
from supervisord_ai.host.pinned import signal_pinned


class Guarantee(StrEnum):
    """How far a memory cap can be relied on."""

    HARD = "hard"  # cgroup v2
    HARD_V1 = "hard-v1"  # cgroup v1
    SOFT_RLIMIT = "soft-rlimit"  # a limit on each process, and a look at all of them once a second


@dataclass(frozen=True, slots=True)
class Counters:
    """What the kernel counted for one cage; they outlive a run, so two readings are compared.

    `oom_kills` counts victims of any OOM killer. `own_limit_hits` counts how often this cage's own limit was the reason,
    None where the kernel does not say (v1). `peak_bytes` is since `prepare`; None where nobody counts.
    """

    oom_kills: int = 0
    own_limit_hits: int | None = None
    memory_bytes: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """What was counted around a cage: how often a limit above it, of the fleet, was the reason, and what systemd-oomd took.

    None where nobody counts. Read at the start and at the end of a generation only.
    """

    fleet_limit_hits: int | None = None
    oomd_kills: int | None = None


class Cage(Protocol):
    """Where one agent is kept. `prepare`, spawn, `started`, ... `end`, and again."""

    @property
    def join_files(self) -> tuple[str, ...]:
        """Files in which the child writes "0" to enter."""

    @property
    def rlimits(self) -> tuple[tuple[str, int], ...]:
        """Limits it takes on itself, see Launch."""

    @property
    def identity(self) -> str | None:
        """Its path as /proc/PID/cgroup shows it; None without cgroups."""

    @property
    def record(self) -> str | None:
        """What the journal keeps, for `Cages.recorded` of a later supervisor."""

    def prepare(self, cap_bytes: int | None, run_tag: str) -> None:
        """Make it, with its limit (None: without one), ready for the generation that carries `run_tag`.

        Raises:
            HostFault: it cannot be made.
        """

    def limit(self, cap_bytes: int | None) -> None:
        """Have another limit from now on, or none, while somebody is in it.

        Raises:
            HostFault: it cannot be set, or more than that is used: the kernel would kill at once.
        """

    def started(self, pid: int) -> None:
        """The generation's main process is this one."""

    def oom_kills(self) -> int:
        """Read the one counter that is looked at every second."""

    async def needed_bytes(self) -> int | None:
        """Read how much of its memory a limit could not take back: without the pages of files. None where nobody counts."""

    def counters(self) -> Counters:
        """Read what the kernel counted. Only memory and peak may be missing."""

    def outside(self) -> Outside:
        """Read what was counted around it."""

    async def members(self) -> tuple[int, ...]:
        """Return the pids in it; ended ones that were not reaped do not count."""

    async def signal(self, signum: int) -> None:
        """Send a signal to everyone in it."""

    async def kill(self, *, within_s: float) -> tuple[int, ...]:
        """Kill everyone in it, forks included; returns when it is empty, or the pids left after `within_s`."""

    def remove(self) -> None:
        """Give it back. Does nothing when somebody is still in it."""


class Cages(Protocol):
    """The cages of one supervisor."""

    @property
    def guarantee(self) -> Guarantee: ...

    @property
    def detail(self) -> str:
        """One line: why it is this form."""

    @property
    def group(self) -> Path | None:
        """The folder of the group that holds every cage; None where there are no groups."""

    def cage(self, name: str) -> Cage:
        """Return the cage of an agent; always the same one. Names are letters, digits and `._-`."""

    @property
    def why_not_outlived(self) -> str:
        """One line: why nobody in these cages outlives this process; empty where they do."""

    def adopt(self, name: str, record: str | None) -> Cage | None:
        """Return the cage in which an earlier supervisor started this agent, now the agent's cage of ours; None: not possible."""

    def leftovers(self) -> tuple[str, ...]:
        """Return the names whose cages an earlier supervisor left behind."""

    def recorded(self, name: str, record: str | None, run_tag: str | None) -> tuple[Cage, ...]:
        """Return where an agent of an earlier supervisor may still be, as the journal tells: its group, and its tag."""

    def kills_seen(self) -> int | None:
        """Return a counter that stands still as long as no `Cage.oom_kills` can have risen; None where nobody keeps one."""

    async def usage(self) -> dict[str, int]:
        """Return the memory of every prepared cage that has somebody in it, in bytes."""

    def close(self) -> None:
        """Give everything back that is empty."""


# --- what the forms share ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted hierarchy: its controllers ("" for v2), its folder, and our own path in it as /proc/self/cgroup says."""

    is_v2: bool
    controllers: frozenset[str]
    point: Path
    root: str
    own: str

    @property
    def own_dir(self) -> Path:
        """The folder of the group we are in. In a container the mount may show only a part of the hierarchy (`root`)."""
        inside = self.own.removeprefix(self.root) if self.root != "/" else self.own
        found = self.point / inside.lstrip("/")
        return found if found.is_dir() else self.point


def parse_mounts(mountinfo: str, own_cgroup: str) -> list[Mount]:
    """Return the cgroup hierarchies mounted here, from /proc/self/mountinfo and /proc/self/cgroup."""
    own: dict[str, str] = {}
    for line in own_cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    mounts = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        fields = left.split(" ")
        root, point = (_unescape(f) for f in fields[3:5])
        if kind == "cgroup2":
            mounts.append(Mount(True, frozenset(), Path(point), root, own.get("", "/")))
        elif kind == "cgroup":
            for controllers, path in own.items():
                names = frozenset(controllers.split(","))
                if controllers and names <= frozenset(options.split(" ")[-1].split(",")):
                    mounts.append(Mount(False, names, Path(point), root, path))
    return mounts


def is_of_a_service(mounts: Iterable[Mount]) -> bool:
    """Say whether systemd started this process as a service: when that ends, systemd ends everyone in its group."""
    systemds = (mount for mount in mounts if mount.is_v2 or "name=systemd" in mount.controllers)
    return any(mount.own.rstrip("/").endswith(".service") for mount in systemds)


def identity_of(path: Path, mount: Mount) -> str | None:
    """Return a group's path as /proc/PID/cgroup shows it; None when it is not of that hierarchy."""
    if not path.is_relative_to(mount.point):
        return None
    return f"/{Path(mount.root.lstrip('/')) / path.relative_to(mount.point)}"


def _unescape(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def write(path: Path, text: str) -> None:
    """Write a control file.

    Raises:
        HostFault: with the file and the errno's words.
    """
    try:
        path.write_text(text)
    except OSError as exc:
        raise HostFault(f"{path} <- {text.strip()}: {exc.strerror}") from exc


def make(path: Path) -> None:
    """Make a group and those above it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise HostFault(f"{path}: {exc.strerror}") from exc


def put_into(join_files: Iterable[str], pid: int) -> None:
    """Move a process into a cage, whole. What it holds already stays charged where it was.

    Raises:
        HostFault: it may not be moved: by cgroup v2 a user moves processes only below a group that is theirs.
    """
    for file in join_files:
        try:
            Path(file).write_text(str(pid))
        except OSError as exc:
            raise HostFault(f"process {pid} cannot be moved into {Path(file).parent}: {exc.strerror}") from exc


def remove(path: Path) -> bool:
    """Remove a group and those below it; False when somebody is in one of them."""
    try:
        for folder, _, _ in os.walk(path, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True


def procs(path: Path) -> list[int]:
    """Return the pids in a group and in those below it; none when there is no group."""
    found: list[int] = []
    for folder, _, _ in os.walk(path):
        try:
            found += [int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()]
        except OSError:
            continue
    return found


class KeptFile:
    """A counter that is read every second, through a descriptor that stays open: a read costs less than half of both
    (bench/groups.py).

    A group that was removed and made again under its name has another file; the old descriptor then says so (ENODEV).
    """

    def __init__(self, path: Path, most_bytes: int = 4096) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._fd = -1

    def __repr__(self) -> str:
        return f"<kept {self._path}>"

    def read(self) -> bytes:
        """Return what it says now; empty when it is not there."""
        for _ in range(2):
            try:
                if self._fd < 0:
                    self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                return os.pread(self._fd, self._most_bytes, 0)
            except OSError:
                if self._fd < 0:
                    break
                self.close()
        return b""

    def number(self) -> int | None:
        """Return its one number; None when it is not there, or not a number."""
        text = self.read()
        return int(text) if text.strip().isdigit() else None

    def find(self, key: str) -> int | None:
        """Return the value of one of its `name value` lines; None when there is none."""
        return _value(self.read(), key)

    def value(self, key: str) -> int:
        """Return the value of one of its `name value` lines; 0 when there is none."""
        return self.find(key) or 0

    def sum(self, keys: Iterable[str]) -> int:
        """Return the sum of some of its `name value` lines, of one reading."""
        text = self.read()
        return sum(_value(text, key) or 0 for key in keys)

    def close(self) -> None:
        """Let the descriptor go; the next read opens the file again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _value(text: bytes, key: str) -> int | None:
    """Return what a line `key value` says. Searched and not split: these files have fifty lines, and one is asked for."""
    _, found, after = (b"\n" + text).partition(b"\n" + key.encode() + b" ")
    return int(after.partition(b"\n")[0]) if found else None


def machine_kills() -> KeptFile:
    """Return the file whose `oom_kill` (4.13) counts whom the kernel killed for memory, of a group or of the whole machine.

    One reading tells that none of 131 groups need be read. A container sees the count of the machine around it: it rises more
    often than needed, which only costs a look.
    """
    return KeptFile(Path("/proc/vmstat"), 1 << 16)


def without_files(used_bytes: int | None, stat: KeptFile, keys: Iterable[str]) -> int | None:
    """Return memory without the pages of files on disk, which `keys` of its memory.stat count: a limit takes those back first."""
    return None if used_bytes is None else max(0, used_bytes - stat.sum(keys))


def keyed(path: Path) -> dict[str, int]:
    """Read a file of `name value` lines, such as memory.events; empty when it is not there."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {name: int(value) for name, value in (line.split() for line in lines)}


def oomd_kills(groups: Iterable[Path]) -> int | None:
    """Return how often systemd-oomd killed one of these groups, as it writes on them; None where nothing can be read.

    `user.oomd_ooms` counts attempts and `user.oomd_kill` processes (systemd 248); a group that it never chose has neither.
    """
    found = None
    for group in groups:
        try:
            names = os.listxattr(group)
            values = [os.getxattr(group, name) for name in ("user.oomd_ooms", "user.oomd_kill") if name in names]
        except OSError:
            continue
        found = (found or 0) + sum(int(value) for value in values if value.isdigit())
    return found


def word(path: Path) -> str:
    """Read a file of one word; empty when it is not there."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """Read a file of one number; None when it is not there or not a number (`max`)."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def signal_group(members: Callable[[], Iterable[int]], signum: int) -> None:
    """Signal everyone in a group: pinned first, then looked up again, so that no number is hit that has a new owner."""
    signal_pinned(members(), lambda: frozenset(members()), signum)


async def until_empty(members: Callable[[], list[int]], *, deadline: float) -> tuple[int, ...]:
    """Return when nobody is left, or who is at the deadline. The kernel ends a killed process in its own time."""
    pause_s = 0.002
    while left := members():
        if trio.current_time() >= deadline:
            return tuple(left)
        await trio.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.1)
    return ()


def folder_name(state_dir: Path) -> str:
    """Return the name of the group that belongs to this state folder."""
    return "ai-supervisor-" + hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]
