"""When a supervisor in the foreground starts anew in a scope of its user's systemd."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from supervisord_ai.core.places import HOLDER_VARIABLE
from supervisord_ai.host import scope
from supervisord_ai.host.scope import MARK, enter_scope, is_worth_it


@pytest.fixture
def session(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd" / "private").touch()
    return {"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin"}


def test_a_normal_user_whose_systemd_hands_memory_down_gets_one(session: dict[str, str]) -> None:
    assert is_worth_it(session, uid=1000, has_memory=lambda: True)
    assert not is_worth_it(session, uid=1000, has_memory=lambda: False)


@pytest.mark.parametrize("variable", [MARK, HOLDER_VARIABLE, "NOTIFY_SOCKET"])
def test_nobody_gets_one_twice_and_no_service_does(session: dict[str, str], variable: str) -> None:
    assert not is_worth_it({**session, variable: "x"}, uid=1000, has_memory=lambda: True)


def test_root_and_a_user_without_a_systemd_do_without(session: dict[str, str]) -> None:
    assert not is_worth_it(session, uid=0, has_memory=lambda: True)
    assert not is_worth_it({"XDG_RUNTIME_DIR": "/nowhere"}, uid=1000, has_memory=lambda: True)
    assert not is_worth_it({}, uid=1000, has_memory=lambda: True)


def test_the_same_command_is_executed_and_marked(session: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[tuple[list[str], str]] = []

    def execute(path: str, argv: list[str], environ: dict[str, str]) -> None:
        executed.append((argv, environ[MARK]))

    monkeypatch.setattr(os, "execve", execute)
    monkeypatch.setattr(scope, "is_worth_it", lambda *_, **__: True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    enter_scope(["run", "--config", "/c.toml"])
    ((argv, mark),) = executed
    assert argv[:6] == ["/usr/bin/systemd-run", "--user", "--scope", "--quiet", "--property=Delegate=yes", "--"]
    assert argv[-5:] == ["-m", "supervisord_ai", "run", "--config", "/c.toml"]
    assert mark == "1"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    enter_scope(["run"])  # without systemd-run it goes on as it is
    assert len(executed) == 1
