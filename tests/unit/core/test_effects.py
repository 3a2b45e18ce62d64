"""What each level changes, and that level 0 changes nothing."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from supervisord_ai.core.effects import Effects, Level, effects_at
from supervisord_ai.core.policies import LevelsPolicy

POLICY = LevelsPolicy()


def test_level_0_changes_nothing_whatever_is_configured() -> None:
    loud = LevelsPolicy(num_predict=1, ttl_factor=(1.0, 9.0, 9.0, 9.0), light_model="x", priority_only=1)
    assert effects_at(loud, Level.NORMAL) == Effects()


def test_each_level_adds_to_the_one_below() -> None:
    minor, major, critical = (effects_at(POLICY, level) for level in (Level.MINOR, Level.MAJOR, Level.CRITICAL))
    assert minor == Effects(level=Level.MINOR, num_predict=256, ttl_factor=2.0)
    assert major == replace(
        minor,
        level=Level.MAJOR,
        ttl_factor=8.0,
        allow_stale=True,
        light_model="tinyllama",
        pauses_starts=True,
    )
    assert critical == replace(major, level=Level.CRITICAL, ttl_factor=24.0, priority_only=3)


@pytest.mark.parametrize(
    ("change", "effect"),
    [
        ({"num_predict": 0}, "num_predict"),
        ({"ttl_factor": (1.0, 1.0, 1.0, 1.0)}, "ttl_factor"),
        ({"light_model": ""}, "light_model"),
        ({"stale": False}, "allow_stale"),
        ({"pause_starts": False}, "pauses_starts"),
    ],
)
def test_one_line_of_config_turns_one_effect_off(change: dict[str, object], effect: str) -> None:
    usual, without = effects_at(POLICY, Level.CRITICAL), effects_at(replace(POLICY, **change), Level.CRITICAL)  # type: ignore[arg-type]
    assert getattr(without, effect) == getattr(Effects(), effect)
    assert [f.name for f in fields(Effects) if getattr(usual, f.name) != getattr(without, f.name)] == [effect]
