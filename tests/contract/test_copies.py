"""Copies of a journal: while it is written, before it is migrated, and back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from supervisord_ai.errors import SchemaTooNew, StoreFault
from supervisord_ai.store import copies
from supervisord_ai.store.schema import JOURNAL, Schema, connect, migrate


def journal(path: Path, versions: int = len(JOURNAL.migrations)) -> sqlite3.Connection:
    schema = Schema(JOURNAL.page_size, JOURNAL.migrations[:versions], is_kept=True)
    conn = connect(path, schema)
    migrate(conn, path, schema)
    return conn


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as conn:
        return int(conn.execute("PRAGMA user_version").fetchone()[0])


def test_a_copy_has_what_is_committed_and_only_we_read_it(tmp_path: Path) -> None:
    with closing(journal(tmp_path / "journal.db")) as conn:
        conn.execute("INSERT INTO events (seq, at_wall, kind, detail) VALUES (1, 0, 'x', '')")
        conn.execute("BEGIN IMMEDIATE")
        conn.execute("INSERT INTO events (seq, at_wall, kind, detail) VALUES (2, 0, 'y', '')")
        copies.copy(tmp_path / "journal.db", tmp_path / "copy.db")
        conn.execute("ROLLBACK")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT kind FROM events").fetchall() == [("x",)]
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    copies.check(tmp_path / "copy.db")
    copies.copy(tmp_path / "none.db", tmp_path / "x.db")  # a first start has none
    copies.check(tmp_path / "x.db")


def test_before_tables_change_the_journal_is_copied_and_that_copy_is_the_way_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(journal(path, 1)) as conn:
        conn.execute("INSERT INTO events (seq, at_wall, kind, detail) VALUES (1, 0, 'before', '')")
    assert not list(tmp_path.glob("*.schema-*"))  # a new file is nothing to keep
    with closing(journal(path)) as conn:
        conn.execute("INSERT INTO events (seq, at_wall, kind, detail) VALUES (2, 0, 'after', '')")
    assert (version(path), version(tmp_path / "journal.db.schema-1")) == (len(JOURNAL.migrations), 1)
    assert copies.put_back(path) == tmp_path / "journal.db.migrated"
    assert version(path) == 1
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT kind FROM events").fetchall() == [("before",)]
    assert version(tmp_path / "journal.db.migrated") == len(JOURNAL.migrations)
    assert copies.before_last_migration(path) == tmp_path / "journal.db.schema-1"  # it stays until the next change
    copies.undo_put_back(path)
    assert version(path) == len(JOURNAL.migrations)
    with pytest.raises(StoreFault, match="no copy of it"):
        copies.put_back(tmp_path / "other.db")


def test_a_newer_and_a_damaged_journal_are_refused(tmp_path: Path) -> None:
    with closing(journal(tmp_path / "journal.db")) as conn:
        conn.execute(f"PRAGMA user_version = {len(JOURNAL.migrations) + 1}")
    with pytest.raises(SchemaTooNew):
        copies.check(tmp_path / "journal.db")
    (tmp_path / "bad.db").write_bytes(b"not a database, whatever its name says" * 200)
    with pytest.raises(StoreFault):
        copies.check(tmp_path / "bad.db")
