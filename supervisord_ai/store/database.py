"""One SQLite file: how a write becomes durable.

Writers submit and wait; one task commits everything that was submitted in the same turn of the loop as one transaction, on
the loop itself (a commit in WAL mode without a sync is a few memory copies: 11 us a row, where a thread hop alone costs 127
to 224 us and can starve behind a busy loop for seconds). What "durable" means is the owner's choice:

- `process`: committed. The kernel has it, so a `kill -9` loses nothing.
- `power`: committed, and then the log was synced (fdatasync, in a thread) before anyone is told. While one sync runs, the
  loop commits further batches; the sync that starts after their commits covers them all, a sync that was already under way
  covers none of them.

A batch that fails is rolled back as a whole and its waiters get the error; what nobody waited for is tried again with the
next batch. One bad write does not take its neighbours down: they are then tried one by one. After a failed sync nothing is
acknowledged any more, because Linux reports such an error once and may call the next sync of the lost pages a success.

Nothing in this process may open and close the database file or its -shm by another way than SQLite: closing any
descriptor of a file drops this process's POSIX locks on it. The -wal file carries no locks.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import trio

from supervisord_ai.errors import StoreFault
from supervisord_ai.store.checkpoints import Checkpoints
from supervisord_ai.store.disk import Disk, RealDisk, RunSync, in_thread, make_private, sync_folder
from supervisord_ai.store.faults import fault, is_damaged, is_locked, is_of_the_file
from supervisord_ai.store.schema import Schema, connect, migrate
from supervisord_ai.store.writes import Submission, Unmatched, Value, Write, apply

log = logging.getLogger(__name__)

_BATCH_BYTES = 8_000_000
_THREAD_ABOVE_BYTES = 500_000  # a bigger commit would hold the loop for more than a few ms
_LOCKED_FOR_S = 5.0
_LOCKED_RETRY_S = 0.02
_FAILING_RETRY_S = 5.0  # of what is kept while the file cannot be written, and nobody else writes
_KEPT_BYTES = 4_000_000

# Run inside the transaction before it is committed; returns what to do once it is.
Trim = Callable[[sqlite3.Connection], Callable[[], None]]


class Durability(StrEnum):
    """When a write counts as safe: handed to the kernel, or synced to the disk."""

    PROCESS = "process"
    POWER = "power"


@dataclass(frozen=True, slots=True)
class DatabaseView:
    """What one file has done since it was opened."""

    path: str
    commits: int
    rows: int
    largest_batch: int
    syncs: int
    checkpoints: int
    failures: int
    waiting: int
    wal_bytes: int
    broken: str | None


class Database:
    """One open file. Make it, read from it, and `run` it in a nursery; commits wait until it runs.

    Raises (when made):
        SchemaTooNew: a newer version wrote the file.
        StoreFault: it cannot be opened, or is damaged.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        durability: Durability,
        run_sync: RunSync = in_thread,
        disk: Disk | None = None,
        trim: Trim | None = None,
        on_broken: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self._durability = durability
        self._run_sync = run_sync
        self._disk = disk if disk is not None else RealDisk()
        self._trim = trim
        self._on_broken = on_broken
        self._pending: list[Submission] = []
        self._unsynced: list[Submission] = []
        self._wanted = trio.Event()
        self._sync_wanted = trio.Event()
        self._writing = trio.Lock()
        self._broken: str | None = None
        self._failing: str | None = None
        self._is_closed = False
        self._commits = self._rows = self._largest = self._syncs = self._failures = 0
        self._wal_fd = -1
        self._connections: list[sqlite3.Connection] = []
        try:
            make_private(path)
            self._writer = self._connect(schema)
            migrate(self._writer, path, schema)
            self._reader = self._connect(schema)
            # SQLite deletes and makes the log only with the last and first connection, so this stays the same file.
            self._wal_fd = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            sync_folder(path.parent)
            self._checkpoints = Checkpoints(self._connect(schema), self._wal_fd, self._writing, run_sync, self._disk)
        except sqlite3.Error as exc:
            self.close()
            raise fault(self.path, exc) from exc
        except OSError as exc:
            self.close()
            raise StoreFault(f"{path}: {exc.strerror}") from exc
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Database {self.path.name} {self._durability} commits={self._commits} waiting={len(self._pending)}>"

    # --- what the rooms call --------------------------------------------------------------------------------------------

    async def commit(self, *writes: Write) -> None:
        """Write all of them or none; returns when they are durable. If cancelled, they are still written.

        Raises:
            Unmatched: a change that must find its row did not.
            StoreFault: the file cannot be written; nothing was.
        """
        done = trio.Event()
        submission = self._submit(writes, done)
        await done.wait()
        if submission.error is not None:
            raise submission.error

    def queue(self, *writes: Write) -> None:
        """Write all of them with the next commit; nobody is told. A failure is logged and tried again later."""
        if self._is_closed or self._broken is not None:
            self._failures += 1  # said once, when it broke
            return
        self._submit(writes, None)

    def read(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query over what is committed. Keep it to microseconds: it runs on the loop.

        Raises:
            StoreFault: the file cannot be read.
        """
        if self._is_closed:
            raise StoreFault(f"{self.path}: closed")
        try:
            # All rows at once: a cursor left half read holds a read transaction, and the log can then never be reset.
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as exc:
            raise fault(self.path, exc) from exc

    async def shrink(self, pages: int = 1000) -> None:
        """Give up to that many free pages back to the file system, between two batches.

        Raises:
            StoreFault: the file cannot be written.
        """
        async with self._writing:
            try:
                await self._run_sync(self._vacuum, pages)
            except sqlite3.Error as exc:
                raise fault(self.path, exc) from exc

    def _vacuum(self, pages: int) -> None:
        # A script, because it takes a step a page and `execute` takes one. Not in a transaction: a script commits first.
        self._writer.executescript(f"PRAGMA incremental_vacuum({pages})")

    def statistics(self) -> DatabaseView:
        return DatabaseView(
            path=str(self.path),
            commits=self._commits,
            rows=self._rows,
            largest_batch=self._largest,
            syncs=self._syncs,
            checkpoints=self._checkpoints.made,
            failures=self._failures + self._checkpoints.failed,
            waiting=len(self._pending) + len(self._unsynced),
            wal_bytes=os.fstat(self._wal_fd).st_size if self._wal_fd >= 0 else 0,
            broken=self._broken,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit, sync and checkpoint until cancelled; then write what is left and close the file."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._commit_for_ever)
                nursery.start_soon(self._sync_for_ever)
                nursery.start_soon(self._checkpoints.run)
                task_status.started()
        finally:
            with trio.CancelScope(shield=True):
                async with self._writing:  # whoever is in a thread with the file comes to its end first
                    self._finish()
                    self.close()

    def close(self) -> None:
        """Let go of the file. Only for one that was never run: `run` closes its own."""
        self._is_closed = True
        for conn in self._connections:
            conn.close()
        self._connections = []
        if self._wal_fd >= 0:
            os.close(self._wal_fd)
            self._wal_fd = -1

    # --- committing -----------------------------------------------------------------------------------------------------

    def _submit(self, writes: tuple[Write, ...], done: trio.Event | None) -> Submission:
        if self._is_closed or self._broken is not None:
            raise StoreFault(self._broken or f"{self.path}: closed")
        submission = Submission(writes, done)
        self._pending.append(submission)
        self._wanted.set()
        return submission

    async def _commit_for_ever(self) -> None:
        while True:
            if self._failing is not None and self._pending:
                with trio.move_on_after(_FAILING_RETRY_S):
                    await self._wanted.wait()
            else:
                await self._wanted.wait()
            # Everyone who ran in the same turn of the loop has submitted by now: that is the group.
            batch = self._take()
            is_settled = False
            try:
                async with self._writing:
                    await self._commit_batch(batch)
                is_settled = True
            finally:
                if not is_settled:  # cancelled before it was written: `_finish` does it
                    self._pending[:0] = batch
            del batch  # a body of 40 MB would be held until the next one

    def _take(self) -> list[Submission]:
        size = count = 0
        for submission in self._pending:
            if count and size + submission.size_bytes > _BATCH_BYTES:
                break
            size += submission.size_bytes
            count += 1
        batch, self._pending = self._pending[:count], self._pending[count:]
        if not self._pending:
            self._wanted = trio.Event()
        return batch

    async def _commit_batch(self, batch: list[Submission]) -> None:
        give_up_at = trio.current_time() + _LOCKED_FOR_S
        is_big = sum(s.size_bytes for s in batch) > _THREAD_ABOVE_BYTES
        while True:
            try:
                after = await self._run_sync(self._transact, batch) if is_big else self._transact(batch)
            except (sqlite3.Error, Unmatched) as exc:
                # No busy_timeout: SQLite would sleep on the loop. A backup or a shell may hold the lock for a moment.
                if is_locked(exc) and trio.current_time() < give_up_at:
                    await trio.sleep(_LOCKED_RETRY_S)
                    continue
                self._not_committed(batch, exc)
            else:
                self._committed(batch, after)
            return

    def _transact(self, batch: list[Submission]) -> Callable[[], None] | None:
        """Write the batch in one transaction; on any error nothing of it is written."""
        conn = self._writer
        conn.execute("BEGIN IMMEDIATE")
        try:
            apply(conn, batch)
            after = self._trim(conn) if self._trim is not None else None
            conn.execute("COMMIT")
        except BaseException:
            if conn.in_transaction:  # a full disk may have rolled it back already
                conn.execute("ROLLBACK")
            raise
        return after

    def _committed(self, batch: list[Submission], after: Callable[[], None] | None) -> None:
        if self._failing is not None:
            log.info("%s: can be written again", self.path)
            self._failing = None
        self._commits += 1
        self._rows += sum(len(s.writes) for s in batch)
        self._largest = max(self._largest, len(batch))
        self._checkpoints.wrote(sum(s.size_bytes for s in batch))
        if after is not None:
            after()
        waiters = [s for s in batch if s.done is not None]
        if self._broken is not None:  # a sync failed while this was being committed: no later one can be believed
            self._tell(waiters, self._broken)
        elif self._durability is Durability.POWER and waiters:
            self._unsynced += waiters
            self._sync_wanted.set()
        else:
            _wake(waiters)

    def _not_committed(self, batch: list[Submission], exc: sqlite3.Error | Unmatched) -> None:
        if isinstance(exc, sqlite3.Error) and is_of_the_file(exc):
            self._fail(batch, exc)
        else:
            self._one_by_one(batch, exc)

    def _one_by_one(self, batch: list[Submission], cause: sqlite3.Error | Unmatched) -> None:
        """One of them is bad: each gets its own transaction, and only the bad one its error."""
        if len(batch) > 1:
            for submission in batch:
                try:
                    after = self._transact([submission])
                except (sqlite3.Error, Unmatched) as exc:
                    self._refuse(submission, exc)
                else:
                    self._committed([submission], after)
        else:
            self._refuse(batch[0], cause)

    def _refuse(self, submission: Submission, exc: sqlite3.Error | Unmatched) -> None:
        self._failures += 1
        if isinstance(exc, Unmatched):
            submission.error = exc
        else:
            submission.error = fault(self.path, exc)
            submission.error.__cause__ = exc
        if submission.done is None:
            log.error("%s: a write that nobody waits for failed: %s", self.path.name, submission.error)
        else:
            submission.done.set()

    def _fail(self, batch: list[Submission], exc: sqlite3.Error) -> None:
        """The file could not be written. Waiters are told; the rest is kept for the next batch."""
        words = str(fault(self.path, exc))
        if words != self._failing:  # once, not for every batch of a full disk
            log.error("%s", words)
            self._failing = words
        if is_damaged(exc):
            self._break(words)
        for submission in batch:
            if submission.done is not None:
                self._refuse(submission, exc)
        # They ask for no commit of their own, or they would spin on a full disk: they go with the next, or in a while.
        self._pending[:0] = self._kept([s for s in batch if s.done is None])

    def _kept(self, unawaited: list[Submission]) -> list[Submission]:
        """The newest of them, as many as may be held in memory while the file cannot be written."""
        size = count = 0
        for submission in reversed(unawaited):
            size += submission.size_bytes
            if size > _KEPT_BYTES:
                break
            count += 1
        if count < len(unawaited):
            self._failures += len(unawaited) - count
            log.warning("%s: %d writes that nobody waits for are lost", self.path.name, len(unawaited) - count)
        return unawaited[len(unawaited) - count :]

    # --- syncing --------------------------------------------------------------------------------------------------------

    async def _sync_for_ever(self) -> None:
        while True:
            await self._sync_wanted.wait()
            self._sync_wanted = trio.Event()
            covered, self._unsynced = self._unsynced, []
            is_settled = False
            try:
                # Started after the commits of all it covers; whoever commits from here on is covered by the next one.
                await self._run_sync(self._disk.sync, self._wal_fd)
                is_settled = True
            except OSError as exc:
                is_settled = True
                self._sync_failed(covered, exc)
                continue
            finally:
                if not is_settled:  # cancelled before it began
                    self._unsynced[:0] = covered
            self._syncs += 1
            _wake(covered)

    def _sync_failed(self, covered: list[Submission], exc: OSError) -> None:
        words = f"{self.path}: cannot be synced ({exc.strerror}); what came last may be lost: look at the disk, then restart"
        log.critical("%s", words)
        self._break(words)
        later, self._unsynced = self._unsynced, []
        self._tell(covered + later, words)

    def _break(self, words: str) -> None:
        """Nothing more is accepted, and who waits is told."""
        self._broken = words
        waiting, self._pending = self._pending, []
        self._wanted = trio.Event()
        self._tell(waiting, words)
        if self._on_broken is not None:
            self._on_broken(words)

    def _tell(self, submissions: list[Submission], words: str) -> None:
        self._failures += len(submissions)
        for submission in submissions:
            submission.error = StoreFault(words)
        _wake(submissions)

    # --- opening and closing --------------------------------------------------------------------------------------------

    def _connect(self, schema: Schema) -> sqlite3.Connection:
        conn = connect(self.path, schema)
        self._connections.append(conn)
        return conn

    def _finish(self) -> None:
        """Write and sync what is left, without waiting: the loop is going down."""
        batch, self._pending = self._pending, []
        if batch and self._broken is None:
            try:
                after = self._transact(batch)
            except (sqlite3.Error, Unmatched) as exc:
                self._not_committed(batch, exc)
            else:
                self._committed(batch, after)
        if self._pending:
            log.error("%s: %d writes that nobody waits for are lost", self.path.name, len(self._pending))
        waiters, self._unsynced = self._unsynced, []
        if waiters:
            try:
                self._disk.sync(self._wal_fd)
            except OSError as exc:
                self._sync_failed(waiters, exc)
            _wake(waiters)


def _wake(submissions: list[Submission]) -> None:
    for submission in submissions:
        if submission.done is not None:
            submission.done.set()
