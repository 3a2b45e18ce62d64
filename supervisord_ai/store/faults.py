"""Puts SQLite's errors into words an owner can act on, and tells a bad file from a bad statement."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from supervisord_ai.errors import StoreFault

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_CLOSED_TO_US = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_OF_THE_FILE = _LOCKED | _DAMAGED | _CLOSED_TO_US | {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM}


def _primary(exc: BaseException) -> int:
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF


def is_locked(exc: BaseException) -> bool:
    """Another process holds the lock; asking again may help."""
    return _primary(exc) in _LOCKED


def is_damaged(exc: BaseException) -> bool:
    """The file is not, or no longer, a sound database."""
    return _primary(exc) in _DAMAGED


def is_of_the_file(exc: BaseException) -> bool:
    """The file is to blame (full, locked, damaged, gone), so every statement would fail; else the one statement is."""
    return _primary(exc) in _OF_THE_FILE


def fault(path: Path, exc: sqlite3.Error) -> StoreFault:
    """Return the error to raise, with the file and what to do in one line."""
    code = _primary(exc)
    if code == sqlite3.SQLITE_FULL:
        what = f"the disk is full; make room in {path.parent}"
    elif code in _LOCKED:
        what = "locked by another process; a backup, or an open sqlite3 shell?"
    elif code in _DAMAGED:
        what = f"damaged ({exc}); move it and its -wal away to start empty, or restore a backup"
    elif code in _CLOSED_TO_US:
        what = f"cannot be opened for writing ({exc}); who owns it?"
    else:
        what = f"{exc} ({getattr(exc, 'sqlite_errorname', type(exc).__name__)})"
    return StoreFault(f"{path}: {what}")
