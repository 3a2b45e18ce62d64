"""The heartbeats of one generation, as its notify socket brings them; `until_hung` is the task that misses them."""

from __future__ import annotations

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.liveness import Liveness, Pause
from supervisord_ai.host.notify import Notice

UNREAD_S = 0.5  # a heartbeat that has come and was not read yet: we may have been held up ourselves


class Heartbeats:
    """Made anew for each generation. Who never promised any is never waited for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._liveness = Liveness()
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<heartbeats every {self._liveness.period_s} s, paused by {sorted(self._liveness.pauses)}>"

    def hear(self, notice: Notice) -> None:
        """Take what a process of the generation said of itself."""
        now = self._clock.monotonic()
        if notice.watchdog_s is not None:
            self._liveness.promised(notice.watchdog_s, now)
        if notice.is_heartbeat:
            self._liveness.beat(now)
        if notice.is_hung:
            self._liveness.gave_up()
        if notice.is_stopping:
            self._liveness.pause(Pause.STOPPING)
        self._wake()

    def excuse(self, why: Pause, *, is_excused: bool) -> None:
        """Expect none for this reason, or no longer for this one."""
        if is_excused:
            self._liveness.pause(why)
        else:
            self._liveness.resume(why, self._clock.monotonic())
        self._wake()

    async def until_hung(self) -> str:
        """Return when it is hung, and why one thinks so."""
        while True:
            changed = self._changed
            with trio.move_on_at(self._liveness.due):
                await changed.wait()
            if self._liveness.is_hung(self._clock.monotonic()):
                await trio.sleep(UNREAD_S)
                now = self._clock.monotonic()
                if self._liveness.is_hung(now):
                    return self._liveness.why(now)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
