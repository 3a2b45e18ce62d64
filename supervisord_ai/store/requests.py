"""The journal of requests: what was accepted, what runs, what was answered.

The gateway's memory is the truth while it lives; these rows rebuild it. Each move is guarded on disk by the same table that
guards it in memory (`core/request_state.py`): an UPDATE names the states it may start from, so that a late answer cannot
revive a row whose caller left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from supervisord_ai.clock import Clock
from supervisord_ai.core.request_state import RowEvent, RowState, sources
from supervisord_ai.store.database import Database
from supervisord_ai.store.rows import Answer, RequestRow
from supervisord_ai.store.writes import WHOLE_MAX_BYTES, Blob, Change, Insert

_FORGET_AT_ONCE = 500  # a commit of that many deletes holds the loop for about 10 ms

_NEW_ROW = (
    "INSERT INTO requests(seq, id, agent, agent_class, generation, key, digest, method, path, face, asked_stream, priority,"
    " accepted_wall, deadline_wall, is_async, attempt, state)"
)
_NEW_BODY = "INSERT INTO bodies(seq, body)"
_ROW = (
    "SELECT r.id, r.agent, r.agent_class, r.generation, r.key, r.digest, r.method, r.path, r.face, r.asked_stream, b.body,"
    " r.priority, r.accepted_wall, r.deadline_wall, r.is_async, r.attempt, r.state"
    " FROM requests r LEFT JOIN bodies b ON b.seq = r.seq"
)


def _states(event: RowEvent) -> str:
    return ",".join(f"'{state}'" for state in sources(event))


_CLAIM = (
    f"UPDATE requests SET state = '{RowState.RUNNING}', attempt = ?"
    f" WHERE id = ? AND state IN ({_states(RowEvent.CLAIMED)})"
)
_ANSWER = (
    "INSERT INTO answers(seq, status, content_type, form, cut, finished_wall, body)"
    f" SELECT seq, ?, ?, ?, ?, ?, ? FROM requests WHERE id = ? AND state IN ({_states(RowEvent.ANSWERED)})"
)
_DONE = (
    f"UPDATE requests SET state = '{RowState.DONE}', ended_wall = ?"
    f" WHERE id = ? AND state IN ({_states(RowEvent.ANSWERED)})"
)
_CANCEL = (
    f"UPDATE requests SET state = '{RowState.CANCELLED}', ended_wall = ?, reason = ?"
    f" WHERE id = ? AND state IN ({_states(RowEvent.CANCELLED)})"
)
# The body is needed to run it again, and only for that: 64 MB of images are not kept beside their answer.
_DROP_BODY = (
    "DELETE FROM bodies WHERE seq = (SELECT seq FROM requests WHERE id = ?"
    f" AND state IN ('{RowState.DONE}', '{RowState.CANCELLED}'))"
)


@dataclass(frozen=True, slots=True)
class RequestsView:
    """How many rows stand where."""

    queued: int
    running: int
    done: int
    cancelled: int


def _finishing(request_id: str, answer: Answer) -> tuple[Change, ...]:
    what = (answer.status, answer.content_type, answer.form, int(answer.cut), answer.finished_wall, answer.body)
    return (
        Change(_ANSWER, (*what, request_id)),
        Change(_DONE, (answer.finished_wall, request_id)),
        Change(_DROP_BODY, (request_id,)),
    )


class Requests:
    """Every accepted request and its answer, on disk."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._last_seq = int(database.read("SELECT coalesce(max(seq), 0) FROM requests")[0][0])

    async def accept(self, row: RequestRow, body: Sequence[bytes] = ()) -> None:
        """Write the row; returns when it is durable. If cancelled it is written all the same: `cancel` it then.

        `body`: the pieces of its body, where the row has none itself.

        Raises:
            StoreFault: it could not be written, and was not.
        """
        # Given here and not by SQLite: the order of acceptance is the order of these calls, not of their commits.
        self._last_seq += 1
        seq = self._last_seq
        values = (seq, row.id, row.agent, row.agent_class, row.generation, row.key, row.digest, row.method, row.path, row.face)
        times = (row.priority, row.accepted_wall, row.deadline_wall, int(row.is_async), row.attempt, row.state)
        pieces = tuple(body) or (row.body,)
        is_large = sum(map(len, pieces)) > WHOLE_MAX_BYTES
        kept = Blob("bodies", "body", seq, pieces) if is_large else Insert(_NEW_BODY, (seq, b"".join(pieces)))
        await self._database.commit(Insert(_NEW_ROW, (*values, int(row.asked_stream), *times)), kept)

    async def claim(self, request_id: str, attempt: int) -> None:
        """Write that a slot took it; returns when that is durable. Attempts count from 1.

        Raises:
            Unmatched: there is no such row, or it has already ended: it must not be started.
            StoreFault: it could not be written, and was not.
        """
        await self._database.commit(Change(_CLAIM, (attempt, request_id), must_find=f"no request {request_id} to claim"))

    async def finish(self, request_id: str, answer: Answer) -> None:
        """Write the answer; returns when it is durable. A row that was cancelled stays so, and the answer is nobody's.

        Raises:
            StoreFault: it could not be written, and was not.
        """
        await self._database.commit(*_finishing(request_id, answer))

    def finish_later(self, request_id: str, answer: Answer) -> None:
        """Write the answer as soon as the file can be written again; it is kept in memory until then, as far as there is room."""
        self._database.queue(*_finishing(request_id, answer))

    def cancel(self, request_id: str, reason: str) -> None:
        """Write, with the next commit, that nobody wants it any more. One that has ended stays as it ended."""
        self._database.queue(
            Change(_CANCEL, (self._clock.wall(), reason, request_id)),
            Change(_DROP_BODY, (request_id,)),
        )

    def recover(self) -> list[RequestRow]:
        """Return the queued and running rows, oldest first. For the start: it reads every body."""
        sql = f"{_ROW} WHERE r.state IN ('{RowState.QUEUED}', '{RowState.RUNNING}') ORDER BY r.seq"
        return _rows(self._database.read(sql))

    def unfinished(self) -> list[str]:
        """Return the ids of the queued and running rows, oldest first: their bodies together may not fit into memory."""
        sql = f"SELECT id FROM requests WHERE state IN ('{RowState.QUEUED}', '{RowState.RUNNING}') ORDER BY seq"
        return [str(request_id) for (request_id,) in self._database.read(sql)]

    def why_cancelled(self, request_id: str) -> str:
        """Return why a row was cancelled; "" when it was not, or nothing was said."""
        rows = self._database.read("SELECT reason FROM requests WHERE id = ?", (request_id,))
        return str(rows[0][0] or "") if rows else ""

    def find(self, agent: str, *, key: str | None, digest: bytes) -> RequestRow | None:
        """Return the agent's newest row that is not cancelled, by key if one is given, else by digest."""
        by, value = ("key", key) if key is not None else ("digest", digest)
        sql = f"{_ROW} WHERE r.agent = ? AND r.{by} = ? AND r.state != '{RowState.CANCELLED}' ORDER BY r.seq DESC LIMIT 1"
        return _first(self._database.read(sql, (agent, value)))

    def row(self, request_id: str) -> RequestRow | None:
        """Return one row; cancelled ones too, until they are forgotten."""
        return _first(self._database.read(f"{_ROW} WHERE r.id = ?", (request_id,)))

    def answer(self, request_id: str) -> Answer | None:
        """Return the answer of a done row."""
        rows = self._database.read(
            "SELECT a.status, a.content_type, a.body, a.form, a.cut, a.finished_wall"
            " FROM answers a JOIN requests r ON r.seq = a.seq WHERE r.id = ?",
            (request_id,),
        )
        for status, content_type, body, form, cut, finished_wall in rows:
            return Answer(status, content_type, body, form, bool(cut), finished_wall)
        return None

    async def forget(self, finished_before_wall: float) -> int:
        """Delete rows that ended before that time, a few hundred at once, and give their room back; returns how many.

        Raises:
            StoreFault: the file could not be written.
        """
        forgotten = 0
        while True:
            found = self._database.read(
                "SELECT seq FROM requests WHERE ended_wall < ? LIMIT ?", (finished_before_wall, _FORGET_AT_ONCE)
            )
            if not found:
                break
            which = ",".join(str(int(seq)) for (seq,) in found)
            await self._database.commit(
                *(Change(f"DELETE FROM {table} WHERE seq IN ({which})", ()) for table in ("answers", "bodies", "requests")),
            )
            forgotten += len(found)
        if forgotten:
            await self._database.shrink()
        return forgotten

    def statistics(self) -> RequestsView:
        counts = {state: int(n) for state, n in self._database.read("SELECT state, count(*) FROM requests GROUP BY state")}
        return RequestsView(
            queued=counts.get(RowState.QUEUED, 0),
            running=counts.get(RowState.RUNNING, 0),
            done=counts.get(RowState.DONE, 0),
            cancelled=counts.get(RowState.CANCELLED, 0),
        )


def _rows(found: Iterable[tuple[Any, ...]]) -> list[RequestRow]:
    return [_as_row(*values) for values in found]


def _as_row(*values: Any) -> RequestRow:
    row = RequestRow(*values)
    return replace(
        row, asked_stream=bool(row.asked_stream), body=row.body or b"", is_async=bool(row.is_async), state=RowState(row.state)
    )


def _first(found: list[tuple[Any, ...]]) -> RequestRow | None:
    return _rows(found)[0] if found else None
