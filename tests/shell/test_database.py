"""When a write is durable, and what happens when it cannot be."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisord_ai.errors import SchemaTooNew, StoreFault
from supervisord_ai.store.database import Database, Durability
from supervisord_ai.store.disk import inline
from supervisord_ai.store.schema import JOURNAL, Schema
from supervisord_ai.store.writes import Change, Insert, Unmatched
from tests.fakes.disk import FakeDisk, HeldThread

NOTE = "INSERT INTO events(seq, at_wall, kind, detail)"


def note(seq: int, kind: str = "k", detail: str = "{}") -> Insert:
    return Insert(NOTE, (seq, 1.0, kind, detail))


def kinds(database: Database) -> list[str]:
    return [kind for (kind,) in database.read("SELECT kind FROM events ORDER BY seq")]


def kinds_in(path: Path) -> list[str]:
    conn = sqlite3.connect(path)
    try:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [kind for (kind,) in conn.execute("SELECT kind FROM events ORDER BY seq").fetchall()]
    finally:
        conn.close()


@asynccontextmanager
async def running(path: Path, **options: Any) -> AsyncIterator[Database]:
    options = {"durability": Durability.POWER, "run_sync": inline, "disk": FakeDisk(), **options}
    database = Database(path / "journal.db", JOURNAL, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        try:
            yield database
        finally:
            if isinstance(options["run_sync"], HeldThread):
                options["run_sync"].let_go()  # a test that fails must not hang on its own thread
        nursery.cancel_scope.cancel()


# --- groups -------------------------------------------------------------------------------------------------------------


async def test_everyone_of_one_turn_of_the_loop_shares_one_commit_and_one_sync(tmp_path: Path) -> None:
    disk = FakeDisk()
    async with running(tmp_path, disk=disk) as database:
        async with trio.open_nursery() as callers:
            for n in range(131):
                callers.start_soon(database.commit, note(n))
        seen = database.statistics()
        assert (seen.commits, seen.largest_batch, disk.syncs) == (1, 131, 1)
        assert len(kinds(database)) == 131


async def test_who_commits_during_a_sync_waits_for_the_next_one(tmp_path: Path) -> None:
    disk, held = FakeDisk(), HeldThread()
    told: list[str] = []

    async def commit(seq: int, name: str) -> None:
        await database.commit(note(seq, name))
        told.append(name)

    async with running(tmp_path, disk=disk, run_sync=held) as database, trio.open_nursery() as callers:
        callers.start_soon(commit, 1, "first")
        await held.begun()
        covered = disk.synced_bytes
        callers.start_soon(commit, 2, "second")
        callers.start_soon(commit, 3, "third")
        await wait_all_tasks_blocked()
        # Both are committed, the sync under way began before that: telling them now would be a lie.
        assert kinds(database) == ["first", "second", "third"]
        assert (disk.syncs, told) == (1, [])
        held.step()
        await held.begun(2)
        await wait_all_tasks_blocked()
        assert (disk.syncs, told) == (2, ["first"])
        assert disk.synced_bytes > covered
        held.step()
        await wait_all_tasks_blocked()
        assert sorted(told) == ["first", "second", "third"]
        assert disk.syncs == 2


async def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    disk, held = FakeDisk(), HeldThread()
    async with running(tmp_path, disk=disk, run_sync=held) as database, trio.open_nursery() as callers:
        callers.start_soon(database.commit, note(1, "acknowledged"))
        await held.begun()
        callers.start_soon(database.commit, note(2, "not yet"))
        await wait_all_tasks_blocked()
        assert kinds_in(disk.after_power_cut(database.path, tmp_path / "early")) == ["acknowledged"]
        held.let_go()
        await wait_all_tasks_blocked()
        assert kinds_in(disk.after_power_cut(database.path, tmp_path / "late")) == ["acknowledged", "not yet"]


async def test_durability_process_never_syncs(tmp_path: Path) -> None:
    disk = FakeDisk()
    async with running(tmp_path, disk=disk, durability=Durability.PROCESS) as database:
        await database.commit(note(1))
    assert disk.syncs == 0


async def test_what_nobody_waits_for_costs_no_sync(tmp_path: Path) -> None:
    disk = FakeDisk()
    async with running(tmp_path, disk=disk) as database:
        database.queue(note(1))
        await wait_all_tasks_blocked()
        assert kinds(database) == ["k"]
        assert disk.syncs == 0


async def test_inserts_of_one_batch_come_before_its_changes(tmp_path: Path) -> None:
    async with running(tmp_path) as database:
        database.queue(Change("UPDATE events SET kind = 'changed' WHERE seq = 1", ()))
        await database.commit(note(1, "inserted"))
        assert kinds(database) == ["changed"]


async def test_hundreds_of_rows_of_two_tables_become_few_statements(tmp_path: Path) -> None:
    async with running(tmp_path) as database:
        asked: list[str] = []
        database._writer.set_trace_callback(asked.append)
        bodies = [Insert("INSERT INTO bodies(seq, body)", (n, b"x")) for n in range(3)]
        await database.commit(*(note(n) for n in range(200)), *bodies)
        inserts = [sql for sql in asked if sql.startswith("INSERT")]
        assert len(inserts) == 3 + 1 + 3  # 64 + 64 + 64, 8; and three single ones
        assert len(kinds(database)) == 200


# --- leaving ------------------------------------------------------------------------------------------------------------


async def test_a_waiter_that_is_cancelled_leaves_its_write_to_be_written(tmp_path: Path) -> None:
    async with running(tmp_path) as database:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as callers:
                callers.start_soon(database.commit, note(1, "left"))
                callers.start_soon(database.commit, note(2, "left too"))
                scope.cancel()
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert kinds(database) == ["left", "left too"]


async def test_stopping_writes_and_syncs_what_is_left(tmp_path: Path) -> None:
    disk = FakeDisk()
    async with running(tmp_path, disk=disk) as database:
        database.queue(note(1, "queued at the end"))
    assert kinds_in(tmp_path / "journal.db") == ["queued at the end"]


async def test_stopping_in_the_middle_of_a_sync_tells_the_truth_to_all(tmp_path: Path) -> None:
    disk, held = FakeDisk(), HeldThread()
    told: list[int] = []

    async def commit(seq: int) -> None:
        with trio.CancelScope(shield=True):
            await database.commit(note(seq))
        told.append(seq)

    database = Database(tmp_path / "journal.db", JOURNAL, durability=Durability.POWER, run_sync=held, disk=disk)
    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
        await nursery.start(database.run)
        callers.start_soon(commit, 1)
        await held.begun()
        callers.start_soon(commit, 2)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        held.let_go()
    assert sorted(told) == [1, 2]
    assert disk.syncs == 2
    assert len(kinds_in(tmp_path / "journal.db")) == 2


async def test_a_closed_file_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as database:
        pass
    with pytest.raises(StoreFault, match="closed"):
        await database.commit(note(1))
    with pytest.raises(StoreFault, match="closed"):
        database.read("SELECT 1")


# --- faults -------------------------------------------------------------------------------------------------------------


async def test_a_failed_sync_is_told_and_nothing_is_believed_after_it(tmp_path: Path) -> None:
    disk, held = FakeDisk(), HeldThread()
    async with running(tmp_path, disk=disk, run_sync=held) as database:
        held.let_go()
        await database.commit(note(1))
        disk.breaks()
        with pytest.raises(StoreFault, match=r"journal\.db: cannot be synced \(Input/output error\)"):
            await database.commit(note(2))
        disk.fails_with = None
        with pytest.raises(StoreFault, match="cannot be synced"):
            await database.commit(note(3))
        database.queue(note(4))
        assert database.statistics().broken is not None


async def test_who_committed_while_a_sync_failed_is_told_as_well(tmp_path: Path) -> None:
    held = HeldThread()

    async def fails_late(fn: Any, *args: Any) -> Any:
        await held(lambda: None)
        return fn(*args)

    disk = FakeDisk()
    disk.breaks()
    failed: list[int] = []

    async def commit(seq: int) -> None:
        with pytest.raises(StoreFault):
            await database.commit(note(seq))
        failed.append(seq)

    async with running(tmp_path, disk=disk, run_sync=fails_late) as database:
        try:
            async with trio.open_nursery() as callers:
                callers.start_soon(commit, 1)
                await held.begun()
                callers.start_soon(commit, 2)
                await wait_all_tasks_blocked()
                held.let_go()
        finally:
            held.let_go()
    assert sorted(failed) == [1, 2]


async def test_a_full_disk_is_told_and_over_when_there_is_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as database:
        await database.commit(note(1, "before"))
        pages = database._writer.execute("PRAGMA page_count").fetchone()[0]
        database._writer.execute(f"PRAGMA max_page_count = {pages}")
        database.queue(note(2, "kept"))
        for seq in (3, 4):
            with pytest.raises(StoreFault, match="the disk is full; make room in"):
                await database.commit(note(seq, "refused", "x" * 50_000))
        assert kinds(database) == ["before"]
        assert len([r for r in caplog.records if "disk is full" in r.message]) == 1
        database._writer.execute("PRAGMA max_page_count = 1000000")
        await database.commit(note(5, "after"))
        assert kinds(database) == ["before", "kept", "after"]


async def test_one_bad_write_does_not_take_its_neighbours_down(tmp_path: Path) -> None:
    outcome: dict[int, str] = {}

    async def commit(seq: int, *more: Change) -> None:
        try:
            await database.commit(note(seq), *more)
        except (StoreFault, Unmatched) as exc:
            outcome[seq] = type(exc).__name__
        else:
            outcome[seq] = "written"

    async with running(tmp_path) as database:
        await database.commit(note(2))
        async with trio.open_nursery() as callers:
            callers.start_soon(commit, 1)
            callers.start_soon(commit, 2)  # there is one
            callers.start_soon(commit, 3, Change("DELETE FROM events WHERE seq = 99", (), "no 99"))
            callers.start_soon(commit, 4)
        assert outcome == {1: "written", 2: "StoreFault", 3: "Unmatched", 4: "written"}
        assert len(kinds(database)) == 3


async def test_a_lock_of_another_process_is_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as database:
        shell = sqlite3.connect(database.path, isolation_level=None, timeout=0)
        shell.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as callers:
            callers.start_soon(database.commit, note(1))
            await trio.sleep(4.0)
            assert kinds(database) == []
            shell.execute("ROLLBACK")
        assert kinds(database) == ["k"]
        shell.execute("BEGIN IMMEDIATE")
        began = trio.current_time()
        with pytest.raises(StoreFault, match="locked by another process"):
            await database.commit(note(2))
        assert 5.0 <= trio.current_time() - began < 5.1
        shell.close()


def test_a_file_of_a_newer_version_is_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Database(path, JOURNAL, durability=Durability.PROCESS).close()
    conn = sqlite3.connect(path)
    conn.execute("PRAGMA user_version = 99")
    conn.close()
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew, match=f"schema 99, this version knows up to {len(JOURNAL.migrations)}: use the newer"):
        Database(path, JOURNAL, durability=Durability.PROCESS)
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Database(path, JOURNAL, durability=Durability.PROCESS).close()

    def half(db: Any) -> None:
        db.execute("CREATE TABLE half(a)")
        db.execute("this is no SQL")

    newer = Schema(JOURNAL.page_size, (*JOURNAL.migrations, half))
    with pytest.raises(StoreFault, match="syntax error"):
        Database(path, newer, durability=Durability.PROCESS)
    again = Database(path, JOURNAL, durability=Durability.PROCESS)
    assert again.read("SELECT name FROM sqlite_master WHERE name = 'half'") == []
    again.close()


@pytest.mark.parametrize("damage", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "journal.db").write_bytes(damage)
    with pytest.raises(StoreFault, match=r"journal\.db: damaged .* move it and its -wal away to start empty"):
        Database(tmp_path / "journal.db", JOURNAL, durability=Durability.PROCESS)


def test_a_file_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreFault, match=r"nowhere/journal\.db: No such file or directory"):
        Database(tmp_path / "nowhere" / "journal.db", JOURNAL, durability=Durability.PROCESS)


def test_the_files_are_ours_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "journal.db", JOURNAL, durability=Durability.PROCESS)
    assert {(p.name, p.stat().st_mode & 0o777) for p in tmp_path.iterdir()} == {
        ("journal.db", 0o600),
        ("journal.db-wal", 0o600),
        ("journal.db-shm", 0o600),
    }
    database.close()


# --- checkpoints --------------------------------------------------------------------------------------------------------


async def test_the_log_does_not_grow_without_bound(tmp_path: Path) -> None:
    body = "x" * 400_000
    largest = 0
    async with running(tmp_path, durability=Durability.PROCESS) as database:
        for n in range(120):  # 48 MB; never a pause in which PASSIVE could reset the log
            database.queue(Change("REPLACE INTO events(seq, at_wall, kind, detail) VALUES (?, 1.0, 'k', ?)", (n % 4, body)))
            await database.commit(note(1000 + n))
            largest = max(largest, database.statistics().wal_bytes)
        assert database.statistics().checkpoints > 5
    assert largest < 25_000_000


async def test_a_log_left_by_one_who_was_killed_is_folded_back_by_the_next(tmp_path: Path) -> None:
    """Killed every second, none of them writes enough to fold anything: a thousand kills made a log of 60 MB."""
    killed = tmp_path / "killed"
    killed.mkdir()
    async with running(tmp_path, durability=Durability.PROCESS) as database:
        for n in range(10):
            await database.commit(note(n, detail="x" * 390_000))
        assert database.statistics().checkpoints == 0
        for name in ("journal.db", "journal.db-wal"):
            (killed / name).write_bytes((tmp_path / name).read_bytes())
    async with running(killed, durability=Durability.PROCESS) as database:
        await database.commit(note(100, detail="x" * 50_000))
        await wait_all_tasks_blocked()
        assert database.statistics().checkpoints == 1
        assert len(kinds(database)) == 11


async def test_a_big_write_is_made_in_a_thread_and_small_ones_on_the_loop(tmp_path: Path) -> None:
    calls: list[str] = []

    async def watch(fn: Any, *args: Any) -> Any:
        calls.append(fn.__name__)
        return await inline(fn, *args)

    async with running(tmp_path, durability=Durability.PROCESS, run_sync=watch) as database:
        await database.commit(note(1))
        assert calls == []
        await database.commit(note(2, detail="x" * 1_000_000))
        assert calls == ["_transact"]


async def test_stopping_waits_for_who_is_in_a_thread_with_the_file(tmp_path: Path) -> None:
    held = HeldThread()
    database = Database(tmp_path / "journal.db", JOURNAL, durability=Durability.PROCESS, run_sync=held)
    life = trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with life:
            await database.run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        nursery.start_soon(database.shrink)
        await held.begun()
        life.cancel()
        await wait_all_tasks_blocked()
        is_open = database.statistics().wal_bytes > 0
        held.let_go()
    assert is_open, "closed under the thread that worked with it"
    with pytest.raises(StoreFault, match="closed"):
        database.read("SELECT 1")


async def test_a_full_disk_does_not_fill_the_memory(tmp_path: Path) -> None:
    async with running(tmp_path) as database:
        await database.commit(note(0))
        pages = database._writer.execute("PRAGMA page_count").fetchone()[0]
        database._writer.execute(f"PRAGMA max_page_count = {pages}")
        for n in range(1, 200):
            database.queue(note(n, f"k{n}", "x" * 100_000))
            with pytest.raises(StoreFault, match="disk is full"):
                await database.commit(note(1000 + n, "refused", "x" * 100_000))
        assert sum(s.size_bytes for s in database._pending) <= 4_000_000
        database._writer.execute("PRAGMA max_page_count = 1000000")
        await database.commit(note(5000, "after"))
        assert kinds(database)[-2:] == ["k199", "after"]
        assert 30 < len(kinds(database)) < 50
