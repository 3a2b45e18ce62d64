"""Every (state, event) pair of an agent: legal as the table says, or an error that names it."""

from __future__ import annotations

import pytest

from supervisord_ai.core.agent_state import AgentEvent, AgentState, has_settled, is_alive, next_state
from supervisord_ai.core.machine import IllegalMove

S, E = AgentState, AgentEvent

LEGAL: dict[AgentState, dict[AgentEvent, AgentState]] = {
    S.PENDING: {E.SPAWN: S.STARTING, E.ADOPT: S.STARTING, E.GONE: S.STOPPED, E.QUARANTINE: S.QUARANTINED, E.RELEASE: S.PENDING},
    S.STARTING: {
        E.READY: S.RUNNING,
        E.END: S.STOPPING,
        E.GONE: S.STOPPED,
        E.RETRY: S.BACKOFF,
        E.SCHEDULE: S.SCHEDULED,
        E.FINISH: S.FINISHED,
        E.QUARANTINE: S.QUARANTINED,
    },
    S.RUNNING: {
        E.END: S.STOPPING,
        E.GONE: S.STOPPED,
        E.RETRY: S.BACKOFF,
        E.SCHEDULE: S.SCHEDULED,
        E.FINISH: S.FINISHED,
        E.QUARANTINE: S.QUARANTINED,
    },
    S.STOPPING: {
        E.GONE: S.STOPPED,
        E.RETRY: S.BACKOFF,
        E.SCHEDULE: S.SCHEDULED,
        E.FINISH: S.FINISHED,
        E.QUARANTINE: S.QUARANTINED,
    },
    S.BACKOFF: {E.SPAWN: S.STARTING, E.GONE: S.STOPPED, E.QUARANTINE: S.QUARANTINED, E.RELEASE: S.PENDING},
    S.SCHEDULED: {E.SPAWN: S.STARTING, E.GONE: S.STOPPED, E.QUARANTINE: S.QUARANTINED, E.RELEASE: S.PENDING},
    S.STOPPED: {E.GONE: S.STOPPED, E.QUARANTINE: S.QUARANTINED, E.RELEASE: S.PENDING},
    S.FINISHED: {E.GONE: S.STOPPED, E.QUARANTINE: S.QUARANTINED, E.RELEASE: S.PENDING},
    S.QUARANTINED: {E.GONE: S.STOPPED, E.QUARANTINE: S.QUARANTINED, E.RELEASE: S.PENDING, E.TRIAL: S.BACKOFF},
}


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("event", E)
def test_an_agent_moves_as_the_table_says_and_never_otherwise(state: AgentState, event: AgentEvent) -> None:
    if event in LEGAL[state]:
        assert next_state(state, event) is LEGAL[state][event]
    else:
        with pytest.raises(IllegalMove, match=f"^agent in state {state} cannot take {event}$"):
            next_state(state, event)


def test_no_state_that_may_have_processes_can_be_spawned_again() -> None:
    for state in S:
        if is_alive(state):
            assert E.SPAWN not in LEGAL[state]
            assert E.RELEASE not in LEGAL[state]


def test_a_batch_waits_for_one_that_crashes_in_its_start_but_not_for_one_that_has_finished() -> None:
    assert not has_settled(S.BACKOFF)
    assert not has_settled(S.STARTING)
    assert has_settled(S.FINISHED)
    assert has_settled(S.SCHEDULED)
    assert has_settled(S.QUARANTINED)
