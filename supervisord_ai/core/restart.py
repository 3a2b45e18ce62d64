"""Decides what follows the end of an agent: a restart and when, rest, or quarantine. Knows no processes and no other agents.

Exponential backoff with full jitter (a uniform draw between nothing and the bound): agents that fell together do not come
back together. Quarantine when `intensity` ends of its own doing fall into `window`; ends that were ours or the machine's
never count, and neither does one that gave up because the gateway had refused it or cut its answer (`after=gateway`): when
Ollama is down for ten minutes, 131 agents that exit on a 503 come back with it. One that ran longer than the window starts
again with the shortest backoff: what happens once a week is not a crash loop. Out of quarantine lead the owner's release and
a trial, later each time.

A periodic job (`every_s`) is expected to end. It is run again `every_s` after its last start, at once when the run took longer,
and one that failed no sooner than that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from supervisord_ai.core.policies import RestartPolicy
from supervisord_ai.core.roster import Restart
from supervisord_ai.core.verdict import Blame, Verdict, blame

FIRST_TRIAL_S = 600.0
LAST_TRIAL_S = 3600.0
DOUBLINGS = 30  # an agent that fails for weeks must not overflow a float
MACHINE_BACKOFF_S = 10.0  # a shortage needs a moment to pass; the gate spreads those who come back


@dataclass(frozen=True, slots=True)
class RestartIn:
    """Start it again after this long, through the gate."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class RunAgainIn:
    """A periodic job has done its work: run it again after this long, through the gate."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Rest:
    """It has done what it was for, or its policy says no: do not start it again."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Do not start it again before it is released, or once, for trial, after `trial_in_s`."""

    reason: str
    trial_in_s: float


Decision = RestartIn | RunAgainIn | Rest | Quarantine


@dataclass(slots=True)
class RestartLedger:
    """What one agent has done lately. Times are seconds on one monotonic clock."""

    policy: RestartPolicy
    restart: Restart
    every_s: float | None = None
    ends: deque[float] = field(default_factory=deque)  # of its own doing, within the window
    in_a_row: int = 0
    trials: int = 0

    def after(self, verdict: Verdict, *, ran_s: float, now: float, draw: float) -> Decision:
        """Return what follows an end. `draw` is a uniform number in [0, 1)."""
        if ran_s > self.policy.window_s:
            self.in_a_row = self.trials = 0
        match blame(verdict.word):
            case Blame.NOBODY if self.every_s is not None:
                self.in_a_row = self.trials = 0
                return RunAgainIn(max(0.0, self.every_s - ran_s))
            case Blame.NOBODY:
                # A program that is done at once and is started always must not spin.
                return RestartIn(self.policy.base_s) if self.restart is Restart.ALWAYS else Rest()
            case Blame.OURS:
                return RestartIn(0.0)
            case Blame.MACHINE:
                return self._again_in(MACHINE_BACKOFF_S * (1 + draw), ran_s)
            case Blame.ITSELF if verdict.is_after_gateway:
                return self._again_in(self._backoff_s(draw), ran_s)
            case Blame.ITSELF:
                return self._failed(verdict, ran_s, now, draw)
            case nobodys:
                assert_never(nobodys)

    def _again_in(self, delay_s: float, ran_s: float) -> Decision:
        if self.every_s is not None:
            return RestartIn(max(delay_s, self.every_s - ran_s))
        return RestartIn(delay_s) if self.restart is not Restart.NO else Rest()

    def _failed(self, verdict: Verdict, ran_s: float, now: float, draw: float) -> Decision:
        if self.restart is Restart.NO and self.every_s is None:
            return Rest()
        self.ends.append(now)
        while self.ends[0] < now - self.policy.window_s:
            self.ends.popleft()
        # A trial out of quarantine has one chance.
        if len(self.ends) >= self.policy.intensity or self.trials:
            reason = f"{len(self.ends)} ends in {self.policy.window_s:.0f} s, the last: {verdict.word}"
            if len(self.ends) < self.policy.intensity:
                reason = f"its trial failed: {verdict.word}"
            return self.quarantined(reason)
        return self._again_in(self._backoff_s(draw), ran_s)

    def _backoff_s(self, draw: float) -> float:
        bound_s = min(self.policy.max_s, self.policy.base_s * 2.0 ** min(self.in_a_row, DOUBLINGS))
        self.in_a_row += 1
        return bound_s * draw

    def quarantined(self, reason: str) -> Quarantine:
        """Put it into quarantine, whatever it has done."""
        trial_in_s = min(LAST_TRIAL_S, FIRST_TRIAL_S * 2.0 ** min(self.trials, DOUBLINGS))
        self.trials += 1
        self.ends.clear()
        return Quarantine(reason, trial_in_s)

    def restore(self, ends: Iterable[float], *, in_a_row: int, trials: int) -> None:
        """Know again what an earlier supervisor held against it."""
        self.ends = deque(ends)
        self.in_a_row, self.trials = in_a_row, trials

    def forgive(self) -> None:
        """Forget everything: the owner released it or started it himself."""
        self.ends.clear()
        self.in_a_row = self.trials = 0
