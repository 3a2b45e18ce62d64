"""cgroup v2 as a folder of plain files: what a group has when it is made, and what the kernel refuses (cgroups(7)).

It stands behind the three calls by which the door reaches a hierarchy: making a folder, removing one, opening a file. Which
refusals it knows, and how they are worded, is compared with the kernel's in tests/contract/test_cages_v2.py.
"""

from __future__ import annotations

import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from supervisord_ai.host import procfs
from supervisord_ai.host.cgroup import Mount

EVENTS = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n"
STAT = "anon 0\nfile 0\nkernel 0\nshmem 0\ninactive_anon 0\nactive_anon 0\ninactive_file 0\nactive_file 0\nunevictable 0\n"
# What a group has of its own, and of the memory controller, with the kernel that brought it.
CORE = {
    "cgroup.controllers": ("\n", (4, 5)),
    "cgroup.events": ("populated 0\nfrozen 0\n", (4, 5)),
    "cgroup.procs": ("", (4, 5)),
    "cgroup.subtree_control": ("\n", (4, 5)),
    "cgroup.freeze": ("0\n", (5, 2)),
    "cgroup.kill": ("", (5, 14)),
}
MEMORY = {
    "memory.current": ("0\n", (4, 5)),
    "memory.events": (EVENTS, (4, 5)),
    "memory.max": ("max\n", (4, 5)),
    "memory.stat": (STAT, (4, 5)),
    "memory.swap.max": ("max\n", (4, 5)),
    "memory.oom.group": ("0\n", (4, 19)),
    "memory.events.local": (EVENTS, (5, 2)),
    "memory.peak": ("0\n", (5, 19)),
}


