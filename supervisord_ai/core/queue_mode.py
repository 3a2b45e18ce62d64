"""Decides whether requests are taken in and started, at the owner's word. Knows nothing of requests.

Each word says everything: the queue is as the last one said, whatever came before it. A restart of the daemon opens it.
"""

from __future__ import annotations

from enum import StrEnum

RETRY_AFTER_S = 30.0  # for who is not taken in: nobody knows when the owner will open it


class QueueMode(StrEnum):
    """What the owner has said about the queue; the words that `status` shows."""

    OPEN = "open"
    PAUSED = "paused"  # requests are taken in and wait; nothing starts
    DRAINING = "draining"  # nothing new is taken in; what waits is worked off


class QueueVerb(StrEnum):
    """What the owner can say."""

    PAUSE = "pause"
    DRAIN = "drain"
    RESUME = "resume"


MODES: dict[QueueVerb, QueueMode] = {
    QueueVerb.PAUSE: QueueMode.PAUSED,
    QueueVerb.DRAIN: QueueMode.DRAINING,
    QueueVerb.RESUME: QueueMode.OPEN,
}


def admits(mode: QueueMode) -> bool:
    """Say whether a new request may come in. One that comes back to its row may, in every mode."""
    return mode is not QueueMode.DRAINING


def starts(mode: QueueMode) -> bool:
    """Say whether a waiting request may be given a slot."""
    return mode is not QueueMode.PAUSED
