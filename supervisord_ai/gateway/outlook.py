"""What is asked of Ollama at this instant, for the sampler: who waits, and how long one would wait who came now.

The wait is that of a newcomer like each of those who wait now, against the time that one has to start: its 90th percentile says
how near the backlog is to breaking its promises. Not counted are those whom nobody's slowness holds up: who waits for its own
rate, and who asked to be answered later.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.clock import Clock
from supervisord_ai.core.samples import Load
from supervisord_ai.core.scheduler import Scheduler, Ticket

PERCENTILE = 0.90
LONG_LINE = 2000  # playing one forward takes milliseconds
LONG_LINE_EVERY_S = 5.0  # and it changes slowly


@dataclass(frozen=True, slots=True)
class _Waits:
    oldest_s: float = 0.0
    wait_s: float | None = 0.0
    wait_share: float | None = 0.0


class Outlook:
    """Looks at the scheduler; changes nothing."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._waits = _Waits()
        self._looked_at = float("-inf")

    def load(self, running: int) -> Load:
        """Return the load now; `running`: how many calls hold a slot."""
        now = self._clock.monotonic()
        scheduler = self._scheduler
        if scheduler.queued <= LONG_LINE or now >= self._looked_at + LONG_LINE_EVERY_S:
            self._looked_at = now
            self._waits = self._look(now)
        waits = self._waits
        return Load(scheduler.queued, running, scheduler.slots, waits.oldest_s, waits.wait_s, waits.wait_share)

    def _look(self, now: float) -> _Waits:
        counted = [ticket for ticket in self._scheduler.on_connections() if ticket.not_before <= now]
        if not counted:
            return _Waits()
        oldest_s = now - min(ticket.arrived_at for ticket in counted)
        # A guess would only frighten: nothing is known of a backend that has not answered a call yet.
        is_known = self._scheduler.service.is_known
        starts = self._scheduler.newcomers_start({ticket.priority for ticket in counted}, now) if is_known else None
        if starts is None:
            return _Waits(oldest_s, None, _percentile([_waited_share(ticket, now) for ticket in counted]))
        waits_s = [starts[ticket.priority] - now for ticket in counted]
        shares = [wait_s / _allowed_s(ticket) for wait_s, ticket in zip(waits_s, counted, strict=True)]
        return _Waits(oldest_s, _percentile(waits_s), _percentile(shares))


def _allowed_s(ticket: Ticket) -> float:
    return max(ticket.start_by - ticket.arrived_at, 1e-3)


def _waited_share(ticket: Ticket, now: float) -> float:
    """Where nothing can be estimated, what has been waited already is the least that is true."""
    return (now - ticket.arrived_at) / _allowed_s(ticket)


def _percentile(values: list[float]) -> float:
    """The nearest rank, so that of ten the ninth decides, and of one that one."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, round(PERCENTILE * len(ranked)) - 1))]
