"""Decides which moves a journalled request may make. Knows nothing of files, queues or answers.

A row is written when the request is accepted and moves only forward: queued, running, then done or cancelled for ever. A
row found running after a crash is claimed once more as attempt 2; there is no third, because a request that ended two
supervisors is not innocent.
"""

from __future__ import annotations

from enum import StrEnum

from supervisord_ai.core.machine import advance

MAX_ATTEMPTS = 2


class RowState(StrEnum):
    """Where a journalled request stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class RowEvent(StrEnum):
    """What happens to a journalled request."""

    CLAIMED = "claimed"  # a slot took it
    RETURNED = "returned"  # Ollama could not be reached: it waits again (in memory only; on disk it stays as claimed)
    ANSWERED = "answered"  # its answer is known, from a slot, a twin or a refusal after it was accepted
    CANCELLED = "cancelled"  # its caller left, or its agent's generation ended


TRANSITIONS: dict[tuple[RowState, RowEvent], RowState] = {
    (RowState.QUEUED, RowEvent.CLAIMED): RowState.RUNNING,
    (RowState.RUNNING, RowEvent.CLAIMED): RowState.RUNNING,  # attempt 2, after a crash
    (RowState.RUNNING, RowEvent.RETURNED): RowState.QUEUED,
    (RowState.QUEUED, RowEvent.ANSWERED): RowState.DONE,
    (RowState.RUNNING, RowEvent.ANSWERED): RowState.DONE,
    (RowState.QUEUED, RowEvent.CANCELLED): RowState.CANCELLED,
    (RowState.RUNNING, RowEvent.CANCELLED): RowState.CANCELLED,
}


def next_state(state: RowState, event: RowEvent) -> RowState:
    """Return the state after `event`.

    Raises:
        IllegalMove: the row has already ended.
    """
    return advance("request", TRANSITIONS, state, event)


def sources(event: RowEvent) -> tuple[RowState, ...]:
    """Return the states that can take `event`, for the WHERE clause that guards the move on disk."""
    return tuple(state for state, known in TRANSITIONS if known is event)


def next_attempt(attempt: int) -> int | None:
    """Return the number of the next attempt, counted from 1; None when the row has had its last."""
    return attempt + 1 if attempt < MAX_ATTEMPTS else None
