"""`exec`: what the process becomes once the daemon has taken it in, and with which exit code it ends where it cannot."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.cli import exec as command
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main

Caps = pytest.CaptureFixture[str]


class Became(BaseException):
    """The process is another now."""


class AtTheDoor:
    """A daemon that takes everybody in."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.limits: dict[int, tuple[int, int]] = {}
        self.became: tuple[str, list[str], dict[str, str]] | None = None

    def post(self, target: str) -> Any:
        self.asked.append(target)
        return {"rlimits": {"data": 100_000_000, "nofile": 512}, "environment": {"AI_SUPERVISOR_TOKEN": "t", "MINE": "ours"}}

    def set_limit(self, name: int, limits: tuple[int, int]) -> None:
        self.limits[name] = limits

    def become(self, path: str, words: list[str], environ: dict[str, str]) -> None:
        self.became = (path, words, environ)
        raise Became


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> AtTheDoor:
    made = AtTheDoor()
    monkeypatch.setattr(command, "open_door", lambda _: made)
    monkeypatch.setattr(resource, "setrlimit", made.set_limit)
    return made


def test_it_becomes_the_command_in_its_own_terminal_with_its_limits_and_what_an_agent_is_given(
    door: AtTheDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "job"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MINE", "theirs")
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setattr(os, "execve", door.become)
    with pytest.raises(Became):
        main(["exec", "--name", "a b", "--class", "opus", "--", "job", "--x"])
    assert door.asked == ["/v1/exec?name=a+b&class=opus"]
    assert door.limits == {resource.RLIMIT_DATA: (100_000_000, 100_000_000), resource.RLIMIT_NOFILE: (512, 512)}
    assert door.became is not None
    path, words, environ = door.became
    assert (path, words) == (str(program), ["job", "--x"])
    assert (environ["AI_SUPERVISOR_TOKEN"], environ["MINE"], environ["KEPT"]) == ("t", "ours", "kept")


def test_a_command_that_is_not_there_or_may_not_be_executed_ends_as_a_shell_would(
    door: AtTheDoor, tmp_path: Path, capsys: Caps
) -> None:
    (tmp_path / "text").write_text("no program")
    for word, code, said in (
        ("no-such-command", 127, "there is no no-such-command"),
        (f"{tmp_path}/text", 126, f"{tmp_path}/text: Permission denied"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["exec", "--", word])
        assert ended.value.code == code
        assert capsys.readouterr().err == f"ai-supervisor: {said}\n"


def test_without_a_command_nobody_is_asked(door: AtTheDoor, capsys: Caps) -> None:
    assert main(["exec", "--class", "opus"]) == Exit.USAGE
    assert "the command is missing: ai-supervisor exec --class CLASS -- CMD ..." in capsys.readouterr().err
    assert door.asked == []
