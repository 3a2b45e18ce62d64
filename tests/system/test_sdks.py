"""SDKs that nobody adapted, as agents with nothing but their environment: each sees of us what it sees of Ollama itself.

The Python ones (anthropic, openai, ollama, langchain-ollama, litellm) live in an environment of their own, which has none of
our packages: `requirements/clients.lock`. ollama-js runs under the Node that is here. scripts/test installs both; without, the
tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.config.writing import braced
from supervisord_ai.engine.location import MODEL, find
from tests.system.harness import ROOT, USER_LINE, Daemon, eventually, journal, ollama_double, running_daemon

pytestmark = pytest.mark.slow

DOUBLE = ("--model", "chat", "--model", "embed", "--token-delay", "5ms", "--load", "50ms")
CLIENTS = Path(sys.prefix) / "clients" / "bin" / "python"
NODE_MODULES = Path(sys.prefix) / "clients" / "node_modules"
NODE = shutil.which("node")
CURL = shutil.which("curl")

needs_clients = pytest.mark.skipif(not CLIENTS.exists(), reason="no requirements/clients.lock here: scripts/test installs it")
needs_node = pytest.mark.skipif(NODE is None or not NODE_MODULES.exists(), reason="no node, or no ollama-js for it here")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ai-sdks-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


@contextmanager
def fleet_of_one(folder: Path, url: str, command: Sequence[str]) -> Iterator[Daemon]:
    """A daemon with both faces and one agent, which is told of every SDK."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    roster = f"""
[class.sonnet]
{USER_LINE}inject = ["ollama", "openai", "anthropic"]
rate = ""
ceiling = 3
restart = "no"
memory = "2GB"
[[agents]]
name = "sonnet-01"
class = "sonnet"
command = {braced(list(command))}
"""
    with running_daemon(folder, ollama=url, extra=roster, tcp=f'["127.0.0.1:{port}"]') as daemon:
        yield daemon


def told_in(out: Path, daemon: Daemon) -> dict[str, Any]:
    def ended() -> bool:
        state = daemon.agents()["sonnet-01"]
        assert out.exists() or state["verdict"] is None, (state["verdict"], state["detail"])
        return out.exists()

    eventually(ended, within_s=120, what="the agent's report")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def direct(command: Sequence[str], out: Path, url: str) -> dict[str, Any]:
    """What the same program is told by Ollama itself."""
    hosts = dict.fromkeys(("OLLAMA_HOST", "OLLAMA_BASE_URL", "OLLAMA_API_BASE", "ANTHROPIC_BASE_URL"), url)
    keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN"), "unused")
    env = {**hosts, **keys, "OPENAI_BASE_URL": f"{url}/v1", "PATH": "/usr/bin:/bin", "HOME": str(out.parent)}
    subprocess.run(command, env=env, check=True, timeout=120)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@needs_clients
def test_every_python_sdk_sees_of_us_what_it_sees_of_ollama(folder: Path) -> None:
    program = [str(CLIENTS), str(ROOT / "tests" / "system" / "sdk_agent.py")]
    with ollama_double(*DOUBLE) as url:
        expected = direct([*program, str(folder / "direct.json")], folder / "direct.json", url)
        out = folder / "told.json"
        with fleet_of_one(folder, url, [*program, str(out)]) as daemon:
            assert told_in(out, daemon) == expected
            assert journal(folder, "SELECT DISTINCT agent FROM requests") == [("sonnet-01",)]
    assert len(expected) == 15


@needs_node
@pytest.mark.parametrize("way", ["tcp", "socket"])
def test_ollama_js_under_node_sees_of_us_what_it_sees_of_ollama(way: str, folder: Path) -> None:
    assert NODE is not None
    # Node looks for packages beside the program.
    program = Path(shutil.copy(ROOT / "tests" / "system" / "node" / "agent.mjs", folder))
    (folder / "node_modules").symlink_to(NODE_MODULES)
    with ollama_double(*DOUBLE) as url:
        expected = direct([NODE, str(program), str(folder / "direct.json"), "tcp"], folder / "direct.json", url)
        out = folder / "told.json"
        with fleet_of_one(folder, url, [NODE, str(program), str(out), way]) as daemon:
            assert told_in(out, daemon) == expected
            assert journal(folder, "SELECT DISTINCT agent FROM requests") == [("sonnet-01",)]
    assert expected["chat stream"] == ["w0 ", "w1 ", "w2 ", ""]
    assert expected["abort in the middle"] == "AbortError"


@pytest.mark.skipif(CURL is None, reason="no curl here")
def test_a_shell_script_asks_with_curl_over_the_socket_and_over_tcp(folder: Path) -> None:
    script = r"""
    set -e
    body='{"model": "chat", "prompt": "[[n=3]]", "stream": false}'
    curl -fsS --unix-socket "$AI_SUPERVISOR_SOCKET" http://localhost/api/generate -d "$body" > "$1.socket"
    curl -fsS "$OLLAMA_HOST/api/generate" -d "$body" > "$1.tcp"
    curl -fsS "$OLLAMA_HOST/@$OLLAMA_API_KEY/api/generate" -d "$body" > "$1.path"
    curl -fsS "$OPENAI_BASE_URL/models" -H "Authorization: Bearer $OPENAI_API_KEY" > "$1.models"
    printf '%s' "$body" | gzip | curl -fsS "$OLLAMA_HOST/api/generate" -H 'Content-Encoding: gzip' --data-binary @- > "$1.gzip"
    curl -fsS --unix-socket "$AI_SUPERVISOR_SOCKET" http://localhost/supervisor/v1/whoami > "$1.whoami"
    mv "$1.whoami" "$1"
    """
    out = folder / "told.json"
    with ollama_double(*DOUBLE) as url, fleet_of_one(folder, url, ["/bin/sh", "-c", script, "sh", str(out)]) as daemon:
        assert told_in(out, daemon)["name"] == "sonnet-01"
        for way in ("socket", "tcp", "path", "gzip"):
            assert json.loads((folder / f"told.json.{way}").read_text())["response"] == "w0 w1 w2 "
        assert len(json.loads((folder / "told.json.models").read_text())["data"]) == 2
        assert journal(folder, "SELECT DISTINCT agent FROM requests") == [("sonnet-01",)]


@needs_clients
@pytest.mark.engine
@pytest.mark.skipif(find().model_file is None, reason="needs `ai-supervisor engine install`")
def test_openai_and_langchain_talk_with_a_real_model(folder: Path) -> None:
    script = f"""
