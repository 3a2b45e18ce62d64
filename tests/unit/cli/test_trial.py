"""`try`, as far as it can be known without starting anything."""

from __future__ import annotations

import os
import socket
import threading
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import pytest

from supervisord_ai.cli.trial import Result, config_of, find_ollama, kept_lines, summary
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
        (["sh", "-c", "echo"], "sh"),
        (["./..."], "my-agent"),
    ],
)
def test_the_lines_that_keep_it_are_a_good_config(words: list[str], name: str) -> None:
    for url in ("http://127.0.0.1:11434", "embedded"):
        config = read("\n".join(kept_lines(words, url)))
        assert list(config.roster.agents) == [name]
        assert config.roster.agents[name].command == tuple(words)
        assert config.backends[0].url == url


def result(**agent: object) -> Result:
    plain = {"verdict": "finished", "detail": "", "peak_bytes": 12_000_000, "cap_bytes": 64_000_000}
    totals = {"asked": 3, "answered": 2, "cached": 1, "refused": 0, "failed": 0, "cancelled": 0}
    return Result({**plain, **agent}, {**totals, "waited_s": 1.25, "generated_s": 70.0, "tokens": 40}, "hard-v1", 75.0, False)


def test_the_summary_says_what_was_asked_waited_and_made() -> None:
    assert summary(result(), "http://127.0.0.1:11434", ["run.sh"]).splitlines()[:8] == [
        "",
        "ended     finished after 75 s",
        "memory    peak 12 MB of 64 MB (hard-v1)",
        "requests  3 asked: 2 answered, 1 cached",
        "time      1.2 s waited, 70 s generated, 40 tokens",
        "",
        "to keep it, in a config (ai-supervisor config init):",
        "",
    ]


def test_a_command_that_cannot_be_executed_is_not_recommended_for_keeping() -> None:
    text = summary(result(verdict="failed:exec", detail="no such\x1b file"), "embedded", ["x"])
    assert "to keep it" not in text
    assert "  no such\\x1b file" in text
