"""What the tab key gives in real shells: bash, zsh and fish. A shell that is not here is skipped (apt-get install zsh fish)."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TYPED = [
    ("sta", {"status"}),
    ("agents ", {"add", "list", "logs", "release", "restart", "scale", "show", "start", "stop", "token"}),
    ("agents show ", {"opus-01", "sonnet-01", "sonnet-02"}),
    ("agents restart so", {"sonnet-01", "sonnet-02"}),
    ("events --agent ", {"opus-01", "sonnet-01", "sonnet-02"}),
    ("cache clear --tier ", {"all", "l1", "l2", "l3"}),
    ("level pin ", {"0", "1", "2", "3"}),
]
# Of the daemon's answers the completion needs one.
COMMAND = f"""#!/bin/sh
[ "$*" = "agents list --names" ] && exec printf '%s\\n' opus-01 sonnet-01 sonnet-02
exec '{sys.executable}' -m supervisord_ai "$@"
"""
BASH = """
eval "$(ai-supervisor completion bash)"
COMP_LINE=$1 COMP_POINT=${#1}
read -ra COMP_WORDS <<< "$1"
case $1 in *" ") COMP_WORDS+=("") ;; esac
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
of=$(complete -p ai-supervisor | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$of ai-supervisor "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `ai-supervisor` is a command."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ai-supervisor").write_text(COMMAND)
    (folder / "ai-supervisor").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TERM": "dumb", "COLUMNS": "200", "HOME": str(folder)}


Complete = Callable[[str, dict[str, str]], set[str]]


def bash(typed: str, env: dict[str, str]) -> set[str]:
    done = subprocess.run(["bash", "-c", BASH, "x", typed], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return set(done.stdout.split())


def fish(typed: str, env: dict[str, str]) -> set[str]:
    script = f"ai-supervisor completion fish | source; complete -C '{typed}'"
    done = subprocess.run(["fish", "-N", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return {line.split("\t")[0] for line in done.stdout.splitlines()}


def zsh(typed: str, env: dict[str, str]) -> set[str]:
    """Press the key: what zsh offers cannot be asked of it. A function in place of the builtin that adds matches prints each."""
    listing = "compadd() { local -a m; builtin compadd -A m \"$@\"; print -r -- \"<${(j:><:)m}>\"; builtin compadd \"$@\"; }"
    with terminal(["zsh", "-f"], env) as (write, until):
        write("PS1='READY''> '; setopt no_beep; LISTMAX=500\n")
        until("READY> ")
        write("autoload -Uz compinit && compinit -u -D && source <(ai-supervisor completion zsh); echo DO''NE\n")
        said = until("DONE\r\n")
        assert "can only be called from completion function" not in said
        write(f"{listing}\n")
        until("READY> ")
        write(f"{typed}\t")
        said = until("<[^<>]+>(?s:.*)")
        return set(re.findall(r"<([^<>]+)>", said))


@contextmanager
def terminal(command: list[str], env: dict[str, str]) -> Iterator[tuple[Callable[[str], None], Callable[[str], str]]]:
    """A program on a terminal: how to type, and how to wait for what it shows."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen = ""

    def write(text: str) -> None:
        nonlocal seen
        seen = ""
        os.write(ours, text.encode())

    def until(pattern: str) -> str:
        nonlocal seen
        deadline, quiet_s = time.monotonic() + 60, 0.0
        while not (re.search(pattern, seen) and quiet_s >= 1.0):
            assert time.monotonic() < deadline, f"{pattern!r} was not shown: {seen!r}"
            ready, _, _ = select.select([ours], [], [], 0.25)
            quiet_s = 0.0 if ready else quiet_s + 0.25
            if ready:
                seen += os.read(ours, 65536).decode(errors="replace")
        return seen

    try:
        yield write, until
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


@pytest.mark.parametrize("complete", [bash, zsh, fish], ids=lambda one: one.__name__)
@pytest.mark.parametrize(("typed", "offered"), TYPED, ids=[typed for typed, _ in TYPED])
def test_the_tab_key(complete: Complete, typed: str, offered: set[str], env: dict[str, str]) -> None:
    if shutil.which(complete.__name__) is None:
        pytest.skip(f"{complete.__name__} is not here")
    assert complete(f"ai-supervisor {typed}", env) == offered


@pytest.mark.parametrize("complete", [bash, fish], ids=lambda one: one.__name__)
def test_where_a_file_is_meant_files_are_offered(
    complete: Complete, env: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which(complete.__name__) is None:
        pytest.skip(f"{complete.__name__} is not here")
    (tmp_path / "only.toml").touch()
    assert complete(f"ai-supervisor status --config {tmp_path}/on", env) == {f"{tmp_path}/only.toml"}