import json, openai, os, sys
from langchain_ollama import ChatOllama
asked = "Say one word of greeting."
message = openai.OpenAI().chat.completions.create(
    model="{MODEL}", max_tokens=8, temperature=0, messages=[dict(role="user", content=asked)])
chunks = [part.content for part in ChatOllama(model="{MODEL}", temperature=0, num_predict=8).stream(asked)]
told = dict(openai=message.choices[0].message.content, tokens=message.usage.completion_tokens, chunks=chunks)
open(sys.argv[1] + ".tmp", "w").write(json.dumps(told))
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
"""
    out = folder / "told.json"
    with fleet_of_one(folder, "embedded", [str(CLIENTS), "-c", script, str(out)]) as daemon:
        told = told_in(out, daemon)
    assert 1 <= told["tokens"] <= 8
    assert told["openai"].strip()
    # The same question at temperature 0 is one text, whoever asks and in whatever face.
    assert "".join(told["chunks"]) == told["openai"]
    assert len(told["chunks"]) > 2


def test_the_environment_of_an_agent_has_nothing_of_the_daemons(folder: Path) -> None:
    out = folder / "told.json"
    write = "import json, os, sys; open(sys.argv[1] + '.tmp', 'w').write(json.dumps(dict(os.environ)))"
    program = [sys.executable, "-c", f"{write}; os.rename(sys.argv[1] + '.tmp', sys.argv[1])", str(out)]
    os.environ["AI_SDKS_TEST_SECRET"] = "not for agents"
    try:
        with ollama_double(*DOUBLE) as url, fleet_of_one(folder, url, program) as daemon:
            told = told_in(out, daemon)
    finally:
        del os.environ["AI_SDKS_TEST_SECRET"]
    assert "AI_SDKS_TEST_SECRET" not in told
    assert told["ANTHROPIC_BASE_URL"] == told["OLLAMA_HOST"]
    assert told["ANTHROPIC_AUTH_TOKEN"] == told["OPENAI_API_KEY"] == told["OLLAMA_API_KEY"]
    assert told["OLLAMA_API_KEY"].startswith("ais1.sonnet-01.1.")
    assert {"127.0.0.1", "localhost"} <= set(told["NO_PROXY"].split(","))
