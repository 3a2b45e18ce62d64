"""`backup` of a daemon under load, and a second daemon that goes on from it in another folder."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import ROOT, USER_LINE, Daemon, ask, config_text, eventually, journal, ollama_double

pytestmark = pytest.mark.slow

MODEL = "llama3.2:3b"
INCLUDE = 'include = ["agents.d/*.toml"]\n'
FLEET = f"""
[class.worker]
memory = "100MB"
start = "100ms"
ceiling = 3
priority = 3
{USER_LINE}
"""
AGENT = """
[[agents]]
name = "sleeper"
class = "worker"
command = ["sleep", "600"]
"""


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "supervisord_ai", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Load:
    """Callers that ask and ask; what was answered is counted."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._is_over = threading.Event()
        self.answered = 0
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self, caller: int) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            payload = {"model": MODEL, "prompt": f"load {caller} {number} [[n=2 delay=0.001]]", "stream": False}
            try:
                ask(self._daemon.llm, "/api/generate", payload, headers={"Idempotency-Key": f"load-{caller}-{number}"})
            except (OSError, HTTPException):
                return
            self.answered += 1


def test_a_daemon_goes_on_elsewhere_from_a_backup_of_one_under_load(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "agents.d").mkdir(parents=True)
    (first / "agents.d" / "more.toml").write_text(AGENT)
    kept = {"model": MODEL, "prompt": "to be kept [[n=3 delay=0.001]]", "stream": False}
    file = tmp_path / "it.tar.zst"
    with ollama_double("--model", MODEL) as url:
        daemon = Daemon(first, INCLUDE + config_text(first, ollama=url, extra=FLEET))
        daemon.start()
        try:
            answer = ask(daemon.llm, "/api/generate", kept, headers={"Idempotency-Key": "kept"})
            assert answer.status == 200
            eventually(lambda: daemon.agents()["sleeper"]["pid"], what="the agent")
            with Load(daemon) as load:
                eventually(lambda: load.answered >= 20, what="some load")
                made = told(command("backup", file, "--config", first / "config.toml", "--json"))
                before = load.answered
                eventually(lambda: load.answered >= before + 20, what="load that goes on")
            assert file.stat().st_mode & 0o777 == 0o600
            assert made["files"] == ["journal.db", "config/config.toml", "config/agents.d/more.toml"]

            over = command("restore", file)
            assert over.returncode == 2
            assert f"a daemon (pid {daemon.status()['pid']}) runs on" in over.stderr

            restored = told(command("restore", file, "--into", second, "--json"))
            assert restored["schema"] == made["schema"]
            pid = daemon.agents()["sleeper"]["pid"]
            other = Daemon(second, (second / "config.toml").read_text())
            other.start()
            try:
                again = ask(other.llm, "/api/generate", kept, headers={"Idempotency-Key": "kept"})
                assert again.status == 200
                assert again.json["response"] == answer.json["response"]
                assert again.headers["x-request-id"] == answer.headers["x-request-id"]  # no second call: the kept answer
                rows = journal(second, "SELECT count(*) FROM requests WHERE key LIKE 'load-%' AND state = 'done'")
                assert rows[0][0] >= 20
                assert journal(second, "PRAGMA integrity_check") == [("ok",)]
                # Agents of the first are nobody's in the second: started anew there, alive here.
                theirs = eventually(lambda: other.agents()["sleeper"]["pid"], what="the agent of the second")
                assert theirs != pid
                assert daemon.agents()["sleeper"]["pid"] == pid
                assert Path(f"/proc/{pid}").exists()
            finally:
                other.stop()
        finally:
            daemon.stop()
