"""Decides how many slots an engine is worth, from what was measured: more only where they bring more. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WORTH = 1.10
"""A slot more costs memory for its context and makes each answer slower: it has to bring a tenth more tokens a second."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one model did with so many calls at once. Rates are tokens a second: of all calls together, and of one."""

    at_once: int
    together_per_s: float
    each_per_s: float
    ttft_s: float  # median time to the first token


@dataclass(frozen=True, slots=True)
class SlotAdvice:
    """How many slots, and why in one sentence."""

    slots: int
    why: str


def advise(speeds: Sequence[Speed]) -> SlotAdvice:
    """Return the fewest calls at once that no larger number beats by a tenth. `speeds`: at least one, in ascending `at_once`."""
    best = speeds[0]
    for speed in speeds[1:]:
        if speed.together_per_s >= best.together_per_s * WORTH:
            best = speed
    more = next((speed for speed in speeds if speed.at_once > best.at_once), None)
    if best is not speeds[0]:
        first = speeds[0]
        gain = best.together_per_s / first.together_per_s
        why = f"{best.at_once} at once answer {gain:.2f} times what {first.at_once} does"
        return SlotAdvice(best.at_once, why if more is None else f"{why}; {more.at_once} bring nothing more")
    if more is None:
        return SlotAdvice(best.at_once, f"nothing but {best.at_once} at once was measured")
    gain = more.together_per_s / best.together_per_s
    return SlotAdvice(best.at_once, f"{more.at_once} at once answer {gain:.2f} times what {best.at_once} does: not worth a slot")
