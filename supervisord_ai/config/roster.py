"""Makes the roster: classes over their defaults, then each `[[agents]]` entry into as many agents as it counts."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from supervisord_ai.config.reading import Entry, Reader, suggestion
from supervisord_ai.config.schema import AgentTable, ClassTable
from supervisord_ai.config.templates import BadTemplate, fill, names_number
from supervisord_ai.config.units import shown
from supervisord_ai.core.memory_plan import CapLine
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.roster import CLASS_DEFAULTS, AgentSpec, ClassPolicy, Roster
from supervisord_ai.core.serving import ENGINE_CLASS

# A name becomes a file, a cgroup and a header: what is safe in all three.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Whose environment says otherwise could pass for another agent, or never be told apart from a stray.
OWN_ENV = ("AI_SUPERVISOR_", "NOTIFY_SOCKET")
NOT_AGENTS = ("owner", "guest", ENGINE_CLASS)
ONLY_FOR_AGENTS = ("memory", "inject", "user", "restart", "ready", "start", "grace", "max_age", "critical")
POLICY_KEYS = frozenset(ClassTable.__struct_fields__)


def defaults_of(policy: object) -> dict[str, object]:
    """Return each field of a policy with its value."""
    assert dataclasses.is_dataclass(policy)
    return {f.name: getattr(policy, f.name) for f in fields(policy)}


def read_classes(reader: Reader, entries: Sequence[Entry]) -> dict[str, ClassPolicy]:
    """Return every class by name: those that are always there, changed where the file says so, and the owner's own."""
    classes = dict(CLASS_DEFAULTS)
    for entry in entries:
        name = str(entry.path[-1])
        base = CLASS_DEFAULTS.get(name, ClassPolicy(name))
        if NAME.fullmatch(name) is None:
            reader.problem(entry.document, entry.path, "is not a name: letters, digits, `.`, `_` and `-`, at most 64")
        values = reader.table(ClassTable, entry, defaults_of(base), "class.X")
        if name == ENGINE_CLASS and isinstance(entry.raw, dict):
            for key in entry.raw.keys() - {"user"}:
                what = "has no meaning for engine: its memory is [memory] ollama, and only its user can be chosen"
                reader.problem(entry.document, (*entry.path, key), what)
        elif name in NOT_AGENTS and isinstance(entry.raw, dict):
            for key in entry.raw:
                if key in ONLY_FOR_AGENTS:
                    reader.problem(entry.document, (*entry.path, key), f"has no meaning for {name}: we start none of them")
        classes[name] = _policy(reader, entry, base, values)
    return classes


@dataclass(frozen=True)
class ReadRoster:
    """The roster, and the caps of every entry that says them: the plan is judged even where a command is missing."""

    roster: Roster
    caps: tuple[CapLine, ...]
    is_whole: bool


def read_agents(reader: Reader, entries: Sequence[Entry], classes: dict[str, ClassPolicy], path: str) -> ReadRoster:
    """Return the roster with every agent of every entry, resolved. `path` is `daemon.path`: the PATH of all who set none."""
    agents: dict[str, AgentSpec] = {}
    places: dict[str, Entry] = {}
    counts: Counter[tuple[str, int]] = Counter()
    before = len(reader.problems)
    for entry in entries:
        specs, caps = _expand(reader, entry, classes)
        if caps is not None:
            counts[caps.agent_class, caps.cap_bytes] += caps.count
        for spec in specs:
            if spec.name in agents:
                first = places[spec.name]
                where = f"{first.document.file}:{first.document.line(first.path)}"
                reader.problem(entry.document, (*entry.path, "name"), f"{shown(spec.name)} is an agent of {where} already")
                break
            if path and "PATH" not in dict(spec.env):
                spec = dataclasses.replace(spec, env=(*spec.env, ("PATH", path)))  # noqa: PLW2901
            agents[spec.name] = spec
            places[spec.name] = entry
    all_caps = tuple(CapLine(agent_class, count, cap) for (agent_class, cap), count in counts.items())
    return ReadRoster(Roster(agents, classes), all_caps, len(reader.problems) == before)


def nobody_is_urgent(roster: Roster, levels: LevelsPolicy) -> str | None:
    """Say when level 3 would admit no agent at all: every class may only ask for priorities that it turns away."""
    if not roster.agents or any(spec.policy.ceiling <= levels.priority_only for spec in roster.agents.values()):
        return None
    return (
        f"at level 3 only priorities up to {levels.priority_only} are admitted, and no agent here may ask for one: "
        f"give a class `ceiling = {levels.priority_only}`"
    )


