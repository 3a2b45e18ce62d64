"""`config init`, `config show`, `config check`, on files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import Instead
from supervisord_ai.cli.first import first_config
from supervisord_ai.cli.lacking import notes_on
from supervisord_ai.cli.main import main
from supervisord_ai.config import load
from supervisord_ai.core.memory_plan import judge_machine
from supervisord_ai.core.places import Surroundings

ROOT = Path(__file__).parent.parent.parent.parent


def test_a_first_config_is_written_checks_well_and_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "etc" / "config.toml"
    assert main(["config", "init", str(path)]) == Exit.GOOD
    assert f"next: ai-supervisor agents add NAME --class opus --config {path} -- CMD, then" in capsys.readouterr().out
    assert main(["config", "check", str(path)]) == Exit.GOOD
    said = capsys.readouterr().out
    assert "no agents, 1 Ollama with 2 slots" in said
    assert "note:" not in said
    path.write_text("mine")
    assert main(["config", "init", str(path)]) == Exit.USAGE
    assert path.read_text() == "mine"
    assert "is there already: --force overwrites it" in capsys.readouterr().err
    assert main(["config", "init", str(path), "--force"]) == Exit.GOOD


def test_what_the_first_config_says_to_type_next_can_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisord_ai.cli.adding.check_users", lambda *_: ())  # whoever runs the tests
    path = tmp_path / "my configs" / "c.toml"
    assert main(["config", "init", str(path)]) == Exit.GOOD
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    typed = line.removeprefix("next: ").partition(", then: ")[0].replace("NAME", "mine").replace("CMD", "true")
    assert main(shlex.split(typed)[1:]) == Exit.GOOD
    assert f"ai-supervisor run --config '{path}'" in capsys.readouterr().out


@pytest.mark.parametrize("machine_gb", [1.0, 2.0, 8.25, 25.277, 47.6, 47.7, 64.0])
def test_the_first_plan_fits_the_machine_and_gives_nothing_away_that_it_has_not(machine_gb: float) -> None:
    machine = int(machine_gb * 1e9)
    config = load("/c.toml", Instead("/c.toml", first_config(machine)), Surroundings(1000, "/home/ann", {}))
    assert judge_machine(config.memory, machine) is None
    assert list(notes_on(config, machine)) == []
    assert config.memory.agents_bytes > 0


def test_on_a_machine_for_which_it_was_made_the_first_config_is_the_shipped_one_but_for_its_example() -> None:
    shipped = (ROOT / "config.toml").read_text()
    first = first_config(48_000_000_000)
    changed = [new for old, new in zip(shipped.splitlines(), first.splitlines(), strict=True) if old != new]
    assert "\n".join(line.removeprefix("# ") for line in changed).count("[[agents]]") == 2
    assert len(changed) == 10  # nothing but two entries of five lines


def test_an_ollama_of_elsewhere_is_written_and_a_wrong_one_is_refused_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    assert main(["config", "init", str(path), "--ollama", "nonsense"]) == Exit.USAGE
    assert "--ollama must be " in capsys.readouterr().err
    assert not path.exists()
    assert main(["config", "init", str(path), "--ollama", "embedded"]) == Exit.GOOD
    assert 'url = "embedded"' in path.read_text()


def test_what_this_machine_lacks_is_a_note_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        """
[memory]
total = "900TB"
agents = "800TB"
[class.x]
memory = "1MB"
priority = 3
ceiling = 1
[[agents]]
name = "a-{n}"
class = "x"
count = 3
command = ["no-such-program-here"]
[[agents]]
name = "b"
class = "x"
command = ["./c.sh"]
cwd = "/nowhere/at/all"
[[agents]]
name = "c"
class = "x"
command = ["/bin/sh", "-c", "true"]
"""
    )
    assert main(["config", "check", str(path)]) == Exit.GOOD
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes[0].startswith("note: the plan gives away ")
    assert notes[1:] == [
        "note: no-such-program-here is not on this machine: a-1 and 2 more cannot start without it",
        "note: /nowhere/at/all is not on this machine: b cannot start without it",
    ]
    assert main(["config", "check", "--json", str(path)]) == Exit.GOOD
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 3


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
