"""A config laid out flat: nothing in it may be missing, or a changed key would be taken for none."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

import pytest

from supervisord_ai.config import Config, DaemonPolicy
from supervisord_ai.config.settings import settings_of
from supervisord_ai.core.alerts import AlertSpec, Notify
from supervisord_ai.core.policies import BackendSpec, ModelPolicy

CONFIG = Config(DaemonPolicy("/run/x", "/var/x", "/log/x"))


def _other(value: Any) -> Any:
    match value:
        case Enum():
            return next(one for one in type(value) if one is not value)
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple() if value and isinstance(value[0], float):
            return tuple(one + 1 for one in value)
        case tuple():
            return (*value, "x")
        case _:
            raise AssertionError(f"no other value for {value!r}")


def _changed_everywhere() -> list[tuple[str, Config]]:
    """Yield the config with each single value changed in turn."""
    found: list[tuple[str, Config]] = []
    for field in dataclasses.fields(Config):
        value = getattr(CONFIG, field.name)
        if field.name in {"path", "roster"}:
            continue
        if field.name == "backends":
            for inner in dataclasses.fields(BackendSpec):
                backend = dataclasses.replace(value[0], **{inner.name: _other(getattr(value[0], inner.name))})
                found.append((f"backends.{inner.name}", dataclasses.replace(CONFIG, backends=(backend,))))
        elif field.name == "alerts":
            found.append(("alerts", dataclasses.replace(CONFIG, alerts=(AlertSpec("a", "x > 1"),))))
        elif dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                one = getattr(value, inner.name)
                other = (("m", ModelPolicy(num_ctx=512)),) if inner.name == "each" else _other(one) if one is not None else 1
                changed: Any = {field.name: dataclasses.replace(value, **{inner.name: other})}  # type: ignore[type-var]
                found.append((f"{field.name}.{inner.name}", dataclasses.replace(CONFIG, **changed)))
        else:
            whole: Any = {field.name: _other(value)}
            found.append((field.name, dataclasses.replace(CONFIG, **whole)))
    return found


@pytest.mark.parametrize(("what", "changed"), _changed_everywhere(), ids=lambda one: one if isinstance(one, str) else "")
def test_every_value_of_a_config_is_in_it(what: str, changed: Config) -> None:
    assert settings_of(changed).keys != settings_of(CONFIG).keys


def test_an_alert_is_told_apart_without_being_told() -> None:
    secret = AlertSpec("a", "x > 1", notify=Notify(url="https://hooks.example/SECRET"))
    keys = settings_of(dataclasses.replace(CONFIG, alerts=(secret,))).keys
    assert "SECRET" not in repr(keys)
    usual = settings_of(dataclasses.replace(CONFIG, notify=Notify(url="https://hooks.example/SECRET"))).keys
    assert "SECRET" not in repr(usual)
    other = dataclasses.replace(secret, for_s=9.0)
    assert keys != settings_of(dataclasses.replace(CONFIG, alerts=(other,))).keys
