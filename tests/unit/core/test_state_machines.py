"""The breaker and the ladder under any order of events, beside the simplest account of what each of them promises."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisord_ai.core.breaker import Breaker, BreakerState
from supervisord_ai.core.degradation import Degradation, Pin, enters_at, leaves_below
from supervisord_ai.core.effects import Level
from supervisord_ai.core.policies import BreakerPolicy, LevelsPolicy
from supervisord_ai.core.pressure import Pressed, Pressure

BREAKER = BreakerPolicy(failures=3, window_s=60.0, cool_down_s=15.0)


class BreakerOfOneBackend(RuleBasedStateMachine):
    """It opens on so many faults within the window and on no fewer, and no longer than its cool-down holds anybody back."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(BREAKER)
        self.now = 0.0
        self.faults: list[float] = []  # since it was last closed

    @rule(passed_s=st.sampled_from([0.1, 5.0, 15.0, 61.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now += passed_s
        before = self.breaker.state
        self.breaker.cool(self.now)
        if before is BreakerState.OPEN:
            is_cool = self.now >= self.breaker.opened_at + BREAKER.cool_down_s
            assert (self.breaker.state is BreakerState.HALF_OPEN) == is_cool
        else:
            assert self.breaker.state is before

    @rule()
    def ollama_fails(self) -> None:
        before = self.breaker.state
        self.breaker.fault(self.now)
        self.faults.append(self.now)
        recent = [at for at in self.faults if at > self.now - BREAKER.window_s]
        match before:
            case BreakerState.CLOSED:
                assert (self.breaker.state is BreakerState.OPEN) == (len(recent) >= BREAKER.failures)
            case _:
                assert self.breaker.state is BreakerState.OPEN
        if self.breaker.state is BreakerState.OPEN:
            self.faults.clear()

    @rule()
    def ollama_answers(self) -> None:
        before = self.breaker.state
        self.breaker.success()
        assert self.breaker.state is (BreakerState.CLOSED if before is BreakerState.HALF_OPEN else before)

    @invariant()
    def an_open_one_says_when_it_lets_one_through(self) -> None:
        if self.breaker.state is BreakerState.OPEN:
            assert self.breaker.cools_at <= self.now + BREAKER.cool_down_s
        else:
            assert self.breaker.cools_at == math.inf


LEVELS = LevelsPolicy(dwell_s=60.0)


class Ladder(RuleBasedStateMachine):
    """The level against the pressures it was told: never above what was measured, never down two at once, never down early."""

    def __init__(self) -> None:
        super().__init__()
        self.ladder = Degradation(LEVELS)
        self.now = 0.0
        self.largest = 0.0  # that any component ever was
        self.changed_at = -math.inf
        self.pinned_until: float | None = None

    @rule(
        values=st.tuples(*[st.sampled_from([0.0, 0.3, 0.65, 0.85, 1.0])] * 3),
        seconds=st.integers(1, 90),
    )
    def is_pressed(self, values: tuple[float, float, float], seconds: int) -> None:
        queue, memory, cpu = (Pressed(value, "told") for value in values)
        pressure = Pressure(queue, memory, cpu)
        self.largest = max(self.largest, *values)
        for _ in range(seconds):
            self.now += 1.0
            before, held = self.ladder.decided, self.ladder.level
            step = self.ladder.step(pressure, self.now)
            after = self.ladder.decided
            if after > before:
                top = max(self.ladder.smoothed.values())
                assert top >= enters_at(LEVELS, after)
            if after < before:
                assert before - after == 1
                assert self.now - self.changed_at >= LEVELS.dwell_s
                assert max(self.ladder.smoothed.values()) < leaves_below(LEVELS, before)
            assert (step.decided is not None) == (after is not before)
            assert (step.held is not None) == (self.ladder.level is not held)
            if after is not before:
                self.changed_at = self.now
            if self.pinned_until is not None and self.now >= self.pinned_until:
                self.pinned_until = None
                assert self.ladder.pinned is None

    @rule(level=st.sampled_from(Level), for_s=st.integers(1, 100))
    def owner_pins(self, level: Level, for_s: int) -> None:
        self.pinned_until = self.now + for_s
        self.ladder.pin(Pin(level, self.pinned_until))

    @precondition(lambda self: self.pinned_until is not None)
    @rule()
    def owner_unpins(self) -> None:
        self.pinned_until = None
        self.ladder.pin(None)

    @invariant()
    def a_pin_holds_and_nothing_else_does(self) -> None:
        pinned = self.ladder.pinned
        assert self.ladder.level is (pinned.level if pinned is not None else self.ladder.decided)

    @invariant()
    def no_level_was_decided_that_nothing_ever_reached(self) -> None:
        assert self.largest >= enters_at(LEVELS, self.ladder.decided)

    def teardown(self) -> None:
        """When nothing presses any more it comes down to normal, a level a dwell."""
        self.ladder.pin(None)
        calm = Pressure(*[Pressed(0.0, "calm")] * 3)
        for _ in range(int(6 * LEVELS.dwell_s)):
            self.now += 1.0
            self.ladder.step(calm, self.now)
        assert self.ladder.level is Level.NORMAL


TestBreaker = BreakerOfOneBackend.TestCase
TestBreaker.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestLadder = Ladder.TestCase
TestLadder.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
