"""Requests that wait on disk: asynchronous ones beyond `queue.memory_max`. Only their tickets stay in memory.

A body is read back, and judged again as after a crash, when its turn comes or its caller asks to wait for it. Until then all
that is kept of a request is what a list of the queue shows: 50,000 of them are some tens of megabytes and not some gigabytes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from supervisord_ai.core.calls import Call
from supervisord_ai.core.request_state import RowState
from supervisord_ai.core.roster import ClassPolicy
from supervisord_ai.core.scheduler import Scheduler, Ticket
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.request import Request
from supervisord_ai.gateway.spool import Spool, SpoolSpace
from supervisord_ai.gateway.tally import Ending, Tally
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.rows import RequestRow

log = logging.getLogger(__name__)

Judge = Callable[[RequestRow], Awaitable[tuple[Call, ClassPolicy]]]


@dataclass(frozen=True, slots=True)
class Sleeper:
    """What is remembered of a request on disk. `accepted_at` is monotonic; attempts count from 1."""

    id: str
    agent: str
    agent_class: str
    key: str | None
    model: str | None
    path: str
    accepted_at: float
    attempt: int


class Asleep:
    """The requests on disk. `judge` reads a row as when it was accepted; `know` takes a request back into memory."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        requests: Requests,
        space: SpoolSpace,
        tally: Tally,
        judge: Judge,
        know: Callable[[Request], None],
    ) -> None:
        self._scheduler = scheduler
        self._requests = requests
        self._space = space
        self._tally = tally
        self._judge = judge
        self._know = know
        self._by_id: dict[str, Sleeper] = {}
        self._by_key: dict[tuple[str, str], str] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        return f"<Asleep {len(self._by_id)}>"

    def put(self, request: Request) -> None:
        """Let a request wait here. It is durable, nobody shares its answer, and memory may forget it."""
        row, call = request.row, request.call
        sleeper = Sleeper(
            row.id, row.agent, row.agent_class, row.key, call.model, call.path, request.times.accepted_at, request.attempt
        )
        self._by_id[row.id] = sleeper
        if row.key is not None:
            self._by_key[row.agent, row.key] = row.id
        # It has no twins: they would be answered by something that is not there.
        self._scheduler.push(replace(request.ticket, shares=None, merges=None))

    def get(self, request_id: str) -> Sleeper | None:
        """Return one that sleeps."""
        return self._by_id.get(request_id)

    def keyed(self, agent: str, key: str) -> str | None:
        """Return the id of the one to which an agent gave this key."""
        return self._by_key.get((agent, key))

    async def wake(self, request_id: str, ticket: Ticket | None = None) -> Request | None:
        """Read one back and let it wait, or run, in memory. None when it does not sleep, or cannot be read any more.

        `ticket`: with which it was started just now.
        """
        sleeper = self._by_id.get(request_id)
        if sleeper is None:
            return None
        row = self._requests.row(request_id)
        try:
            judged = await self._judge(row) if row is not None else None
        except Refused as refused:
            log.warning("request %s of %s cannot be read back: %s", request_id, sleeper.agent, refused)
            judged = None
        if self._take(request_id) is None:
            return None  # it was cancelled meanwhile, or somebody else woke it
        ticket = ticket or self._scheduler.waiting(request_id)
        if row is None or judged is None or ticket is None:
            self._scheduler.remove(request_id)
            self._end(sleeper, "it cannot be read back from the journal")
            return None
        request = Request(
            replace(row, body=b"", state=RowState.QUEUED), judged[0], ticket, Spool(self._space), accepted_at=sleeper.accepted_at
        )
        request.attempt = sleeper.attempt
        request.is_durable = True
        self._know(request)
        return request

    def leave(self, request_id: str, reason: str) -> bool:
        """Nobody wants it any more; False when it does not sleep."""
        sleeper = self._take(request_id)
        if sleeper is None:
            return False
        self._scheduler.remove(request_id)
        self._end(sleeper, reason)
        return True

    def expire(self, ticket: Ticket, why: str) -> bool:
        """Its time to start has passed; the scheduler has let it go. False when it does not sleep."""
        sleeper = self._take(ticket.id)
        if sleeper is None:
            return False
        self._end(sleeper, f"no slot came free within {ticket.start_by - sleeper.accepted_at:.0f} s: {why}")
        return True

    def _take(self, request_id: str) -> Sleeper | None:
        sleeper = self._by_id.pop(request_id, None)
        if sleeper is not None and sleeper.key is not None:
            del self._by_key[sleeper.agent, sleeper.key]
        return sleeper

    def _end(self, sleeper: Sleeper, reason: str) -> None:
        self._tally.end(sleeper.agent_class, Ending.CANCELLED)
        self._requests.cancel(sleeper.id, reason)
        log.info("request %s of %s: %s cancelled on disk (%s)", sleeper.id, sleeper.agent, sleeper.path, reason)
