"""The tables, how a file is opened, and how a file of an older version becomes one of this version.

A file's version is its `PRAGMA user_version`: the number of migrations it has seen. They run in one transaction, so a crash
in the middle leaves the old version. A file of a newer version is refused and left untouched, so a journal is copied before
it is changed: whoever goes back to the older version needs that copy. A migration that has been released is never edited; the
next change is a new one at the end.
"""

from __future__ import annotations

import importlib
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from supervisord_ai.errors import SchemaTooNew
from supervisord_ai.store.disk import make_private

if TYPE_CHECKING:
    import sqlite_utils

Migration = Callable[["sqlite_utils.Database"], None]


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file is made of. `page_size` counts only when the file is made; `is_kept`: a copy is made before it is migrated."""

    page_size: int
    migrations: tuple[Migration, ...]
    is_kept: bool = False


def connect(path: Path, schema: Schema) -> sqlite3.Connection:
    """Open the file in the one way all our connections do: WAL, no implicit transactions, no waiting, no automatic checkpoint.

    Raises:
        sqlite3.Error: it is damaged, locked, or not ours.
    """
    # check_same_thread: one task uses a connection at a time, on the loop or in the thread it waits for.
    conn = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        if conn.execute("PRAGMA page_count").fetchone() == (0,):  # later they have no effect, but would touch the file
            conn.execute(f"PRAGMA page_size = {schema.page_size}")
            conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = NORMAL")
        conn.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        conn.close()
        raise
    return conn


def migrate(conn: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Bring the file to this version's schema.

    Raises:
        SchemaTooNew: a newer version wrote it.
    """
    found = int(conn.execute("PRAGMA user_version").fetchone()[0])
    known = len(schema.migrations)
    if found > known:
        raise SchemaTooNew(str(path), found, known)
    if found == known:
        return
    if found and schema.is_kept:
        _copy_before(conn, path, found)
    sqlite_utils = _sqlite_utils()
    tables = sqlite_utils.Database(conn, execute_plugins=False)  # code of whoever installed one has no business here
    with tables.atomic():
        for migration in schema.migrations[found:]:
            migration(tables)
        conn.execute(f"PRAGMA user_version = {known}")


def _sqlite_utils() -> ModuleType:
    """Import it now: it brings 4 MB (click, pluggy, dateutil), and most starts migrate nothing.

    It also takes pandas and numpy along wherever they are installed, where people keep AI agents: 100 MB and seconds, for
    migrations that use neither. None in the table of modules is Python's own way to say "not installed".
    """
    absent = {name: None for name in ("pandas", "numpy") if name not in sys.modules}
    sys.modules.update(cast("dict[str, ModuleType]", absent))
    try:
        return importlib.import_module("sqlite_utils")
    finally:
        for name in absent:
            del sys.modules[name]


def before_migration(path: Path) -> list[Path]:
    """Return the copies that were made before the file was migrated."""
    return list(path.parent.glob(f"{path.name}.schema-*"))


def _copy_before(conn: sqlite3.Connection, path: Path, version: int) -> None:
    for older in before_migration(path):
        older.unlink()
    copied = path.with_name(f"{path.name}.schema-{version}")
    make_private(copied)
    conn.execute("VACUUM INTO ?", (str(copied),))


# --- journal.db ---------------------------------------------------------------------------------------------------------


def _journal_1(db: sqlite_utils.Database) -> None:
    # `seq` is given by memory and is the order of acceptance. Bodies and answers live beside, not inside: a state change
    # of a row with a 1 MB body costs 9.5 ms in one table and 24 us in two. Nothing is indexed by priority: the order of the
    # backlog lives in memory.
    db.table("requests").create(
        {
            "seq": int,
            "id": str,
            "agent": str,
            "agent_class": str,
            "generation": int,
            "key": str,
            "digest": bytes,
            "method": str,
            "path": str,
            "face": str,
            "asked_stream": int,
            "priority": int,
            "accepted_wall": float,
            "deadline_wall": float,
            "is_async": int,
            "attempt": int,
            "state": str,
            "reason": str,
            "ended_wall": float,
        },
        pk="seq",
        not_null={"id", "agent", "agent_class", "generation", "digest", "method", "path", "face", "state", "attempt"},
        strict=True,
    )
    db.execute("CREATE UNIQUE INDEX requests_id ON requests(id)")
    db.execute("CREATE INDEX requests_key ON requests(agent, key) WHERE key IS NOT NULL")
    db.execute("CREATE INDEX requests_digest ON requests(agent, digest)")
    db.execute("CREATE INDEX requests_ended ON requests(ended_wall) WHERE ended_wall IS NOT NULL")
    db.table("bodies").create({"seq": int, "body": bytes}, pk="seq", not_null={"body"}, strict=True)
    db.table("answers").create(
        {"seq": int, "status": int, "content_type": str, "form": str, "cut": int, "finished_wall": float, "body": bytes},
        pk="seq",
        not_null={"status", "content_type", "form", "cut", "finished_wall", "body"},
        strict=True,
    )
    db.table("agents").create(
        {
            "name": str,
            "generation": int,
            "digest": str,
            "pid": int,
            "start_ticks": int,
            "boot_id": str,
            "cgroup": str,
            "run_tag": str,
            "verdict": str,
            "detail": str,
            "restarts": int,
            "ended_wall": float,
            "intent": str,
        },
        pk="name",
        not_null={"generation", "digest", "restarts"},
        strict=True,
    )
    db.table("events").create(
        {"seq": int, "at_wall": float, "kind": str, "agent": str, "request_id": str, "detail": str},
        pk="seq",
        not_null={"at_wall", "kind", "detail"},
        strict=True,
    )


