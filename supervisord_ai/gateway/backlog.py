"""Step 6: who waits. Row first, then memory: a crash between the two must not lose an accepted request.

Memory is the truth while the daemon lives; the journal is what it is rebuilt from. A request is in one of these places:

- entering: its row is on its way to the disk. It counts against its caller's limit already, and may be left.
- queued: durable, and in the scheduler.
- asleep: queued, but on disk only; its caller asked `Prefer: respond-async` and memory is for those who wait on a connection.
- running: a slot job of `dispatch.py` has it.
- over: its outcome is known; it stays until its last reader has gone.

Requests that may share an answer (`core/coalesce.py`) wait side by side and run together; who comes while the call runs joins
it, from the first byte of the answer.

Who leaves is out at once wherever it stands. After a crash `recovery.py` brings the rows back, and `rejoin.py` their callers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.admission import Admitted
from supervisord_ai.core.cache_policy import is_embedding
from supervisord_ai.core.calls import Call
from supervisord_ai.core.coalesce import Leaving, leaving
from supervisord_ai.core.effects import Level
from supervisord_ai.core.estimate import Forecast, retry_after
from supervisord_ai.core.identity import Caller
from supervisord_ai.core.patience import Patience
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.core.request_state import RowEvent, RowState
from supervisord_ai.core.roster import ClassPolicy
from supervisord_ai.core.scheduler import Scheduler, Ticket
from supervisord_ai.errors import StoreFault
from supervisord_ai.gateway.asleep import Asleep, Judge
from supervisord_ai.gateway.batch import mergeable
from supervisord_ai.gateway.level import LevelInForce
from supervisord_ai.gateway.request import End, Outcome, Request, SharedAnswer, SlotJob, StoodIn
from supervisord_ai.gateway.settle import Settle
from supervisord_ai.gateway.spool import Spool, SpoolSpace
from supervisord_ai.gateway.tally import Tally
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.rows import RequestRow
from supervisord_ai.store.writes import Unmatched

log = logging.getLogger(__name__)

_LEFT = Outcome(End.LEFT, 499, "request canceled")  # Ollama's words; a reader sees them when another connection cancelled it


class Backlog:
    """Every request in memory, from its acceptance to its last reader. The one writer of their states until they run."""

    def __init__(
        self,
        *,
        queue: QueuePolicy,
        patience: Patience,
        scheduler: Scheduler,
        requests: Requests,
        settle: Settle,
        space: SpoolSpace,
        tally: Tally,
        clock: Clock,
        new_id: Callable[[], str],
        on_change: Callable[[], None],
        judge: Judge,
        level: LevelInForce,
    ) -> None:
        self._level = level
        self._queue = queue
        self._patience = patience
        self._scheduler = scheduler
        self._requests = requests
        self._settle = settle
        self._space = space
        self._tally = tally
        self._clock = clock
        self._new_id = new_id
        self._on_change = on_change
        self._nursery: trio.Nursery | None = None
        self._by_id: dict[str, Request] = {}
        self._by_key: dict[tuple[str, str], Request] = {}
        self._generations: dict[str, int] = {}
        self._shared: dict[bytes, SharedAnswer] = {}  # what waits or runs and may be joined, by its cache key
        self._entering: dict[str, Ticket] = {}  # by id: their rows are on their way to the disk
        self._durable: dict[str, trio.Event] = {}  # by id: set when the row is written, or will not be
        self.asleep = Asleep(
            scheduler=scheduler, requests=requests, space=space, tally=tally, judge=judge, know=self._know
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks that write rows."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    # --- in ------------------------------------------------------------------------------------------------------------

    def enter(
        self, caller: Caller, policy: ClassPolicy, call: Call, admitted: Admitted, *, key: str | None, method: str
    ) -> Request:
        """Take in a request. Its row is on its way when this returns; it is queued once that is durable."""
        assert self._nursery is not None, "the backlog runs"
        now, now_wall = self._clock.monotonic(), self._clock.wall()
        row = RequestRow(
            id=self._new_id(),
            agent=caller.name,
            agent_class=caller.agent_class,
            generation=caller.generation,
            key=key,
            digest=call.digest,
            method=method,
            path=call.path,
            face=call.face.value,
            asked_stream=call.asked_stream,
            body=b"",  # on disk, and in the call
            priority=admitted.priority,
            accepted_wall=now_wall,
            deadline_wall=now_wall + (admitted.start_by - now),
            is_async=admitted.is_async,
        )
        ticket = ticket_of(row, call, policy, arrived_at=now, start_by=admitted.start_by, not_before=admitted.not_before)
        request = Request(row, call, ticket, Spool(self._space), accepted_at=now)
        request.attempt = 1
        self._know(request)
        self._entering[row.id] = ticket
        self._durable[row.id] = trio.Event()
        self._nursery.start_soon(self._write_row, request)
        return request

    async def _write_row(self, request: Request) -> None:
        fault: StoreFault | None = None
        try:
            await self._requests.accept(request.row, request.call.caller_body.pieces())
            request.is_durable = True
        except StoreFault as exc:
            fault = exc
        finally:
            del self._entering[request.id]
            self._durable.pop(request.id).set()
        if request.is_over:  # left while its row was written
            self._requests.cancel(request.id, "its caller left")
        elif fault is not None:
            log.error("request %s of %s cannot be accepted: %s", request.id, request.agent, fault)
            message = "the journal cannot be written, so nothing can be promised"
            self._over(request, Outcome(End.FAULT, 503, message, retry_after_s=5.0), str(fault))
        elif self._settle.look_again_for(request):  # stored since it came
            await self._settle.give_found(request)
            self.ended([request])
        else:
            await self._line_up(request)

    async def wait_durable(self, request: Request) -> bool:
        """Return whether the row of a request is safe on disk, when that is decided."""
        while (written := self._durable.get(request.id)) is not None:
            await written.wait()
        return request.is_durable

    async def wake(self, request_id: str, ticket: Ticket | None = None) -> Request | None:
        """Return a request that lives, read back if it sleeps; None when there is none. `ticket`: it was started with it."""
        return await self.asleep.wake(request_id, ticket) or self._by_id.get(request_id)

    async def wake_keyed(self, agent: str, key: str | None) -> None:
        """Have the request to which an agent gave this key in memory, so that it can be joined."""
        request_id = self.asleep.keyed(agent, key) if key is not None else None
        if request_id is not None:
            await self.asleep.wake(request_id)

    async def take_back(self, request: Request) -> None:
        """Take in a request whose row outlived a crash."""
        self._know(request)
        await self._line_up(request)

    async def _line_up(self, request: Request) -> None:
        """Wait for a slot, or share what a twin waits for or has begun."""
        if request.row.is_async and request.readers == 0 and len(self._by_id) > self._queue.memory_max:
            self.asleep.put(request)
            self._forget(request)
            self._on_change()
            return
        request.ticket = replace(request.ticket, shares=request.shares_as)
        answer = self._shared.get(request.shares_as) if request.shares_as is not None else None
        if answer is not None and (answer.is_closed or not self._goes_on(answer) or not self._level.allows(answer.degraded)):
            answer = None
        if answer is not None:
            request.join(answer)
        elif request.shares_as is not None:
            self._shared[request.shares_as] = request.answer
        if answer is None or answer.job is None:
            self._scheduler.push(request.ticket)
            self._on_change()
            return
        now = self._clock.monotonic()
        request.move(RowEvent.CLAIMED)
        request.times.started_at = now
        if request.head is not None:
            request.begun(now)
        log.info("request %s of %s joins %s", request.id, request.agent, answer.job.holder.id)
        if request.is_abandoned:
            request.take_back(now + self._patience.silence_s)
            for leaver in answer.waiting[:-1]:
                self.leave(leaver, "its caller left")  # it was kept only because nobody else was there
        await self.claim([request])

    @staticmethod
    def _goes_on(answer: SharedAnswer) -> bool:
        """Whether an answer will come to its end, or can be made to."""
        first = answer.first
        return first is not None and (not first.is_abandoned or first.can_be_taken_back)

    # --- another model -------------------------------------------------------------------------------------------------

    def stand_in(self, request: Request, served: Call, level: Level, *, shares_as: bytes | None) -> None:
        """Have the light model asked for a request that was just taken in. What comes of it is kept nowhere."""
        request.stood_in = StoodIn(level, request.call, request.stores_as, request.shares_as, request.cache_status)
        self._ask_for(request, served)
        request.stores_as, request.shares_as, request.cache_status = None, shares_as, "fwd=bypass"

    def ask_as_asked(self) -> None:
        """The level is over: whoever still waits is asked for as it asked. Those whose calls run have their answer coming."""
        for request in list(self._by_id.values()):
            before = request.stood_in
            if before is None or request.is_over or request.state is not RowState.QUEUED or request.answer.job is not None:
                continue
            was_waiting = self._scheduler.remove(request.id) is not None
            request.stood_in = None
            request.leave_shared(SharedAnswer(Spool(self._space)))
            self._ask_for(request, before.call)
            request.stores_as, request.shares_as, request.cache_status = before.stores_as, before.shares_as, before.cache_status
            if was_waiting and self._nursery is not None:
                self._nursery.start_soon(self._line_up, request)

    def _ask_for(self, request: Request, call: Call) -> None:
        request.call = call
        request.ticket = replace(request.ticket, model=call.canonical_model, shares=None)
        if request.id in self._entering:
            self._entering[request.id] = request.ticket

    async def claim(self, requests: Sequence[Request]) -> None:
        """Write that these run; returns when that is durable."""

        async def claim_one(request: Request) -> None:
            try:
                await self._requests.claim(request.id, request.attempt)
            except (StoreFault, Unmatched) as exc:  # unmatched: it has left before this was written
                log.warning("request %s of %s runs without a mark in the journal: %s", request.id, request.agent, exc)

        first, *others = requests
        async with trio.open_nursery() as nursery:
            for request in others:
                nursery.start_soon(claim_one, request)
            await claim_one(first)  # in this turn of the loop, in which the answer of the slot's last call is written as well

    def wait_again(self, job: SlotJob, *, is_alone: bool) -> None:
        """A slot job brought nothing: its requests wait again where they stood; `is_alone`: not in a batch any more."""
        requests = job.requests
        for answer in job.answers:
            answer.job = None
        for request in requests:
            request.move(RowEvent.RETURNED)
            if is_alone:
                request.ticket = replace(request.ticket, merges=None)
        self._scheduler.put_back(job.holder.id, [request.ticket for request in requests])

    def _know(self, request: Request) -> None:
        self._by_id[request.id] = request
        if request.row.key is not None:
            self._by_key[request.agent, request.row.key] = request

    # --- its readers ---------------------------------------------------------------------------------------------------

    def attach(self, request: Request) -> None:
        """Somebody reads this request's answer. A recovered one that waited for its caller waits no longer."""
        request.readers += 1
        if not request.awaits_return:
            return
        request.awaits_return = False
        ticket = self._scheduler.remove(request.id)
        if ticket is not None:
            request.ticket = replace(ticket, arrived_at=request.times.accepted_at, not_before=request.times.accepted_at)
            self._scheduler.push(request.ticket)
            self._on_change()

    # --- out -----------------------------------------------------------------------------------------------------------

    def detach(self, request: Request, *, has_left: bool) -> None:
        """A reader is gone; `has_left`: without its whole answer. Without any reader, nobody waits for the request."""
        request.readers -= 1
        if request.readers > 0:
            return
        if request.is_over:
            self._forget(request)
        elif has_left and not request.row.is_async:
            self.leave(request, "its caller left")

    def leave(self, request: Request, reason: str) -> None:
        """Nobody wants it any more: out of the queue now, or off its slot just after the next chunk. Loads go on."""
        if request.is_over:
            return
        job = request.answer.job if request.state is RowState.RUNNING else None
        heirs = [other for other in job.requests if other is not request] if job is not None else []
        match leaving(is_running=job is not None, is_load=request.ticket.is_load, others=len(heirs)):
            case Leaving.NOTHING:
                pass
            case Leaving.CLOSE:
                request.abandon(self._clock.monotonic() + self._patience.leaver_grace_s)
            case Leaving.OUT:
                self._scheduler.remove(request.id)
                if job is not None and job.holder is request:
                    self._hand_over(job, heirs[0])
                self._over(request, _LEFT, reason)
                self._on_change()

    def _hand_over(self, job: SlotJob, heir: Request) -> None:
        """The one whose turn it was has left; the slot is now somebody else's who shares the call."""
        if self._scheduler.holds_slot(job.holder.id):
            self._scheduler.hand_over(job.holder.id, heir.ticket)
        job.holder = heir

    def expire(self, ticket: Ticket) -> None:
        """A ticket's time to start has passed; the scheduler has let it go."""
        now = self._clock.monotonic()
        why = self._scheduler.reason(ticket, now)
        if self.asleep.expire(ticket, why):
            return
        request = self._by_id[ticket.id]
        wait_s = self._scheduler.service.wait_s(self._scheduler.queued, self._scheduler.slots)
        message = f"no slot came free within {ticket.start_by - request.times.accepted_at:.0f} s: {why}"
        self._over(request, Outcome(End.FAULT, 503, message, retry_after(wait_s)), message)

    def ended(self, requests: Sequence[Request]) -> None:
        """Their slot job has settled them."""
        for request in requests:
            self._unshare(request)
            if request.readers == 0:
                self._forget(request)

    def _over(self, request: Request, outcome: Outcome, reason: str) -> None:
        self._settle.without_slot(request, outcome, reason)
        self._unshare(request)
        if request.readers == 0:
            self._forget(request)

    def _unshare(self, request: Request) -> None:
        """Once nobody waits for an answer any more it is not joined."""
        key = request.shares_as
        if key is not None and self._shared.get(key) is request.answer and not request.answer.waiting:
            del self._shared[key]

    def _forget(self, request: Request) -> None:
        self._by_id.pop(request.id, None)
        if request.row.key is not None and self._by_key.get((request.agent, request.row.key)) is request:
            del self._by_key[request.agent, request.row.key]
        request.answer.let_go(request)

    # --- agents --------------------------------------------------------------------------------------------------------

    def agent_started(self, agent: str, generation: int) -> None:
        """A new generation: rows of older ones that no key leads back to are nobody's."""
        self._generations[agent] = generation
        for request in self._of(agent):
            if request.awaits_return and request.row.generation != generation and dies_with_generation(request.row):
                self.leave(request, f"generation {request.row.generation} of its agent ended")

    def agent_ended(self, agent: str, generation: int) -> None:
        """Every process of that generation is gone: what it asked while we lived is left, keyed or not."""
        for request in self._of(agent):
            is_its = request.row.generation == generation and not request.row.is_async
            if is_its and (not request.awaits_return or dies_with_generation(request.row)):
                self.leave(request, f"generation {generation} of its agent ended")

    def _of(self, agent: str) -> list[Request]:
        return [request for request in self._by_id.values() if request.agent == agent]

    def has_newer_generation(self, agent: str, generation: int) -> bool:
        """Whether another generation of this agent has started since we did."""
        current = self._generations.get(agent)
        return current is not None and current != generation

    # --- looks ---------------------------------------------------------------------------------------------------------

    def get(self, request_id: str) -> Request | None:
        """Return a request that lives."""
        return self._by_id.get(request_id)

    def keyed(self, agent: str, key: str) -> Request | None:
        """Return the request that lives and to which an agent gave this key."""
        return self._by_key.get((agent, key))

    @property
    def queued(self) -> int:
        return self._scheduler.queued + len(self._entering)

    @property
    def entering(self) -> list[Ticket]:
        """Those whose rows are on their way to the disk."""
        return list(self._entering.values())

    def forecast_of(self, ticket: Ticket) -> Forecast | None:
        """Return when a request that waits here will start; None while that cannot be known."""
        return self._scheduler.forecast(ticket, self._clock.monotonic(), entering=self._entering.values())


def ticket_of(
    row: RequestRow, call: Call, policy: ClassPolicy, *, arrived_at: float, start_by: float, not_before: float
) -> Ticket:
    """Return what the scheduler is to know of a row. Times are monotonic seconds."""
    return Ticket(
        id=row.id,
        agent=row.agent,
        agent_class=row.agent_class,
        priority=row.priority,
        arrived_at=arrived_at,
        start_by=start_by,
        model=call.canonical_model,
        weight=policy.weight,
        not_before=not_before,
        is_embedding=is_embedding(call.route.op),
        is_load=call.is_load,
        merges=mergeable(call),
        is_async=row.is_async,
    )


def dies_with_generation(row: RequestRow) -> bool:
    """Nothing leads back to it: no key, and nobody was told its id."""
    return row.key is None and not row.is_async and row.generation > 0
