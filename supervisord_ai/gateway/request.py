"""One accepted request while it lives in memory, the answer it shares with its twins, and the slot job that brings it.

    Request (one caller's row, outcome, times) >-- SharedAnswer (head, spool) >-- SlotJob (one upstream call, one slot)

Most requests have an answer and a job of their own. Coalesced ones share the answer: it is written once and read by each from
its start. Batched ones share the job: it brings several answers. A request that leaves is over at once as long as others go
on; the last one to leave ends the upstream call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import trio

from supervisord_ai.core.admission import CacheWish
from supervisord_ai.core.calls import Body, Call, Form
from supervisord_ai.core.degraded import Degraded
from supervisord_ai.core.effects import Level
from supervisord_ai.core.request_state import RowEvent, next_state
from supervisord_ai.core.scheduler import Ticket
from supervisord_ai.gateway.memory import Hit
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

    @property
    def reason(self) -> str:
        """Why there is no answer to keep, in words."""
        return self.message or _IN_WORDS.get(self.end, self.end.value)


_IN_WORDS = {End.UNFINISHED: "Ollama ended its stream without the final line", End.LEFT: "nobody waited for it any more"}


@dataclass(slots=True)
class Times:
    """Monotonic seconds. `started_at` is that of the last attempt."""

    accepted_at: float
    started_at: float | None = None
    first_byte_at: float | None = None
    ended_at: float | None = None
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StoodIn:
    """What a request was before the light model stood in, so that it can be so again: its call, who shares it, where it lies."""

    level: Level
    call: Call
    stores_as: bytes | None
    shares_as: bytes | None
    cache_status: str


class SharedAnswer:
    """An answer on its way and everybody it is for. Written by its slot job, read by any number of readers."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.head: Head | None = None
        self.job: SlotJob | None = None  # None while it waits for a slot
        self.asked_by: Request | None = None  # whose body was sent: the answer echoes that request's model
        self.sends: Body | None = None  # in place of the body of the one whose call it is
        self.degraded: Degraded | None = None  # what the level that was in force at its start did to it
        self.is_merged = False  # it came with another's: no call was made for it
        self.is_closed = False  # nobody can join any more: its end is known
        self._requests: list[Request] = []

    def __repr__(self) -> str:
        return f"<SharedAnswer of {len(self._requests)}, {self.spool!r}>"

    @property
    def waiting(self) -> list[Request]:
        """Those who still wait for its end, first come first."""
        return [request for request in self._requests if not request.is_over]

    @property
    def first(self) -> Request | None:
        """The one that speaks for all where something is done once."""
        waiting = self.waiting
        return waiting[0] if waiting else None

    def add(self, request: Request) -> None:
        """One more whom it is for."""
        self._requests.append(request)

    def let_go(self, request: Request) -> None:
        """One reads it no more; after the last its bytes go."""
        if request in self._requests:
            self._requests.remove(request)
        if not self._requests:
            self.spool.close()
            # These point back: a body of 40 MB would stay until the collector of cycles comes by.
            self.job = self.asked_by = None

    def begin(self, head: Head, now: float) -> None:
        """The first byte is here."""
        self.head = head
        for request in self.waiting:
            request.begun(now)

    def close(self) -> None:
        """No more bytes will come, and no more requests."""
        self.is_closed = True
        self.spool.end()


class SlotJob:
    """One upstream call on one slot and the answers it brings: one, or those of a batch. The slot is leased to its holder."""

    def __init__(self, holder: Request, answers: Sequence[SharedAnswer]) -> None:
        self.id = holder.id  # of the call; the holder may change
        self.holder = holder
        self.answers = tuple(answers)
        self.scope: trio.CancelScope | None = None  # around the upstream call
        self.is_abandoned = False  # nobody waits for it
        self.is_given_up = False  # it is asked again: its slot seems to be lost

    def __repr__(self) -> str:
        return f"<SlotJob of {self.holder.id}, {len(self.answers)} answers for {len(self.requests)} requests>"

    @property
    def requests(self) -> list[Request]:
        """Everybody who still waits for what it brings."""
        return [request for answer in self.answers for request in answer.waiting]