class _Control(io.StringIO):
    """A control file that was opened for writing: the kernel answers what is written, and opening it changes nothing."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._written = write

    def write(self, text: str) -> int:
        self._written(text)
        return len(text)


class Unified:
    """A hierarchy at `point`. `deeds` is what was written into it, in order.

    `refused` are the last parts of paths that are not ours to write; `in_the_kernel` are processes that do not end although
    they were killed, since they wait for something there.
    """

    def __init__(
        self, point: Path, monkeypatch: pytest.MonkeyPatch, *, kernel: tuple[int, int] = (6, 8), has_swap: bool = True
    ) -> None:
        self.point = point
        self.deeds: list[str] = []
        self.refused: set[str] = set()
        self.in_the_kernel: set[int] = set()
        self._kernel = kernel
        self._has_swap = has_swap
        self._members: dict[Path, list[int]] = {point: []}
        self._handed: dict[Path, set[str]] = {point: set()}
        self._really_open = Path.open
        self._really_mkdir = os.mkdir
        self._really_rmdir = os.rmdir
        point.mkdir()
        for name in ("cgroup.controllers", "cgroup.procs", "cgroup.subtree_control"):
            self.tell(point / name, CORE[name][0])
        self.tell(point / "cgroup.controllers", "cpu memory pids\n")

        def opened(path: Path, mode: str = "r", *args: Any, **named: Any) -> IO[Any]:
            return self._open(path, mode, *args, **named)

        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(os, "mkdir", self._mkdir)
        monkeypatch.setattr(os, "rmdir", self._rmdir)

    def mount(self, own: str) -> Mount:
        """Return the mount as a process in the group `own` sees it."""
        return Mount(True, frozenset(), self.point, "/", own)

    def delegated(self, own: str, *members: int) -> Path:
        """Make a group to which memory is handed down, with these processes in it."""
        group = self.point
        for part in own.strip("/").split("/"):
            self._hand(group, {"memory"})
            group /= part
            group.mkdir(exist_ok=True)
        for pid in members:
            self._put(group, pid)
        return group

    def tell(self, file: Path, text: str) -> None:
        """Have a file say something."""
        with self._really_open(file, "w") as opened:
            opened.write(text)

    def members(self, group: Path) -> list[int]:
        """Return who is in a group and has not ended."""
        self._members[group] = [pid for pid in self._members[group] if pid in self.in_the_kernel or _is_alive(pid)]
        return self._members[group]

    def groups(self) -> list[str]:
        """Return the paths of all groups but the root."""
        return sorted(str(group.relative_to(self.point)) for group in self._members if group != self.point)

    # --- what the door calls ---

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._really_mkdir(path, mode, dir_fd=dir_fd)
        group = Path(path)
        if dir_fd is None and group.parent in self._members:
            self._members[group], self._handed[group] = [], set()
            self._fill(group, CORE)
            self._offer(group)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        group = Path(path)
        if dir_fd is not None or group not in self._members:
            self._really_rmdir(path, dir_fd=dir_fd)
            return
        if self.members(group) or any(other.parent == group for other in self._members):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(group))
        del self._members[group], self._handed[group]
        for name in os.listdir(group):
            (group / name).unlink()
        self._really_rmdir(group)

    def _open(self, file: Path, mode: str, *args: Any, **named: Any) -> IO[Any]:
        group = file.parent
        if group not in self._members:
            return self._really_open(file, mode, *args, **named)
        if mode == "w":
            if any(str(file).endswith(f"/{name}") for name in self.refused) or not file.exists():
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return _Control(lambda text: self._write(group, file.name, text))
        if file.name == "cgroup.procs" and file.exists():
            self.tell(file, "".join(f"{pid}\n" for pid in self.members(group)))
        return self._really_open(file, mode, *args, **named)

    def _write(self, group: Path, name: str, text: str) -> None:
        match name:
            case "cgroup.procs":
                self._put(group, int(text) or os.getpid())
            case "cgroup.subtree_control":
                self._hand_words(group, text.split())
            case "cgroup.kill":
                for other in self._members:
                    for pid in self.members(other) if other.is_relative_to(group) else ():
                        assert pid != os.getpid()
                        assert pid != 1
                        os.kill(pid, signal.SIGKILL)
            case "memory.max" | "memory.swap.max" if text != "max" and not text.isdigit():
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            case _:
                self.tell(group / name, f"{text}\n")
        self.deeds.append(f"{group.relative_to(self.point) / name} <- {text}")

    # --- the kernel's rules ---

    def _put(self, group: Path, pid: int) -> None:
        if self._handed[group] and group != self.point:  # no processes beside groups that are controlled
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if procfs.stat(pid) is None:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        for members in self._members.values():
            if pid in members:
                members.remove(pid)
        self._members[group].append(pid)

    def _hand_words(self, group: Path, words: list[str]) -> None:
        for word in words:
            sign, controller = word[0], word[1:]
            below = [other for other in self._members if other.parent == group]
            if sign == "+":
                if controller not in (group / "cgroup.controllers").read_text().split():
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                if group != self.point and self.members(group):
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
                self._hand(group, {controller})
            else:
                if any(controller in self._handed[other] for other in below):
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
                self._handed[group].discard(controller)
                self._offer_below(group)

    def _hand(self, group: Path, controllers: set[str]) -> None:
        self._handed[group] |= controllers
        self._offer_below(group)

    def _offer_below(self, group: Path) -> None:
        self.tell(group / "cgroup.subtree_control", " ".join(sorted(self._handed[group])) + "\n")
        for other in self._members:
            if other.parent == group:
                self._offer(other)

    def _offer(self, group: Path) -> None:
        """A group has the files of a controller while the one above it hands that down."""
        given = self._handed[group.parent]
        self.tell(group / "cgroup.controllers", " ".join(sorted(given)) + "\n")
        if "memory" in given:
            self._fill(group, {name: made for name, made in MEMORY.items() if self._has_swap or "swap" not in name})
        else:
            for name in MEMORY:
                (group / name).unlink(missing_ok=True)

    def _fill(self, group: Path, files: dict[str, tuple[str, tuple[int, int]]]) -> None:
        for name, (text, since) in files.items():
            if self._kernel >= since and not (group / name).exists():
                self.tell(group / name, text)


def _is_alive(pid: int) -> bool:
    seen = procfs.stat(pid)
    return seen is not None and seen.state != "Z"
