"""After a crash: the rows of the last life come back into the backlog before anybody is served.

Queued ones come back as they were, running ones as a second attempt, never a third. Their callers find them again
(`rejoin.py`); a row whose caller does not come back within the grace runs all the same, behind the others, unless the generation
of its agent ended and nothing could ever fetch the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.calls import Call, Face
from supervisord_ai.core.events import Event, RequestLost, RequestPoisoned, RequestsRecovered
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.core.request_state import RowState, next_attempt
from supervisord_ai.core.roster import ClassPolicy
from supervisord_ai.errors import Refused, StoreFault
from supervisord_ai.gateway.asleep import Judge
from supervisord_ai.gateway.backlog import Backlog, dies_with_generation, ticket_of
from supervisord_ai.gateway.rejoin import Rejoin
from supervisord_ai.gateway.request import Request
from supervisord_ai.gateway.spool import Spool, SpoolSpace
from supervisord_ai.gateway.tally import Ending, Tally
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.rows import Answer, RequestRow
from supervisord_ai.wire.faces import error_body

log = logging.getLogger(__name__)


class Recovery:
    """Brings the rows of the last life back. `judge` reads a row as when it was accepted."""

    def __init__(
        self,
        *,
        queue: QueuePolicy,
        requests: Requests,
        backlog: Backlog,
        rejoin: Rejoin,
        space: SpoolSpace,
        tally: Tally,
        clock: Clock,
        tell: Callable[[Event], None],
        judge: Judge,
    ) -> None:
        self._queue = queue
        self._requests = requests
        self._backlog = backlog
        self._rejoin = rejoin
        self._space = space
        self._tally = tally
        self._clock = clock
        self._tell = tell
        self._judge = judge

    async def run(self) -> frozenset[str]:
        """Return when every row is where it belongs: the models whose calls were cut by the end of the last life."""
        ids = self._requests.unfinished()
        cut: set[str] = set()
        for request_id in ids:  # one body at a time: all of them may not fit into memory
            row = self._requests.row(request_id)
            if row is None:
                continue
            self._tally.recovered += 1
            try:
                call, policy = await self._judge(row)
            except Refused as refused:
                self._cancel(row, refused.message)
                continue
            if row.state is RowState.RUNNING and call.canonical_model is not None:
                cut.add(call.canonical_model)
            await self._restore(row, call, policy)
            await trio.lowlevel.checkpoint()
        if ids:
            log.info("%d requests of the last life are back", len(ids))
            self._tell(RequestsRecovered(len(ids)))
        return frozenset(cut)

    async def _restore(self, row: RequestRow, call: Call, policy: ClassPolicy) -> None:
        now, now_wall = self._clock.monotonic(), self._clock.wall()
        accepted_at = now - max(0.0, now_wall - row.accepted_wall)
        attempt = next_attempt(row.attempt) if row.state is RowState.RUNNING else max(row.attempt, 1)
        if attempt is None:
            await self._fail(row)
            return
        if self._backlog.has_newer_generation(row.agent, row.generation) and dies_with_generation(row):
            self._cancel(row, f"generation {row.generation} of its agent ended")
            return
        # Nobody has to come back for an asynchronous request: it stands where it stood.
        alone_until = accepted_at if row.is_async else now + self._queue.orphan_grace_s
        # A deadline that passed while we were down was not the caller's doing: it gets the grace to come back, and once
        # more the wait that it asked for. No more than that: who gives up after 30 s is not worked for minutes later.
        asked_s = row.deadline_wall - row.accepted_wall
        left_s = min(row.deadline_wall - now_wall, asked_s)  # more only seems to be left where the clock was set back
        start_by = max(now + left_s, max(alone_until, now) + min(asked_s, self._queue.deadline_s))
        ticket = ticket_of(row, call, policy, arrived_at=alone_until, start_by=start_by, not_before=alone_until)
        lives = replace(row, body=b"", state=RowState.QUEUED)
        request = Request(lives, call, ticket, Spool(self._space), accepted_at=accepted_at)
        request.attempt = attempt
        request.is_durable = True
        request.awaits_return = not row.is_async
        self._rejoin.expect(row)
        await self._backlog.take_back(request)
        log.info("request %s of %s is back in the backlog as attempt %d", row.id, row.agent, attempt)

    def _cancel(self, row: RequestRow, why: str) -> None:
        self._tally.end(row.agent_class, Ending.CANCELLED)
        self._requests.cancel(row.id, why)
        log.warning("request %s of %s is given up: %s", row.id, row.agent, why)
        self._tell(RequestLost(row.agent, row.id, why))

    async def _fail(self, row: RequestRow) -> None:
        """A request that was there at two deaths of the daemon was perhaps their cause."""
        message = "the supervisor ended twice while this request ran; it is not tried a third time"
        content_type, body = error_body(Face(row.face), 500, message)
        answer = Answer(500, content_type, body, form="raw", cut=False, finished_wall=self._clock.wall())
        self._tally.end(row.agent_class, Ending.FAILED)
        log.error("request %s of %s: %s", row.id, row.agent, message)
        self._tell(RequestPoisoned(row.agent, row.id, message))
        try:
            await self._requests.finish(row.id, answer)
        except StoreFault as exc:
            log.warning("request %s of %s: its error is not in the journal: %s", row.id, row.agent, exc)
