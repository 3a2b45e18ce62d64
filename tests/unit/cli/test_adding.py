"""`agents add`: what is typed becomes one file, and what is refused changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisord_ai.cli.commands import build_parser
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles
from supervisord_ai.cli.main import main
from supervisord_ai.config import load
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.roster import AgentSpec

CONFIG = """{include}
[class.opus]
user = {user!r}
[class.sonnet]
user = {user!r}
[[agents]]
name = "first"
class = "opus"
command = ["true"]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Who runs the tests decides nothing here: anybody may start agents as himself.
    monkeypatch.setattr("supervisord_ai.cli.adding.check_users", lambda *_: ())
    return written(tmp_path)


def written(folder: Path, include: str = 'include = ["agents.d/*.toml"]') -> Path:
    path = folder / "config.toml"
    path.write_text(CONFIG.format(include=include, user=""))
    return path


def add(config: Path, *words: str) -> int:
    return main(["agents", "add", *words[:1], "--config", str(config), *words[1:]])


def added(config: Path, name: str) -> AgentSpec:
    return load(str(config), DiskFiles(), Surroundings(1000, "/home/a", {})).roster.agents[name]


def files(config: Path) -> list[str]:
    return sorted(str(path.relative_to(config.parent)) for path in config.parent.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "command",
    [
        ("python3", "agent.py", "--class", "opus", "-h"),
        ("sh", "-c", "echo {n} $HOME \"x\" 'y' \\ é"),
        ("x", "--", "y"),
    ],
)
def test_a_command_is_kept_as_it_was_typed(command: Sequence[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert add(config, "helper", "--class", "sonnet", "--", *command) == Exit.GOOD
    assert added(config, "helper").command == tuple(command)
    assert capsys.readouterr().out.startswith(f"wrote {config.parent}/agents.d/helper.toml\n")
    assert files(config) == ["agents.d/helper.toml", "config.toml"]


def test_what_is_said_about_it_is_in_the_file(config: Path, tmp_path: Path) -> None:
    options = ("--memory", "123MB", "--cwd", "/srv/{a}", "--env-file", "/e/f")
    assert add(config, "helper", "--class", "sonnet", *options, "--", "x") == Exit.GOOD
    spec = added(config, "helper")
    assert (spec.policy.memory_bytes, spec.cwd, spec.env_file) == (123_000_000, "/srv/{a}", "/e/f")


def test_an_external_agent_has_no_command(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert add(config, "editor", "--class", "opus", "--external") == Exit.GOOD
    assert added(config, "editor").external
    assert "agents token editor" in capsys.readouterr().out
    assert add(config, "other", "--class", "opus", "--external", "--", "x") == Exit.USAGE
    assert add(config, "other", "--class", "opus") == Exit.USAGE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("x", "--class", "sonne", "--", "y"), "did you mean `sonnet`?"),
        (("first", "--class", "sonnet", "--", "y"), "is an agent of"),
        (("../x", "--class", "sonnet", "--", "y"), "is not a name"),
        (("x", "--class", "sonnet", "--memory", "lots", "--", "y"), "memory"),
        (("x", "--class", "sonnet", "--memory", "900GB", "--", "y"), "three ways out"),
        (("x", "--class", "owner", "--", "y"), "is not a class of agents"),
    ],
)
def test_what_is_refused_changes_nothing(
    words: Sequence[str], said: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(config, *words) == Exit.USAGE
    assert said in capsys.readouterr().err
    assert files(config) == ["config.toml"]


def test_an_agent_that_is_there_is_not_overwritten(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert add(config, "helper", "--class", "sonnet", "--", "one") == Exit.GOOD
    assert add(config, "helper", "--class", "sonnet", "--", "two") == Exit.USAGE
    assert "is there already" in capsys.readouterr().err
    assert added(config, "helper").command == ("one",)


def test_a_config_that_does_not_read_the_folder_is_told_the_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, include="")
    assert add(config, "helper", "--class", "sonnet", "--", "x") == Exit.USAGE
    assert 'include = ["agents.d/*.toml"]' in capsys.readouterr().err
    assert files(config) == ["config.toml"]


def test_the_words_behind_the_dashes_are_not_ours() -> None:
    args = build_parser().parse_args(["agents", "add", "x", "--class", "a", "--", "y", "--class", "b", "--", "-h"])
    assert (args.name, args.agent_class, args.words) == ("x", "a", ["y", "--class", "b", "--", "-h"])
