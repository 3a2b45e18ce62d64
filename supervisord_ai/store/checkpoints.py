"""Folds the log of one file back into it, from a connection of its own, while others write.

Automatic checkpoints are off: they would sync inside somebody's commit. PASSIVE, when the log has grown, disturbs nobody; but
under a writer that never pauses it never gets the log to begin anew, so above 16 MB a TRUNCATE follows between two batches
(at most 28 ms, most of the work having been done).
"""

from __future__ import annotations

import logging
import os
import sqlite3

import trio

from supervisord_ai.store.disk import Disk, RunSync

log = logging.getLogger(__name__)

_EVERY_BYTES = 4_000_000
_TRUNCATE_ABOVE_BYTES = 16_000_000


class Checkpoints:
    """Told of every commit; works when enough has come together. `writing` is held by whoever commits."""

    def __init__(self, conn: sqlite3.Connection, wal_fd: int, writing: trio.Lock, run_sync: RunSync, disk: Disk) -> None:
        self._conn = conn
        self._wal_fd = wal_fd
        self._writing = writing
        self._run_sync = run_sync
        self._disk = disk
        self._wanted = trio.Event()
        # What earlier processes left in the log counts: one that is killed again and again never writes enough by itself.
        self._since_bytes = 0
        self.wrote(os.fstat(wal_fd).st_size)
        self.made = 0
        self.failed = 0

    def wrote(self, size_bytes: int) -> None:
        """Note a commit."""
        self._since_bytes += size_bytes
        if self._since_bytes > _EVERY_BYTES:
            self._since_bytes = 0
            self._wanted.set()

    async def run(self) -> None:
        """Checkpoint whenever it is time, until cancelled. One that fails is tried again with the next."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            try:
                await self._run_sync(self._fold, False)
                if os.fstat(self._wal_fd).st_size > _TRUNCATE_ABOVE_BYTES:
                    async with self._writing:
                        await self._run_sync(self._fold, True)
            except sqlite3.Error as exc:
                self.failed += 1
                log.warning("the log was not folded back into its file: %s", exc)
            else:
                self.made += 1

    def _fold(self, truncate: bool) -> None:
        self._disk.checkpoint(self._conn, truncate=truncate)