class Request:
    """The one memory of a request. `backlog` moves its state; its slot job writes its answer; readers only read.

    Live objects compare by identity.
    """

    def __init__(self, row: RequestRow, call: Call, ticket: Ticket, spool: Spool, *, accepted_at: float) -> None:
        self.row = row
        self.call = call
        self.ticket = ticket
        self.state = row.state
        self.attempt = 0  # of the call that runs, counted from 1
        self.tries = 0  # calls that reached Ollama and brought nothing back
        self.times = Times(accepted_at)
        self.answer = SharedAnswer(spool)
        self.answer.add(self)
        self.found: Hit | None = None  # it was stored while this request waited: no call is needed
        self.outcome: Outcome | None = None
        self.why_unkept = ""  # why there is no answer to come back to, where its end does not say it
        self.awaits_journal = False  # its answer is good, and is written as soon as the journal can be
        self.readers = 0
        self.is_durable = False  # its row is committed
        self.awaits_return = False  # recovered, and its caller has not come back yet
        self.cache_status = ""
        self.stood_in: StoodIn | None = None  # the light model is asked in place of another
        self.stores_as: bytes | None = None  # the cache key under which a good answer is kept
        self.shares_as: bytes | None = None  # the same, for whoever may be given the answer of another's call
        self.wish = CacheWish()
        self.place_late: Callable[[], Awaitable[None]] | None = None  # finds the two when they could not be known at first
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
    def spool(self) -> Spool:
        return self.answer.spool

    @property
    def head(self) -> Head | None:
        return self.answer.head

    @property
    def is_over(self) -> bool:
        """Its outcome is known, and is the same for every reader."""
        return self.outcome is not None

    @property
    def is_abandoned(self) -> bool:
        """The call that brings its answer goes on for nobody."""
        return self.answer.job is not None and self.answer.job.is_abandoned

    @property
    def is_echoed(self) -> bool:
        """Its answer names the model as another request did."""
        return self.answer.asked_by not in {None, self}

    @property
    def is_collapsed(self) -> bool:
        """No call was made for it: it shared the call of another."""
        return self.is_echoed or self.answer.is_merged

    def move(self, event: RowEvent) -> None:
        """Move along the table of `core/request_state.py`."""
        self.state = next_state(self.state, event)

    def join(self, answer: SharedAnswer) -> None:
        """Wait for the answer of a twin from now on. Not once an own one has begun."""
        assert self.answer.head is None
        self.answer.let_go(self)
        self.answer = answer
        answer.add(self)

    def leave_shared(self, own: SharedAnswer) -> None:
        """Wait for an answer of its own again. Not once the one it waits for has begun."""
        assert self.answer.head is None
        self.answer.let_go(self)
        self.answer = own
        own.add(self)

    def begun(self, now: float) -> None:
        """The first byte of the answer is here, or was when it came."""
        self.times.first_byte_at = now
        self._wake()

    def finish(self, outcome: Outcome, now: float) -> None:
        """The end, once. Readers see what is in the spool, then this."""
        assert self.outcome is None
        self.outcome = outcome
        self.times.ended_at = now
        self._wake()
        self.answer.spool.wake()  # a reader in the middle of a shared answer hears that this request has left

    def abandon(self, close_by: float) -> None:
        """Nobody reads any more: end the upstream call just after its next chunk, at the latest at `close_by`."""
        job = self.answer.job
        assert job is not None
        job.is_abandoned = True
        if job.scope is not None:
            job.scope.deadline = min(job.scope.deadline, close_by)

    @property
    def can_be_taken_back(self) -> bool:
        """The call that was abandoned has not been ended yet."""
        job = self.answer.job
        return job is not None and job.scope is not None and not job.scope.cancel_called and not self.is_over

    def take_back(self, silent_until: float) -> bool:
        """Somebody reads again before the call was ended; False when that is too late."""
        job = self.answer.job
        if job is None or job.scope is None or not self.can_be_taken_back:
            return False
        job.is_abandoned = False
        job.scope.deadline = silent_until
        return True

    async def wait_begun(self) -> None:
        """Return when the head is known, or there will be none."""
        while self.head is None and self.outcome is None:
            await self._news.wait()

    async def wait_beyond(self, offset: int) -> bool:
        """Return True when the answer has bytes after `offset`, False when it ended there, or this request has left it."""
        spool = self.answer.spool
        while not self._has_left:
            if len(spool) > offset:
                return True
            if spool.is_ended:
                return False
            await spool.wait_news()
        return False

    async def wait_over(self) -> Outcome:
        """Return the end."""
        while self.outcome is None:
            await self._news.wait()
        return self.outcome

    @property
    def _has_left(self) -> bool:
        return self.outcome is not None and self.outcome.end is End.LEFT

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()
