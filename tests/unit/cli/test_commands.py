"""The grammar, and what it says to those who mistype it."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from supervisord_ai.cli.commands import PARTS, build_parser
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import exit_of, main
from supervisord_ai.errors import (
    AlreadyRunning,
    ConfigError,
    Denied,
    HostFault,
    NotRunning,
    Problem,
    SupervisorError,
    UsageError,
)

Words = tuple[str, ...]


def parsers(parser: argparse.ArgumentParser, words: Words = ()) -> Iterator[tuple[Words, argparse.ArgumentParser]]:
    """Yield every command with its parser."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield words, parser
    for group in groups:
        for name, below in group.choices.items():
            yield from parsers(below, (*words, name))


COMMANDS = dict(parsers(build_parser()))
GROUPS = {
    "agents": ("list", "show", "logs", "token", "add", "scale", "start", "stop", "restart", "release"),
    "queue": ("list", "show", "cancel", "pause", "drain", "resume"),
    "models": ("list", "loaded", "load", "unload", "pull", "rm"),
    "cache": ("stats", "analyze", "clear"),
    "alerts": ("list", "test"),
    "level": ("show", "pin", "unpin"),
    "config": ("show", "check", "plan", "suggest"),
}
ALONE = (
    *("run", "stop", "status", "health", "events", "metrics", "reload", "rollout"),
    *("takeover", "install", "uninstall", "upgrade", "doctor", "backup", "bench", "exec"),
)
WITH_CONFIG = {(word,) for word in ALONE} | {
    (group, action) for group, actions in GROUPS.items() for action in actions
}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(words)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_the_commands_there_are() -> None:
    others: set[Words] = {("try",), ("demo",), ("restore",), ("completion",), ("check-state",)}
    others |= {("config", "init"), ("engine", "install"), ("dashboards", "export")}
    assert set(COMMANDS) == WITH_CONFIG | others


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_a_module_that_carries_it_out(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([*words, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ai-supervisor")
    module = importlib.import_module(f"supervisord_ai.cli.{COMMANDS[words].get_default('module')}")
    assert callable(module.run)


@pytest.mark.parametrize("words", sorted(WITH_CONFIG), ids=" ".join)
def test_a_command_that_needs_a_daemon_or_a_config_takes_config(words: tuple[str, ...]) -> None:
    assert "--config" in COMMANDS[words]._option_string_actions


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stauts"], "ai-supervisor: there is no `stauts`; did you mean `status`?"),
        (["agents", "lst"], "ai-supervisor agents: there is no `lst`; did you mean `list`?"),
        (["queue", "xyzzy"], "ai-supervisor queue: there is no `xyzzy`: choose from list, show, cancel, pause, drain, resume"),
        (["status", "--jsn"], "ai-supervisor status: unknown argument `--jsn`; did you mean `--json`?"),
        (["status", "--conf", "x"], "ai-supervisor status: unknown argument `--conf`; did you mean `--config`?"),
        (["stop", "now"], "ai-supervisor stop: unknown argument `now`"),
        (["agents", "show"], "ai-supervisor agents show: this is missing: AGENT"),
        ([], "ai-supervisor: this is missing: COMMAND"),
    ],
)
def test_a_mistyped_command_is_told_what_was_probably_meant(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, *words).splitlines()[0] == line


def test_everything_behind_the_dashes_belongs_to_the_tried_command() -> None:
    args = build_parser().parse_args(["try", "--memory", "64MB", "--", "python3", "x.py", "--json", "--", "-v"])
    assert args.words == ["--", "python3", "x.py", "--json", "--", "-v"]
    assert args.json is False


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), Exit.USAGE),
        (ConfigError((Problem("f", 1, "k", "w"),)), Exit.USAGE),
        (AlreadyRunning("/s", 4), Exit.USAGE),
        (NotRunning("/x"), Exit.NOT_RUNNING),
        (Denied("no"), Exit.REFUSED),
        (HostFault("disk"), Exit.NO),
    ],
)
def test_every_error_has_its_exit_code(error: SupervisorError, code: Exit) -> None:
    assert exit_of(error) is code


def test_no_daemon_is_one_line_and_exit_code_three(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("AI_SUPERVISOR_CONFIG", __file__)  # there is one
    for words in (["status"], ["agents", "list"], ["queue", "list"], ["health", "--once"], ["stop"]):
        assert main(words) == Exit.NOT_RUNNING
        assert capsys.readouterr() == (
            "",
            f"ai-supervisor: no daemon answers at {tmp_path}/control.sock: start one with `ai-supervisor run`\n",
        )


def test_a_config_that_is_named_and_not_there_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["status"], ["run"], ["config", "check"]):
        assert main([*words, "--config", "/nowhere/c.toml"]) == Exit.USAGE
        assert capsys.readouterr().err == "ai-supervisor: there is no /nowhere/c.toml\n"


def run_it(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supervisord_ai", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False, timeout=60)


@pytest.mark.skipif("COVERAGE_FILE" in os.environ, reason="what coverage imports comes along")
def test_looking_imports_nothing_heavy() -> None:
    heavy = {"trio", "httpx", "msgspec", "rich", "sqlite3", "psutil", "asyncio", "tomli"}
    heavy |= {"dataclasses", "inspect", "shutil", "difflib"}  # of Python itself
    code = (
        "import sys; sys.argv[1:] = ['status']; from supervisord_ai.cli.main import main; main();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"AI_SUPERVISOR_RUNTIME_DIR": "/nowhere"},
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == "[]", done


def test_a_reader_that_has_had_enough_sees_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m supervisord_ai config show --config config.toml --agents | head -1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""


def test_an_error_nobody_thought_of_is_one_line_too() -> None:
    code = (
        "import sys; from supervisord_ai.cli import main as m;"
        "m.build_parser = lambda first: (_ for _ in ()).throw(ZeroDivisionError('oops'));"
        "sys.exit(m.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("ai-supervisor: internal error: ZeroDivisionError: oops")
    assert len(done.stderr.splitlines()) == 1


def test_errors_that_ended_a_nursery_are_told_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = ExceptionGroup("inner", [UsageError("second"), NotRunning("/x")])
    monkeypatch.setattr("supervisord_ai.cli.health.run", _raising(ExceptionGroup("outer", [HostFault("first"), inner])))
    assert main(["health"]) == Exit.NO
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in said[:2]] == ["first", "second"]
    assert said[2].startswith("ai-supervisor: no daemon answers at /x")


def test_errors_among_which_one_is_not_ours_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisord_ai.cli.health.run", _raising(ExceptionGroup("", [HostFault("x"), ZeroDivisionError()])))
    with pytest.raises(ExceptionGroup):
        main(["health"])


def _raising(error: Exception) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_completion_is_a_script_of_the_shell() -> None:
    done = run_it("completion", "bash")
    assert done.returncode == 0
    checked = subprocess.run(["bash", "-n"], input=done.stdout, capture_output=True, text=True, check=False, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_each_part_of_the_grammar_says_the_same_as_the_whole() -> None:
    whole = commands_of(build_parser())
    assert sorted(whole) == sorted(name for _, names in PARTS for name in names)
    for _, names in PARTS:
        for first in names:
            part = commands_of(build_parser(first))
            assert {*part} == names
            assert all(part[name].format_help() == whole[name].format_help() for name in names)


def commands_of(parser: Any) -> dict[str, Any]:
    found: dict[str, Any] = parser._subparsers._group_actions[0].choices
    return found
