"""`try`, as far as it can be known without starting anything."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from supervisord_ai.cli.trial import Result, _from_ollama_host, config_of, find_ollama, kept_lines, summary
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


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", ""),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("0.0.0.0:11500", "http://127.0.0.1:11500"),
        (":11500", "http://127.0.0.1:11500"),
        ("http://box:1", "http://box:1"),
        ("[::1]:2", "http://[::1]:2"),
        ("[::1]", "http://[::1]:11434"),
    ],
)
def test_ollama_host_is_read_as_clients_read_it(value: str, url: str) -> None:
    assert _from_ollama_host(value) == url


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
