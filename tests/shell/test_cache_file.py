"""The L2 cache: within its cap, spares what is read, and is never a reason for anything to fail."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervisord_ai.core.cache_policy import Tier
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.disk import inline
from supervisord_ai.store.rows import Answer, Cached, CacheMeta

ANSWER = Answer(200, "application/x-ndjson", b'{"done":true}\n\x00\xff', "lines", cut=False, finished_wall=1000.0)
META = CacheMeta("qwen2.5:3b", "/api/chat", "shared", expires_wall=4600.0)


def found(cache: CacheFile, key: bytes) -> Answer | None:
    cached = cache.get(key)
    return cached.answer if cached is not None else None


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


@asynccontextmanager
async def running(path: Path, cap_bytes: int = 10_000_000) -> AsyncIterator[CacheFile]:
    cache = CacheFile(path, cap_bytes, run_sync=inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        yield cache
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_an_answer_comes_back_also_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "cache.db") as cache:
        assert found(cache, key(1)) is None
        cache.put(key(1), ANSWER, META)
        await wait_all_tasks_blocked()
        assert found(cache, key(1)) == ANSWER
    async with running(tmp_path / "cache.db") as cache:
        assert found(cache, key(1)) == ANSWER
        seen = cache.statistics()
        assert (seen.entries, seen.hits, seen.misses, seen.faults) == (1, 1, 0, 0)


async def test_it_tells_when_it_ends_and_what_it_cost(tmp_path: Path) -> None:
    async with running(tmp_path / "cache.db") as cache:
        cache.put(key(1), ANSWER, replace(META, cost_s=2.5))
        await wait_all_tasks_blocked()
        assert cache.get(key(1)) == Cached(ANSWER, 4600.0, 2.5, Tier.L2)


async def test_the_same_key_again_replaces(tmp_path: Path) -> None:
    async with running(tmp_path / "cache.db") as cache:
        for text in (b"one", b"two", b"three"):
            cache.put(key(1), replace(ANSWER, body=text), META)
        await wait_all_tasks_blocked()
        kept = found(cache, key(1))
        assert kept is not None
        assert kept.body == b"three"
        assert cache.statistics().entries == 1


async def test_a_cut_answer_and_one_too_large_are_not_stored(tmp_path: Path) -> None:
    async with running(tmp_path / "cache.db", cap_bytes=800_000) as cache:
        cache.put(key(1), replace(ANSWER, cut=True), META)
        cache.put(key(2), replace(ANSWER, body=os.urandom(100_001)), META)
        await wait_all_tasks_blocked()
        assert cache.statistics().entries == 0
        assert cache.statistics().stored == 0


async def test_it_keeps_its_cap_spares_what_is_read_and_drops_the_oldest(tmp_path: Path) -> None:
    cap = 1_000_000
    async with running(tmp_path / "cache.db", cap_bytes=cap) as cache:
        for n in range(2000):
            cache.put(key(n), replace(ANSWER, body=os.urandom(2000)), META)
            await wait_all_tasks_blocked()
            assert found(cache, key(0)) is not None, f"what is read all the time was dropped after {n}"
            assert cache.statistics().bytes <= cap
        assert found(cache, key(1)) is None
        assert found(cache, key(1999)) is not None
        seen = cache.statistics()
        assert seen.entries + seen.evicted == 2000
        assert seen.entries > 300
    assert (tmp_path / "cache.db").stat().st_size <= cap + 64 * 8192


async def test_when_everything_was_read_something_is_dropped_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path / "cache.db", cap_bytes=400_000) as cache:
        for n in range(500):
            cache.put(key(n), replace(ANSWER, body=os.urandom(2000)), META)
            await wait_all_tasks_blocked()
            for old in range(n + 1):
                found(cache, key(old))
            assert cache.statistics().bytes <= 400_000
        assert 50 < cache.statistics().entries < 500


async def test_a_smaller_cap_is_reached_and_the_file_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    async with running(path, cap_bytes=4_000_000) as cache:
        for n in range(1000):
            cache.put(key(n), replace(ANSWER, body=os.urandom(2000)), META)
    async with running(path, cap_bytes=500_000) as cache:
        for n in range(20):
            cache.put(key(5000 + n), ANSWER, META)
            await wait_all_tasks_blocked()
        assert cache.statistics().bytes <= 500_000
    assert path.stat().st_size < 1_200_000


async def test_clear_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "cache.db") as cache:
        for n in range(10):
            cache.put(key(n), ANSWER, META)
        await wait_all_tasks_blocked()
        assert await cache.clear() == 10
        assert found(cache, key(1)) is None
        cache.put(key(1), ANSWER, META)
        await wait_all_tasks_blocked()
        assert found(cache, key(1)) == ANSWER


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 8192, b""])
async def test_a_damaged_file_is_one_warning_and_an_empty_cache(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(damage)
    async with running(path) as cache:
        assert found(cache, key(1)) is None
        cache.put(key(1), ANSWER, META)
        await wait_all_tasks_blocked()
        assert found(cache, key(1)) == ANSWER
    assert len([r for r in caplog.records if "starting with an empty cache" in r.message]) == (1 if damage else 0)


async def test_a_file_of_a_newer_version_is_one_warning_and_an_empty_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.db"
    async with running(path) as cache:
        cache.put(key(1), ANSWER, META)
    conn = sqlite3.connect(path)
    conn.execute("PRAGMA user_version = 99")
    conn.close()
    async with running(path) as cache:
        assert found(cache, key(1)) is None
    assert [r.levelname for r in caplog.records if "schema 99" in r.message] == ["WARNING"]


async def test_damage_found_while_it_runs_ends_in_an_empty_cache_that_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.db"
    async with running(path) as cache:
        for n in range(200):
            cache.put(key(n), replace(ANSWER, body=os.urandom(3000)), META)
        await wait_all_tasks_blocked()
    conn = sqlite3.connect(path)
    ((root,),) = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries_key'").fetchall()
    conn.close()
    with path.open("r+b") as file:  # it opens, and the first look for a key finds the damage
        file.seek((root - 1) * 8192)
        file.write(b"\xff" * 8192)
    async with running(path) as cache:
        assert found(cache, key(1)) is None
        await wait_all_tasks_blocked()
        cache.put(key(1), ANSWER, META)
        await wait_all_tasks_blocked()
        assert found(cache, key(1)) == ANSWER
        assert cache.statistics().faults == 1
    assert len([r for r in caplog.records if "going on with an empty cache" in r.message]) == 1


async def test_a_flipped_bit_in_an_answer_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache.db"
    body = b"NEEDLE" * 50
    async with running(path) as cache:
        cache.put(key(1), replace(ANSWER, body=body), META)
    whole = path.read_bytes()
    assert whole.count(body) == 1
    path.write_bytes(whole.replace(b"NEEDLENEEDLE", b"NEEDLEnEEDLE", 1))
    async with running(path) as cache:
        assert found(cache, key(1)) is None
        await wait_all_tasks_blocked()
        assert cache.statistics().entries == 0
    assert "a damaged answer was thrown away" in caplog.text
