"""The journal of events without a file: what the real one promises is in `tests/contract/test_event_journal.py`."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from supervisord_ai.store.rows import EventRow


class FakeEventJournal:
    """Events in memory, "written" at once."""

    def __init__(self, *, now_wall: float = 1000.0) -> None:
        self.rows: list[EventRow] = []
        self.now_wall = now_wall
        self._news = trio.Event()

    @property
    def last_seq(self) -> int:
        return self.rows[-1].seq if self.rows else 0

    def note(
        self, kind: str, agent: str | None = None, request_id: str | None = None, detail: Mapping[str, object] | None = None
    ) -> None:
        self.rows.append(EventRow(self.last_seq + 1, self.now_wall, kind, agent, request_id, dict(detail or {})))
        self._news.set()
        self._news = trio.Event()

    async def wait_after(self, seq: int) -> None:
        while self.last_seq <= seq:
            await self._news.wait()
        await trio.lowlevel.checkpoint()

    def after(self, seq: int, count: int) -> list[EventRow]:
        return [row for row in self.rows if row.seq > seq][:count]

    def last(self, kind: str) -> EventRow | None:
        found = [row for row in self.rows if row.kind == kind]
        return found[-1] if found else None

    async def past(
        self, count: int, *, since_wall: float = 0.0, agent: str | None = None, kind: str | None = None
    ) -> list[EventRow]:
        await trio.lowlevel.checkpoint()
        found = [
            row
            for row in self.rows
            if row.at_wall >= since_wall
            and agent in {None, row.agent}
            and (kind is None or row.kind == kind or row.kind.startswith(f"{kind}."))
        ]
        return found[-count:]
