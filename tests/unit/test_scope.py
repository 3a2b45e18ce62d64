"""When a supervisor in the foreground starts anew in a scope of its user's systemd."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from supervisord_ai.core.places import HOLDER_VARIABLE
from supervisord_ai.host import scope
from supervisord_ai.host.cgroup import Mount
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


# --- whether a scope would have memory control ---------------------------------------------------------------------------


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand for a cgroup v2 whose `cgroup.controllers` the scope finds: that of the group a process of ours is in."""
    texts = [Path(f"/proc/self/{name}").read_text() for name in ("mountinfo", "cgroup")]
    own = next((line[3:] for line in texts[1].splitlines() if line.startswith("0::")), None)
    if own is None:
        pytest.skip("no cgroup v2 at all here")
    group = tmp_path / "cgroup" / own.strip("/")
    group.mkdir(parents=True)
    monkeypatch.setattr(scope, "parse_mounts", lambda *_: [Mount(True, frozenset(), tmp_path / "cgroup", "/", own)])
    return group / "cgroup.controllers"


@pytest.mark.parametrize(("controllers", "has"), [("cpu memory pids\n", True), ("cpu pids\n", False), ("\n", False)])
def test_one_is_tried_and_asked_whether_memory_was_handed_to_it(hierarchy: Path, controllers: str, has: bool) -> None:
    hierarchy.write_text(controllers)
    assert scope._has_memory(["env"]) is has  # runs the rest of the line, as systemd-run does


def test_a_systemd_that_refuses_is_missing_or_hangs_gives_none(hierarchy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchy.write_text("memory\n")
    monkeypatch.setattr(scope, "PATIENCE_S", 0.02)
    assert not scope._has_memory(["sh", "-c", "echo memory; exit 1"])
    assert not scope._has_memory(["/nowhere/systemd-run"])
    assert not scope._has_memory(["sh", "-c", "exec sleep 1000"])


def test_in_a_container_or_without_cgroup_v2_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = ["sh", "-c", f"touch {tmp_path}/tried; echo memory"]
    for mounts in ([], [Mount(True, frozenset(), tmp_path, "/docker/abc", "/docker/abc")]):
        monkeypatch.setattr(scope, "parse_mounts", lambda *_, found=mounts: found)
        assert not scope._has_memory(tried)
    assert list(tmp_path.iterdir()) == []
