"""`config init`, `config show`, `config check`, on files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main

ROOT = Path(__file__).parent.parent.parent.parent


def test_a_first_config_is_written_checks_well_and_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "etc" / "config.toml"
    assert main(["config", "init", str(path)]) == Exit.GOOD
    assert path.read_bytes() == (ROOT / "config.toml").read_bytes()
    assert main(["config", "check", str(path)]) == Exit.GOOD
    assert "131 agents (36 opus, 95 sonnet), 1 Ollama with 2 slots" in capsys.readouterr().out
    path.write_text("mine")
    assert main(["config", "init", str(path)]) == Exit.USAGE
    assert path.read_text() == "mine"
    assert "is there already: --force overwrites it" in capsys.readouterr().err
    assert main(["config", "init", str(path), "--force"]) == Exit.GOOD


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["config", "init", str(tmp_path / "file" / "c.toml")]) == Exit.NO
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_config_one_is_told_how_to_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_SUPERVISOR_CONFIG", str(tmp_path / "none.toml"))
    assert main(["config", "check"]) == Exit.USAGE
    assert "config init" in capsys.readouterr().err


def test_all_problems_go_to_stderr_with_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[queue]\nx = 1\n[logs]\nkeep = -1\n")
    assert main(["config", "check", str(path)]) == Exit.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(": ")[0] for line in said.err.splitlines()] == [f"{path}:2", f"{path}:4"]


def test_problems_as_json_have_their_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[logs]\nkeep = -1\n")
    assert main(["config", "check", "--json", "--config", str(path)]) == Exit.USAGE
    assert json.loads(capsys.readouterr().out) == {
        "is_good": False,
        "problems": [
            {"file": str(path), "line": 2, "key": "logs.keep", "what": "must be a whole number of at least 0, not -1"}
        ],
    }


def test_show_counts_agents_or_resolves_them(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(ROOT / "config.toml")
    assert main(["config", "show", path]) == Exit.GOOD
    assert "# 36 agents of class opus: opus-01 ... opus-36" in capsys.readouterr().out
    assert main(["config", "show", path, "--agents"]) == Exit.GOOD
    assert capsys.readouterr().out.count("[[agents]]") == 131
    assert main(["config", "show", path, "--json"]) == Exit.GOOD
    assert len(json.loads(capsys.readouterr().out)["roster"]["agents"]) == 131
