"""Decides whether a model is where it belongs and as fast as it was. Asks nobody; it is told what `/api/ps` lists and how fast
answers came.

A model fell to the processor when the share of it on the GPU is less than half of the best share it was seen with. On a machine
without a GPU no model ever had a share, so none falls. It is back only when `/api/ps` says so: an unload that was sent, or a
call that went well, proves nothing.

A model is slow when its last three answers came, at the median, at less than a third of its own usual speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median


@dataclass(frozen=True, slots=True)
class Placed:
    """One line of `/api/ps`: how much of a loaded model is where. `bytes` is all of it."""

    name: str
    bytes: int
    vram_bytes: int

    @property
    def share(self) -> float:
        return self.vram_bytes / self.bytes if self.bytes else 0.0


class Move(StrEnum):
    """What became of a model."""

    FELL = "fell to the processor"
    BACK = "is on the GPU again"


@dataclass(frozen=True, slots=True)
class Moved:
    """A model whose place changed. Shares are 0 to 1; `best` is what it had."""

    name: str
    move: Move
    share: float
    best: float


FELL_BELOW = 0.5
BACK_FROM = 0.9


@dataclass(slots=True)
class Placements:
    """Where the models of one backend are."""

    best: dict[str, float] = field(default_factory=dict)
    fallen: set[str] = field(default_factory=set)

    def follow(self, loaded: Iterable[Placed]) -> list[Moved]:
        """Take what `/api/ps` lists now; return what changed. A fallen model that is not loaded at present stays fallen."""
        moved: list[Moved] = []
        for one in loaded:
            best = self.best[one.name] = max(self.best.get(one.name, 0.0), one.share)
            if one.name in self.fallen:
                if one.share >= best * BACK_FROM:
                    self.fallen.discard(one.name)
                    moved.append(Moved(one.name, Move.BACK, one.share, best))
            elif one.share < best * FELL_BELOW:
                self.fallen.add(one.name)
                moved.append(Moved(one.name, Move.FELL, one.share, best))
        return moved


@dataclass(frozen=True, slots=True)
class SpeedPolicy:
    """How many answers make a usual speed, and what is slow."""

    usual_of: int = 50
    needed: int = 10
    last: int = 3
    slow_ratio: float = 1 / 3
    tokens_min: int = 8  # fewer say nothing of speed


@dataclass(frozen=True, slots=True)
class Slowed:
    """A model that became slow, or is as it was. In tokens a second."""

    name: str
    is_slow: bool
    now: float
    usual: float


@dataclass(slots=True)
class Speeds:
    """How fast the models of one backend answer."""

    policy: SpeedPolicy = SpeedPolicy()
    usual: dict[str, deque[float]] = field(default_factory=dict)
    lately: dict[str, deque[float]] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)

    def note(self, model: str, tokens: int, seconds: float) -> Slowed | None:
        """Take one answer; return what it changed. Slow answers do not become the usual."""
        if tokens < self.policy.tokens_min or seconds <= 0:
            return None
        lately = self.lately.setdefault(model, deque(maxlen=self.policy.last))
        usual = self.usual.setdefault(model, deque(maxlen=self.policy.usual_of))
        lately.append(tokens / seconds)
        if len(usual) < self.policy.needed or len(lately) < self.policy.last:
            usual.append(tokens / seconds)
            return None
        now, before = median(lately), median(usual)
        is_slow = now < before * self.policy.slow_ratio
        if not is_slow:
            usual.append(tokens / seconds)
        if is_slow is (model in self.slow):
            return None
        (self.slow.add if is_slow else self.slow.discard)(model)
        return Slowed(model, is_slow, now, before)
