"""A real daemon before Ollamas that fail: two side by side, one that hangs, one whose breaker opens."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from tests.system.harness import ROOT, Daemon, ask, eventually, running_daemon

pytestmark = pytest.mark.slow


class DoubleProcess:
    """The double as a process that can be hushed: stopped, the kernel accepts for it and nobody answers."""

    def __init__(self, held: ExitStack) -> None:
        words = [sys.executable, "-m", "tests.fakes.ollama_double", "--listen", "127.0.0.1:0"]
        self.process = held.enter_context(Popen(words, stdout=PIPE, cwd=ROOT, text=True))
        held.callback(self.end)
        assert self.process.stdout is not None
        self.url = next(word for word in self.process.stdout.readline().split() if word.startswith("http://"))

    def hush(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()


def generate(daemon: Daemon, prompt: str) -> int:
    body = {"model": "llama3.2:3b", "prompt": prompt, "stream": False}
    return ask(daemon.llm, "/api/generate", body, timeout_s=120).status


def backends(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in daemon.status()["backends"]}


def test_two_ollamas_serve_side_by_side_and_one_alone_when_the_other_is_gone(tmp_path: Path) -> None:
    with ExitStack() as held:
        first, second = DoubleProcess(held), DoubleProcess(held)
        more = f'slots = 1\n[[ollama]]\nname = "spare"\nurl = "{second.url}"\nslots = 1'
        daemon = held.enter_context(running_daemon(tmp_path, ollama=first.url, extra=more))
        eventually(lambda: {one["state"] for one in backends(daemon).values()} == {"ready"}, what="both")
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(generate, daemon, f"[[n=20 delay=0.1]] {number}") for number in range(2)]
            eventually(lambda: all(len(one["running"]) == 1 for one in backends(daemon).values()), what="one call on each")
            assert [one.result() for one in asked] == [200, 200]
        first.end()
        assert [generate(daemon, f"[[n=1]] {number}") for number in range(3)] == [200] * 3
        eventually(lambda: backends(daemon)["main"]["state"] == "unreachable", what="the first is seen to be gone")
        assert "backend main is unreachable" in str(daemon.status()["health"]["reasons"])


@pytest.mark.patient
def test_an_ollama_that_hangs_is_restarted_by_its_owners_command_and_who_waited_is_answered(tmp_path: Path) -> None:
    with ExitStack() as held:
        double = DoubleProcess(held)
        mark = tmp_path / "restarts"
        script = f"echo again >> {mark}; kill -CONT {double.process.pid}"
        daemon = held.enter_context(
            running_daemon(tmp_path, ollama=double.url, extra=f'restart_command = ["sh", "-c", "{script}"]')
        )
        assert generate(daemon, "[[n=1]]") == 200
        double.hush()
        assert generate(daemon, "[[n=1]] again") == 200
        assert mark.read_text() == "again\n"
        assert backends(daemon)["main"]["restarted"] == 1


def test_the_breaker_goes_by_its_config_and_status_says_that_it_is_open(tmp_path: Path) -> None:
    with ExitStack() as held:
        double = DoubleProcess(held)
        daemon = held.enter_context(
            running_daemon(tmp_path, ollama=double.url, extra='[breaker]\nfailures = 2\nwindow = "30s"\ncool_down = "2s"')
        )
        assert generate(daemon, "[[n=1]]") == 200
        assert [generate(daemon, f"[[n=3 cut=300]] {number}") for number in range(2)] == [502, 502]
        assert backends(daemon)["main"]["breaker"] == "open"
        assert "the breaker of backend main is open" in str(daemon.status()["health"]["reasons"])
        assert generate(daemon, "[[n=1]] later") == 200
        assert backends(daemon)["main"]["breaker"] == "closed"
        assert daemon.status()["health"]["is_good"]
