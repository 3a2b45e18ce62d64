"""The L2 cache: answers of deterministic calls in a file of their own, within a cap in bytes. It also holds the index of L3.

Losing it loses time and nothing else. So a damaged file is one warning and an empty cache, it is never synced for an
acknowledgement, and no error of it ever reaches a caller: a get that fails is a miss, a put that fails is forgotten.

Eviction follows SIEVE: entries lie in order of insertion (`seq`), a hand goes round from old to new, spares what was read
since it last came by and deletes the rest until there is room. What was read is remembered in memory only, so a get never
writes (102 us with a column for it, 11 us without). The size is pages in use times page size, which the file's header
knows; nothing is ever summed up. (The log beside the file is not in the cap: 16 MB and what comes while it is
folded back, 32 MB at most in bench.caps.)

An answer that is large even when packed goes to a file of its own (`large.py`); what would hold the loop while it is packed,
written or read is done by a task of this room, in a thread.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from supervisord_ai.core.cache_policy import Tier
from supervisord_ai.errors import StoreFault
from supervisord_ai.store.database import Database, Durability
from supervisord_ai.store.disk import Disk, RunSync, in_thread
from supervisord_ai.store.files import Files
from supervisord_ai.store.large import LargeAnswers, LargeView, Packed
from supervisord_ai.store.packing import Coding, Damaged, pack, unpack
from supervisord_ai.store.rows import Answer, Cached, CacheMeta
from supervisord_ai.store.schema import CACHE
from supervisord_ai.store.visited import Visited
from supervisord_ai.store.writes import Change

log = logging.getLogger(__name__)

_HAND_SPAN = 48
_GIVE_BACK_PAGES = 64
_LARGEST_SHARE = 8  # one answer may take at most this part of the cap
_PACK_ELSEWHERE_BYTES = 256_000  # packing them takes a millisecond and more
_WAITING_BYTES = 128_000_000  # of answers on their way to a thread or a file; what comes beyond is not kept
_COLUMNS = (
    "seq, key, bytes, crc, status, content_type, form, finished_wall, expires_wall, model, path, scope, coding, cost_s, body"
)
# Not an insert for `writes.apply`: an answer stored twice in one turn must replace itself, in the order it came.
_PUT = f"REPLACE INTO entries({_COLUMNS}) VALUES ({','.join('?' * 15)})"

_Row = tuple[int, int, int, str, bytes, str, float, float, int, float]


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
    large: LargeView


class CacheFile:
    """Answers by key. Make it, `run` it in a nursery; `get` works at once, `put` is written with the next commit.

    `large_bytes` is the cap of the files beside it, in the folder `cache`; 0 makes none. An answer goes there when it takes
    `large_min_bytes` and more as it is stored. `boot` names the run of the kernel.
    """

    def __init__(
        self,
        path: Path,
        cap_bytes: int,
        *,
        large_bytes: int = 0,
        large_min_bytes: int = 64_000,
        boot: str = "",
        run_sync: RunSync = in_thread,
        disk: Disk | None = None,
        files: Files | None = None,
    ) -> None:
        self._path = path
        self._cap_bytes = cap_bytes
        self._large_bytes = large_bytes
        self._large_min_bytes = large_min_bytes
        self._boot = boot
        self._run_sync = run_sync
        self._disk = disk
        self._files = files if files is not None else Files(path.parent / "cache")
        self._waiting: deque[tuple[bytes, Answer, CacheMeta]] = deque()
        self._waiting_bytes = 0
        self._come = trio.Event()
        self._visited = Visited()
        self._hand = 0
        self._hits = self._misses = self._stored = self._evicted = self._faults = 0
        self._must_reopen = trio.Event()
        self._give_back = trio.Event()
        self._database = self._open()

    def __repr__(self) -> str:
        return f"<CacheFile {self._path.name} bytes={self._used_bytes} hits={self._hits}>"

    def get(self, key: bytes) -> Cached | None:
        """Return a stored answer, whatever its age, unless it is so large that `get_slowly` has it. Never writes, never fails."""
        try:
            found = self._database.read(
                "SELECT seq, crc, status, content_type, body, form, finished_wall, expires_wall, coding, cost_s FROM entries"
                " WHERE key = ?",
                (key,),
            )
            cached = self._unpacked(found[0]) if found else self._large.get(key)
        except StoreFault as exc:
            self._lose(str(exc))
            cached = None
        self._count_get(cached)
        return cached

    async def get_slowly(self, key: bytes) -> Cached | None:
        """Return an answer that is too large for `get`. Never fails."""
        try:
            cached = await self._large.get_slowly(key)
        except StoreFault as exc:
            self._lose(str(exc))
            cached = None
        if cached is not None:  # `get` counted a miss
            self._misses -= 1
            self._hits += 1
        return cached

    def _count_get(self, cached: Cached | None) -> None:
        self._hits += cached is not None
        self._misses += cached is None

    def _unpacked(self, row: _Row) -> Cached | None:
        seq, crc, status, content_type, body, form, finished_wall, expires_wall, coding, cost_s = row
        try:
            if zlib.crc32(body) != crc:
                raise Damaged("its checksum is another")
            whole = unpack(coding, body)
        except Damaged:
            self._faults += 1
            log.warning("%s: a damaged answer was thrown away", self._path)
            self._database.queue(Change("DELETE FROM entries WHERE seq = ?", (seq,)))
            return None
        self._visited.add(seq)
        answer = Answer(status, content_type, whole, form, cut=False, finished_wall=finished_wall)
        return Cached(answer, expires_wall, cost_s, Tier.L2)

    def put(self, key: bytes, answer: Answer, meta: CacheMeta) -> None:
        """Store with the next commit, in place of what was there; a large one goes to its file meanwhile.

        A cut answer or one too large for the cap is not stored.
        """
        if answer.cut:
            return
        size = len(answer.body)
        if size > _PACK_ELSEWHERE_BYTES or (self._large_bytes and size >= self._large_min_bytes):
            if self._waiting_bytes + size <= _WAITING_BYTES:
                self._waiting.append((key, answer, meta))
                self._waiting_bytes += size
                self._come.set()
        else:
            self._put_into_file(key, answer, meta, *pack(answer.body))

    def _put_into_file(self, key: bytes, answer: Answer, meta: CacheMeta, coding: Coding, stored: bytes) -> None:
        if len(stored) > self._cap_bytes // _LARGEST_SHARE:
            return
        self._last_seq += 1
        seq = self._last_seq
        size = len(stored) + len(answer.content_type) + 200
        head = (seq, key, size, zlib.crc32(stored), answer.status, answer.content_type, answer.form)
        times = (answer.finished_wall, meta.expires_wall)
        self._database.queue(Change(_PUT, (*head, *times, meta.model, meta.path, meta.scope, coding, meta.cost_s, stored)))
        self._stored += 1

    async def _put_waiting(self, large: LargeAnswers) -> None:
        """Pack what waits, one after the other, and put it where it belongs."""
        await large.put_in_order()
        while True:
            while self._waiting:
                key, answer, meta = self._waiting[0]
                coding, stored = await self._run_sync(pack, answer.body)
                if len(stored) >= self._large_min_bytes and large.takes(len(stored)):
                    await large.put(Packed(key, replace(answer, body=b""), coding, stored, meta))
                    # An older answer to the same may be in the file, if it was smaller.
                    self._database.queue(Change("DELETE FROM entries WHERE key = ?", (key,)))
                    self._stored += 1
                else:
                    self._put_into_file(key, answer, meta, coding, stored)
                self._waiting.popleft()
                self._waiting_bytes -= len(answer.body)
            await self._come.wait()
            self._come = trio.Event()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of answers on their way to a thread or a file."""
        return self._waiting_bytes

    async def clear(self, *, l2: bool = True, l3: bool = True) -> int:
        """Delete everything of a tier; returns how many answers there were.

        Raises:
            StoreFault: the file cannot be written.
        """
        gone = 0
        if l2:
            gone = self._count()
            await self._database.commit(Change("DELETE FROM entries", ()))
            self._visited.clear()
        return gone + (await self._large.clear() if l3 else 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; a file that turns out to be damaged is replaced by an empty one on the way."""
        task_status.started()
        try:
            while True:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._database.run)
                    nursery.start_soon(self._shrink, self._database)
                    nursery.start_soon(self._put_waiting, self._large)
                    await self._must_reopen.wait()
                    nursery.cancel_scope.cancel()
                self._must_reopen = trio.Event()
                _delete(self._path)
                self._database = self._open()
        finally:
            self._large.close()

    def close(self) -> None:
        """Let go of the file. Only for one that was never run: `run` closes its own."""
        self._database.close()
        self._large.close()

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
            large=self._count_large(),
        )

    def _count(self) -> int:
        """A walk over the narrowest index: a few ms for 100,000 entries, so only for people who ask."""
        try:
            return int(self._database.read("SELECT count(*) FROM entries")[0][0])
        except StoreFault as exc:
            self._lose(str(exc))
            return 0

    def _count_large(self) -> LargeView:
        try:
            return self._large.statistics()
        except StoreFault as exc:
            self._lose(str(exc))
            return LargeView(0, 0, self._large_bytes, 0, 0)

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
            self._large = LargeAnswers(
                self._files, self._large_bytes, database, run_sync=self._run_sync, boot=self._boot
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
            for seq in (*spared, *deleted):
                self._visited.discard(seq)
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
