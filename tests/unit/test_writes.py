"""What a write leaves behind in SQLite's memory."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from supervisord_ai.store.writes import Blob, Change, Insert, Submission, apply

BODY = b"x" * 40_000_000


def resident_mb(which: str = "VmRSS") -> float:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1000 for line in text.splitlines() if line.startswith(which))


@pytest.mark.parametrize("column", ["body BLOB NOT NULL", "body BLOB"])
def test_a_large_body_is_not_kept_by_the_statement_that_wrote_it(tmp_path: Path, column: str) -> None:
    conn = sqlite3.connect(tmp_path / "x.db", isolation_level=None, cached_statements=64)
    conn.execute(f"CREATE TABLE bodies(seq INTEGER PRIMARY KEY, {column})")
    conn.execute("BEGIN")
    before = resident_mb()
    change = Change("REPLACE INTO bodies(seq, body) VALUES (?,?)", (2, BODY))
    insert = Insert("INSERT INTO bodies(seq, body)", (1, BODY))
    apply(conn, [Submission((insert, change), None)])
    conn.execute("COMMIT")
    assert resident_mb() - before < 30
    assert conn.execute("SELECT seq, length(body) FROM bodies").fetchall() == [(1, len(BODY)), (2, len(BODY))]
    conn.close()


def test_a_blob_is_written_without_a_copy_of_it(tmp_path: Path) -> None:
    conn = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    conn.execute("CREATE TABLE bodies(seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT")
    conn.execute("PRAGMA journal_mode = WAL")
    piece = b"y" * 60_000_000
    pieces = (b'{"a":', piece, b"}")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew, proc(5)
    before = resident_mb()
    conn.execute("BEGIN")
    apply(conn, [Submission((Blob("bodies", "body", 7, pieces),), None)])
    conn.execute("COMMIT")
    assert resident_mb("VmHWM") - before < 30
    assert conn.execute("SELECT body FROM bodies WHERE seq = 7").fetchone()[0] == b"".join(pieces)
    conn.close()
