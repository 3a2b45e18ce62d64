"""What the gateway shows of its queue: one view of everything at an instant, for status and for people."""

from __future__ import annotations

from supervisord_ai.core.scheduler import Scheduler
from supervisord_ai.gateway.backlog import Backlog
from supervisord_ai.gateway.view import PriorityView, QueuedView


def queue_view(scheduler: Scheduler, backlog: Backlog, count: int, now: float) -> tuple[QueuedView, ...]:
    """Return the first `count` of those who wait, in about the order they will start."""
    shown = []
    for ticket in scheduler.order(count):
        request, sleeper = backlog.get(ticket.id), backlog.asleep.get(ticket.id)
        if request is not None:
            model, path, accepted_at = request.call.model, request.call.path, request.times.accepted_at
        elif sleeper is not None:
            model, path, accepted_at = sleeper.model, sleeper.path, sleeper.accepted_at
        else:
            continue
        reason = scheduler.reason(ticket, now)
        shown.append(QueuedView(ticket.id, ticket.agent, model, path, now - accepted_at, ticket.priority, reason))
    return tuple(shown)


def priority_views(scheduler: Scheduler, now: float) -> tuple[PriorityView, ...]:
    """Return how each priority stands that somebody waits with; times are from now."""
    return tuple(
        PriorityView(
            one.priority,
            one.queued,
            now - one.oldest_at,
            None if one.newcomer_starts_at is None else one.newcomer_starts_at - now,
        )
        for one in scheduler.priorities(now)
    )
