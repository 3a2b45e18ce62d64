"""One accepted request while it lives in memory: from its row to the last reader of its answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import trio

from supervisord_ai.core.calls import Call, Form
from supervisord_ai.core.request_state import RowEvent, next_state
from supervisord_ai.core.scheduler import Ticket
from supervisord_ai.gateway.spool import Spool
from supervisord_ai.store.rows import RequestRow


class End(StrEnum):
    """How a request came to its end."""

    WHOLE = "whole"  # the answer is complete, whatever its status
    UNFINISHED = "unfinished"  # Ollama ended its stream cleanly, but without the final frame: passed on, never kept
    ERROR = "error"  # Ollama said an error in the middle of its stream
    FAULT = "fault"  # it broke on the way, or we refused it after it had waited: an error of ours
    LEFT = "left"  # nobody waits for it any more


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer, known with its first byte. `has_length`: upstream sent one body with a Content-Length."""

    status: int
    content_type: str
    form: Form
    has_length: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a request. `status`, `message` and `retry_after_s` are those of a FAULT; `message` also of an ERROR."""

    end: End
    status: int = 0
    message: str = ""
    retry_after_s: float | None = None


@dataclass(slots=True)
class Times:
    """Monotonic seconds. `started_at` is that of the last attempt."""

    accepted_at: float
    started_at: float | None = None
    first_byte_at: float | None = None
    ended_at: float | None = None
    load_s: float = 0.0


class Request:
    """The one memory of a request. `backlog` moves its state; its slot job writes head and spool; readers only read.

    Live objects compare by identity.
    """

    def __init__(self, row: RequestRow, call: Call, ticket: Ticket, spool: Spool, *, accepted_at: float) -> None:
        self.row = row
        self.call = call
        self.ticket = ticket
        self.spool = spool
        self.state = row.state
        self.attempt = 0  # of the call that runs, counted from 1
        self.tries = 0  # calls that reached Ollama and brought nothing back
        self.times = Times(accepted_at)
        self.head: Head | None = None
        self.outcome: Outcome | None = None
        self.readers = 0
        self.is_durable = False  # its row is committed
        self.awaits_return = False  # recovered, and its caller has not come back yet
        self.is_abandoned = False
        self.cache_status = ""
        self.stores_as: bytes | None = None  # the cache key under which a good answer is kept
        self.call_scope: trio.CancelScope | None = None  # around the upstream call
        self._news = trio.Event()

    def __repr__(self) -> str:
        return f"<Request {self.id} of {self.agent}: {self.state}, attempt {self.attempt}, {self.readers} readers>"

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def agent(self) -> str:
        return self.row.agent

    @property
    def is_over(self) -> bool:
        """Its outcome is known, and is the same for every reader."""
        return self.outcome is not None

    def move(self, event: RowEvent) -> None:
        """Move along the table of `core/request_state.py`."""
        self.state = next_state(self.state, event)

    def begin(self, head: Head, now: float) -> None:
        """The first byte of the answer is here."""
        self.head = head
        self.times.first_byte_at = now
        self._wake()

    def finish(self, outcome: Outcome, now: float) -> None:
        """The end, once. Readers see what is in the spool, then this."""
        assert self.outcome is None
        self.outcome = outcome
        self.times.ended_at = now
        self.spool.end()
        self._wake()

    def abandon(self, close_by: float) -> None:
        """Nobody reads any more: end the upstream call just after its next chunk, at the latest at `close_by`."""
        self.is_abandoned = True
        if self.call_scope is not None:
            self.call_scope.deadline = min(self.call_scope.deadline, close_by)

    def take_back(self, silent_until: float) -> bool:
        """Somebody reads again before the call was ended; False when that is too late."""
        if self.call_scope is None or self.call_scope.cancel_called or self.is_over:
            return False
        self.is_abandoned = False
        self.call_scope.deadline = silent_until
        return True

    async def wait_begun(self) -> None:
        """Return when the head is known, or there will be none."""
        while self.head is None and self.outcome is None:
            await self._news.wait()

    async def wait_over(self) -> Outcome:
        """Return the end."""
        while self.outcome is None:
            await self._news.wait()
        return self.outcome

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()
