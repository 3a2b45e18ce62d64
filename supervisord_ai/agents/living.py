"""One generation while it is started, runs and is ended: readiness, heartbeats, what it says, and the end within its grace.

The agent's task (`lifecycle.py`) decides that there is one and what comes after it, and alone moves the agent's state; what
happens in between is here.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import trio

from supervisord_ai.agents.generation import KILL_S, Doors, Generation
from supervisord_ai.agents.heartbeats import Heartbeats
from supervisord_ai.core.roster import Ready
from supervisord_ai.core.verdict import WATCHDOG, Verdict
from supervisord_ai.errors import HostFault
from supervisord_ai.host import signals

logger = logging.getLogger(__name__)

EXTENDED_MOST_S = 300.0  # a stop is not put off for ever
HEARD_S = 0.02  # fifty notices a second, and whoever says more waits
LINGER_S = 2.0  # for those who outlive a main process that ended by itself


class Keeper(Protocol):
    """Whose generation it is: the agent, who moves his state when something happens to it."""

    @property
    def is_starting(self) -> bool: ...

    @property
    def grace_s(self) -> float: ...

    def became_ready(self) -> None: ...

    def is_being_ended(self) -> None: ...

    def starts_longer(self, by_s: float) -> None: ...


class Life:
    """Made anew for each generation, before it is started. `starting` is around its start, for `end` to interrupt."""

    def __init__(self, name: str, doors: Doors, keeper: Keeper) -> None:
        self.name = name
        self.generation: Generation | None = None  # while it runs
        self.status = ""  # what it said of itself
        self.ready = trio.Event()
        self.heartbeats = Heartbeats(doors.clock)
        self.starting = trio.CancelScope()
        self.end_reason: str | None = None  # once it is to end
        self._is_cap_overdue = False
        self._clock = doors.clock
        self._keeper = keeper
        self._told = trio.Event()
        self._kill_at = math.inf
        self._may_take_longer = True
        self._ending_since = 0.0
        self._grace: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<life of {self.name} {self.generation!r} end={self.end_reason!r}>"

    def end(self, reason: str, kill_at: float | None) -> None:
        """End it: within its grace, at the latest at `kill_at`. The first reason stays; another call may only hasten it."""
        until = self._clock.monotonic() + self._keeper.grace_s
        self._kill_at = min(self._kill_at, until if kill_at is None else min(until, kill_at))
        self._may_take_longer &= kill_at is None
        if self.end_reason is None:
            self.end_reason = reason
            self._told.set()
        self.starting.cancel()
        if self._grace is not None:
            self._grace.deadline = self._kill_at

    def bind_cap(self, wanted_bytes: int) -> None:
        """Have another cap bind what runs. One that uses more keeps its old cap, until it uses less and this is said again."""
        generation = self.generation
        if generation is None or generation.cap_bytes == wanted_bytes:
            return
        try:
            generation.limit(wanted_bytes)
        except HostFault as exc:
            if not self._is_cap_overdue:
                now = f"its cap of {generation.cap_bytes} bytes" if generation.cap_bytes else "going without a cap"
                logger.warning("agent %s keeps %s for now: %s", self.name, now, exc)
            self._is_cap_overdue = True
            return
        logger.info("agent %s: its cap is %d bytes now", self.name, wanted_bytes)
        self._is_cap_overdue = False

    async def live(self, generation: Generation) -> tuple[Verdict, tuple[int, ...]]:
        """Live with it until nothing of it is left; returns the verdict and the pids that could not be ended."""
        logger.info("agent %s generation %d runs as %d", self.name, generation.number, generation.handle.pid)
        generation.go()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._become_ready, generation)
            nursery.start_soon(self._listen, generation)
            nursery.start_soon(self._end_when_hung, generation)
            nursery.start_soon(self._end_when_told, generation)
            status = await generation.handle.wait()
            generation.ended_at = self._clock.monotonic()
            nursery.cancel_scope.cancel()
        # Whoever outlived it must be gone before anyone is started again, or the old ones would serve beside the new.
        # A stop that comes from here on shortens the wait and is not the reason for the end.
        if await generation.cage.members():
            if generation.intent is None:
                await generation.terminate()
                self._kill_at = min(self._kill_at, self._clock.monotonic() + min(LINGER_S, self._keeper.grace_s))
            with trio.CancelScope(deadline=self._kill_at) as self._grace:
                await generation.wait_empty()
        left = await generation.cage.kill(within_s=KILL_S)
        verdict = generation.judge(status)
        generation.close()
        return verdict, left

    async def _become_ready(self, generation: Generation) -> None:
        policy = generation.spec.policy
        match policy.ready:
            case Ready.ALIVE:
                await trio.sleep_until(generation.started_at + policy.start_s)
            case Ready.NOTIFY if generation.is_adopted:
                with trio.move_on_after(policy.start_s):  # it may have said so while nobody listened
                    await self.ready.wait()
            case Ready.REQUEST | Ready.NOTIFY:
                await self.ready.wait()
        if self._keeper.is_starting:
            self._keeper.became_ready()

    async def _listen(self, generation: Generation) -> None:
        while True:
            notice = await generation.hear()
            if notice.is_ready and generation.spec.policy.ready is Ready.NOTIFY:
                self.ready.set()
            if notice.status is not None or notice.is_stopping:
                self.status = notice.status or "stopping"
            self.heartbeats.hear(notice)
            if notice.extend_s is not None:
                self._extend(notice.extend_s)
            await trio.sleep(HEARD_S)

    def _extend(self, extend_s: float) -> None:
        """It needs longer for what it is doing: a stop waits, within bounds, for which the end of the supervisor is one."""
        now = self._clock.monotonic()
        if self._keeper.is_starting:
            self._keeper.starts_longer(extend_s)
        elif self._grace is not None and self.end_reason is not None and self._may_take_longer:
            self._kill_at = min(max(self._kill_at, now + extend_s), self._ending_since + EXTENDED_MOST_S)
            self._grace.deadline = self._kill_at

    async def _end_when_hung(self, generation: Generation) -> None:
        why = await self.heartbeats.until_hung()
        if self.end_reason is None:
            logger.warning("agent %s generation %d is hung: %s", self.name, generation.number, why)
            self.status = f"hung: {why}"
            self.end(WATCHDOG, None)

    async def _end_when_told(self, generation: Generation) -> None:
        await self._told.wait()
        assert self.end_reason is not None
        self._keeper.is_being_ended()
        logger.info("agent %s generation %d is told to end: %s", self.name, generation.number, self.end_reason)
        self._ending_since = self._clock.monotonic()
        generation.intend(self.end_reason)
        if self.end_reason == WATCHDOG:
            generation.handle.signal(signals.ABRT)  # as systemd does: it leaves a trace of where it hangs
        else:
            await generation.terminate()
        with trio.CancelScope(deadline=self._kill_at) as self._grace:
            await trio.sleep_forever()
        generation.was_killed = True
        await generation.kill()
