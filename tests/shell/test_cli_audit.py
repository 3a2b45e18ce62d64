"""Every command that asks the daemon, before one that serves, one that refuses and none: exit codes, JSON, and 80 columns."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.gateway.view import QueuedView
from tests.fakes.owner_views import agent_view, fleet_view, gateway_view
from tests.shell.test_cli import Daemon
from tests.shell.test_control_verbs import House
from tests.unit.cli.test_commands import COMMANDS

Caps = pytest.CaptureFixture[str]

# Each as it is typed where it does well; what it exits with then is 0 if nothing else stands there.
ASKING: dict[str, int] = {
    "status": 0, "health": 0, "events -n 5": 0, "agents list": 0, "agents list --names": 0, "agents show opus-01": 0,
    "agents logs opus-01": 0, "agents stop a-1": 0, "agents start a-1": 0, "agents restart a-1": 0, "agents release a-2": 0,
    "queue list": 0, "queue show q1": 0, "queue cancel r/1": 0, "queue pause": 0, "queue resume": 0, "queue drain": 0,
    "models list": Exit.NO, "models loaded": Exit.NO, "models load m": 0, "models unload m": 0, "models pull m": 0,
    "models rm m --yes": 0, "level show": 0, "level pin 2": 0, "level unpin": 0, "cache stats": 0, "cache analyze": 0,
    "cache clear": 0, "rollout --status": 0, "rollout --pause": 0, "alerts list": 0, "alerts test": 0, "reload": 0,
    "config plan": 0, "config suggest": 0,
}  # fmt: skip
# These do their work themselves, or need more than a control socket: tests of their own know their exit codes.
OTHERS = {
    "run", "try", "demo", "stop", "metrics", "agents scale", "agents token", "agents add", "config init", "config show",
    "config check", "engine install", "doctor", "backup", "restore", "takeover", "install", "uninstall", "upgrade",
    "check-state", "completion", "bench", "dashboards export", "exec",
}  # fmt: skip


TABLES = ("status", "list", "loaded", "agents show", "level show", "cache stats", "analyze", "alerts test", "plan", "suggest")


def command_of(typed: str) -> str:
    words = typed.split()
    return next(" ".join(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "a.log").write_text("a line\n")
    running = Daemon(tmp_path, House().verbs)
    running.fleet = fleet_view(agent_view(log_path=str(tmp_path / "a.log")))
    try:
        yield running
    finally:
        running.end()


def test_every_command_is_here_or_has_tests_of_its_own() -> None:
    assert {command_of(typed) for typed in ASKING} | OTHERS == {" ".join(words) for words in COMMANDS}


def test_before_a_daemon_that_serves_each_does_what_it_says(daemon: Daemon, capsys: Caps) -> None:
    for typed, code in ASKING.items():
        assert (typed, main(typed.split())) == (typed, code)
        said = capsys.readouterr()
        assert said.out, typed
        assert "Traceback" not in said.err
        if "--json" in COMMANDS[tuple(command_of(typed).split())]._option_string_actions and "--names" not in typed:
            assert main([*typed.split(), "--json"]) == code, typed
            for line in whole_values(capsys.readouterr().out):
                json.loads(line)


def whole_values(text: str) -> list[str]:
    """The values of an output that is one JSON value, or one a line."""
    try:
        json.loads(text)
    except ValueError:
        return text.splitlines()
    return [text]


def test_before_a_daemon_that_refuses_each_exits_with_four_and_one_line(daemon: Daemon, capsys: Caps) -> None:
    daemon.lets_in = False
    for typed in ASKING:
        assert (typed, main(typed.split())) == (typed, Exit.REFUSED)
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", "ai-supervisor: control.sock is the owner's: not for agents, nor for other users\n")


def test_without_a_daemon_each_exits_with_three_and_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Caps
) -> None:
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("AI_SUPERVISOR_CONFIG", __file__)  # there is one
    for typed in ASKING:
        assert (typed, main(typed.split())) == (typed, Exit.NOT_RUNNING)
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.endswith(": start one with `ai-supervisor run`\n")


@pytest.mark.parametrize("words", sorted(COMMANDS), ids=" ".join)
def test_an_option_that_no_command_has_exits_with_two(words: tuple[str, ...], capsys: Caps) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--no-such-option"])
    assert caught.value.code == Exit.USAGE
    assert "try: ai-supervisor" in capsys.readouterr().err


# --- what it looks like -----------------------------------------------------------------------------------------------


def test_every_table_fits_80_columns_however_long_the_names_are(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: Caps
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name, model = "an-agent-whose-name-is-rather-long-0123", "registry.example/some/model-of-a-long-name:70b-instruct-q4_K_M"
    why = "every slot of its model is busy, and 12 of a better priority wait before it"
    waiting = QueuedView("3q2-7wAAAAAAAAAAAAAAAA", name, model, "/v1/chat/completions", 40.0, 5, why)
    daemon.fleet = fleet_view(*(agent_view(f"{name}-{n}", verdict="oom:rlimit(likely)", restarts=1234) for n in range(3)))
    daemon.gateway = replace(gateway_view(), queue=(waiting,) * 3)
    tables = [typed for typed in ASKING if command_of(typed).endswith(TABLES)]
    assert len(tables) >= 13
    for typed in tables:
        main(typed.split())
        wide = [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]
        assert (typed, wide) == (typed, [])


def test_a_rollout_that_failed_fits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from supervisord_ai.cli.rollout import failures_of  # noqa: PLC0415

    monkeypatch.setenv("COLUMNS", "80")
    agents = [{"name": "an-agent-whose-name-is-rather-long-0123", "step": "returned", "why": "exit:1 (" + "x" * 80 + ")"}]
    assert max(map(len, failures_of({"agents": agents}))) <= 80


# --- --watch ----------------------------------------------------------------------------------------------------------



@pytest.mark.parametrize("typed", ["agents list --watch", "queue list --watch", "agents list --watch --json", "status --watch"])
def test_what_is_watched_is_shown_again_and_again(
    typed: str, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: Caps
) -> None:
    shown: list[str] = []

    def pause(_seconds: float) -> None:
        shown.append(capsys.readouterr().out)
        if len(shown) == 3:
            raise KeyboardInterrupt
        daemon.fleet = fleet_view(agent_view(f"opus-0{len(shown) + 1}"))

    monkeypatch.setattr(time, "sleep", pause)
    assert main(typed.split()) == Exit.INTERRUPTED
    assert len(shown) == 3
    assert all(shown)
    if "agents" in typed:
        assert ["opus-01" in shown[0], "opus-02" in shown[1], "opus-03" in shown[2]] == [True] * 3
    if "--json" in typed:
        assert [len(page.splitlines()) for page in shown] == [1, 1, 1]


def test_on_a_terminal_a_daemon_that_is_gone_is_waited_for(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: Caps
) -> None:
    shown: list[str] = []

    def pause(_seconds: float) -> None:
        shown.append(capsys.readouterr().out)
        if len(shown) == 2:
            raise KeyboardInterrupt
        daemon.end()

    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr("supervisord_ai.cli.watch.has_colours", lambda: True)
    assert main(["agents", "list", "--watch"]) == Exit.INTERRUPTED
    assert shown[0].startswith("\x1b[?1049h")
    assert all("\x1b[H" in page and page.endswith("\x1b[J") for page in shown)
    assert "opus-01" in shown[0]
    assert "no daemon answers at" in shown[1]
