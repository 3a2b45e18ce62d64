"""A journalled request only moves forward, and at most twice into a slot."""

from __future__ import annotations

from itertools import product

import pytest

from supervisord_ai.core.machine import IllegalMove
from supervisord_ai.core.request_state import MAX_ATTEMPTS, TRANSITIONS, RowEvent, RowState, next_attempt, next_state, sources


@pytest.mark.parametrize(("state", "event"), list(product(RowState, RowEvent)))
def test_every_pair_moves_or_is_illegal(state: RowState, event: RowEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalMove, match=f"^request in state {state} cannot take {event}$"):
            next_state(state, event)


@pytest.mark.parametrize("event", list(RowEvent))
@pytest.mark.parametrize("ended", [RowState.DONE, RowState.CANCELLED])
def test_what_has_ended_takes_nothing_more(ended: RowState, event: RowEvent) -> None:
    assert ended not in sources(event)


def test_the_guard_on_disk_names_the_states_of_the_table() -> None:
    assert sources(RowEvent.CLAIMED) == (RowState.QUEUED, RowState.RUNNING)
    assert sources(RowEvent.ANSWERED) == (RowState.QUEUED, RowState.RUNNING)
    assert sources(RowEvent.CANCELLED) == (RowState.QUEUED, RowState.RUNNING)


def test_there_is_no_third_attempt() -> None:
    assert [next_attempt(n) for n in range(4)] == [1, 2, None, None]
    assert MAX_ATTEMPTS == 2
