"""`agents scale`: one number of the config, and the daemon reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli

from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main

CONFIG = """\
include = ["agents.d/*.toml"]
[memory]
agents = "2GB"
[class.sonnet]
memory = "100MB"
ceiling = 3
# the fleet
[[agents]]
name = "sonnet-{n:02}"   # by number
class = "sonnet"
count = 5                # five, for now
command = ["run"]
"""
MORE = '[[agents]]\nname = "night-{n}"\nclass = "sonnet"\ncommand = ["run"]\n'

Caps = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path / "run"))
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    (tmp_path / "agents.d").mkdir()
    (tmp_path / "agents.d" / "night.toml").write_text(MORE)
    monkeypatch.setenv("AI_SUPERVISOR_CONFIG", str(path))
    return path


def count(path: Path) -> int:
    return int(tomli.loads(path.read_text())["agents"][0].get("count", 1))


@pytest.mark.parametrize("word", ["sonnet-*", "sonnet-01", "sonnet-{n:02}"])
def test_one_number_is_changed_and_nothing_else(config: Path, capsys: Caps, word: str) -> None:
    assert main(["agents", "scale", word, "12"]) == Exit.GOOD
    assert config.read_text() == CONFIG.replace("count = 5 ", "count = 12 ")
    told = capsys.readouterr().out.splitlines()
    assert told == [f"sonnet-{{n:02}}: 5 -> 12, in {config}", "no daemon runs: the next one starts with it"]


def test_an_entry_of_another_file_and_without_a_count_gets_one(config: Path, capsys: Caps) -> None:
    night = config.parent / "agents.d" / "night.toml"
    assert main(["agents", "scale", "night-*", "3", "--json"]) == Exit.GOOD
    assert count(night) == 3
    assert json.loads(capsys.readouterr().out)["before"] == 1
    assert config.read_text() == CONFIG


def test_what_does_not_fit_or_is_not_clear_changes_nothing(config: Path, capsys: Caps) -> None:
    assert main(["agents", "scale", "sonnet-*", "50"]) == Exit.USAGE
    assert "the caps of the agents add up to" in capsys.readouterr().err
    assert main(["agents", "scale", "sonnet", "3"]) == Exit.USAGE
    assert "more than one entry is meant by 'sonnet'" in capsys.readouterr().err
    assert main(["agents", "scale", "haiku-*", "3"]) == Exit.USAGE
    assert config.read_text() == CONFIG
