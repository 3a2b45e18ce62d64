"""`supervisord_ai.client` before a real daemon that is killed in the middle, on asyncio and on trio; and an external agent."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from supervisord_ai import client
from tests.system.harness import ROOT, Daemon, ask, eventually, journal, ollama_double, running_daemon

pytestmark = pytest.mark.slow

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ai-client-") as name:
        yield Path(name)


def rows(folder: Path, state: str) -> int:
    found: int = journal(folder, f"SELECT count(*) FROM requests WHERE state = '{state}'")[0][0]
    return found


@LOOPS
def test_calls_outlive_a_daemon_that_is_killed_in_the_middle(loop: str, folder: Path) -> None:
    answers: list[str] = []

    async def call(number: int) -> None:
        async with client.ollama(str(folder / "run" / "llm.sock")) as ollama:
            answer = await ollama.generate("chat", f"[[n=20 delay=0.05]] {number}")
        answers.append(answer.response)

    def kill_and_start(daemon: Daemon) -> None:
        eventually(lambda: rows(folder, "running") == 2 and rows(folder, "queued") == 6, what="two running, six queued")
        daemon.kill()
        daemon.start()

    async def story(daemon: Daemon) -> None:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(call, number)
                await anyio.to_thread.run_sync(partial(kill_and_start, daemon))

    with ollama_double("--model", "chat", "--load", "50ms") as url, running_daemon(folder, ollama=url) as daemon:
        anyio.run(story, daemon, backend=loop)
        assert answers == ["".join(f"w{n} " for n in range(20))] * 8
        # Each came back to its own row: nothing was asked twice.
        assert journal(folder, "SELECT count(*), count(DISTINCT key) FROM requests") == [(8, 8)]
        assert rows(folder, "done") == 8


@LOOPS
def test_an_external_agent_is_known_by_what_agents_token_prints(
    loop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roster = """
[class.opus]
ceiling = 2
[[agents]]
name = "editor"
class = "opus"
external = true
"""

    async def whoami() -> object:
        async with client.http() as http:
            return (await http.get("/supervisor/v1/whoami")).json()

    with ollama_double("--model", "chat") as url, running_daemon(folder, ollama=url, extra=roster) as daemon:
        command = [sys.executable, "-m", "supervisord_ai"]
        arguments = ["agents", "token", "editor", "--env", "--config", str(folder / "config.toml")]
        said = subprocess.run([*command, *arguments], cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout
        given = dict(line.split("=", 1) for line in said.splitlines())
        assert given.keys() == {"AI_SUPERVISOR_SOCKET", "AI_SUPERVISOR_AGENT", "AI_SUPERVISOR_TOKEN"}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        told = anyio.run(whoami, backend=loop)
        assert isinstance(told, dict)
        assert (told["name"], told["class"], told["generation"]) == ("editor", "opus", 0)
        assert daemon.agents()["editor"]["state"] == "external"
        assert ask(daemon.llm, "/supervisor/v1/whoami").json["name"] == "owner"
