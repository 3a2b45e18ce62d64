"""What the help of each command shows, read back with the grammar."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from supervisord_ai.cli.commands import build_parser
from supervisord_ai.cli.examples import EXAMPLES, EXIT_ONE
from tests.unit.cli.test_commands import COMMANDS

WITHOUT_EXAMPLE = {("check-state",): "asked by `upgrade`, and in no list of commands"}
TYPED = [(words, line) for words, lines in EXAMPLES.items() for line in lines]


def test_every_command_has_an_example_or_a_reason_to_have_none() -> None:
    assert {tuple(words.split()) for words in EXAMPLES} == set(COMMANDS) - set(WITHOUT_EXAMPLE)
    assert {tuple(words.split()) for words in EXIT_ONE} <= set(COMMANDS)


@pytest.mark.parametrize(("words", "line"), TYPED, ids=[line for _, line in TYPED])
def test_every_example_is_understood_and_is_of_that_command(words: str, line: str) -> None:
    typed = [part.strip() for part in line.replace("||", "&&").replace("|", "&&").replace(">", "&&").split("&&")]
    ours = [shlex.split(one)[1:] for one in typed if one.removeprefix("sudo ").startswith("ai-supervisor ")]
    ours = [one[1:] if one[0] == "ai-supervisor" else one for one in ours]  # behind sudo
    parsed = [build_parser().parse_args(one).parser.prog for one in ours]
    assert f"ai-supervisor {words}" in parsed
    assert len(line) <= 78  # two spaces before it


@pytest.mark.parametrize("words", sorted(COMMANDS), ids=" ".join)
def test_help_says_what_it_does_how_it_is_typed_and_what_each_option_is(words: tuple[str, ...]) -> None:
    parser = COMMANDS[words]
    said = parser.format_help()
    assert parser.description
    assert "example" in said or words in WITHOUT_EXAMPLE
    assert ("exit code 1: " in said) == (" ".join(words) in EXIT_ONE)
    options = [action for action in parser._actions if action.option_strings]
    assert [action.option_strings for action in options if not action.help and words not in WITHOUT_EXAMPLE] == []


def completed(shell: str, typed: str, folder: Path) -> list[str]:
    """What a shell offers for words typed so far, where a daemon has three agents."""
    stub = folder / "ai-supervisor"
    stub.write_text('#!/bin/sh\n[ "$*" = "agents list --names" ] && printf "opus-01\\nopus-02\\nsonnet-01\\n"\n')
    stub.chmod(0o755)
    script = subprocess.run(
        [sys.executable, "-m", "supervisord_ai", "completion", shell], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    words = typed.split(" ")
    ask = f"""
        COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}
        _shtab_ai_supervisor ai-supervisor {words[-1]} {words[-2]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True, timeout=60, env=env)
    return done.stdout.split()


@pytest.mark.parametrize("verb", ["show", "logs", "stop", "release"])
def test_an_agent_is_completed_with_the_names_that_the_daemon_knows(verb: str, tmp_path: Path) -> None:
    assert completed("bash", f"ai-supervisor agents {verb} op", tmp_path) == ["opus-01", "opus-02"]


def test_what_is_no_agent_is_not_completed_as_one(tmp_path: Path) -> None:
    assert "opus-01" not in completed("bash", "ai-supervisor agents token op", tmp_path)
