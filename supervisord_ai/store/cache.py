"""The L2 cache: answers of deterministic calls in a file of their own, within a cap in bytes.

Losing it loses time and nothing else. So a damaged file is one warning and an empty cache, it is never synced for an
acknowledgement, and no error of it ever reaches a caller: a get that fails is a miss, a put that fails is forgotten.

Eviction follows SIEVE: entries lie in order of insertion (`seq`), a hand goes round from old to new, spares what was read
since it last came by and deletes the rest until there is room. What was read is remembered in memory only, so a get never
writes (102 us with a column for it, 11 us without). The size is pages in use times page size, which the file's header
knows; nothing is ever summed up.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from supervisord_ai.errors import StoreFault
from supervisord_ai.store.database import Database, Durability
from supervisord_ai.store.disk import Disk, RunSync, in_thread
from supervisord_ai.store.rows import Answer, CacheMeta
from supervisord_ai.store.schema import CACHE
from supervisord_ai.store.writes import Change

log = logging.getLogger(__name__)

_HAND_SPAN = 48
_GIVE_BACK_PAGES = 64
_LARGEST_SHARE = 8  # one answer may take at most this part of the cap
_COLUMNS = "seq, key, bytes, crc, status, content_type, form, finished_wall, expires_wall, model, path, scope, body"
# Not an insert for `writes.apply`: an answer stored twice in one turn must replace itself, in the order it came.
_PUT = f"REPLACE INTO entries({_COLUMNS}) VALUES ({','.join('?' * 13)})"


@dataclass(frozen=True, slots=True)
class CacheFileView:
    """What the file holds and what it was good for since the start."""

    entries: int
    bytes: int
    cap_bytes: int
    hits: int
    misses: int
    stored: int
    evicted: int
    faults: int


class CacheFile:
    """Answers by key. Make it, `run` it in a nursery; `get` works at once, `put` is written with the next commit."""

    def __init__(self, path: Path, cap_bytes: int, *, run_sync: RunSync = in_thread, disk: Disk | None = None) -> None:
        self._path = path
        self._cap_bytes = cap_bytes
        self._run_sync = run_sync
        self._disk = disk
        self._visited: set[int] = set()
        self._hand = 0
        self._hits = self._misses = self._stored = self._evicted = self._faults = 0
        self._must_reopen = trio.Event()
        self._give_back = trio.Event()
        self._database = self._open()

    def __repr__(self) -> str:
        return f"<CacheFile {self._path.name} bytes={self._used_bytes} hits={self._hits}>"

    def get(self, key: bytes, now_wall: float) -> Answer | None:
        """Return the stored answer unless it has expired. Never writes, never fails."""
        try:
            found = self._database.read(
                "SELECT seq, crc, status, content_type, body, form, finished_wall FROM entries"
                " WHERE key = ? AND expires_wall > ?",
                (key, now_wall),
            )
        except StoreFault as exc:
            self._lose(str(exc))
            found = []
        for seq, crc, status, content_type, body, form, finished_wall in found:
            if zlib.crc32(body) != crc:
                self._faults += 1
                log.warning("%s: a damaged answer was thrown away", self._path)
                self._database.queue(Change("DELETE FROM entries WHERE seq = ?", (seq,)))
                break
            self._visited.add(seq)
            self._hits += 1
            return Answer(status, content_type, body, form, cut=False, finished_wall=finished_wall)
        self._misses += 1
        return None

    def put(self, key: bytes, answer: Answer, meta: CacheMeta) -> None:
        """Store with the next commit, in place of what was there. A cut answer or one too large for the cap is not stored."""
        if answer.cut or len(answer.body) > self._cap_bytes // _LARGEST_SHARE:
            return
        self._last_seq += 1
        seq = self._last_seq
        size = len(answer.body) + len(answer.content_type) + 200
        head = (seq, key, size, zlib.crc32(answer.body), answer.status, answer.content_type, answer.form)
        times = (answer.finished_wall, meta.expires_wall)
        self._database.queue(Change(_PUT, (*head, *times, meta.model, meta.path, meta.scope, answer.body)))
        self._stored += 1

    async def clear(self) -> int:
        """Delete everything; returns how many entries there were.

        Raises:
            StoreFault: the file cannot be written.
        """
        gone = self._count()
        await self._database.commit(Change("DELETE FROM entries", ()))
        self._visited.clear()
        return gone

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; a file that turns out to be damaged is replaced by an empty one on the way."""
        task_status.started()
        while True:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._database.run)
                nursery.start_soon(self._shrink, self._database)
                await self._must_reopen.wait()
                nursery.cancel_scope.cancel()
            self._must_reopen = trio.Event()
            _delete(self._path)
            self._database = self._open()

    def close(self) -> None:
        """Let go of the file. Only for one that was never run: `run` closes its own."""
        self._database.close()

    async def _shrink(self, database: Database) -> None:
        while True:
            await self._give_back.wait()
            self._give_back = trio.Event()
            try:
                await database.shrink(_GIVE_BACK_PAGES)
            except StoreFault as exc:
                log.warning("%s was not made smaller: %s", self._path, exc)

    def statistics(self) -> CacheFileView:
        return CacheFileView(
            entries=self._count(),
            bytes=self._used_bytes,
            cap_bytes=self._cap_bytes,
            hits=self._hits,
            misses=self._misses,
            stored=self._stored,
            evicted=self._evicted,
            faults=self._faults,
        )

    def _count(self) -> int:
        """A walk over the narrowest index: a few ms for 100,000 entries, so only for people who ask."""
        try:
            return int(self._database.read("SELECT count(*) FROM entries")[0][0])
        except StoreFault as exc:
            self._lose(str(exc))
            return 0

    # --- the file -------------------------------------------------------------------------------------------------------

    def _open(self) -> Database:
        try:
            return self._open_as_it_is()
        except StoreFault as exc:  # damaged, or of a newer version
            log.warning("%s; starting with an empty cache", exc)
        self._faults += 1
        _delete(self._path)
        return self._open_as_it_is()

    def _open_as_it_is(self) -> Database:
        """Open, and read where the file stands without a scan: the last number, and what the header says of the size."""
        database = Database(
            self._path,
            CACHE,
            durability=Durability.PROCESS,
            run_sync=self._run_sync,
            disk=self._disk,
            trim=self._make_room,
            on_broken=self._lose,
        )
        try:
            self._last_seq = int(database.read("SELECT coalesce(max(seq), 0) FROM entries")[0][0])
            pages, free, size = (
                int(database.read(f"PRAGMA {name}")[0][0]) for name in ("page_count", "freelist_count", "page_size")
            )
        except StoreFault:
            database.close()
            raise
        self._used_bytes = (pages - free) * size
        self._visited.clear()
        self._hand = 0
        return database

    def _lose(self, words: str) -> None:
        if not self._must_reopen.is_set():
            self._faults += 1
            log.warning("%s; going on with an empty cache", words)
            self._must_reopen.set()

    # --- eviction -------------------------------------------------------------------------------------------------------

    def _make_room(self, conn: sqlite3.Connection) -> Callable[[], None]:
        """Evict inside the transaction that stored; returns what to remember once that is committed."""
        hand = self._hand
        spared: set[int] = set()
        deleted: list[int] = []
        used = _used_bytes(conn)
        while used > self._cap_bytes:
            span = conn.execute(
                "SELECT seq, bytes FROM entries WHERE seq > ? ORDER BY seq LIMIT ?", (hand, _HAND_SPAN)
            ).fetchall()
            if not span:
                if hand == 0:
                    break  # nothing is left to delete
                hand = 0
                continue
            over = used - self._cap_bytes
            going: list[int] = []
            for seq, size in span:
                hand = seq
                if seq in self._visited and seq not in spared:
                    spared.add(seq)
                    continue
                going.append(seq)
                over -= size
                if over <= 0:
                    break
            conn.execute(f"DELETE FROM entries WHERE seq IN ({','.join(map(str, going))})")
            deleted += going
            used = _used_bytes(conn)
        is_file_too_large = _file_bytes(conn) > self._cap_bytes

        def remember() -> None:
            self._hand = hand
            self._visited -= spared
            self._visited.difference_update(deleted)
            self._evicted += len(deleted)
            self._used_bytes = used
            if is_file_too_large:  # it was made under a larger cap; given back a piece at a time
                self._give_back.set()

        return remember


def _pragma(conn: sqlite3.Connection, name: str) -> int:
    return int(conn.execute(f"PRAGMA {name}").fetchone()[0])


def _used_bytes(conn: sqlite3.Connection) -> int:
    return (_pragma(conn, "page_count") - _pragma(conn, "freelist_count")) * _pragma(conn, "page_size")


def _file_bytes(conn: sqlite3.Connection) -> int:
    return _pragma(conn, "page_count") * _pragma(conn, "page_size")


def _delete(path: Path) -> None:
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)
