"""The L3 cache: answers too large for the cache file, each a file of its own; the cache file keeps their index.

A file is named after its number and the SHA-256 of its bytes, which begin with that number and the key. So no two answers share
a file, and what a power cut tore, a bit that flipped or another's file under this name is noticed at the read and thrown away.

The row is written first, and says that the file cannot be relied on yet; so whatever dies in the middle is found by the next
start from the few rows that say so, without a scan:

    put     1. row "writing", victims "going"    2. victims' files go    3. the file under another name, then renamed
            4. row "ready", victims' rows and the row it replaces go
    start   rows that are not ready: their files go, then they

Bytes are counted from step 1 until step 4, in blocks of the disk, so the files are never more than the cap. A power cut may keep
a file and lose its row: the folder is compared with the rows once after each boot, and when the cache file is new.

Eviction is that of the cache file: in order of insertion, sparing once what was read.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import trio

from supervisord_ai.core.cache_policy import Tier
from supervisord_ai.errors import StoreFault
from supervisord_ai.store.database import Database
from supervisord_ai.store.disk import RunSync
from supervisord_ai.store.files import Files
from supervisord_ai.store.packing import Coding, Damaged, unpack
from supervisord_ai.store.rows import Answer, Cached, CacheMeta
from supervisord_ai.store.visited import Visited
from supervisord_ai.store.writes import Change, Insert, Write

log = logging.getLogger(__name__)

READ_ON_LOOP_BYTES = 1_000_000  # 2 ms with the digest; what is larger is read in a thread
_BLOCK = 4096
_HAND_SPAN = 48
_AT_ONCE = 200  # files that go in one call of a thread, names compared in one turn of the loop
_INTO = (
    "INSERT INTO large(seq, key, bytes, state, name, coding, status, content_type, form, finished_wall, expires_wall, cost_s,"
    " model, path, scope)"
)
_READ = (
    "SELECT seq, name, bytes, coding, status, content_type, form, finished_wall, expires_wall, cost_s FROM large"
    " WHERE key = ? AND state = 1 ORDER BY seq DESC LIMIT 1"
)


class _State(IntEnum):
    """What a row says of its file."""

    WRITING = 0
    READY = 1
    GOING = 2


@dataclass(frozen=True, slots=True)
class Packed:
    """An answer to be put into a file: its body as it is stored, and everything else."""

    key: bytes
    answer: Answer  # without its body
    coding: Coding
    stored: bytes
    meta: CacheMeta


@dataclass(frozen=True, slots=True)
class LargeView:
    """What lies in files, and what it was good for since the start."""

    entries: int
    bytes: int
    cap_bytes: int
    evicted: int
    faults: int


_Row = tuple[int, str, int, int, int, str, str, float, float, float]
_Place = tuple[int, str]  # the number and name of a file


class LargeAnswers:
    """Answers in files. Give it each database that holds their index, then `put_in_order`, then use it."""

    def __init__(self, files: Files, cap_bytes: int, database: Database, *, run_sync: RunSync, boot: str) -> None:
        self._files = files
        self._cap_bytes = cap_bytes
        self._database = database
        self._run_sync = run_sync
        self._boot = boot
        self._visited = Visited()
        self._hand = 0
        self._writing = trio.Lock()
        self._failing = ""
        self._evicted = self._faults = 0
        self._last_seq = int(database.read("SELECT coalesce(max(seq), 0) FROM large")[0][0])
        self._is_open = cap_bytes > 0 and self._open()

    def _open(self) -> bool:
        try:
            self._files.open()
        except OSError as exc:
            self._fail(exc)
            return False
        return True

    def close(self) -> None:
        """Let go of the folder."""
        self._files.close()

    @property
    def used_bytes(self) -> int:
        """Those of the files, in blocks of the disk."""
        return int(self._database.read("SELECT large_bytes FROM tally")[0][0])

    # --- out -----------------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Cached | None:
        """Return an answer that is quickly read; None also for a larger one, which `get_slowly` has. Raises: StoreFault."""
        row = self._row(key)
        return self._read(key, row) if row is not None and row[2] <= READ_ON_LOOP_BYTES else None

    async def get_slowly(self, key: bytes) -> Cached | None:
        """Return an answer that `get` does not, read in a thread. Raises: StoreFault."""
        row = self._row(key)
        return await self._run_sync(self._read, key, row) if row is not None and row[2] > READ_ON_LOOP_BYTES else None

    def _row(self, key: bytes) -> _Row | None:
        found = self._database.read(_READ, (key,)) if self._is_open else []
        return found[0] if found else None

    def _read(self, key: bytes, row: _Row) -> Cached | None:
        seq, name, _, coding, status, content_type, form, finished_wall, expires_wall, cost_s = row
        try:
            data = self._files.read(name)
            if digest_of(data) != name.partition("-")[2] or data[:40] != _head(seq, key):
                raise Damaged("not the bytes it is named after")
            body = unpack(coding, data[40:])
        except (OSError, Damaged) as exc:
            self._faults += 1
            log.warning("%s/%s: a damaged answer was thrown away: %s", self._files.folder, name, exc)
            self._database.queue(Change("UPDATE large SET state = 2 WHERE seq = ?", (seq,)))
            return None
        self._visited.add(seq)
        answer = Answer(status, content_type, body, form, cut=False, finished_wall=finished_wall)
        return Cached(answer, expires_wall, cost_s, Tier.L3)

    # --- in ------------------------------------------------------------------------------------------------------------

    def takes(self, stored_bytes: int) -> bool:
        """Say whether an answer of that size may be kept here."""
        return self._is_open and size_on_disk(stored_bytes + 40) <= self._cap_bytes // 8

    async def put(self, packed: Packed) -> None:
        """Keep an answer, in place of what was there. A full disk is said once, and nothing is kept."""
        async with self._writing:
            try:
                await self._put(packed)
            except StoreFault as exc:
                self._fail(exc)

    async def _put(self, packed: Packed) -> None:
        self._last_seq += 1
        seq, meta, answer = self._last_seq, packed.meta, packed.answer
        data = _head(seq, packed.key) + packed.stored
        name, size = f"{seq:x}-{digest_of(data)}", size_on_disk(len(data))
        head = (seq, packed.key, size, _State.WRITING, name, packed.coding, answer.status, answer.content_type, answer.form)
        times = (answer.finished_wall, meta.expires_wall, meta.cost_s)
        # What was found damaged, or could not be removed, is marked already.
        victims = [*self._database.read("SELECT seq, name FROM large WHERE state = 2"), *self._victims(size)]
        await self._database.commit(Insert(_INTO, (*head, *times, meta.model, meta.path, meta.scope)), *_mark(victims))  # 1
        await self._remove(victims)  # 2
        try:
            await self._run_sync(self._files.write, name, data)  # 3
        except OSError as exc:
            self._fail(exc)
            await self._database.commit(Change("DELETE FROM large WHERE seq = ?", (seq,)), *_forget(victims))
            return
        self._failing = ""
        replaced = self._database.read("SELECT seq, name FROM large WHERE key = ? AND state = 1", (packed.key,))
        ready = Change("UPDATE large SET state = 1 WHERE seq = ?", (seq,))
        await self._database.commit(ready, *_forget(victims), *_mark(replaced))  # 4
        self._evicted += len(victims)
        await self._let_go(replaced)

    def _victims(self, size: int) -> list[_Place]:
        """Choose what goes so that there is room: the hand goes round once and spares what was read, then a second time."""
        over = self.used_bytes + size - self._cap_bytes
        chosen: list[_Place] = []
        rounds = 0
        while over > 0 and rounds < 3:
            span = self._database.read(
                "SELECT seq, name, bytes FROM large WHERE seq > ? AND state = 1 ORDER BY seq LIMIT ?", (self._hand, _HAND_SPAN)
            )
            if not span:
                rounds += 1
                self._hand = 0
            for seq, name, held in span:
                if over <= 0:
                    break
                self._hand = seq
                if seq in self._visited:
                    self._visited.discard(seq)
                elif (seq, name) not in chosen:
                    chosen.append((seq, name))
                    over -= held
        return chosen

    async def _remove(self, files: Sequence[_Place]) -> None:
        """Have the files gone. Their rows are marked already."""
        names = [name for _, name in files]
        for start in range(0, len(names), _AT_ONCE):
            await self._run_sync(self._unlink, names[start : start + _AT_ONCE])

    async def _let_go(self, files: Sequence[_Place]) -> None:
        """Have marked files gone, then their rows."""
        if files:
            await self._remove(files)
            await self._database.commit(*_forget(files))

    def _unlink(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                self._files.unlink(name)
            except OSError as exc:
                self._fail(exc)

    async def clear(self) -> int:
        """Delete everything; returns how many answers there were. Raises: StoreFault."""
        async with self._writing:
            gone = self._database.read("SELECT seq, name FROM large WHERE state = 1")
            await self._database.commit(Change("UPDATE large SET state = 2 WHERE state = 1", ()))
            await self._let_go(gone)
        return len(gone)

    # --- order ---------------------------------------------------------------------------------------------------------

    async def put_in_order(self) -> None:
        """Finish what the last life left half done; after a boot, and with a new cache file, also look for files of nobody."""
        if not self._is_open:
            return
        async with self._writing:
            try:
                await self._settle()
                ((boot,),) = self._database.read("SELECT boot FROM tally")
                if boot != self._boot:
                    await self._sweep()
                    await self._database.commit(Change("UPDATE tally SET boot = ?", (self._boot,)))
            except (OSError, StoreFault) as exc:
                self._fail(exc)

    async def _settle(self) -> None:
        left = self._database.read("SELECT seq, name FROM large WHERE state <> 1")
        await self._remove([(seq, name + part) for seq, name in left for part in ("", ".part")])
        if left:
            await self._database.commit(Change("DELETE FROM large WHERE state <> 1", ()))

    async def _sweep(self) -> None:
        names = await self._run_sync(self._files.names)
        strays = 0
        for start in range(0, len(names), _AT_ONCE):
            known = [(name, self._database.read("SELECT 1 FROM large WHERE seq = ? AND name = ?", (_number(name), name)))
                     for name in names[start : start + _AT_ONCE]]  # fmt: skip
            unknown = [name for name, rows in known if not rows]
            await self._run_sync(self._unlink, unknown)
            strays += len(unknown)
        if strays:
            log.info("%s: %d files of nobody are gone", self._files.folder, strays)

    def _fail(self, exc: OSError | StoreFault) -> None:
        self._faults += 1
        words = f"{self._files.folder}: {exc.strerror or exc}" if isinstance(exc, OSError) else str(exc)
        if words != self._failing:  # once, not for every answer
            log.warning("large answers are not kept: %s", words)
            self._failing = words

    def statistics(self) -> LargeView:
        """Return what lies there. Raises: StoreFault."""
        ((count,),) = self._database.read("SELECT count(*) FROM large WHERE state = 1")
        return LargeView(int(count), self.used_bytes, self._cap_bytes, self._evicted, self._faults)


def size_on_disk(count: int) -> int:
    """Return what that many bytes take on the disk."""
    return -(-count // _BLOCK) * _BLOCK


def digest_of(data: bytes) -> str:
    """Return the SHA-256 after which a file is named."""
    return hashlib.sha256(data).hexdigest()


def _head(seq: int, key: bytes) -> bytes:
    return seq.to_bytes(8, "big") + key


def _number(name: str) -> int:
    try:
        return int(name.partition("-")[0], 16) & (2**63 - 1)
    except ValueError:
        return -1


def _mark(files: Sequence[_Place]) -> list[Write]:
    return [Change("UPDATE large SET state = 2 WHERE seq = ?", (seq,)) for seq, _ in files]


def _forget(files: Sequence[_Place]) -> list[Write]:
    return [Change("DELETE FROM large WHERE seq = ?", (seq,)) for seq, _ in files]
