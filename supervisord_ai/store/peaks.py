"""What each agent needed of memory, a row for each agent and day: what caps are suggested from (`config suggest`).

A table of its own and no events: 131 agents that never end would fill the journal of what happened with what did not.
"""

from __future__ import annotations

from supervisord_ai.clock import Clock
from supervisord_ai.core.cap_advice import Peak
from supervisord_ai.store.database import Database
from supervisord_ai.store.writes import Change

__all__ = ["Peak", "PeakJournal"]

DAY_S = 86_400.0
_PUT = (
    "INSERT INTO peaks(agent, day, needed_bytes, kills) VALUES (?, ?, ?, ?) ON CONFLICT(agent, day) DO UPDATE SET"
    " needed_bytes = max(needed_bytes, excluded.needed_bytes), kills = kills + excluded.kills"
)


class PeakJournal:
    """The table of peaks. What is noted is written with the next commit: the next look would see it again."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def __repr__(self) -> str:
        return f"<peaks of day {self.today}>"

    @property
    def today(self) -> int:
        """The day of now, in days since 1970 (UTC)."""
        return int(self._clock.wall() // DAY_S)

    def note(self, agent: str, needed_bytes: int) -> None:
        """It was seen to need so much today."""
        self._database.queue(Change(_PUT, (agent, self.today, needed_bytes, 0)))

    def killed(self, agent: str, cap_bytes: int) -> None:
        """It ended at its own cap today."""
        self._database.queue(Change(_PUT, (agent, self.today, cap_bytes, 1)))

    def of_days(self, days: int) -> dict[str, Peak]:
        """Return the highest of each agent over the last `days`, today included."""
        sql = "SELECT agent, max(needed_bytes), count(*), sum(kills) FROM peaks WHERE day > ? GROUP BY agent"
        return {row[0]: Peak(*row) for row in self._database.read(sql, (self.today - days,))}

    async def forget(self, before_wall: float) -> None:
        """Delete the days that were over before that time.

        Raises:
            StoreFault: the file could not be written.
        """
        await self._database.commit(Change("DELETE FROM peaks WHERE day < ?", (int(before_wall // DAY_S),)))
