"""Decides whether Ollama may be called. Knows nothing of HTTP, of requests or of slots.

Faults are Ollama's alone: no connection, silence, an answer cut off, a runner that died. What a caller did wrong, a caller who
left, and anything Ollama answered in good order never come here. Open, nothing is drained into errors: who waits goes on
waiting until its own deadline. Half-open, one cheap thing is tried (a load, a few tokens for nobody), and its end decides.
"""

from __future__ import annotations

import math
from collections import deque
from enum import StrEnum
from typing import assert_never

from supervisord_ai.core.machine import advance
from supervisord_ai.core.policies import BreakerPolicy

# The words of Ollama's 5xx answers that say its runner is gone. Its other 500s are often a caller's fault (a bad option is
# one), so an answer counts by what it says. llm/llama_server.go and server/routes.go of v0.33.
_RUNNER_GONE = ("an error was encountered while running the model", "llama runner process", "llama-server process")


class BreakerState(StrEnum):
    """The words that `status` shows."""

    CLOSED = "closed"  # calls go through
    OPEN = "open"  # none does
    HALF_OPEN = "half-open"  # one does, to find out


class BreakerEvent(StrEnum):
    """What moves it."""

    TRIPPED = "tripped"  # so many faults within the window
    COOLED = "cooled"  # it has been open for long enough
    SUCCEEDED = "succeeded"  # the probe was answered
    FAILED = "failed"  # the probe was not


class CallEnd(StrEnum):
    """What the end of a call says of Ollama."""

    WELL = "well"  # it answered in good order, if only to say that the caller is wrong
    BADLY = "badly"
    UNKNOWN = "unknown"  # its caller left, or the fault is ours


TRANSITIONS: dict[tuple[BreakerState, BreakerEvent], BreakerState] = {
    (BreakerState.CLOSED, BreakerEvent.TRIPPED): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.COOLED): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.SUCCEEDED): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, BreakerEvent.FAILED): BreakerState.OPEN,
}


class Breaker:
    """The breaker of one backend. Every method says what happened and moves it at most once."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self.policy = policy if policy is not None else BreakerPolicy()
        self.state = BreakerState.CLOSED
        self.opened_at = -math.inf
        self._faults: deque[float] = deque(maxlen=self.policy.failures)

    def __repr__(self) -> str:
        return f"<Breaker {self.state}, {len(self._faults)} of {self.policy.failures} faults>"

    @property
    def cools_at(self) -> float:
        """When an open breaker lets one call through; infinity unless it is open."""
        return self.opened_at + self.policy.cool_down_s if self.state is BreakerState.OPEN else math.inf

    def faults(self, now: float) -> int:
        """Return how many faults lie within the window."""
        return sum(at > now - self.policy.window_s for at in self._faults)

    def fault(self, now: float) -> None:
        """Ollama did not do its part. While open that is no news: calls begun earlier end badly too."""
        match self.state:
            case BreakerState.CLOSED:
                self._faults.append(now)
                if self.faults(now) >= self.policy.failures:
                    self._open(BreakerEvent.TRIPPED, now)
            case BreakerState.HALF_OPEN:
                self._open(BreakerEvent.FAILED, now)
            case BreakerState.OPEN:
                pass
            case _:
                assert_never(self.state)

    def success(self) -> None:
        """Ollama answered a call in good order. Only half-open is that news: five faults among many good calls still trip."""
        if self.state is BreakerState.HALF_OPEN:
            self._move(BreakerEvent.SUCCEEDED)
            self._faults.clear()

    def cool(self, now: float) -> None:
        """Time has passed: an open breaker may be half open now."""
        if self.state is BreakerState.OPEN and now >= self.cools_at:
            self._move(BreakerEvent.COOLED)

    def _open(self, event: BreakerEvent, now: float) -> None:
        self._move(event)
        self.opened_at = now
        self._faults.clear()

    def _move(self, event: BreakerEvent) -> None:
        self.state = advance("breaker", TRANSITIONS, self.state, event)


def is_upstream_fault(status: int, message: str) -> bool:
    """Say whether an error that Ollama itself answered counts as its fault. `message`: the text of its `error`."""
    if status in {502, 503, 504}:
        return True
    return status >= 500 and any(words in message for words in _RUNNER_GONE)
