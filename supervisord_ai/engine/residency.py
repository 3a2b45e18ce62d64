"""Decides when the model is in memory: loaded by the first who needs it, unloaded `keep_alive` after its last use.

As in Ollama: the last `keep_alive` anybody gave holds for everybody, absent means unchanged (at a load: five minutes), infinite
means for ever, 0 means as soon as nobody uses it. Loading and unloading wait in one line, and neither is ever interrupted.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

DEFAULT_KEEP_ALIVE_S = 300.0

Deed = Callable[[], Awaitable[None]]


class Residency:
    """One model's coming and going. `load` and `unload` are the deeds, done in one line under a lock."""

    def __init__(self, load: Deed, unload: Deed, monotonic: Callable[[], float]) -> None:
        self._load = load
        self._unload = unload
        self._monotonic = monotonic
        self._lane = trio.Lock()
        self._wake = trio.Event()
        self._users = 0
        self._keep_alive_s = DEFAULT_KEEP_ALIVE_S
        self._used_at = -math.inf
        self.is_loaded = False
        self.loads = 0

    @asynccontextmanager
    async def use(self, keep_alive_s: float | None = None) -> AsyncIterator[None]:
        """Hold the model in memory for the block, loading it first if need be."""
        # Counted before the lock is waited for: an unload that is about to happen looks again under the lock.
        self._users += 1
        try:
            self._touch(keep_alive_s)
            async with self._lane:
                if not self.is_loaded:
                    # A caller that leaves must not stop a load that others wait for.
                    with trio.CancelScope(shield=True):
                        await self._load()
                    self.is_loaded = True
                    self.loads += 1
                    self._touch(DEFAULT_KEEP_ALIVE_S if keep_alive_s is None else keep_alive_s)
            yield
        finally:
            self._users -= 1
            self._touch(None)

    def release(self) -> None:
        """An unload was asked for: it happens when nobody uses the model, perhaps after this returns."""
        self._touch(0.0)

    @property
    def expires_at(self) -> float:
        """When it may go, on the monotonic clock; infinite when it stays. Means something while it is loaded."""
        return self._used_at + self._keep_alive_s

    async def run(self) -> None:
        """Unload when it is time, for ever."""
        while True:
            self._wake = trio.Event()
            if self.is_loaded and not self._users:
                if self._is_expired():
                    await self._unload_if_unused()
                    continue
                with trio.move_on_at(self.expires_at):  # not after a difference: that may round to a moment before
                    await self._wake.wait()
            else:
                await self._wake.wait()

    async def end(self) -> None:
        """Unload now, whoever uses it: the process ends."""
        async with self._lane:
            if self.is_loaded:
                self.is_loaded = False
                await self._unload()

    async def _unload_if_unused(self) -> None:
        async with self._lane:
            if self.is_loaded and not self._users and self._is_expired():
                self.is_loaded = False
                with trio.CancelScope(shield=True):
                    await self._unload()

    def _is_expired(self) -> bool:
        return self._monotonic() >= self.expires_at

    def _touch(self, keep_alive_s: float | None) -> None:
        self._used_at = self._monotonic()
        if keep_alive_s is not None:
            self._keep_alive_s = keep_alive_s
        self._wake.set()
