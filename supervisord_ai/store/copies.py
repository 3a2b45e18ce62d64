"""Whole copies of a file that a daemon may be writing, and whether this version can read one.

Only SQLite itself may read the file of a running daemon: its backup gives what was committed at one moment. A journal is also
copied before a newer version changes its tables, because an older one cannot read it afterwards.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from supervisord_ai.errors import StoreFault
from supervisord_ai.store.disk import make_private
from supervisord_ai.store.faults import fault
from supervisord_ai.store.schema import JOURNAL, before_migration, connect, migrate

JOURNAL_FILE = "journal.db"


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, readable by us alone. Does nothing where there is none yet.

    Raises:
        StoreFault: it cannot be read, or the copy not be written.
    """
    if not source.exists():
        return
    try:
        target.unlink(missing_ok=True)
        make_private(target)
        with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(target)) as writer:
            reader.backup(writer)
    except sqlite3.Error as exc:
        raise fault(source, exc) from exc
    except OSError as exc:
        raise StoreFault(f"{target}: {exc.strerror}") from exc


def check(path: Path) -> None:
    """Bring a copy of a journal to this version's tables and read all of it. Does nothing where there is none.

    Raises:
        SchemaTooNew: a newer version wrote it.
        StoreFault: it is damaged, or cannot be changed.
    """
    if not path.exists():
        return
    try:
        with closing(connect(path, JOURNAL)) as conn:
            migrate(conn, path, JOURNAL)
            (found,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as exc:
        raise fault(path, exc) from exc
    if found != "ok":
        raise StoreFault(f"{path}: damaged ({found})")


def schema_of(path: Path) -> int:
    """Return the version of the tables of a copy.

    Raises:
        StoreFault: it cannot be read.
    """
    try:
        with closing(sqlite3.connect(path)) as conn:
            return int(conn.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as exc:
        raise fault(path, exc) from exc


def settle(path: Path, now_wall: float) -> None:
    """Make a journal that was restored one that begins anew: checked, of this version's tables, and with nobody running.

    Its agents' processes are those of another supervisor, which may be alive beside this one: they must not be taken over,
    and least of all ended as strays.

    Raises:
        SchemaTooNew: a newer version wrote it.
        StoreFault: it is damaged, or cannot be changed.
    """
    check(path)
    try:
        with closing(connect(path, JOURNAL)) as conn:
            conn.execute(
                "UPDATE agents SET verdict = 'lost-while-down', detail = 'restored from a backup', ended_wall = ? "
                "WHERE ended_wall IS NULL",
                (now_wall,),
            )
            conn.execute("UPDATE agents SET pid = NULL, start_ticks = NULL, boot_id = NULL, cgroup = NULL, run_tag = NULL")
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            conn.execute("PRAGMA journal_mode = DELETE")  # one file that can be moved
    except sqlite3.Error as exc:
        raise fault(path, exc) from exc
    for copied in before_migration(path):
        copied.unlink()


def before_last_migration(path: Path) -> Path | None:
    """Return the copy that was made before a newer version last changed the journal's tables; None where there is none."""
    return max(before_migration(path), key=lambda found: found.stat().st_mtime, default=None)


def put_back(path: Path) -> Path:
    """Put the copy of before the last migration in the journal's place; nobody may have the journal open. The copy stays.

    Returns where the migrated one is now, for `undo_put_back`.

    Raises:
        StoreFault: there is no copy, or it cannot be copied.
    """
    copied = before_last_migration(path)
    if copied is None:
        raise StoreFault(f"{path}: there is no copy of it from before its tables were changed")
    fresh, aside = path.with_name(f"{path.name}.fresh"), _aside(path)
    copy(copied, fresh)  # whole, before anything is moved
    _move(path, aside)
    _move(fresh, path)
    return aside


def undo_put_back(path: Path) -> None:
    """Have the migrated journal in its place again; nobody may have the journal open. What was written since is lost.

    Raises:
        StoreFault: it cannot be moved.
    """
    _move(_aside(path), path)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.migrated")


def _move(source: Path, target: Path) -> None:
    """Move a database over another, with what SQLite has beside it."""
    try:
        for suffix in ("-wal", "-shm", ""):  # the file last: without it the others are nothing
            file = Path(f"{source}{suffix}")
            if file.exists():
                file.replace(f"{target}{suffix}")
            elif suffix:
                Path(f"{target}{suffix}").unlink(missing_ok=True)
    except OSError as exc:
        raise StoreFault(f"{target}: {exc.strerror}") from exc
