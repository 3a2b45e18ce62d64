"""The official clients, check 60: through the gateway they see what they see of Ollama itself, over the socket and over TCP.

Ollama is the double, whose answers are held to recordings of the real one. Two things are better through the gateway and are
listed: a character that breaks ollama-python's line reader, and an error in the middle of an OpenAI stream.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import ROOT, USER_LINE, eventually, ollama_double, running_daemon

pytestmark = pytest.mark.slow

MODELS = ("--model", "chat", "--model", "embed", "--token-delay", "5ms", "--load", "50ms")
BETTER = {"chat odd characters", "openai error in the middle"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ai-clients-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


def told_by(*arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What the clients' program writes when it is run here."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out.json"
        command = [sys.executable, "-m", "tests.system.clients_agent", str(out), *arguments]
        subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=120)
        told: dict[str, Any] = json.loads(out.read_text())
    told.pop("environment")
    return told


def direct(url: str) -> dict[str, Any]:
    env = {"OLLAMA_HOST": url, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "unused", "PATH": "/usr/bin:/bin"}
    return told_by(env=env)


def check(through_us: dict[str, Any], of_ollama: dict[str, Any]) -> None:
    assert {name: told for name, told in through_us.items() if name not in BETTER} == {
        name: told for name, told in of_ollama.items() if name not in BETTER
    }
    assert of_ollama["chat odd characters"] == ["the client could not read a line"]
    assert through_us["chat odd characters"] == ["é漢😀\u2028\u0085<&>"] * 2 + [""]
    assert of_ollama["openai error in the middle"][-1] == ["", None]  # it looks like an answer
    assert through_us["openai error in the middle"][0] == "APIError"


def test_the_clients_over_the_socket_see_what_they_see_of_ollama(folder: Path) -> None:
    with ollama_double(*MODELS) as url, running_daemon(folder, ollama=url) as daemon:
        check(told_by(str(daemon.llm)), direct(url))


def test_an_agent_reaches_us_over_tcp_from_nothing_but_its_environment(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = folder / "told.json"
    command = json.dumps([sys.executable, "-m", "tests.system.clients_agent", str(out)])
    roster = f"""
[class.sonnet]
{USER_LINE}inject = ["ollama", "openai"]
ceiling = 3
restart = "no"
[[agents]]
name = "sonnet-01"
class = "sonnet"
command = {command}
cwd = "{ROOT}"
"""
    tcp = f'["127.0.0.1:{port}"]'
    with ollama_double(*MODELS) as url, running_daemon(folder, ollama=url, extra=roster, tcp=tcp) as daemon:
        eventually(out.exists, within_s=60, what=f"the agent's report; the daemon says {daemon.log[-2000:]}")
        told = json.loads(out.read_text())
        environment = told.pop("environment")
        assert {"OLLAMA_HOST", "OLLAMA_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"} <= environment.keys()
        check(told, direct(url))
