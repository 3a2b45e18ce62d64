"""Decides what to tell an owner about the cache: one sentence for somebody who has no time. Knows figures only."""

from __future__ import annotations

from dataclasses import dataclass

FEW = 50  # requests from which nothing can be told
GOOD_SHARE = 0.10
MOSTLY = 0.5
FULL = 0.9


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """Since the daemon started. `random`: asked without a fixed seed at a temperature above 0, so never shared."""

    hits: int
    misses: int
    random: int
    saved_s: float
    evicted: int  # of L2 and L3
    fullest: str  # the config table of the tier that is fullest, "cache.l2" or "cache.l3"
    fill: float  # how full that one is, 0 to 1
    scope: str


def advice(seen: CacheFigures) -> str:
    """Return the one thing worth knowing or doing."""
    looked = seen.hits + seen.misses
    asked = looked + seen.random
    if asked < FEW:
        return f"Too early to tell: {asked} requests so far. Look again after a few hundred."
    if seen.random > MOSTLY * asked:
        return (
            f"{seen.random} of {asked} requests ask for a random answer (temperature above 0, no seed), which is never shared:"
            " where any good answer will do, ask with temperature 0 or a fixed seed."
        )
    share = seen.hits / looked
    if seen.evicted > seen.hits and seen.fill > FULL:
        return (
            f"The cache is full and drops more answers than it gives: make [{seen.fullest}] size larger, if the disk has room."
        )
    if share >= GOOD_SHARE:
        saved = _time(seen.saved_s)
        return f"The cache answers {share:.0%} of what it may, and saved {saved} of the model's time: leave it as it is."
    if seen.scope != "shared":
        return (
            f'Only {share:.0%} are found, and answers are kept apart (scope = "{seen.scope}"):'
            ' if these agents may see each other\'s answers, scope = "shared" finds more.'
        )
    return f"Only {share:.0%} are found: these agents seldom ask the same. The cache costs next to nothing, so leave it."


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
