"""What `run` settles before a daemon starts: who agents run as, and whether the machine holds the plan."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from supervisord_ai import daemon
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.cli.run import check_users
from supervisord_ai.config import Config, load
from supervisord_ai.core.places import Surroundings
from supervisord_ai.engine.location import Found
from supervisord_ai.host.memory import MachineMemory
from tests.fakes.files import MemoryFiles

ME = pwd.getpwuid(os.geteuid()).pw_name
AGENTS = '[[agents]]\nname = "{n}"\nclass = "opus"\ncount = 3\ncommand = ["true"]\n'


def config(text: str) -> Config:
    return load("/c.toml", MemoryFiles({"/c.toml": text}), Surroundings(os.geteuid(), "/root", {}))


def told(text: str, uid: int) -> list[str]:
    return [str(problem) for problem in check_users(config(text), uid)]


def test_root_must_say_who_agents_run_as_once_for_each_class() -> None:
    assert told(AGENTS, 0) == [
        '/c.toml: class.opus.user: running as root, it needs user = "..." (someone who is not root); '
        'user = "root" says that root is meant'
    ]
    assert told('[class.opus]\nuser = "root"\n' + AGENTS, 0) == []
    assert told('[class.opus]\nuser = "nobody"\n' + AGENTS, 0) == []


def test_an_ollama_that_root_starts_needs_a_user_too() -> None:
    text = '[[ollama]]\ncommand = ["ollama", "serve"]\n'
    assert told(text, 0) == [
        '/c.toml: class.engine.user: running as root, it needs user = "..." (someone who is not root); '
        'user = "root" says that root is meant'
    ]
    assert told('[class.engine]\nuser = "nobody"\n' + text, 0) == []
    assert told(text, 1000) == []


def test_a_class_without_agents_needs_no_user() -> None:
    assert told("[class.opus]\n", 0) == []


def test_a_user_must_exist() -> None:
    text = AGENTS + 'user = "nobody-at-all"\n'
    assert told(text, 0) == ["/c.toml: class.opus.user: there is no user 'nobody-at-all' on this machine"]


def test_only_root_starts_agents_as_somebody_else() -> None:
    other = pwd.getpwnam("nobody").pw_uid + 1
    assert told(AGENTS, 1000) == []
    assert told(AGENTS + 'user = "nobody"\n', other) == ["/c.toml: class.opus.user: only root can start agents as 'nobody'"]
    assert told(AGENTS + f'user = "{ME}"\n', os.geteuid()) == []


# --- the whole of `run`, up to the daemon -------------------------------------------------------------------------------


@dataclass
class Started:
    """What the daemon was started with."""

    options: list[daemon.Options] = field(default_factory=list)

    def run(self, config: Config, options: daemon.Options) -> int:
        self.options.append(options)
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    seen = Started()
    monkeypatch.setattr("supervisord_ai.daemon.run", seen.run)
    monkeypatch.setattr("supervisord_ai.cli.run.start_logging", lambda level: None)
    return seen


def machine(monkeypatch: pytest.MonkeyPatch, total_bytes: int) -> None:
    monkeypatch.setattr("supervisord_ai.cli.run.machine_memory", lambda: MachineMemory(total_bytes, total_bytes, 0))


def test_a_machine_smaller_than_the_plan_is_refused_unless_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], started: Started
) -> None:
    path = tmp_path / "c.toml"
    path.write_text("")
    machine(monkeypatch, 16_000_000_000)
    assert main(["run", "--config", str(path)]) == Exit.USAGE
    assert capsys.readouterr().err == (
        "ai-supervisor: the plan gives away 47,700 MB, this machine has 16,000 MB (15,259 MiB): "
        "make [memory] smaller, or run with --accept-smaller-machine\n"
    )
    assert started.options == []
    assert main(["run", "--config", str(path), "--accept-smaller-machine"]) == Exit.GOOD
    assert started.options == [daemon.Options()]


def test_a_machine_large_enough_needs_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    path = tmp_path / "c.toml"
    path.write_text("")
    machine(monkeypatch, 48_000_000_000)
    assert main(["run", "--config", str(path), "--cages", "none", "--engine-ledger", "/l"]) == Exit.GOOD
    assert started.options == [daemon.Options(cages="none", ledger=Path("/l"))]


def test_an_embedded_engine_that_is_not_installed_is_said_before_anything_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], started: Started
) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[[ollama]]\nurl = "embedded"\n')
    monkeypatch.setattr("supervisord_ai.cli.embedded.find", lambda: Found(tmp_path, None))
    words = "ai-supervisor: the embedded engine lacks its model: ai-supervisor engine install\n"
    assert main(["run", "--config", str(path), "--accept-smaller-machine"]) == Exit.USAGE
    assert capsys.readouterr().err == words
    assert main(["try", "--engine", "embedded", "--", "true"]) == Exit.USAGE
    assert capsys.readouterr().err == words
    assert started.options == []


def test_a_bad_config_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], started: Started) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[queue]\nx = 1\n" + AGENTS.replace("opus", "no"))
    assert main(["run", "--config", str(path), "--accept-smaller-machine"]) == Exit.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert started.options == []
