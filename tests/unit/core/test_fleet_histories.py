"""Ten thousand lives of an agent, drawn at random: what must hold in every one of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.agent_state import AgentEvent, AgentState, is_alive, next_state
from supervisord_ai.core.machine import IllegalMove
from supervisord_ai.core.policies import RestartPolicy
from supervisord_ai.core.restart import Quarantine, RestartIn, RestartLedger, RunAgainIn
from supervisord_ai.core.roster import Restart
from supervisord_ai.core.startup import StartGate
from supervisord_ai.core.verdict import Blame, Verdict, blame

pytestmark = pytest.mark.long  # half a minute of arithmetic

VERDICTS = [
    Verdict(word, is_after_gateway=is_excused)
    for word, is_excused in (
        ("finished", False), ("exit:1", False), ("exit:1", True), ("crash:SEGV", False), ("oom:own-cap", False),
        ("oom:vm", False), ("stopped:restart", False), ("killed:external", False),
    )
]  # fmt: skip
ENDS = st.lists(st.tuples(st.sampled_from(VERDICTS), st.floats(0, 100), st.floats(0, 0.999)), max_size=30)


@settings(max_examples=10_000, deadline=None)
@given(st.lists(st.sampled_from(AgentEvent), max_size=30))
def test_no_history_starts_an_agent_twice_and_none_starts_one_that_was_stopped(events: list[AgentEvent]) -> None:
    """Spawned only when nothing of it is alive; after a stop only when its owner has released it."""
    state = AgentState.PENDING
    alive = 0
    is_stopped = False
    for event in events:
        try:
            after = next_state(state, event)
        except IllegalMove:
            continue
        if event in {AgentEvent.SPAWN, AgentEvent.ADOPT}:
            assert not is_stopped
            assert alive == 0
            alive += 1
        if is_alive(state) and not is_alive(after):
            alive -= 1
        is_stopped = event is AgentEvent.GONE or (is_stopped and event in {AgentEvent.GONE, AgentEvent.QUARANTINE})
        if event is AgentEvent.TRIAL:
            is_stopped = False  # the shell asks its owner's wish before a trial, see lifecycle
        assert alive == is_alive(after)
        state = after


@settings(max_examples=10_000, deadline=None)
@given(ENDS, st.sampled_from(Restart), st.sampled_from([None, 1.0, 60.0]), st.integers(1, 6))
def test_no_history_restarts_an_agent_more_often_than_the_intensity_allows(
    ends: list[tuple[Verdict, float, float]], restart: Restart, every_s: float | None, intensity: int
) -> None:
    policy = RestartPolicy(intensity=intensity)
    ledger = RestartLedger(policy, restart, every_s)
    now = 0.0
    counted: list[float] = []
    for verdict, ran_s, draw in ends:
        now += ran_s
        decision = ledger.after(verdict, ran_s=ran_s, now=now, draw=draw)
        is_own = blame(verdict.word) is Blame.ITSELF and not verdict.is_after_gateway
        if isinstance(decision, Quarantine):
            assert is_own
            counted.clear()  # what led there is paid for
            now += decision.trial_in_s
            continue
        if is_own and (restart is not Restart.NO or every_s is not None):
            counted.append(now)
            assert len([at for at in counted if at >= now - policy.window_s]) < intensity
        if isinstance(decision, RestartIn | RunAgainIn):
            assert 0.0 <= decision.delay_s <= max(policy.max_s, every_s or 0.0)
            if every_s is not None and blame(verdict.word) is not Blame.OURS:
                assert ran_s + decision.delay_s >= every_s - 1e-9
            now += decision.delay_s


@settings(max_examples=2_000, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_the_gate_never_lets_more_than_its_limit_through_in_its_window(pauses: list[float]) -> None:
    gate = StartGate(limit=10, window_s=2.0)
    now = 0.0
    starts: list[float] = []
    for pause in pauses:
        now += pause
        starts.append(gate.reserve(now))
        assert starts[-1] >= now
    assert all(later - earlier >= 2.0 - 1e-9 for earlier, later in zip(starts, starts[10:], strict=False))
