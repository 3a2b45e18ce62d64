"""Step 3: whether a request may wait. Counts who waits, forecasts the start, and asks `core/admission.py`."""

from __future__ import annotations

from supervisord_ai.clock import Clock
from supervisord_ai.core.admission import Admitted, Asked, Counts, Rejected, admit, priority_for
from supervisord_ai.core.cache_policy import is_embedding
from supervisord_ai.core.calls import Call
from supervisord_ai.core.degraded import turned_away
from supervisord_ai.core.identity import Caller, CallerKind
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.core.roster import ClassPolicy
from supervisord_ai.core.scheduler import Scheduler, Ticket
from supervisord_ai.gateway.backlog import Backlog
from supervisord_ai.gateway.callers import Callers
from supervisord_ai.gateway.level import LevelInForce


class Admit:
    """The door of the backlog."""

    def __init__(
        self,
        *,
        queue: QueuePolicy,
        scheduler: Scheduler,
        backlog: Backlog,
        callers: Callers,
        clock: Clock,
        level: LevelInForce,
    ) -> None:
        self._level = level
        self._queue = queue
        self._scheduler = scheduler
        self._backlog = backlog
        self._callers = callers
        self._clock = clock

    def decide(self, caller: Caller, policy: ClassPolicy, call: Call, asked: Asked, *, came_at: float) -> Admitted | Rejected:
        """Decide at this instant; who is admitted has taken its place in its rate, and its time runs since it came."""
        now = self._clock.monotonic()
        effects = self._level.effects
        if effects.priority_only is not None:
            priority = priority_for(asked.priority, policy)
            refused = turned_away(effects, priority, lifts_in_s=self._level.lifts_in_s())
            if refused is not None:
                return refused
        generation_s = self._scheduler.service.of(call.canonical_model, is_embedding=is_embedding(call.route.op))
        return admit(
            asked,
            policy,
            self._queue,
            self._callers.rate(caller, policy, now),
            self._counts(caller.name),
            now=now,
            came_at=came_at,
            one_body_s=None if call.asked_stream else generation_s,
            starts_at=lambda admitted: self._starts_at(caller, policy, call, admitted, now),
        )

    def _counts(self, agent: str) -> Counts:
        scheduler, entering = self._scheduler, self._backlog.entering
        is_guest = agent == CallerKind.GUEST
        # Asynchronous requests have only the common bound, except those of guests, which count as their others.
        mine = scheduler.queued_of(agent) - (0 if is_guest else scheduler.queued_async(agent))
        mine += sum(ticket.agent == agent and (is_guest or not ticket.is_async) for ticket in entering)
        asynchronous = scheduler.queued_async() + sum(ticket.is_async for ticket in entering)
        queued = self._backlog.queued
        wait_s = scheduler.service.wait_s(queued, scheduler.slots)
        return Counts(of_agent=mine, whole=queued - asynchronous, asynchronous=asynchronous, wait_s=wait_s)

    def _starts_at(self, caller: Caller, policy: ClassPolicy, call: Call, admitted: Admitted, now: float) -> float | None:
        """Forecast the start of a request that is not here yet; None when nobody knows, or it is soon enough anyhow."""
        scheduler = self._scheduler
        at_the_latest_s = (self._backlog.queued + scheduler.slots) * scheduler.service.longest_s  # were it all on one slot
        if not scheduler.service.is_known or max(admitted.not_before, now) + at_the_latest_s < admitted.start_by:
            return None
        ticket = Ticket(
            id="",
            agent=caller.name,
            agent_class=caller.agent_class,
            priority=admitted.priority,
            arrived_at=now,
            start_by=admitted.start_by,
            model=call.canonical_model,
            weight=policy.weight,
            not_before=admitted.not_before,
            is_embedding=is_embedding(call.route.op),
        )
        told = scheduler.forecast(ticket, now, entering=self._backlog.entering, until=admitted.start_by)
        return told.starts_at if told is not None else None
