"""Who is who on the socket, with real processes: an agent that dresses up as another stays what the kernel says it is."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import ask, eventually, running_daemon

pytestmark = pytest.mark.slow

# Writes its own token and run where the other can steal them, then asks who it is in four ways.
AGENT = """
import json, os, socket, subprocess, sys, time
out, me, other = sys.argv[1:4]

def put(name, value):
    with open(f"{out}/{name}.tmp", "w") as f:
        json.dump(value, f)
    os.rename(f"{out}/{name}.tmp", f"{out}/{name}")

def whoami(extra="", path="/supervisor/v1/whoami"):
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.environ["AI_SUPERVISOR_SOCKET"])
    s.sendall(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\n{extra}Connection: close\\r\\n\\r\\n".encode())
    got = b""
    while piece := s.recv(65536):
        got += piece
    head, _, body = got.partition(b"\\r\\n\\r\\n")
    return [int(head.split()[1]), json.loads(body) if body[:1] == b"{" else body.decode()]

if sys.argv[4:] == ["dressed"]:
    put(f"{me}-dressed", whoami())
    sys.exit()
put(f"{me}-secrets", {"token": os.environ["OLLAMA_API_KEY"], "run": os.environ["AI_SUPERVISOR_RUN"]})
while not os.path.exists(f"{out}/{other}-secrets"):
    time.sleep(0.02)
stolen = json.load(open(f"{out}/{other}-secrets"))
put(f"{me}-plain", whoami())
put(f"{me}-token", whoami(f"Authorization: Bearer {stolen['token']}\\r\\nX-AI-Agent: {other}\\r\\n"))
disguise = dict(os.environ, AI_SUPERVISOR_AGENT=other, AI_SUPERVISOR_RUN=stolen["run"], OLLAMA_API_KEY=stolen["token"])
subprocess.run([sys.executable, "-I", "-S", __file__, out, me, other, "dressed"], env=disguise, start_new_session=True)
put(f"{me}-done", True)
time.sleep(3600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the agents' user can enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="ai-identity-") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "out").mkdir()
        (path / "out").chmod(0o777)
        (path / "agent.py").write_text(AGENT)
        yield path


def roster(folder: Path) -> str:
    user = 'user = "nobody"' if os.geteuid() == 0 else ""
    agent = f"{folder}/agent.py"
    return f"""
[class.sonnet]
start = "100ms"
ceiling = 3
{user}
[[agents]]
name = "a"
class = "sonnet"
command = ["/usr/bin/python3", "-I", "-S", "{agent}", "{folder}/out", "a", "b"]
[[agents]]
name = "b"
class = "sonnet"
command = ["/usr/bin/python3", "-I", "-S", "{agent}", "{folder}/out", "b", "a"]
"""


def told(folder: Path, name: str) -> Any:
    file = folder / "out" / name
    return json.loads(file.read_text()) if file.exists() else None


def run_disguises(folder: Path, *, cages: str) -> dict[str, Any]:
    with running_daemon(
        folder, ollama="http://127.0.0.1:9", extra=roster(folder), tcp='["127.0.0.1:0"]', arguments=("--cages", cages)
    ) as daemon:
        eventually(lambda: told(folder, "a-done") and told(folder, "b-done"), what="both agents have asked")
        owner = ask(daemon.llm, "/supervisor/v1/whoami").json
        found = {name: told(folder, name) for name in ("a-plain", "a-token", "a-dressed", "b-plain")}
        return {**found, "owner": owner, "status": daemon.status()["identity"]}


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory", os.W_OK), reason="no cgroup that may be written here")
def test_an_agent_with_anothers_token_headers_and_environment_is_still_itself(folder: Path) -> None:
    found = run_disguises(folder, cages="auto")
    for name in ("a-plain", "a-token", "a-dressed"):
        status, whoami = found[name]
        assert (status, whoami["name"], whoami["identity"]) == (200, "a", "proved"), name
    assert found["b-plain"][1]["name"] == "b"
    assert found["owner"]["name"] == "owner"
    assert found["status"]["level"] == "proved"


def test_without_cgroups_the_status_says_what_is_not_proved(folder: Path) -> None:
    found = run_disguises(folder, cages="none")
    assert found["a-plain"][1]["name"] == "a"
    assert found["a-plain"][1]["identity"] == "tagged"
    assert found["a-token"][1]["name"] == "a"  # a token says nothing on the socket
    assert found["status"]["level"] == "tagged"
    # As root the agents have a user of their own but share it; as anybody else they have ours.
    assert ("no cgroup" if os.geteuid() == 0 else "may become any agent") in found["status"]["detail"]


def test_an_agent_may_not_use_the_owners_socket(folder: Path) -> None:
    script = folder / "poke.py"
    poke = AGENT.replace('os.environ["AI_SUPERVISOR_SOCKET"]', 'os.environ["AI_SUPERVISOR_SOCKET"].replace("llm", "control")')
    script.write_text(poke.replace('put(f"{me}-secrets"', 'put("poked", whoami(path="/v1/status")); sys.exit(); put("x"'))
    user = 'user = "root"' if os.geteuid() == 0 else ""
    extra = f"""
[class.sonnet]
ceiling = 3
{user}
[[agents]]
name = "a"
class = "sonnet"
command = ["/usr/bin/python3", "-I", "-S", "{script}", "{folder}/out", "a", "a"]
"""
    with running_daemon(folder, ollama="http://127.0.0.1:9", extra=extra):
        status, _ = eventually(lambda: told(folder, "poked"), what="the agent has asked the owner's socket")
    assert status == 403