def _journal_2(db: sqlite_utils.Database) -> None:
    # What generations were made of, so that an agent can go back to what it was before, and where the one rollout stands.
    db.table("specs").create({"digest": str, "spec": str}, pk="digest", not_null={"spec"}, strict=True)
    db.table("rollout").create({"id": int, "told": str}, pk="id", not_null={"told"}, strict=True)


def _journal_3(db: sqlite_utils.Database) -> None:
    # What a supervisor needs to take over a living agent: JSON, since nothing is ever asked about a part of it.
    for column, kind in (("baseline", str), ("standing", str), ("peak_bytes", int)):
        db.table("agents").add_column(column, kind)


def _journal_4(db: sqlite_utils.Database) -> None:
    # `rule` tells whether it is still the same alert; `told` is the last thing that was delivered ("firing", or "").
    db.table("alerts").create(
        {"name": str, "rule": str, "state": str, "since_wall": float, "told": str},
        pk="name",
        not_null={"rule", "state", "since_wall", "told"},
        strict=True,
    )


def _journal_5(db: sqlite_utils.Database) -> None:
    # A row for each agent and day, changed in place.
    db.execute(
        "CREATE TABLE peaks(agent TEXT NOT NULL, day INTEGER NOT NULL, needed_bytes INTEGER NOT NULL, kills INTEGER NOT NULL,"
        " PRIMARY KEY (agent, day)) STRICT, WITHOUT ROWID"
    )


JOURNAL = Schema(page_size=4096, migrations=(_journal_1, _journal_2, _journal_3, _journal_4, _journal_5), is_kept=True)


# --- cache.db -----------------------------------------------------------------------------------------------------------


def _cache_1(db: sqlite_utils.Database) -> None:
    # `seq` is the order of insertion, in which the hand of the eviction goes round. `crc` is of the body: SQLite notices
    # damaged pages of its own structure, not damaged bytes of a value.
    db.table("entries").create(
        {
            "seq": int,
            "key": bytes,
            "bytes": int,
            "crc": int,
            "status": int,
            "content_type": str,
            "form": str,
            "finished_wall": float,
            "expires_wall": float,
            "model": str,
            "path": str,
            "scope": str,
            "body": bytes,
        },
        pk="seq",
        not_null={"key", "bytes", "crc", "status", "content_type", "form", "finished_wall", "expires_wall", "body"},
        strict=True,
    )
    db.execute("CREATE UNIQUE INDEX entries_key ON entries(key)")


def _cache_2(db: sqlite_utils.Database) -> None:
    # `coding` is of store/packing.py, `cost_s` the slot-seconds the answer took: what a hit saves.
    db.execute("ALTER TABLE entries ADD COLUMN coding INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE entries ADD COLUMN cost_s REAL NOT NULL DEFAULT 0")
    # What lies in files (store/large.py). `bytes` are those of the disk, `state` says whether the file can be relied on.
    db.table("large").create(
        {
            "seq": int,
            "key": bytes,
            "bytes": int,
            "state": int,
            "name": str,
            "coding": int,
            "status": int,
            "content_type": str,
            "form": str,
            "finished_wall": float,
            "expires_wall": float,
            "cost_s": float,
            "model": str,
            "path": str,
            "scope": str,
        },
        pk="seq",
        not_null={"key", "bytes", "state", "name", "coding", "status", "content_type", "form", "finished_wall", "expires_wall"},
        strict=True,
    )
    db.execute("CREATE INDEX large_key ON large(key)")
    db.execute("CREATE INDEX large_unsettled ON large(state) WHERE state <> 1")
    # One row, so that the sum is known at the start without a scan: two triggers keep it in the transaction of each change.
    # `boot` is that of the kernel under which the folder was last put in order.
    db.execute("CREATE TABLE tally(one INTEGER PRIMARY KEY CHECK (one = 1), large_bytes INTEGER NOT NULL, boot TEXT) STRICT")
    db.execute("INSERT INTO tally VALUES (1, 0, NULL)")
    db.execute(
        "CREATE TRIGGER large_in AFTER INSERT ON large BEGIN UPDATE tally SET large_bytes = large_bytes + NEW.bytes; END"
    )
    db.execute(
        "CREATE TRIGGER large_out AFTER DELETE ON large BEGIN UPDATE tally SET large_bytes = large_bytes - OLD.bytes; END"
    )


# 8 KB pages: a 2 KB value on a 4 KB page leaves one row a page (165 MB instead of 110 for 40,000 of them).
CACHE = Schema(page_size=8192, migrations=(_cache_1, _cache_2))
