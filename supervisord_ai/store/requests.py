"""The journal of requests: what was accepted, what runs, what was answered."""

from __future__ import annotations

from supervisord_ai.store.rows import Answer, RequestRow


class Requests:
    """Every accepted request and its answer, on disk. The gateway's memory is the truth while it lives; this rebuilds it."""

    async def accept(self, row: RequestRow) -> None:
        """Write the row; returns when it is durable."""
        raise NotImplementedError

    async def claim(self, request_id: str, attempt: int) -> None:
        """Write that a slot took it; returns when that is durable. Attempts count from 1."""
        raise NotImplementedError

    async def finish(self, request_id: str, answer: Answer) -> None:
        """Write the answer; returns when it is durable."""
        raise NotImplementedError

    def cancel(self, request_id: str, reason: str) -> None:
        """Write, with the next commit, that nobody wants it any more."""
        raise NotImplementedError

    def recover(self) -> list[RequestRow]:
        """Return the queued and running rows, oldest first."""
        raise NotImplementedError

    def find(self, agent: str, *, key: str | None, digest: bytes) -> RequestRow | None:
        """Return the agent's newest row that is not cancelled, by key if one is given, else by digest."""
        raise NotImplementedError

    def row(self, request_id: str) -> RequestRow | None:
        """Return one row."""
        raise NotImplementedError

    def answer(self, request_id: str) -> Answer | None:
        """Return the answer of a done row."""
        raise NotImplementedError

    async def forget(self, finished_before_wall: float) -> int:
        """Delete rows that ended before that time; returns how many."""
        raise NotImplementedError
