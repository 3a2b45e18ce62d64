"""What a writer asks of a database file, as values: rows to insert and changes to make, in groups that stand or fall together."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

import trio

Value = str | bytes | int | float | None

# A multi-row INSERT costs a third of executemany. Few sizes, so that the statement cache knows them all.
_ROWS_AT_ONCE = (64, 8, 1)
_AT_ONCE_BYTES = 1_000_000
WHOLE_MAX_BYTES = 1_000_000  # from here on a value is better written as a Blob, or is at least let go of


class Unmatched(Exception):  # noqa: N818
    """A change that must find its row found none; the text names the row."""


@dataclass(frozen=True, slots=True)
class Insert:
    """One new row. `into` is "INSERT INTO table(columns)": inserts with the same text become one statement."""

    into: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """An UPDATE or DELETE. With `must_find` it fails, with that text, when it matches no row."""

    sql: str
    values: tuple[Value, ...]
    must_find: str | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """One new row of a number and a large value, written in pieces: a bound one lies in memory three times over meanwhile."""

    table: str
    column: str
    rowid: int
    pieces: tuple[bytes, ...]


Write = Insert | Change | Blob


@dataclass(eq=False, slots=True)
class Submission:
    """The writes of one caller. `done` is None when nobody waits for them."""

    writes: tuple[Write, ...]
    done: trio.Event | None
    error: BaseException | None = None
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.size_bytes = sum(100 + _size(write) for write in self.writes)


def apply(conn: sqlite3.Connection, submissions: Sequence[Submission]) -> None:
    """Carry out the writes inside the open transaction: first every insert, in groups, then the changes in their order.

    That order is right for any mix, because no row is inserted after it was changed or deleted.

    Raises:
        Unmatched: a change did not find its row.
        sqlite3.Error: whatever SQLite says.
    """
    inserts: dict[str, list[tuple[Value, ...]]] = {}
    blobs: list[Blob] = []
    changes: list[Change] = []
    # Only a large submission can hold a large value: the values of the others are not looked at again.
    is_large = any(submission.size_bytes > WHOLE_MAX_BYTES for submission in submissions)
    for submission in submissions:
        for write in submission.writes:
            match write:
                case Insert():
                    inserts.setdefault(write.into, []).append(write.values)
                case Blob():
                    blobs.append(write)
                case Change():
                    changes.append(write)
    for into, rows in inserts.items():
        _insert(conn, into, rows, is_large=is_large)
    for blob in blobs:
        _put(conn, blob)
    for change in changes:
        touched = _execute(conn, change.sql, change.values, is_large=is_large)
        if touched == 0 and change.must_find is not None:
            raise Unmatched(change.must_find)


def _size(write: Write) -> int:
    return _size_of(write.pieces if isinstance(write, Blob) else write.values)


def _size_of(values: Sequence[Value]) -> int:
    size = 0
    for value in values:  # of every accepted request: a loop, because a generator costs three times this
        if isinstance(value, (bytes, str)):
            size += len(value)
    return size


def _put(conn: sqlite3.Connection, blob: Blob) -> None:
    sql = f"INSERT INTO {blob.table}(rowid, {blob.column}) VALUES (?, zeroblob(?))"
    conn.execute(sql, (blob.rowid, sum(map(len, blob.pieces))))
    with conn.blobopen(blob.table, blob.column, blob.rowid) as room:
        for piece in blob.pieces:
            for at in range(0, len(piece), _AT_ONCE_BYTES):
                room.write(memoryview(piece)[at : at + _AT_ONCE_BYTES])


def _insert(conn: sqlite3.Connection, into: str, rows: Sequence[tuple[Value, ...]], *, is_large: bool) -> None:
    one = "(" + ",".join("?" * len(rows[0])) + ")"
    at = 0
    for size in _ROWS_AT_ONCE:
        while len(rows) - at >= size:
            chunk = rows[at : at + size]
            values = list(chain.from_iterable(chunk))
            _execute(conn, f"{into} VALUES {','.join([one] * size)}", values, is_large=is_large)
            at += size


def _execute(conn: sqlite3.Connection, sql: str, values: Sequence[Value], *, is_large: bool) -> int:
    """Execute a statement and return how many rows it touched."""
    touched = conn.execute(sql, values).rowcount
    if is_large and _size_of(values) > WHOLE_MAX_BYTES:
        _let_go(conn, sql, len(values))
    return touched


def _let_go(conn: sqlite3.Connection, sql: str, count: int) -> None:
    """Have SQLite forget the values of a statement that it keeps for the next time: it would keep 40 MB until then.

    sqlite3 has no other way to say so than to execute it again with others; what that did is undone.
    """
    conn.execute("SAVEPOINT let_go")
    with suppress(sqlite3.IntegrityError):
        conn.execute(sql, (None,) * count)
    conn.execute("ROLLBACK TO let_go")
    conn.execute("RELEASE let_go")
