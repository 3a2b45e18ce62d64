"""The door to the disk: when a write is safe, and when the log is folded back into the file. Tests put a lying disk here."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """What a checkpoint did. `is_complete` means that the next commit starts the log from its beginning."""

    log_frames: int
    moved_frames: int

    @property
    def is_complete(self) -> bool:
        return self.log_frames == self.moved_frames


class Disk(Protocol):
    """Both calls may take tens of milliseconds, so they are made through a `RunSync`."""

    def sync(self, wal_fd: int) -> None:
        """Return when everything written to that file would survive a power cut. Raises OSError."""

    def checkpoint(self, conn: sqlite3.Connection, *, truncate: bool) -> Checkpointed:
        """Copy the log into the file; with `truncate` also wait for readers and cut the log to nothing."""


class RealDisk:
    """fdatasync and PRAGMA wal_checkpoint."""

    def sync(self, wal_fd: int) -> None:
        os.fdatasync(wal_fd)

    def checkpoint(self, conn: sqlite3.Connection, *, truncate: bool) -> Checkpointed:
        mode = "TRUNCATE" if truncate else "PASSIVE"
        _busy, log_frames, moved = conn.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()[0]
        return Checkpointed(log_frames, moved)


class RunSync(Protocol):
    """How a blocking call is made: in a thread, or at once where time is virtual and a thread would let the clock jump."""

    async def __call__(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return what `fn(*args)` returns; not abandoned when cancelled."""


# Own threads: the default limiter is shared with DNS and spawning, and an acknowledgement must not wait for those.
_threads = trio.CapacityLimiter(4)


async def in_thread(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run it in a worker thread."""
    return await trio.to_thread.run_sync(fn, *args, limiter=_threads)


async def inline(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run it on the loop, with one checkpoint so that others get their turn."""
    await trio.lowlevel.checkpoint()
    return fn(*args)


def make_private(path: Path) -> None:
    """Make the file ours alone before SQLite opens it; the -wal and -shm take its mode. One that exists is left as it is.

    Raises:
        OSError: the folder cannot be written, or the name is a dangling link.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return


def sync_folder(folder: Path) -> None:
    """Make the names of new files survive a power cut; syncing the files themselves does not."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
