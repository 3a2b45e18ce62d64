"""Waits for a condition of the real world, for trio tests on the real clock: no test guesses how long something takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def until(look: Callable[[], T | None], *, within_s: float = 20.0, what: str = "the condition") -> T:
    """Return the first truthy thing `look` returns; fails when it never does."""

    async def look_now() -> T | None:
        return look()

    return await until_seen(look_now, within_s=within_s, what=what)


async def until_seen(look: Callable[[], Awaitable[T | None]], *, within_s: float = 20.0, what: str = "the condition") -> T:
    """Return the first truthy thing the asynchronous `look` returns; fails when it never does."""
    deadline = trio.current_time() + within_s
    while True:
        seen = await look()
        if seen:
            return seen
        assert trio.current_time() < deadline, f"{what}: not within {within_s:.0f} s; last seen: {seen!r}"
        await trio.sleep(0.01)