def _policy(reader: Reader, entry: Entry, base: ClassPolicy, values: dict[str, Any]) -> ClassPolicy:
    changes = {key: value for key, value in values.items() if key in POLICY_KEYS}
    if changes.get("user") == "":
        changes["user"] = None
    policy = dataclasses.replace(base, **changes)
    is_of_class = base.ceiling > base.priority and not changes.keys() & {"ceiling", "priority"}  # said there, once
    if policy.ceiling > policy.priority and not is_of_class:
        key = "ceiling" if "ceiling" in changes else "priority"
        reader.problem(
            entry.document,
            (*entry.path, key),
            f"priority {policy.priority} comes before ceiling {policy.ceiling}, the first it may ask for: "
            f"set `ceiling` to {policy.priority} or less",
        )
    return policy


def _expand(reader: Reader, entry: Entry, classes: dict[str, ClassPolicy]) -> tuple[list[AgentSpec], CapLine | None]:
    """Return the agents of one entry ([] where it has a problem that would repeat itself for each of them) and their caps."""
    document, path = entry.document, entry.path
    before = len(reader.problems)
    asked = entry.raw.get("class") if isinstance(entry.raw, dict) else None
    base = classes.get(asked) if isinstance(asked, str) and asked not in NOT_AGENTS else None
    defaults = {**defaults_of(base or ClassPolicy("?")), "every_s": None, "external": False}
    values = reader.table(AgentTable, entry, defaults, "agents")
    if not isinstance(entry.raw, dict):
        return [], None

    def problem(key: str, what: str) -> None:
        reader.problem(document, (*path, key), what)

    for key in ("name", "class"):
        if key not in entry.raw:
            problem(key, "is missing")
    if isinstance(asked, str) and base is None:
        usable = [name for name in classes if name not in NOT_AGENTS]
        if asked in NOT_AGENTS:
            problem("class", f"{shown(asked)} is not a class of agents; usable are {', '.join(usable)}")
        else:
            problem("class", f"there is no [class.{asked}]{suggestion(asked, usable) or '; usable are ' + ', '.join(usable)}")
    _check_command(values, entry.raw, problem)
    _check_surroundings(values, problem)
    policy = _policy(reader, entry, base, values) if base else None
    if values.get("count", 1) > 1 and "name" in values and not names_number(values["name"]):
        problem("name", f"has no {{n}}, so {values['count']} agents would all be {shown(values['name'])}")
    if policy is None:
        return [], None
    is_ours = not values.get("external", False)
    caps = CapLine(policy.name, values.get("count", 1), policy.memory_bytes) if is_ours else None
    return ([] if len(reader.problems) > before else _instances(values, policy, problem)), caps


def _check_command(values: dict[str, Any], raw: dict[str, Any], problem: Any) -> None:
    if values.get("external"):
        if "command" in raw:
            problem("command", "has no meaning for an external agent: we do not start it")
    elif "command" not in raw:
        problem("command", "is missing")


def _check_surroundings(values: dict[str, Any], problem: Any) -> None:
    for key in ("cwd", "env_file"):
        if key in values and not values[key].startswith("/"):
            problem(key, f"must be an absolute path, not {shown(values[key])}")
    for variable in values.get("env", {}):
        if ENV_NAME.fullmatch(variable) is None:
            problem("env", f"{shown(variable)} is not the name of a variable")
        elif variable.startswith(OWN_ENV):
            problem("env", f"{variable} is set by the supervisor: agents are told apart by it")


def _instances(values: dict[str, Any], policy: ClassPolicy, problem: Any) -> list[AgentSpec]:
    specs = []
    for n in range(1, values.get("count", 1) + 1):
        key = "name"
        try:
            name = fill(values["name"], n=n, agent_class=policy.name, name=None)
            if NAME.fullmatch(name) is None or name in NOT_AGENTS:
                reserved = "is kept for those who are not agents" if name in NOT_AGENTS else "is not a name"
                problem("name", f"{shown(name)} {reserved}: letters, digits, `.`, `_` and `-`, at most 64")
                return []
            filled: dict[str, Any] = {"name": name, "policy": policy, "command": ()}
            for key in ("command", "cwd", "env_file", "env"):
                if key in values:
                    filled[key] = _fill_all(values[key], n, policy.name, name)
        except BadTemplate as exc:
            problem(key, str(exc))
            return []
        specs.append(AgentSpec(**filled, every_s=values.get("every_s"), external=values.get("external", False)))
    return specs


def _fill_all(value: Any, n: int, agent_class: str, name: str) -> Any:
    if isinstance(value, tuple):
        return tuple(fill(word, n=n, agent_class=agent_class, name=name) for word in value)
    if isinstance(value, dict):
        return tuple((key, fill(text, n=n, agent_class=agent_class, name=name)) for key, text in value.items())
    return fill(value, n=n, agent_class=agent_class, name=name)
