"""A disk that is really full: a small tmpfs. What SQLite makes of ENOSPC is not to be guessed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from supervisord_ai.clock import SystemClock
from supervisord_ai.errors import StoreFault
from supervisord_ai.store.database import Durability
from supervisord_ai.store.rows import Answer, CacheMeta, RequestRow
from supervisord_ai.store.state import State


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=3m") != 0:
        pytest.skip(f"no tmpfs may be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        assert libc.umount2(os.fsencode(folder), 0) == 0, os.strerror(ctypes.get_errno())


def row(number: int, body: bytes) -> RequestRow:
    return RequestRow(
        id=f"r{number}",
        agent="opus-01",
        agent_class="opus",
        generation=1,
        key=None,
        digest=b"d",
        method="POST",
        path="/api/chat",
        face="ollama",
        asked_stream=True,
        body=body,
        priority=3,
        accepted_wall=0.0,
        deadline_wall=0.0,
        is_async=False,
    )


async def fill(state: State, accepted: list[str]) -> None:
    for number in range(100):
        await state.requests.accept(row(number, os.urandom(100_000)))
        accepted.append(f"r{number}")


async def test_a_full_disk_refuses_loses_nothing_and_works_again_when_there_is_room(small_disk: Path) -> None:
    state = State(small_disk, clock=SystemClock(), durability=Durability.POWER, cache_bytes=1_000_000)
    accepted: list[str] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 1_000_000)
        with pytest.raises(StoreFault, match=r"journal\.db: the disk is full; make room in"):
            await fill(state, accepted)
        assert len(accepted) > 3
        answer = Answer(200, "text/plain", os.urandom(100_000), "raw", cut=False, finished_wall=0)
        state.cache.put(b"k" * 32, answer, CacheMeta("m", "/api/chat", "shared", expires_wall=9e9))
        assert state.cache.get(b"k" * 32) is None
        assert [r.id for r in state.requests.recover()] == accepted
        ballast.unlink()
        await state.requests.accept(row(1000, b"small"))
        assert [r.id for r in state.requests.recover()] == [*accepted, "r1000"]
        nursery.cancel_scope.cancel()
    again = State(small_disk, clock=SystemClock(), cache_bytes=1_000_000)
    assert [r.id for r in again.requests.recover()] == [*accepted, "r1000"]
    again.database.close()
    again.cache.close()
