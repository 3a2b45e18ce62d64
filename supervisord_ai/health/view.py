"""What health shows of itself: frozen values for status, tests and people. Nobody decides by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from supervisord_ai.core.effects import Level
from supervisord_ai.core.figures import Value
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.samples import Sample


@dataclass(frozen=True, slots=True)
class ComponentView:
    """One component of pressure: as the last sample says, and smoothed. None where it is not known."""

    name: str
    pressure: float | None
    smoothed: float | None
    why: str


@dataclass(frozen=True, slots=True)
class PinView:
    """The level its owner wants, and for how much longer."""

    level: Level
    left_s: float | None


@dataclass(frozen=True, slots=True)
class StepView:
    """Where a level is entered and left."""

    level: Level
    enters_at: float
    leaves_below: float


@dataclass(frozen=True, slots=True)
class LevelView:
    """The ladder at one instant.

    `level` holds; `decided` would, without a pin and without shadow mode. `down_in_s`: how much longer the decided level holds at
    least, None at level 0. `policy` says what each level changes.
    """

    level: Level
    decided: Level
    since_s: float
    reason: str
    cause: str
    components: tuple[ComponentView, ...]
    pin: PinView | None
    is_shadow: bool
    steps: tuple[StepView, ...]
    down_in_s: float | None
    policy: LevelsPolicy


@dataclass(frozen=True, slots=True)
class BypassView:
    """Somebody who called a backend past the queue: an agent by its name, else a program. `ago_s` since it was last seen."""

    who: str
    agent: str | None
    backend: str
    connections: int
    ago_s: float


@dataclass(frozen=True, slots=True)
class AlertView:
    """One alert as it is now. `values` are the figures its condition speaks of; `whom` is "" where nobody is told."""

    name: str
    state: str
    since_s: float
    when: str
    for_s: float
    values: Mapping[str, Value | None]
    is_builtin: bool
    advice: str
    whom: str
    is_told: bool
    trouble: str  # why the last notice did not arrive


@dataclass(frozen=True, slots=True)
class TriedWay:
    """How the test of one alert's way ended; `trouble` is "" when it arrived."""

    name: str
    whom: str
    trouble: str


@dataclass(frozen=True, slots=True)
class ReliefView:
    """What is given up because memory is short. `step` is nothing, starts, cache, shed or admit, each with those before it.

    Below `reserve_bytes` a step is taken; everything comes back a while after `calm_bytes` are available again.
    """

    step: str
    reason: str
    since_s: float
    reserve_bytes: int
    calm_bytes: int


@dataclass(frozen=True, slots=True)
class HealthView:
    """Everything at one instant. `sample` is None until the first one was taken."""

    sample: Sample | None = None
    level: LevelView | None = None
    bypasses: tuple[BypassView, ...] = ()
    alerts: tuple[AlertView, ...] = ()
    relief: ReliefView | None = None
