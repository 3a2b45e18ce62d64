"""What a write leaves behind in SQLite's memory."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from supervisord_ai.store.writes import Change, Insert, apply

BODY = b"x" * 40_000_000


def resident_mb() -> float:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1000 for line in text.splitlines() if line.startswith("VmRSS"))


@pytest.mark.parametrize("column", ["body BLOB NOT NULL", "body BLOB"])
def test_a_large_body_is_not_kept_by_the_statement_that_wrote_it(tmp_path: Path, column: str) -> None:
    conn = sqlite3.connect(tmp_path / "x.db", isolation_level=None, cached_statements=64)
    conn.execute(f"CREATE TABLE bodies(seq INTEGER PRIMARY KEY, {column})")
    conn.execute("BEGIN")
    before = resident_mb()
    change = Change("REPLACE INTO bodies(seq, body) VALUES (?,?)", (2, BODY))
    apply(conn, [Insert("INSERT INTO bodies(seq, body)", (1, BODY)), change])
    conn.execute("COMMIT")
    assert resident_mb() - before < 30
    assert conn.execute("SELECT seq, length(body) FROM bodies").fetchall() == [(1, len(BODY)), (2, len(BODY))]
    conn.close()
