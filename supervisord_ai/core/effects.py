"""Decides what each level of the ladder changes. Knows nothing of how a level is reached (`core/degradation.py`).

Whoever acts on a level asks `effects_at` when it is told of one (`LevelChanged`) and keeps the value: at level 0 it is
`Effects()`, which changes nothing, so every effect is undone by being told that. Higher levels keep what lower ones do.

    1 minor      answers are bounded where nobody bounded them, kept ones live longer
    2 major      the light model where a class allows it, stale answers, no new batch of agents, shedding if memory is the cause
    3 critical   only urgent requests are let in
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from supervisord_ai.core.policies import LevelsPolicy


class Level(IntEnum):
    """How much the machine holds back."""

    NORMAL = 0
    MINOR = 1
    MAJOR = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        """Its name as people read it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Effects:
    """What holds now. The defaults are level 0: nothing is changed.

    Attributes:
        num_predict: put where a request bounds nothing itself; None puts nothing.
        ttl_factor: kept answers are good for so many times `cache.ttl`.
        allow_stale: an answer past that may still be given, marked in `Cache-Status`.
        light_model: asked instead of the model that was asked for, where the class allows it and it can; None for none.
        pauses_starts: no new batch of agents begins.
        priority_only: requests behind this priority are not let in; None lets all in.
    """

    level: Level = Level.NORMAL
    num_predict: int | None = None
    ttl_factor: float = 1.0
    allow_stale: bool = False
    light_model: str | None = None
    pauses_starts: bool = False
    priority_only: int | None = None


def effects_at(policy: LevelsPolicy, level: Level) -> Effects:
    """Return what a level changes; nothing at level 0."""
    if level is Level.NORMAL:
        return Effects()
    is_major, is_critical = level >= Level.MAJOR, level >= Level.CRITICAL
    return Effects(
        level=level,
        num_predict=policy.num_predict or None,
        ttl_factor=policy.ttl_factor[level],
        allow_stale=is_major and policy.stale,
        light_model=policy.light_model or None if is_major else None,
        pauses_starts=is_major and policy.pause_starts,
        priority_only=policy.priority_only if is_critical else None,
    )
