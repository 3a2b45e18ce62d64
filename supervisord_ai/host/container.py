"""How much memory this process's own cgroups leave it, and everybody else in them: what a container has left.

A container sees the MemAvailable of the machine around it, and is killed at its own limit long before that. What is left is
the limit minus what is used, plus the pages of files that the kernel would give up first. Every group from ours up to the root
of the mount counts, since each may have a limit; the tightest decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from supervisord_ai.host.cgroup import Mount, parse_mounts
from supervisord_ai.host.procfs import read_raw

_UNLIMITED = 1 << 60  # v1 says "no limit" as the largest multiple of a page


@dataclass(frozen=True, slots=True)
class Room:
    """The tightest limit above us, and how much of it can still be had."""

    limit_bytes: int
    left_bytes: int


class OwnGroups:
    """The groups that bind this process. `folders` go from the root of the mount inward; where they are is fixed at the start."""

    def __init__(self, folders: Iterable[Path], *, is_v2: bool) -> None:
        self._is_v2 = is_v2
        self._folders = tuple(folders)

    def __repr__(self) -> str:
        return f"<own groups {', '.join(map(str, self._folders)) or 'none'}>"

    def room(self) -> Room | None:
        """Return what is left, None where no group has a limit."""
        rooms = [room for folder in self._folders if (room := self._room_of(folder)) is not None]
        return min(rooms, key=lambda room: room.left_bytes, default=None)

    def _room_of(self, folder: Path) -> Room | None:
        limit_file, used_file, inactive = (
            ("memory.max", "memory.current", b"inactive_file")
            if self._is_v2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file")
        )
        limit, used = _number(read_raw(f"{folder}/{limit_file}", 64)), _number(read_raw(f"{folder}/{used_file}", 64))
        if limit is None or used is None or limit >= _UNLIMITED:
            return None
        stat = read_raw(f"{folder}/memory.stat", 1 << 14) or b""
        given_up = next((_number(line.split()[1]) for line in stat.splitlines() if line.split()[:1] == [inactive]), 0)
        return Room(limit, max(0, limit - used + (given_up or 0)))


def own_groups() -> OwnGroups:
    """Find the groups of this process by reading where it is."""
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    v1 = next((mount for mount in mounts if "memory" in mount.controllers), None)
    v2 = next((mount for mount in mounts if mount.is_v2), None)
    mount = v1 or v2
    return OwnGroups(_folders(mount) if mount is not None else (), is_v2=v1 is None)


def _folders(mount: Mount) -> list[Path]:
    own = mount.own_dir
    inward = [own, *own.parents]
    return [folder for folder in reversed(inward) if folder == mount.point or mount.point in folder.parents]


def _number(text: bytes | None) -> int | None:
    return int(text) if text is not None and text.strip().isdigit() else None
