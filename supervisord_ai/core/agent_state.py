"""Decides which moves an agent may make between planned, running and ended. Knows nothing of processes.

    pending -> starting -> running -> stopping -> stopped
       ^          |           |          |
       |          +-----------+----------+--> backoff | scheduled | finished | quarantined   (it ended, and not at our word)
       +-- released, or started again by its owner
"""

from __future__ import annotations

from enum import StrEnum

from supervisord_ai.core.machine import advance


class AgentState(StrEnum):
    """Where an agent is in its life; the words that `status` shows."""

    PENDING = "pending"  # planned; its batch has not come
    STARTING = "starting"  # being spawned, or spawned and not ready
    RUNNING = "running"  # ready
    STOPPING = "stopping"  # told to end; its processes are not all gone
    BACKOFF = "backoff"  # ended; starts again at a known time
    STOPPED = "stopped"  # ended, or never started, at our word
    SCHEDULED = "scheduled"  # a periodic job between two runs: done, and its next run has a known time
    FINISHED = "finished"  # ended, and its policy does not start it again
    QUARANTINED = "quarantined"  # ended too often, or cannot be ended


class AgentEvent(StrEnum):
    """What happens to an agent."""

    SPAWN = "spawn"  # its turn has come
    ADOPT = "adopt"  # an earlier supervisor started it
    READY = "ready"
    END = "end"  # it is being ended: by its owner, by the end of the supervisor, by its cap
    GONE = "gone"  # ended, and it is to stay down
    RETRY = "retry"  # ended, and is started again later
    SCHEDULE = "schedule"  # done, and is run again at its time
    FINISH = "finish"  # ended, and is not started again
    QUARANTINE = "quarantine"  # ended once too often
    TRIAL = "trial"  # one start out of quarantine
    RELEASE = "release"  # started again by its owner


S, E = AgentState, AgentEvent

_ALIVE = (S.STARTING, S.RUNNING, S.STOPPING)
_RESTING = (S.PENDING, S.BACKOFF, S.SCHEDULED, S.FINISHED, S.QUARANTINED, S.STOPPED)

TRANSITIONS: dict[tuple[AgentState, AgentEvent], AgentState] = {
    (S.PENDING, E.SPAWN): S.STARTING,
    (S.PENDING, E.ADOPT): S.STARTING,
    (S.BACKOFF, E.SPAWN): S.STARTING,
    (S.SCHEDULED, E.SPAWN): S.STARTING,
    (S.STARTING, E.READY): S.RUNNING,
    (S.STARTING, E.END): S.STOPPING,
    (S.RUNNING, E.END): S.STOPPING,
    **{(state, E.GONE): S.STOPPED for state in (*_ALIVE, *_RESTING)},
    **{(state, E.RETRY): S.BACKOFF for state in _ALIVE},
    **{(state, E.SCHEDULE): S.SCHEDULED for state in _ALIVE},
    **{(state, E.FINISH): S.FINISHED for state in _ALIVE},
    **{(state, E.QUARANTINE): S.QUARANTINED for state in (*_ALIVE, *_RESTING)},
    (S.QUARANTINED, E.TRIAL): S.BACKOFF,
    **{(state, E.RELEASE): S.PENDING for state in _RESTING},
}


def next_state(state: AgentState, event: AgentEvent) -> AgentState:
    """Return the state after `event`.

    Raises:
        IllegalMove: no agent makes this move; a bug in the caller.
    """
    return advance("agent", TRANSITIONS, state, event)


def has_settled(state: AgentState) -> bool:
    """Say whether a batch need not wait for this agent any longer. One that crashes in its start is waited for."""
    return state in {S.RUNNING, S.SCHEDULED, S.FINISHED, S.QUARANTINED, S.STOPPED}


def is_alive(state: AgentState) -> bool:
    """Say whether processes of it may exist."""
    return state in _ALIVE
