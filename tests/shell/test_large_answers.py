"""The L3 cache: a large answer is whole or not there, whatever dies when, and the files are never more than their cap."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervisord_ai.core.cache_policy import Tier
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.disk import inline
from supervisord_ai.store.files import Files
from supervisord_ai.store.large import size_on_disk
from supervisord_ai.store.rows import Answer, Cached, CacheMeta
from tests.fakes.torn_files import FullFiles, TornFiles

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

ANSWER = Answer(200, "application/json", b"", "lines", cut=False, finished_wall=1000.0)
META = CacheMeta("qwen2.5:3b", "/api/embed", "shared", expires_wall=4600.0, cost_s=3.0)
BODY = os.urandom(100_000)


def key(n: int) -> bytes:
    return n.to_bytes(32, "big")


@asynccontextmanager
async def running(
    folder: Path, cap: int = 10_000_000, *, files: Files | None = None, boot: str = "boot-1", l2: int = 10_000_000
) -> AsyncIterator[CacheFile]:
    cache = CacheFile(folder / "cache.db", l2, large_bytes=cap, boot=boot, run_sync=inline, files=files)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        await settled()
        yield cache
        await settled()
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await wait_all_tasks_blocked()


async def put(cache: CacheFile, n: int, body: bytes) -> None:
    cache.put(key(n), replace(ANSWER, body=body), META)
    await settled()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "cache"))


def on_disk(folder: Path) -> int:
    return sum(size_on_disk(path.stat().st_size) for path in (folder / "cache").iterdir())


async def test_a_large_answer_lies_in_a_file_that_is_ours_alone_and_outlives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as cache:
        await put(cache, 1, BODY)
        (name,) = names(tmp_path)
        assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "cache" / name).stat().st_mode & 0o777 == 0o600
        assert cache.get(key(1)) == Cached(replace(ANSWER, body=BODY), 4600.0, 3.0, Tier.L3)
        assert cache.statistics().entries == 0
    async with running(tmp_path) as cache:
        assert cache.get(key(1)) == Cached(replace(ANSWER, body=BODY), 4600.0, 3.0, Tier.L3)
        assert (cache.statistics().large.entries, cache.statistics().large.bytes) == (1, size_on_disk(100_040))


async def test_what_is_small_once_packed_stays_in_the_cache_file(tmp_path: Path) -> None:
    async with running(tmp_path) as cache:
        await put(cache, 1, b"the same again " * 100_000)
        cached = cache.get(key(1))
        assert cached is not None
        assert (cached.tier, cached.answer.body) == (Tier.L2, b"the same again " * 100_000)
        assert names(tmp_path) == []


async def test_one_that_takes_long_to_read_is_read_in_a_thread(tmp_path: Path) -> None:
    body = os.urandom(1_200_000)
    async with running(tmp_path) as cache:
        await put(cache, 1, body)
        assert cache.get(key(1)) is None
        cached = await cache.get_slowly(key(1))
        assert cached is not None
        assert cached.answer.body == body
        assert (cache.statistics().hits, cache.statistics().misses) == (1, 0)


async def test_the_same_key_again_replaces_whichever_tier_it_was_in(tmp_path: Path) -> None:
    async with running(tmp_path) as cache:
        for body in (BODY, b"small", BODY[:90_000], BODY):
            await put(cache, 1, body)
            cached = cache.get(key(1))
            assert cached is not None
            assert cached.answer.body == body
        assert len(names(tmp_path)) == 1
        assert cache.statistics().entries == 0


async def test_the_files_keep_their_cap_and_what_is_read_is_spared(tmp_path: Path) -> None:
    cap, dice = 10_000_000, random.Random(5)  # a hundredth of 1 GB, with entries of the real size
    async with running(tmp_path, cap) as cache:
        for n in range(300):
            await put(cache, n, dice.randbytes(dice.randrange(66_000, 300_000)))
            assert cache.get(key(0)) is not None, f"what is read all the time was dropped after {n}"
            assert on_disk(tmp_path) == cache.statistics().large.bytes <= cap
        assert on_disk(tmp_path) > 0.95 * cap
        assert cache.get(key(1)) is None
        assert cache.get(key(299)) is not None
        seen = cache.statistics().large
        assert seen.entries + seen.evicted == 300
        assert seen.faults == 0


async def test_when_everything_was_read_something_goes_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path, 1_000_000) as cache:
        for n in range(30):
            await put(cache, n, BODY)
            for old in range(n + 1):
                cache.get(key(old))
            assert on_disk(tmp_path) <= 1_000_000
        assert cache.statistics().large.entries == 9


async def test_a_smaller_cap_is_reached_with_the_next_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as cache:
        for n in range(20):
            await put(cache, n, BODY)
    async with running(tmp_path, 1_000_000) as cache:
        await put(cache, 99, BODY)
        assert on_disk(tmp_path) == cache.statistics().large.bytes <= 1_000_000


async def test_a_kill_at_any_step_leaves_the_old_answer_the_new_one_or_none_and_no_stray_file(tmp_path: Path) -> None:
    state, copies = tmp_path / "state", tmp_path / "copies"
    state.mkdir()
    copies.mkdir()
    bodies = {n: os.urandom(66_000 + n) for n in range(6)}
    again = os.urandom(70_000)
    torn = TornFiles(state / "cache", copies)
    async with running(state, 600_000, files=torn, l2=1_000_000) as cache:
        for n, body in bodies.items():
            await put(cache, n, body)
        await put(cache, 5, again)  # replaces one
        for n in range(6, 12):
            bodies[n] = os.urandom(66_000 + n)
            await put(cache, n, bodies[n])  # pushes others out
        assert cache.statistics().large.evicted > 3
    assert {what for what, _ in torn.steps} == {
        "row written", "made", "half", "whole, not renamed", "renamed", "before unlink", "unlinked"
    }  # fmt: skip
    found = 0
    for what, copy in torn.steps:
        async with running(copy, 600_000, l2=1_000_000) as cache:
            for n, body in bodies.items():
                cached = cache.get(key(n))
                if cached is not None:
                    found += 1
                    assert cached.answer.body in ({body, again} if n == 5 else {body}), f"half an answer after {what}"
            seen = cache.statistics().large
            assert on_disk(copy) == seen.bytes <= 600_000, f"miscounted after {what}"
            assert len(names(copy)) == seen.entries, f"a stray after {what}: {names(copy)}"
            assert seen.faults == 0
    assert found > len(torn.steps)


@pytest.mark.parametrize("damage", ["cut", "flipped", "another's", "gone", "a link"])
async def test_a_damaged_file_is_a_miss_and_is_forgotten(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as cache:
        await put(cache, 1, BODY)
        (name,) = names(tmp_path)
        file = tmp_path / "cache" / name
        match damage:
            case "cut":
                os.truncate(file, 50_000)
            case "flipped":
                file.write_bytes(file.read_bytes()[:-1] + b"\0" + b"\0" * (BODY[-1] == 0))
            case "another's":
                await put(cache, 2, BODY)
                (other,) = set(names(tmp_path)) - {name}
                file.write_bytes((tmp_path / "cache" / other).read_bytes())
            case "gone":
                file.unlink()
            case "a link":
                file.rename(tmp_path / "aside")
                file.symlink_to(tmp_path / "aside")
        assert cache.get(key(1)) is None
        assert [r.levelname for r in caplog.records if "a damaged answer was thrown away" in r.message] == ["WARNING"]
        await settled()
        await put(cache, 1, BODY)
        assert cache.get(key(1)) is not None
        assert on_disk(tmp_path) == cache.statistics().large.bytes


async def test_a_full_disk_is_said_once_and_the_next_answer_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = FullFiles(tmp_path / "cache")
    async with running(tmp_path, files=files) as cache:
        for n in range(3):
            await put(cache, n, BODY)
            assert cache.get(key(n)) is None
        assert names(tmp_path) == []
        assert cache.statistics().large.bytes == 0
        files.is_full = False
        await put(cache, 3, BODY)
        assert cache.get(key(3)) is not None
    assert len([r for r in caplog.records if "No space left on device" in r.message]) == 1


async def test_a_folder_that_others_can_look_into_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    async with running(tmp_path) as cache:
        await put(cache, 1, BODY)
        assert cache.get(key(1)) is not None  # the cache file takes it
        assert names(tmp_path) == []
    assert "chmod 700" in caplog.text


async def test_files_without_a_row_go_after_a_boot_and_with_a_new_cache_file_only(tmp_path: Path) -> None:
    async with running(tmp_path) as cache:
        await put(cache, 1, BODY)
    stray = tmp_path / "cache" / "ff-stray"
    stray.write_bytes(b"x")
    async with running(tmp_path):
        assert stray.exists()  # a restart looks through nothing
    async with running(tmp_path, boot="boot-2") as cache:
        assert not stray.exists()
        assert cache.get(key(1)) is not None
    for name in ("cache.db", "cache.db-wal", "cache.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    async with running(tmp_path, boot="boot-2") as cache:
        assert names(tmp_path) == []
        await put(cache, 1, BODY)
        assert cache.get(key(1)) is not None


async def test_a_damaged_cache_file_is_one_warning_and_no_file_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as cache:
        for n in range(3):
            await put(cache, n, BODY)
    (tmp_path / "cache.db").write_bytes(b"no database at all")
    async with running(tmp_path) as cache:
        assert cache.get(key(1)) is None
        assert names(tmp_path) == []
        await put(cache, 1, BODY)
        assert cache.get(key(1)) is not None
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


async def test_clear_leaves_no_file(tmp_path: Path) -> None:
    async with running(tmp_path) as cache:
        for n in range(3):
            await put(cache, n, BODY)
        await put(cache, 9, b"small")
        assert await cache.clear(l2=False) == 3
        assert names(tmp_path) == []
        assert cache.get(key(9)) is not None
        assert cache.statistics().large.bytes == 0


async def test_files_of_a_cache_that_is_turned_off_are_not_read(tmp_path: Path) -> None:
    async with running(tmp_path) as cache:
        await put(cache, 1, BODY)
    async with running(tmp_path, cap=0) as cache:
        assert cache.get(key(1)) is None
        await put(cache, 2, BODY)
        cached = cache.get(key(2))
        assert cached is not None
        assert cached.tier is Tier.L2


async def test_an_answer_whose_file_is_being_written_is_a_miss_and_no_fault(tmp_path: Path) -> None:
    go_on = trio.Event()

    async def held(fn: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(fn, "__name__", "") == "write":
            await go_on.wait()
        return await inline(fn, *args)

    cache = CacheFile(tmp_path / "cache.db", 10_000_000, large_bytes=10_000_000, run_sync=held)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        await put(cache, 1, BODY)
        assert cache.get(key(1)) is None
        assert cache.statistics().large.faults == 0
        go_on.set()
        await settled()
        assert cache.get(key(1)) is not None
        nursery.cancel_scope.cancel()
