"""Decides what a changed config means for the daemon that runs: what is done live, who is outdated by it, what is refused.

Knows nothing of files or processes. Agents are compared by their whole resolved spec, so that no field can be forgotten: a field
is part of the generation that runs, and its change makes that generation outdated, unless `roster.LIVE_OF_AGENT` says that it
may change while it runs. A reload ends nobody: who is outdated comes to his new spec with his next start, or when a rollout
comes to him. Of the rest of the config only LIVE_KEYS and LIVE_TABLES are looked at anew; every other key is refused by name,
and stays as it was, while what can be done is done.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord_ai.core.roster import AgentSpec, ClassPolicy, Roster

# The memory plan is arithmetic about caps; the caps themselves belong to the agents. (`ollama` and `reserve` bind someone.)
LIVE_KEYS = frozenset(f"memory.{part}" for part in ("total", "os", "cache", "monitoring", "agents", "overcommit"))
# Whom to tell of what binds nobody: every key of these is followed, those that are new and those that are gone too.
LIVE_TABLES = frozenset({"alerts", "notify"})

_CLASS = "class"  # what the name of a spec's policy is called in a config


class How(StrEnum):
    """How an agent comes to its changed spec."""

    LIVE = "live"  # while it runs
    RESTART = "restart"  # with its next start: by a rollout, by its owner, by itself


@dataclass(frozen=True, slots=True)
class Settings:
    """What a daemon runs with. `keys`: every key outside the roster, as `table.key`, with its value as it is written."""

    roster: Roster
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentChange:
    """An agent whose spec differs, and in what. Fields are named as in `AgentSpec` and `ClassPolicy`; "class" is its class."""

    agent: str
    how: How
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassChange:
    """A class that differs, or is new, or gone ("added", "removed" as its one field)."""

    name: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NeedsRestart:
    """A key whose change is not carried out: only a restart of the daemon does."""

    key: str
    what: str


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What is to be done. `settings` is what the daemon has afterwards: what was refused is in it as it was before."""

    settings: Settings
    added: tuple[str, ...] = ()
    changed: tuple[AgentChange, ...] = ()
    removed: tuple[str, ...] = ()
    classes: tuple[ClassChange, ...] = ()
    keys: tuple[str, ...] = ()  # live ones
    refused: tuple[NeedsRestart, ...] = ()

    @property
    def changes_something(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.classes or self.keys)


def plan_reload(running: Settings, wanted: Settings) -> ReloadPlan:
    """Return how to get from what runs to what is wanted."""
    refused: list[NeedsRestart] = []
    agents: dict[str, AgentSpec] = {}
    added: list[str] = []
    changed: list[AgentChange] = []
    old_agents = running.roster.agents
    users = Counter(spec.policy.user for spec in old_agents.values())
    for name, spec in wanted.roster.agents.items():
        old = old_agents.get(name)
        why = _refusal(old, spec, users)
        if why is not None:
            refused.append(NeedsRestart(f"agents.{name}{why[0]}", why[1]))
            if old is not None:
                agents[name] = old
            continue
        agents[name] = spec
        if old is None:
            added.append(name)
        elif fields := differing(old, spec):
            is_live = spec.external or not needs_restart(old, spec)  # an external agent is no generation of ours
            changed.append(AgentChange(name, How.LIVE if is_live else How.RESTART, fields))
    removed = [name for name in old_agents if name not in wanted.roster.agents]
    keys, live_keys = _keys(running.keys, wanted.keys, refused)
    kept = {name: running.roster.classes[name] for name in _classes_of(agents) if name in running.roster.classes}
    classes = kept | wanted.roster.classes
    return ReloadPlan(
        settings=Settings(Roster(agents, classes), keys),
        added=tuple(added),
        changed=tuple(changed),
        removed=tuple(removed),
        classes=tuple(_class_changes(running.roster.classes, wanted.roster.classes)),
        keys=live_keys,
        refused=tuple(refused),
    )


def differing(old: AgentSpec, new: AgentSpec) -> tuple[str, ...]:
    """Return the fields in which two specs differ, those of their policies by their own names."""
    own = [f.name for f in dataclasses.fields(AgentSpec) if f.name != "policy" and getattr(old, f.name) != getattr(new, f.name)]
    return (*own, *_differing_policy(old.policy, new.policy))


def needs_restart(running: AgentSpec, wanted: AgentSpec) -> bool:
    """Tell whether a generation started with one spec must end before the agent is what another spec says."""
    return running.run_digest != wanted.run_digest


def _differing_policy(old: ClassPolicy, new: ClassPolicy) -> list[str]:
    found = [f.name for f in dataclasses.fields(ClassPolicy) if getattr(old, f.name) != getattr(new, f.name)]
    return [_CLASS if name == "name" else name for name in found]


def _refusal(old: AgentSpec | None, new: AgentSpec, users: Counter[str | None]) -> tuple[str, str] | None:
    """Return which part of an agent's change a running daemon cannot make, and why."""
    if old is not None and old.external != new.external:
        return ".external", "who is started by us and by others is not one agent: give the other another name"
    if new.external:
        return None  # nobody's user tells who it is
    user = new.policy.user
    if old is not None and old.policy.user == user:
        return None
    if old is not None:
        return ".user", f"{old.policy.user or 'our own'} -> {user or 'our own'}: by their users agents are known"
    # A user of one agent alone proves who it is: a second agent with that user would pass for the first.
    if user is not None and users[user] < 2:
        what = "is not known yet" if not users[user] else "is one agent's own so far"
        return ".user", f"user {user!r} {what}"
    return None


def _keys(
    running: Mapping[str, str], wanted: Mapping[str, str], refused: list[NeedsRestart]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the keys as they are afterwards, and which were changed live; what cannot be goes to `refused`."""
    after = dict(running)
    live = []
    for key in sorted(running.keys() | wanted.keys()):
        old, new = running.get(key), wanted.get(key)
        if old == new:
            continue
        if key.partition(".")[0] in LIVE_TABLES or (key in LIVE_KEYS and new is not None):
            after |= {key: new} if new is not None else {}
            if new is None:
                del after[key]
            live.append(key)
        else:
            refused.append(NeedsRestart(key, f"{old or 'nothing'} -> {new or 'nothing'}"))
    return after, tuple(live)


def _classes_of(agents: Mapping[str, AgentSpec]) -> set[str]:
    return {spec.policy.name for spec in agents.values()}


def _class_changes(old: Mapping[str, ClassPolicy], new: Mapping[str, ClassPolicy]) -> list[ClassChange]:
    found = []
    for name in (*new, *(name for name in old if name not in new)):
        if name not in old or name not in new:
            found.append(ClassChange(name, ("added" if name in new else "removed",)))
        elif fields := _differing_policy(old[name], new[name]):
            found.append(ClassChange(name, tuple(fields)))
    return found
