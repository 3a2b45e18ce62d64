"""The user that agents run as: made and removed by the system's own commands, whose words are passed on."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from supervisord_ai.errors import HostFault
from supervisord_ai.host import users
from supervisord_ai.host.users import SystemUsers

NOBODY = "no-such-user-of-ours"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand for useradd(8) and userdel(8); what they were told is in the file."""
    for command in ("useradd", "userdel"):
        script = tmp_path / command
        script.write_text(f'#!/bin/sh\necho {command} "$*" >>{tmp_path}/log\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "log"


def test_the_user_has_neither_password_nor_shell_nor_home_and_is_known_as_ours(log: Path) -> None:
    SystemUsers().make("ai-agents")
    SystemUsers().remove("ai-agents")
    made, removed = log.read_text().splitlines()
    assert made == (
        "useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "
        "--comment agents of ai-supervisor ai-agents"
    )
    assert removed == "userdel ai-agents"


def test_only_a_user_that_we_made_is_ours_to_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    system = SystemUsers()
    own = pwd.getpwuid(os.geteuid())
    assert system.exists(own.pw_name)
    assert not system.is_ours(own.pw_name)
    assert not system.exists(NOBODY)
    assert not system.is_ours(NOBODY)
    made = pwd.struct_passwd(("ai-agents", "x", 990, 990, "agents of ai-supervisor", "/nonexistent", "/usr/sbin/nologin"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: made)
    assert system.is_ours("ai-agents")


def test_what_the_command_says_no_to_is_said_in_its_words(log: Path) -> None:
    userdel = log.parent / "userdel"
    userdel.write_text("#!/bin/sh\necho userdel: user ai-agents is currently used by process 4711 >&2; exit 8\n")
    with pytest.raises(HostFault, match=r"^userdel ai-agents: userdel: user ai-agents is currently used by process 4711$"):
        SystemUsers().remove("ai-agents")
    userdel.write_text("#!/bin/sh\nexit 8\n")
    with pytest.raises(HostFault, match=r"^userdel ai-agents: exit code 8$"):
        SystemUsers().remove("ai-agents")


def test_a_command_that_is_missing_or_hangs_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "PATIENCE_S", 0.02)
    (log.parent / "userdel").write_text("#!/bin/sh\nexec sleep 1000\n")  # the lock of /etc/passwd is somebody else's
    with pytest.raises(HostFault, match=r"^userdel: does not end$"):
        SystemUsers().remove("ai-agents")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostFault, match=r"^useradd: No such file or directory$"):
        SystemUsers().make("ai-agents")
