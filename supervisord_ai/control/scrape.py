"""Answers scrapes of Prometheus. Whoever has none pays nothing for them: what makes the text is imported for the first one.

prometheus-client brings an HTTP server, WSGI and their parents, 3 MB of the 60 that the daemon has; its import takes a thread
about 50 ms, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from supervisord_ai.control.lives import LivesView
from supervisord_ai.control.report import Moment
from supervisord_ai.gateway.measures import MeasuresView
from supervisord_ai.gateway.tally import Ending
from supervisord_ai.gateway.view import LedgerView
from supervisord_ai.store.disk import RunSync, in_thread


@dataclass(frozen=True, slots=True)
class Counted:
    """What the moment does not hold: times, endings by class, lives of agents, and each agent's line in the ledger."""

    measures: MeasuresView = field(default_factory=MeasuresView)
    ended: Mapping[tuple[str, Ending], int] = field(default_factory=dict)
    lives: LivesView = field(default_factory=LivesView)
    ledger: Mapping[str, LedgerView] = field(default_factory=dict)


class Metrics:
    """Answers scrapes. `counted` copies what is still being counted."""

    def __init__(self, counted: Callable[[], Counted] = Counted, run_sync: RunSync = in_thread) -> None:
        self._counted = counted
        self._run_sync = run_sync

    async def text(self, moment: Moment) -> bytes:
        """Return the metrics as text. The loop is held for the copies alone."""
        return await self._run_sync(_exposed, moment, self._counted())


def _exposed(moment: Moment, counted: Counted) -> bytes:
    from supervisord_ai.control.metrics import exposed  # noqa: PLC0415 - see above

    return exposed(moment, counted)
