"""The events of a real daemon: its beginnings and ends with their reasons, told live to who follows, also over a restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import ROOT, USER_LINE, Daemon, ask, config_text, eventually, ollama_double

pytestmark = pytest.mark.slow

AGENT = f"""
[class.sonnet]
memory = "64MB"
ceiling = 3
start = "100ms"
{USER_LINE}
[[agents]]
name = "a-1"
class = "sonnet"
command = "sleep 1000"
"""


def kinds(daemon: Daemon) -> list[tuple[str, Any]]:
    rows = ask(daemon.control, "/v1/journal?n=1000").json["events"]
    return [(one["kind"], one["detail"].get("why")) for one in rows if one["kind"].startswith("daemon.")]


def test_a_daemon_says_when_it_begins_and_ends_and_the_next_one_knows_why_nobody_supervised(tmp_path: Path) -> None:
    with ollama_double() as url:
        daemon = Daemon(tmp_path, config_text(tmp_path, ollama=url, extra=AGENT))
        daemon.start()
        with (tmp_path / "followed").open("wb") as followed, (tmp_path / "follower.log").open("wb") as errors:
            follower = subprocess.Popen(
                [sys.executable, "-m", "supervisord_ai", "events", "--follow", "--json", "-n", "1000"],
                env={**os.environ, "AI_SUPERVISOR_RUNTIME_DIR": str(tmp_path / "run")},
                stdout=followed,
                stderr=errors,
                cwd=ROOT,
            )

        def seen() -> list[int]:
            lines = (tmp_path / "followed").read_text().splitlines()
            return [json.loads(line)["seq"] for line in lines if line.endswith("}")]

        try:
            assert daemon.status()["down"] is None
            eventually(lambda: daemon.agents()["a-1"]["state"] == "running", what="the agent")
            eventually(seen, what="the first events at the follower")
            daemon.kill()
            daemon.start()
            assert "killed or crashed" in daemon.status()["down"]["why"]
            assert daemon.stop() == 0
            daemon.start()
            down = daemon.status()["down"]
            assert "a signal told it to" in down["why"]
            assert 0 <= down["lasted_s"] < 60
            assert [kind for kind, _ in kinds(daemon)] == [
                "daemon.started",
                "daemon.started",
                "daemon.stopped",
                "daemon.started",
            ]
            last = ask(daemon.control, "/v1/journal?n=1").json["events"][-1]["seq"]
            eventually(lambda: seen()[-1:] >= [last], what="the last event at the follower")
            assert seen() == list(range(1, seen()[-1] + 1))  # nothing lost and nothing twice, over a kill and a stop
        finally:
            follower.kill()
            follower.wait(10)
            daemon.stop()
