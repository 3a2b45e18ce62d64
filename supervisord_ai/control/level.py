"""The level for its owner: what holds and why, what each level changes, what brings it down; and his word on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from supervisord_ai.control.answers import LevelPin, LevelStep, ShownLevel
from supervisord_ai.core.effects import Effects, Level, effects_at
from supervisord_ai.errors import Refused
from supervisord_ai.health.view import LevelView


class Levels(Protocol):
    """The ladder, as far as its owner commands it."""

    def pin(self, level: Level, for_s: float | None = None) -> None: ...
    def unpin(self) -> None: ...
    def statistics(self) -> LevelView: ...


def read_pin(asked: Mapping[str, Any]) -> tuple[Level, float | None]:
    """Return what is to hold, and for how many seconds. Raises: Refused, 400."""
    if asked["level"] is None:
        raise Refused(400, "level is missing: 0, 1, 2 or 3")
    return Level(int(asked["level"])), asked["for_s"]


def shown(view: LevelView) -> ShownLevel:
    """Return `GET /v1/level`."""
    before = Effects()
    steps = []
    for level in Level:
        effects = effects_at(view.policy, level)
        step = next((step for step in view.steps if step.level is level), None)
        enters_at, leaves_below = (step.enters_at, step.leaves_below) if step is not None else (0.0, None)
        steps.append(LevelStep(int(level), level.word, enters_at, leaves_below, list(changes(effects, before))))
        before = effects
    return ShownLevel(
        level=int(view.level),
        name=view.level.word,
        reason=view.reason,
        cause=view.cause,
        decided=int(view.decided),
        since_s=view.since_s,
        pin=None if view.pin is None else LevelPin(int(view.pin.level), view.pin.left_s),
        is_shadow=view.is_shadow,
        comes_down=comes_down(view),
        components=view.components,
        levels=steps,
    )


def comes_down(view: LevelView) -> str:
    """Say what brings the level down, "" where nothing has to."""
    if view.pin is not None:
        return "when its owner unpins it" if view.pin.left_s is None else f"its pin ends in {view.pin.left_s:.0f} s"
    if view.is_shadow or view.level is Level.NORMAL:
        return ""
    below = next(step.leaves_below for step in view.steps if step.level is view.level)
    earliest = f", at the earliest in {view.down_in_s:.0f} s" if view.down_in_s else ""
    return f"one level when every component is below {below:.2f}{earliest}"


def changes(effects: Effects, before: Effects) -> Iterator[str]:
    """Say what a level changes beside what the one below it does."""
    if effects.num_predict is not None and before.num_predict is None:
        yield f"answers that nobody bounded end after {effects.num_predict} tokens"
    if effects.ttl_factor != before.ttl_factor:
        yield f"kept answers are good for {effects.ttl_factor:g} times as long"
    if effects.light_model is not None and before.light_model is None:
        yield f"{effects.light_model} answers where a class allows it"
    if effects.allow_stale and not before.allow_stale:
        yield "stale answers may be given, and say so"
    if effects.pauses_starts and not before.pauses_starts:
        yield "no further batch of agents starts"
    if effects.priority_only is not None and before.priority_only is None:
        yield f"only priorities up to {effects.priority_only} are let in"
