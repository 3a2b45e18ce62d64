"""What the owner says to a real daemon: its verbs, and a reload by signal and by command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import ROOT, Daemon, ask, eventually, ollama_double, running_daemon

pytestmark = pytest.mark.slow

MODEL = "llama3.2:3b"
USER = 'user = "root"' if os.geteuid() == 0 else ""  # said aloud: in a test the agents may be root's


ASKS_WHO_IT_IS = """
import os, socket, time
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["AI_SUPERVISOR_SOCKET"])
s.sendall(b"GET /supervisor/v1/whoami HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print(s.recv(9999), flush=True)
time.sleep(1000)
"""


def agents_of(*names: str, command: str = "sleep 1000", weight: float = 1.0) -> str:
    each = "\n".join(f'[[agents]]\nname = "{name}"\nclass = "sonnet"\ncommand = "{command}"' for name in names)
    return f'[class.sonnet]\nmemory = "64MB"\nceiling = 3\nstart = "100ms"\nweight = {weight}\n{USER}\n{each}\n'


def say(daemon: Daemon, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "supervisord_ai", *words, "--config", str(daemon.folder / "config.toml")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def write(daemon: Daemon, extra: str) -> None:
    head = daemon.config[: daemon.config.index("[class.sonnet]")]
    (daemon.folder / "config.toml").write_text(head + extra)


def states(daemon: Daemon) -> dict[str, str]:
    return {name: one["state"] for name, one in daemon.agents().items()}


def test_a_reload_by_command_and_by_signal(tmp_path: Path) -> None:
    with ollama_double() as url, running_daemon(tmp_path, ollama=url, extra=agents_of("a-1", "a-2")) as daemon:
        eventually(lambda: states(daemon) == {"a-1": "running", "a-2": "running"}, what="two agents")
        pid = daemon.agents()["a-2"]["pid"]
        write(daemon, agents_of("a-2", "a-3", weight=2.0))
        code, text = say(daemon, "config", "plan")
        assert (code, text.splitlines()) == (
            0,
            ["add      a-3", "live     a-2: weight", "remove   a-1", "class    sonnet: weight"],
        )
        assert say(daemon, "reload") == (code, text)
        eventually(lambda: states(daemon) == {"a-2": "running", "a-3": "running"}, what="the other two")
        assert daemon.agents()["a-2"]["pid"] == pid

        write(daemon, agents_of("a-2") + "[queue]\ndeadlin = 3\n[nonsense]\n")
        code, text = say(daemon, "reload")
        assert code == 2
        assert "deadlin" in text
        assert "nonsense" in text
        assert states(daemon) == {"a-2": "running", "a-3": "running"}

        write(daemon, agents_of("a-2", command="sleep 2000") + '[queue]\ndeadline = "9s"\n')
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: states(daemon) == {"a-2": "running"} and daemon.agents()["a-2"]["is_outdated"], what="a-2 alone")
        assert daemon.agents()["a-2"]["pid"] == pid  # what needs a start waits for one
        assert say(daemon, "agents", "restart", "a-2")[0] == 0
        eventually(lambda: daemon.agents()["a-2"]["pid"] not in {None, pid}, what="a-2, anew")
        assert not daemon.agents()["a-2"]["is_outdated"]
        assert "queue.deadline" in daemon.log
        code, text = say(daemon, "reload")
        assert (code, "queue.deadline" in text) == (4, True)
        assert daemon.stop() == 0


def test_a_daemon_that_began_without_agents_knows_those_a_reload_brings(tmp_path: Path) -> None:
    script = tmp_path / "asks.py"
    script.write_text(ASKS_WHO_IT_IS)
    with ollama_double() as url, running_daemon(tmp_path, ollama=url, extra=agents_of()) as daemon:
        assert states(daemon) == {}
        write(daemon, agents_of("a-1", command=f"python3 {script}"))
        if os.geteuid() == 0:  # as root an agent has a user, and by its users a fleet is known
            code, text = say(daemon, "reload")
            assert (code, text.splitlines()[0]) == (4, "refused  agents.a-1.user: user 'root' is not known yet")
            assert states(daemon) == {}
            assert daemon.stop() == 0
            return
        assert say(daemon, "reload") == (0, "add      a-1\n")
        eventually(lambda: states(daemon) == {"a-1": "running"}, what="the first agent")
        told = eventually(lambda: say(daemon, "agents", "logs", "a-1")[1], what="its words")
        assert '"name":"a-1"' in told.replace(" ", "")
        assert daemon.stop() == 0


def test_the_verbs_reach_a_real_daemon(tmp_path: Path) -> None:
    with ollama_double() as url, running_daemon(tmp_path, ollama=url, extra=agents_of("a-1", "a-2")) as daemon:
        eventually(lambda: states(daemon) == {"a-1": "running", "a-2": "running"}, what="two agents")
        eventually(lambda: daemon.status()["backends"][0]["state"] == "ready", what="the double")
        assert say(daemon, "agents", "stop", "a-*") == (0, "stop: a-1, a-2\n")
        eventually(lambda: set(states(daemon).values()) == {"stopped"}, what="nobody")
        assert say(daemon, "agents", "start", "a-1")[0] == 0
        eventually(lambda: states(daemon)["a-1"] == "running", what="one again")

        assert say(daemon, "models", "loaded") == (0, "no model is loaded\n")
        assert say(daemon, "models", "load", MODEL) == (0, f"{MODEL} is loaded\n")
        assert MODEL in say(daemon, "models", "loaded")[1]
        assert say(daemon, "models", "unload", MODEL) == (0, f"{MODEL} is unloaded\n")
        assert say(daemon, "models", "loaded") == (0, "no model is loaded\n")
        assert say(daemon, "models", "load", "nothing:here")[0] == 4

        assert say(daemon, "queue", "drain", "--wait")[0] == 0
        asked = {"model": MODEL, "prompt": "x"}
        assert ask(daemon.llm, "/api/generate", asked).status == 503
        assert say(daemon, "queue", "resume") == (0, "the queue is open\n")
        assert ask(daemon.llm, "/api/generate", asked).status == 200

        kinds: list[Any] = [one["kind"] for one in json.loads(say(daemon, "events", "--json")[1])]
        assert {"owner.agent.stop", "owner.model.load", "owner.queue.drain", "agent.ended"} <= set(kinds)
