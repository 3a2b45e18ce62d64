"""Writes values as a config would have them, so that what `config show` prints can be read again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from supervisord_ai.config.reading import nested_table
from supervisord_ai.config.schema import (
    SINGLE_TABLES,
    AgentTable,
    AlertTable,
    ClassTable,
    ModelsTable,
    ModelTable,
    NotifyTable,
    OllamaTable,
    Table,
)
from supervisord_ai.config.units import DURATION_UNITS_S, SIZE_UNITS, Duration, Rate, Size
from supervisord_ai.config.values import Config
from supervisord_ai.core.roster import AgentSpec, ClassPolicy

_SIZES = ("TB", "GB", "MB", "KIB", "KB", "B")
_DURATIONS = ("d", "h", "m", "s", "ms")


def toml_of(config: Config, *, with_agents: bool = False) -> str:
    """Return the whole config as TOML, every default written out. `with_agents` resolves each agent instead of counting them."""
    lines: list[str] = []
    for name, kind, policy in sections_of(config):
        lines += [*([""] if "." not in name and lines else []), f"[{name}]", *_table(kind, policy)]
    lines.append("")
    lines += ["[models]", *_table(ModelsTable, config.models)]
    for model, pins in config.models.each:
        lines += [f"[models.{_key(model)}]", *_table(ModelTable, pins)]
    for backend in config.backends:
        lines += ["", "[[ollama]]", *_table(OllamaTable, backend)]
    for alert in config.alerts:
        lines += ["", "[[alerts]]", *_table(AlertTable, alert)]
        if alert.notify is not None:
            told = ", ".join(f"{key} = {written}" for key, written in keys_of(NotifyTable, alert.notify))
            lines.append(f"notify = {{ {told} }}")
    for name, class_policy in config.roster.classes.items():
        lines += ["", f"[class.{_key(name)}]", *_class(class_policy)]
    lines.append("")
    if with_agents:
        for spec in config.roster.agents.values():
            lines += [*_agent(spec, config.roster.classes[spec.policy.name]), ""]
    else:
        lines += [*_counts(config), ""]
    return "\n".join(lines)


def as_json(config: Config) -> Any:
    """Return the whole config for `--json`: the values as the daemon has them, seconds and bytes."""
    return msgspec.to_builtins(config)


def sections_of(config: Config) -> Iterator[tuple[str, type[Table], object]]:
    """Yield each table that stands once, nested ones too, with its name, its keys and the value they are attributes of."""
    apart: dict[str, object] = {
        "web": _Bag(listen=config.web_listen),
        "gpu": _Bag(unload_at=config.gpu_unload_at),
        "isolation": _Bag(mode=config.isolation_mode),
        "retention": _Bag(events_s=config.retention_events_s),
        "guests": _Bag(allow=config.guests_allow),
    }
    for name, kind in SINGLE_TABLES.items():
        policy = apart[name] if name in apart else getattr(config, name)
        yield name, kind, policy
        for key, nested in _nested(kind):
            yield f"{name}.{key}", nested, policy


class _Bag:
    """Attributes for a table whose values stand by themselves in Config."""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)


def _nested(kind: type[Table]) -> Iterator[tuple[str, type[Table]]]:
    for field in msgspec.structs.fields(kind):
        nested = nested_table(field.type)
        if nested is not None:
            yield field.encode_name, nested


def _table(kind: type[Table], policy: object, skip: frozenset[str] = frozenset()) -> list[str]:
    return [f"{key} = {written}" for key, written in keys_of(kind, policy, skip)]


def keys_of(kind: type[Table], policy: object, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield the keys of a table and their values as TOML; one that only being left out says is left out."""
    for field in msgspec.structs.fields(kind):
        if nested_table(field.type) is not None or field.name in skip or not hasattr(policy, field.name):
            continue
        written = toml_value(getattr(policy, field.name), field.type)
        if written is not None:
            yield field.encode_name, written


def _class(policy: ClassPolicy) -> list[str]:
    only_agents = frozenset(
        {"memory_bytes", "inject", "user", "restart", "ready", "start_s", "grace_s", "max_age_s", "critical"}
    )
    return _table(ClassTable, policy, only_agents if policy.name in {"owner", "guest"} else frozenset())


def _agent(spec: AgentSpec, of_class: ClassPolicy) -> list[str]:
    """Return one agent as an entry of its own, with what differs from its class, braces doubled so that none is a template."""
    lines = ["[[agents]]", f"# digest {spec.digest}", f"name = {text(spec.name)}", f"class = {text(spec.policy.name)}"]
    lines.append(f"command = {braced(spec.command)}")
    if spec.cwd is not None:
        lines.append(f"cwd = {braced(spec.cwd)}")
    if spec.env:
        lines.append("env = { " + ", ".join(f"{_key(key)} = {braced(value)}" for key, value in spec.env) + " }")
    if spec.env_file is not None:
        lines.append(f"env_file = {braced(spec.env_file)}")
    own = {f.name for f in msgspec.structs.fields(AgentTable)} - set(ClassTable.__struct_fields__)
    same = {name for name in ClassTable.__struct_fields__ if getattr(spec.policy, name) == getattr(of_class, name)}
    return lines + _table(AgentTable, spec.policy, frozenset(own | same))


def _counts(config: Config) -> list[str]:
    names: dict[str, list[str]] = {}
    for spec in config.roster.agents.values():
        names.setdefault(spec.policy.name, []).append(spec.name)
    return [f"# {len(of)} agents of class {name}: {of[0]} ... {of[-1]} (--agents shows each)" for name, of in names.items()]


def toml_value(value: object, kind: object) -> str | None:
    """Return a value as TOML, None where only leaving the key out says it."""
    kinds = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    if any(isinstance(one, type) and issubclass(one, Size) for one in kinds):
        assert isinstance(value, int)
        return text(next(f"{value // SIZE_UNITS[u]}{_unit(u)}" for u in _SIZES if value % SIZE_UNITS[u] == 0))
    if any(isinstance(one, type) and issubclass(one, Duration) for one in kinds):
        return None if value is None else text(_duration(float(value)))  # type: ignore[arg-type]
    if Rate in kinds:
        assert value is None or isinstance(value, (int, float))
        return text("" if value is None else f"{_number(value)}/min")
    return None if value is None else _plain(value)


def _duration(seconds: float) -> str:
    for unit in _DURATIONS:
        count = seconds / DURATION_UNITS_S[unit]
        if count >= 1 and count == round(count):
            return f"{count:.0f}{unit}"
    return f"{_number(seconds)}s"


def _number(value: float) -> str:
    """Return a number with all its digits and without an exponent, so that it is read as the same number."""
    digits = repr(float(value))
    return f"{value:.20f}" if "e" in digits else digits.removesuffix(".0")


def _unit(name: str) -> str:
    return name.replace("IB", "iB")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, (int, float)):
        return repr(value)
    return text(str(value))


def braced(value: object) -> str:
    """Return text or words as TOML, braces doubled so that none is taken for a template."""
    return _plain(value).replace("{", "{{").replace("}", "}}")


def text(value: str) -> str:
    """Return text as a TOML string."""
    # Nearly a JSON string: but TOML knows no surrogate pairs, and wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else text(name)
