"""Decides when an alert begins to fire and when it is over. Knows nothing of figures, of clocks or of who is told.

    quiet -> pending -> firing -> quiet          the condition is true; true for `for`; untrue long enough

An alert is over when its condition has not held for as long as it took to fire, at most a minute: one that comes and goes is
one alert, not ten. While the condition is not known a pending alert is dropped (nothing proves that it held) and a firing one
goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from supervisord_ai.core.conditions import BadCondition, Condition, read_condition
from supervisord_ai.core.figures import nearest

OVER_AFTER_MOST_S = 60.0


class AlertState(StrEnum):
    """Where an alert stands; the words that `alerts list` shows."""

    QUIET = "quiet"
    PENDING = "pending"
    FIRING = "firing"


class Change(StrEnum):
    """What somebody is to be told."""

    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Notify:
    """Who is told: a command (an argv, JSON on its standard input), a URL (JSON by POST), both, or nobody."""

    command: tuple[str, ...] = ()
    url: str = ""

    @property
    def is_nobody(self) -> bool:
        return not self.command and not self.url


@dataclass(frozen=True, slots=True)
class AlertSpec:
    """`[[alerts]]`: a condition that holds for a time is told. What is left out is that of the built-in one of that name.

    `when` = "" turns a built-in alert off. `notify` None: whoever `[notify]` says.
    """

    name: str
    when: str | None = None
    for_s: float | None = None
    notify: Notify | None = None


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One alert as it is watched. `advice` is what its owner can do about it, "" where only he knows."""

    name: str
    condition: Condition
    for_s: float
    notify: Notify
    is_builtin: bool = False
    advice: str = ""


USUAL_FOR_S = 30.0


@dataclass(frozen=True, slots=True)
class _Builtin:
    when: str
    for_s: float
    advice: str


# What an owner wants to know without having thought of it. Each is quiet on a machine that runs its plan.
BUILTIN: Mapping[str, _Builtin] = {
    "ollama-down": _Builtin("backends.down > 0", 60, "callers wait; why: ai-supervisor status"),
    "queue-slow": _Builtin("queue.oldest_s > 120", 30, "who waits for what: ai-supervisor queue list"),
    "level-high": _Builtin("level >= 2", 60, "what it does and why: ai-supervisor level show"),
    "memory-low": _Builtin("memory.of_reserve < 1", 10, "who has it: ai-supervisor status; what is not critical is shed"),
    "agents-shed": _Builtin("agents.shed > 0", 60, "they come back by themselves: ai-supervisor agents list --state stopped"),
    "agents-quarantined": _Builtin("agents.quarantined > 0", 10, "why: ai-supervisor status; then: agents release NAME"),
    "model-on-cpu": _Builtin("models.on_cpu > 0", 60, "ai-supervisor models unload NAME; its next call loads it anew"),
    "model-slow": _Builtin("models.slow > 0", 60, "where it is loaded: ai-supervisor models loaded"),
    "disk-low": _Builtin("disk.free_mb < 1000", 60, "journal and cache need room: [daemon] state_dir, [cache]"),
}


def rule_of(spec: AlertSpec, usual: Notify, backends: Iterable[str]) -> AlertRule | None:
    """Return the alert that an entry of the config means; None for a built-in one that it turns off.

    Raises:
        BadCondition: its `when` is no condition, or it says none and there is no built-in alert of its name.
    """
    built = BUILTIN.get(spec.name)
    when = spec.when if spec.when is not None or built is None else built.when
    if when is None or (not when.strip() and built is None):
        raise BadCondition(f"is missing, and no built-in alert is called `{spec.name}`{nearest(spec.name, BUILTIN)}")
    if not when.strip():
        return None
    return AlertRule(
        name=spec.name,
        condition=read_condition(when, set(backends)),
        for_s=spec.for_s if spec.for_s is not None else built.for_s if built is not None else USUAL_FOR_S,
        notify=spec.notify if spec.notify is not None else usual,
        is_builtin=built is not None,
        advice=built.advice if built is not None and when == built.when else "",
    )


def rules_of(specs: Iterable[AlertSpec], usual: Notify, backends: Iterable[str]) -> tuple[AlertRule, ...]:
    """Return every alert that is watched: the built-in ones, changed where an entry says so, then the owner's own.

    Raises: as `rule_of`.
    """
    by_name = {name: AlertSpec(name) for name in BUILTIN} | {spec.name: spec for spec in specs}
    names = list(backends)
    rules = (rule_of(spec, usual, names) for spec in by_name.values())
    return tuple(rule for rule in rules if rule is not None)


@dataclass(frozen=True, slots=True)
class Standing:
    """An alert at one instant. Times are seconds of the caller's clock.

    `since`: since when it is in its state. `untrue_since`: since when the condition of a firing one does not hold; None: it does.
    """

    state: AlertState = AlertState.QUIET
    since: float = 0.0
    untrue_since: float | None = None


def judge(at: Standing, holds: bool | None, *, for_s: float, now: float) -> tuple[Standing, Change | None]:
    """Return where an alert stands after one look at its condition, and what is to be told."""
    match at.state:
        case AlertState.QUIET if holds:
            pending = Standing(AlertState.PENDING, now)
            return (Standing(AlertState.FIRING, now), Change.FIRING) if for_s <= 0 else (pending, None)
        case AlertState.PENDING if not holds:
            return Standing(AlertState.QUIET, now), None
        case AlertState.PENDING if now - at.since >= for_s:
            return Standing(AlertState.FIRING, now), Change.FIRING
        case AlertState.FIRING if holds:
            return replace(at, untrue_since=None), None
        case AlertState.FIRING if holds is False:
            since = at.untrue_since if at.untrue_since is not None else now
            if now - since >= min(for_s, OVER_AFTER_MOST_S):
                return Standing(AlertState.QUIET, now), Change.RESOLVED
            return replace(at, untrue_since=since), None
        case _:
            return at, None
