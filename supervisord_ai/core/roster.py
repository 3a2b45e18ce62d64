"""What an agent is, before it runs: its class, its resolved spec, the digest of that spec.

Knows nothing of files or processes: `config.py` fills these values, `agents/` and `gateway/` read them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from enum import StrEnum

MB = 1_000_000
MIB = 1 << 20

# What may change while a generation runs: the gateway reads it for each request, the fleet for each decision, and a cap is
# written where it binds. Every other field is part of what a generation is made of: who runs with another is *outdated*.
LIVE_OF_AGENT = frozenset({
    "rate_per_min", "over_rate", "priority", "ceiling", "weight", "max_queued", "substitute",
    "critical", "memory_bytes", "restart", "ready", "start_s", "grace_s", "every_s", "max_age_s",
})  # fmt: skip


class Restart(StrEnum):
    """When an agent that ended is started again (systemd's words)."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NO = "no"


class Ready(StrEnum):
    """What makes an agent count as ready: `READY=1` on its notify socket, its first request, or being alive for `start`."""

    NOTIFY = "notify"
    REQUEST = "request"
    ALIVE = "alive"


class OverRate(StrEnum):
    """What happens to a request over its agent's rate: it waits (a not-before time), or is refused with 429."""

    WAIT = "wait"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class ClassPolicy:
    """What a class of callers may have. Priorities run 1 (first) to 10; `ceiling` is the best priority it may ask for.

    The defaults are those of a class the owner names himself; `opus`, `sonnet`, `owner` and `guest` have their own
    (see CLASS_DEFAULTS).
    """

    name: str
    memory_bytes: int = 256 * MB
    rate_per_min: float | None = None  # None: no limit
    over_rate: OverRate = OverRate.WAIT
    priority: int = 5
    ceiling: int = 4
    weight: float = 1.0
    critical: bool = False
    substitute: bool = True
    max_queued: int = 64
    inject: tuple[str, ...] = ("ollama",)
    user: str | None = None
    restart: Restart = Restart.ON_FAILURE
    ready: Ready = Ready.ALIVE
    start_s: float = 2.0
    grace_s: float = 5.0
    max_age_s: float = 0.0  # then it is started anew; 0: it may run for ever


CLASS_DEFAULTS: dict[str, ClassPolicy] = {
    "opus": ClassPolicy("opus", memory_bytes=300 * MB, rate_per_min=10, priority=3, ceiling=2, weight=2.0, critical=True),
    "sonnet": ClassPolicy("sonnet", memory_bytes=256 * MB, rate_per_min=20, priority=5, ceiling=4, weight=1.0),
    # The owner at the keyboard is not slowed down, but an agent of priority 1 still goes first.
    "owner": ClassPolicy("owner", rate_per_min=None, priority=2, ceiling=1, weight=1.0, max_queued=1000),
    # All guests together are one caller: one bucket, one share.
    "guest": ClassPolicy("guest", rate_per_min=20, priority=8, ceiling=8, weight=0.5, max_queued=8),
}


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent, fully resolved: templates expanded, class keys merged with its own overrides.

    `command` is an argv; a shell line in the config becomes ("/bin/sh", "-c", line). `env` has only what the roster sets.
    `every_s` makes it a periodic job. `external` agents are not our children: they only have an identity.
    """

    name: str
    policy: ClassPolicy  # the class with this agent's overrides merged in; policy.name is the class
    command: tuple[str, ...]
    cwd: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    env_file: str | None = None
    every_s: float | None = None
    external: bool = False

    @property
    def digest(self) -> str:
        """Identifies the whole resolved spec: equal exactly when no field differs."""
        return _digest(self, without=())

    @property
    def run_digest(self) -> str:
        """Identifies what a generation of it is made of: equal exactly when no field differs but those of LIVE_OF_AGENT."""
        return _digest(self, without=LIVE_OF_AGENT)


def _digest(spec: AgentSpec, *, without: Collection[str]) -> str:
    canonical = json.dumps(_said(spec, without), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _said(value: AgentSpec | ClassPolicy, without: Collection[str]) -> dict[str, object]:
    """Return the fields that are not at their default: one that a later version adds must not make every agent outdated."""
    said: dict[str, object] = {}
    for one in fields(value):
        here = getattr(value, one.name)
        if isinstance(here, ClassPolicy):
            here = _said(here, without)
        if one.name not in without and here != one.default:
            said[one.name] = here
    return said


@dataclass(frozen=True, slots=True)
class Roster:
    """Everyone who may call: the agents by name, and the classes (always with `owner` and `guest`)."""

    agents: dict[str, AgentSpec] = field(default_factory=dict)
    classes: dict[str, ClassPolicy] = field(default_factory=lambda: dict(CLASS_DEFAULTS))

    @property
    def externals(self) -> dict[str, str]:
        """The agents that others start, with the names of their classes."""
        return {name: spec.policy.name for name, spec in self.agents.items() if spec.external}
