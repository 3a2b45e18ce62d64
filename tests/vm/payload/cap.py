"""On cgroup v2: an agent past its cap dies alone, with the right verdict, and comes back; its neighbours never notice.

Prints `ok - sentence` or `not ok - sentence` a line; exits 1 when one is not ok.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path("/tmp/ai")
HOG = """
import pathlib, time
mark = pathlib.Path('/tmp/ai/hog-was-here')
if not mark.exists():
    mark.touch()
    held = bytearray(200_000_000)
time.sleep(3600)
"""
CONFIG = f"""
[daemon]
runtime_dir = "{FOLDER}/run"
state_dir = "{FOLDER}/state"
log_dir = "{FOLDER}/log"
[web]
listen = ""
[listen]
tcp = []
[memory]
total = "850MB"
os = "100MB"
ollama = "100MB"
cache = "50MB"
monitoring = "50MB"
agents = "500MB"
[class.sonnet]
memory = "64MiB"
user = "root"
start = "1s"
ceiling = 3
[[agents]]
name = "hog"
class = "sonnet"
command = ["python3", "-S", "-c", {json.dumps(HOG)}]
[[agents]]
name = "neighbour-{{n}}"
class = "sonnet"
count = 2
command = ["sleep", "infinity"]
"""

failures = 0


def check(sentence: str, good: bool, detail: object = "") -> None:
    global failures  # noqa: PLW0603 - a script's tally
    failures += not good
    print(f"{'ok' if good else 'not ok'} - {sentence}{'' if good else f': {detail}'}", flush=True)


def get(path: str) -> Any:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{FOLDER}/run/control.sock")
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def agents() -> dict[str, dict[str, Any]]:
    try:
        return {a["name"]: a for a in get("/v1/agents")["agents"]}
    except OSError:
        return {}


def until(condition: Callable[[], bool], within_s: float = 120.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


def observed(command: list[str]) -> None:
    """The same fleet with caps that are only observed: the hog lives, and is told of."""
    (FOLDER / "hog-was-here").unlink()
    (FOLDER / "config.toml").write_text(CONFIG.replace("[memory]", '[memory]\nenforce = "observe"'))
    with (FOLDER / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        told = until(lambda: (agents().get("hog", {}).get("excess_bytes") or 0) > 100_000_000)
        check("observed: who would be over its cap is told of", told, agents().get("hog", {}))
        # It is over before it has been alive for as long as being ready takes.
        is_ready = until(lambda: agents().get("hog", {}).get("state") == "running")
        hog = agents().get("hog", {})
        check("observed: and lives", is_ready and hog.get("restarts") == 0, hog)
        group = Path("/sys/fs/cgroup") / Path(f"/proc/{hog['pid']}/cgroup").read_text().strip().partition("::/")[2]
        limit = (group / "memory.max").read_text().strip()
        check("observed: no limit is set", limit == "max", limit)
        level = get("/v1/status")["guarantee"]["level"]
        check("observed: and the guarantee says so", level == "observed", level)
    finally:
        daemon.send_signal(signal.SIGTERM)
        check("observed: TERM ends it with exit code 0", daemon.wait(60) == 0)


def main() -> int:
    FOLDER.mkdir(parents=True)
    (FOLDER / "config.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "supervisord_ai", "run", "--config", f"{FOLDER}/config.toml"]
    with (FOLDER / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        up = until(lambda: agents().get("neighbour-2", {}).get("state") == "running")
        check("the daemon starts its agents below a delegated unit", up, agents())
        guarantee = get("/v1/status")["guarantee"]
        check("the guarantee is hard: cgroup v2", guarantee["level"] == "hard", guarantee)
        pids = {name: a["pid"] for name, a in agents().items() if name.startswith("neighbour")}
        died = until(lambda: agents()["hog"]["restarts"] >= 1 and agents()["hog"]["state"] == "running")
        hog = agents()["hog"]
        check("the hog came back", died, hog)
        check("its verdict is oom:own-cap", hog["verdict"] == "oom:own-cap", hog)
        now = {name: a["pid"] for name, a in agents().items() if name.startswith("neighbour")}
        check("its neighbours were not touched", now == pids and len(pids) == 2, (pids, now))
        identity = get("/v1/status")["identity"]
        print("identity:", identity, flush=True)
        groups = [Path(f"/proc/{a['pid']}/cgroup").read_text().strip() for a in agents().values()]
        check("each agent has a cgroup of its own", len(set(groups)) == 3, groups)
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(60)
    check("TERM ends it with exit code 0", code == 0, code)
    check("no agent is left", not any(Path(f"/proc/{pid}").exists() for pid in pids.values()), pids)
    observed(command)
    if failures:
        print((FOLDER / "daemon.log").read_text()[-6000:])
    os.sync()
    print(f"{'FAILED' if failures else 'passed'}: {failures} not ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
