"""A disk whose syncs can be held back, can fail, and which remembers what a power cut would leave."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from supervisord_ai.store.disk import Checkpointed, RealDisk

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class FakeDisk:
    """Counts syncs and notes how long the log was when each began: what was written later is not promised by it."""

    def __init__(self) -> None:
        self.syncs = 0
        self.synced_bytes = 0
        self.fails_with: int | None = None
        self._real = RealDisk()

    def sync(self, wal_fd: int) -> None:
        self.syncs += 1
        if self.fails_with is not None:
            raise OSError(self.fails_with, os.strerror(self.fails_with))
        self.synced_bytes = os.fstat(wal_fd).st_size

    def checkpoint(self, conn: sqlite3.Connection, *, truncate: bool) -> Checkpointed:
        return self._real.checkpoint(conn, truncate=truncate)

    def after_power_cut(self, journal: Path, folder: Path) -> Path:
        """Copy what the disk has for certain: the file, and the log up to what was last synced."""
        folder.mkdir()
        copy = folder / journal.name
        shutil.copy(journal, copy)
        log = Path(f"{journal}-wal").read_bytes()[: self.synced_bytes]
        Path(f"{copy}-wal").write_bytes(log)
        return copy

    def breaks(self) -> None:
        self.fails_with = errno.EIO


class HeldThread:
    """A RunSync whose calls come back when told: `await held.begun(2)`, then `held.step()` or, for all to come, `let_go()`."""

    def __init__(self) -> None:
        self._may_return = 0.0
        self._changed = trio.Event()
        self.calls = 0

    async def __call__(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        result = fn(*args)  # the work is done at its beginning; only the news of it is late
        self.calls += 1
        mine = self.calls
        self._wake()
        with trio.CancelScope(shield=True):  # as a thread: not abandoned
            await self._until(lambda: self._may_return >= mine)
        return result

    async def begun(self, calls: int = 1) -> None:
        """Return when that many calls have begun."""
        await self._until(lambda: self.calls >= calls)

    def step(self) -> None:
        """Let one more call come back."""
        self._may_return += 1
        self._wake()

    def let_go(self) -> None:
        """Let every call come back at once from now on."""
        self._may_return = float("inf")
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self._changed.wait()
