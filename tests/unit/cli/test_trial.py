"""`try`, as far as it can be known without starting anything."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import threading
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import pytest

from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles
from supervisord_ai.cli.main import main
from supervisord_ai.cli.trial import Result, config_of, find_ollama, kept_lines, summary, waits_for
from supervisord_ai.config import Config, load
from supervisord_ai.core.places import Surroundings
from supervisord_ai.errors import UsageError
from tests.fakes.files import MemoryFiles

AROUND = Surroundings(1000, "/home/ann", {})


def read(text: str) -> Config:
    return load("/c.toml", MemoryFiles({"/c.toml": text}), AROUND)


def asked(**changes: object) -> Namespace:
    return Namespace(**{"memory": "64MB", "env": [], **changes})


def test_the_config_of_a_trial_is_good_and_runs_the_words_as_they_are() -> None:
    words = ["python3", "-c", "print({'a': \"é\\n\"})", "{n}"]
    config = read(config_of(Path("/tmp/t"), "http://127.0.0.1:11434", words, asked()))
    (agent,) = config.roster.agents.values()
    assert agent.command == tuple(words)
    assert agent.cwd == os.getcwd()
    assert agent.policy.memory_bytes == 64_000_000
    assert config.daemon.runtime_dir == "/tmp/t/run"
    assert config.daemon.log_dir == "/tmp/t/log"


def test_variables_are_passed_on_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "se{c}ret")
    text = config_of(Path("/t"), "embedded", ["true"], asked(env=["MY_KEY", "OTHER=a=b"]))
    (agent,) = read(text).roster.agents.values()
    assert dict(agent.env) == {"MY_KEY": "se{c}ret", "OTHER": "a=b", "PATH": os.environ["PATH"]}


@pytest.mark.parametrize("changes", [{"memory": "64"}, {"env": ["NOT_THERE_AT_ALL"]}, {"env": ["A-B=1"]}, {"env": [""]}])
def test_what_cannot_be_meant_is_a_usage_error(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        config_of(Path("/t"), "embedded", ["true"], asked(**changes))


class Answering:
    """Something that answers, at a port of the loopback, as long as the block runs."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> Answering:
        threading.Thread(target=self._answer, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _answer(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + self.body)


def test_without_a_word_it_is_the_ollama_that_auto_finds(capsys: pytest.CaptureFixture[str]) -> None:
    with Answering(b'{"version": "0.12.6"}') as one:
        found = find_ollama(None, {"OLLAMA_HOST": one.address})
    assert (found.url, found.kept) == (f"http://{one.address}",) * 2
    assert f"Ollama 0.12.6 at http://{one.address} (OLLAMA_HOST)" in capsys.readouterr().err


def test_what_is_no_ollama_is_not_found_and_the_owner_is_told_what_else_there_is() -> None:
    with Answering(b"<html>") as one:
        with pytest.raises(UsageError, match=r"no Ollama found.*OLLAMA_HOST\): no answer.*--engine embedded"):
            find_ollama(None, {"OLLAMA_HOST": one.address})
        with pytest.raises(UsageError, match=f"no Ollama answers at {one.address}: start one"):
            find_ollama(one.address, {})


@pytest.mark.parametrize("url", ["https://x", "http://h:99999", "http://", "ftp://x"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        find_ollama(url, {})


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python3", "my agent.py", "--x"], "my-agent"),
        (["/usr/bin/agent"], "agent"),
        (["sh", "-c", "echo {n} \"$HOME\""], "sh"),
        (["./..."], "my-agent"),
    ],
)
@pytest.mark.parametrize("url", ["http://127.0.0.1:11434", "embedded"])
def test_the_lines_that_keep_it_do(
    words: list[str], name: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisord_ai.cli.adding.check_users", lambda *_: ())  # whoever runs the tests
    monkeypatch.setenv("AI_SUPERVISOR_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("MY_KEY", "secret")
    *lines, last = kept_lines(words, url, env=["A=b c", "MY_KEY"], peak_bytes=500_000_000, has_config=False)
    for line in lines:
        assert "secret" not in line
        assert main(shlex.split(line.replace('"$MY_KEY"', "secret"))[1:]) == Exit.GOOD
    assert last == "ai-supervisor run"
    config = load(str(tmp_path / "config.toml"), DiskFiles(), AROUND)
    assert list(config.roster.agents) == [name]
    agent = config.roster.agents[name]
    assert agent.command == (shutil.which(words[0]) or words[0], *words[1:])
    assert (agent.cwd, dict(agent.env)) == (os.getcwd(), {"A": "b c", "MY_KEY": "secret"})
    assert agent.policy.memory_bytes == 700_000_000
    assert config.backends[0].url == url


def test_beside_a_config_that_is_there_one_line_is_enough() -> None:
    (line,) = kept_lines(["./x.sh"], "embedded", has_config=True)
    assert line.startswith("ai-supervisor agents add x --class opus --cwd ")


def result(**agent: object) -> Result:
    plain = {"verdict": "finished", "detail": "", "peak_bytes": 12_000_000, "cap_bytes": 64_000_000}
    totals = {"asked": 3, "answered": 2, "cached": 1, "refused": 0, "failed": 0, "cancelled": 0}
    return Result({**plain, **agent}, {**totals, "waited_s": 1.25, "generated_s": 70.0, "tokens": 40}, "hard-v1", 75.0, False)


def test_the_summary_says_what_was_asked_waited_and_made() -> None:
    assert summary(result(), ["ai-supervisor run"]).splitlines() == [
        "",
        "ended     finished after 75 s",
        "memory    peak 12 MB of 64 MB (hard-v1)",
        "requests  3 asked: 2 answered, 1 cached",
        "time      1.2 s waited, 70 s generated, 40 tokens",
        "",
        "to keep it:",
        "",
        "  ai-supervisor run",
    ]


def test_who_asked_nothing_here_is_told_how_we_are_found() -> None:
    quiet = result()
    quiet.totals.update(asked=0, answered=0, cached=0)
    text = summary(quiet, ["ai-supervisor run"])
    assert "It asked nothing here." in text
    assert "OLLAMA_HOST" in text
    assert "ai-supervisor takeover" in text


def test_one_that_needed_more_memory_is_told_how_to_give_it(tmp_path: Path) -> None:
    hungry = result(verdict="oom:own-cap")
    hungry.totals.update(asked=0, answered=0, cached=0)
    text = summary(hungry, ["ai-supervisor run"])
    assert "it needs more: --memory 128MB" in text
    assert "It asked nothing here" not in text


def test_while_the_agent_says_nothing_its_owner_learns_what_it_waits_for() -> None:
    running = [{"model": "m", "since_s": 12.0, "tokens": 40}]
    busy = {"backends": [{"name": "main", "state": "ready", "running": running}], "queue": {"queued": 2}}
    assert waits_for(busy) == "m answers since 12 s, 40 tokens so far; 2 waiting (^C ends it)"
    idle = {"backends": [{"name": "main", "state": "ready", "running": []}], "queue": {"queued": 0}}
    assert waits_for(idle) == "it runs, and has asked nothing by now (^C ends it)"
    gone = {"backends": [{"name": "main", "state": "unreachable", "running": []}], "queue": {"queued": 1}}
    assert waits_for(gone) == "main: unreachable; 1 waiting (^C ends it)"


def test_a_command_that_cannot_be_executed_is_not_recommended_for_keeping() -> None:
    text = summary(result(verdict="failed:exec", detail="no such\x1b file"), ["ai-supervisor run"])
    assert "to keep it" not in text
    assert "  no such\\x1b file" in text
