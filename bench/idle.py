"""What does the daemon cost while 131 agents run and nobody asks anything?

    .venv/bin/python -m bench.idle [--agents 131] [--seconds 30] [--json]

A real daemon in a folder of its own, real children (`sleep`), and an Ollama that is not there, so that its probing is part
of the figure. Memory is the resident and the proportional set of the daemon's one process; CPU is the time it used in the
window, from /proc, as a share of one core. It is measured at a second start on the same files; the first one makes them, with
sqlite-utils, and is looked at for its memory. The promise: below 60 MB and 1 % of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

import psutil

LIMIT_RSS_BYTES = 60_000_000
LIMIT_CPU_SHARE = 0.01


def write_config(folder: Path, agents: int, runtime: Path | None = None) -> Path:
    """Write a config whose files are in `folder`; `runtime`: where sockets and locks are, if not there too."""
    config = folder / "config.toml"
    user = 'user = "root"\n' if os.geteuid() == 0 else ""
    config.write_text(
        f"""
[daemon]
runtime_dir = "{runtime or folder}/run"
state_dir = "{folder}/state"
[web]
listen = ""
[listen]
tcp = []
[memory]
total = "48GB"
overcommit = 1.0
[start]
batch_size = 131
batch_delay = "1s"
[class.sonnet]
memory = "256MB"
start = "100ms"
ceiling = 3
{user}
[[agents]]
name = "sonnet-{{n:03}}"
class = "sonnet"
count = {agents}
command = ["sleep", "infinity"]
[[ollama]]
name = "main"
url = "http://127.0.0.1:9"
"""
    )
    return config


def status(control: Path) -> dict[str, Any] | None:
    connection = HTTPConnection("localhost")
    sock = socket(AF_UNIX)
    try:
        sock.connect(str(control))
        connection.sock = sock
        connection.request("GET", "/v1/status")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    except OSError:
        return None
    else:
        return answer
    finally:
        connection.close()


def wait_until_up(control: Path, agents: int, deadline_s: float) -> float:
    began = time.monotonic()
    now = None
    while time.monotonic() - began < deadline_s:
        now = status(control)
        if now is not None and sum(c["states"].get("running", 0) for c in now["agents"]["by_class"]) == agents:
            return time.monotonic() - began
        time.sleep(0.2)
    raise SystemExit(f"{agents} agents were not up within {deadline_s:.0f} s: {now and now['agents']}")


def compiled() -> dict[str, str]:
    """An environment in which modules are compiled already, as they are where it is installed: compiling takes memory too."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / f"ai-bench-compiled-{os.getuid()}"))
    subprocess.run([sys.executable, "-c", "import supervisord_ai.cli.run, sqlite_utils"], env=environ, check=True)
    return environ


@contextmanager
def daemon(folder: Path, config: Path, agents: int) -> Iterator[tuple[psutil.Process, float]]:
    """A daemon whose agents are all up, and how long that took; ended with its agents."""
    child = subprocess.Popen(
        [sys.executable, "-m", "supervisord_ai", "run", "--accept-smaller-machine", "--config", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "daemon.log").open("w"),
        env=compiled(),
    )
    try:
        up_s = wait_until_up(folder / "run" / "control.sock", agents, 120.0)
        yield psutil.Process(child.pid), up_s
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(15)


def measure(agents: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ai-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        config = write_config(folder, agents)
        with daemon(folder, config, agents) as (process, _):
            first_start_rss_bytes = process.memory_info().rss
        with daemon(folder, config, agents) as (process, up_s):
            before = process.cpu_times()
            began = time.monotonic()
            time.sleep(seconds)  # the window that is measured
            after = process.cpu_times()
            window_s = time.monotonic() - began
            memory = process.memory_full_info()
            cpu_s = after.user + after.system - before.user - before.system
            return {
                "agents": agents,
                "until_all_up_s": round(up_s, 2),
                "window_s": round(window_s, 1),
                "rss_bytes": memory.rss,
                "pss_bytes": memory.pss,
                "first_start_rss_bytes": first_start_rss_bytes,
                "cpu_share_of_a_core": round(cpu_s / window_s, 5),
                "open_files": process.num_fds(),
                "threads": process.num_threads(),
                "within_promise": max(memory.rss, first_start_rss_bytes) < LIMIT_RSS_BYTES
                and cpu_s / window_s < LIMIT_CPU_SHARE,
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=131)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures = measure(args.agents, args.seconds)
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"{figures['agents']} agents idle for {figures['window_s']} s")
        rss_mb, pss_mb = figures["rss_bytes"] / 1e6, figures["pss_bytes"] / 1e6
        print(f"  daemon memory   {rss_mb:6.1f} MB resident, {pss_mb:.1f} MB proportional (< 60)")
        first_mb = figures["first_start_rss_bytes"] / 1e6
        print(f"  at its first    {first_mb:6.1f} MB resident: it makes its files, with sqlite-utils (< 60)")
        print(f"  daemon CPU      {figures['cpu_share_of_a_core'] * 100:6.2f} % of a core (< 1)")
        print(f"  all up after    {figures['until_all_up_s']:6.1f} s")
        print(f"  open            {figures['open_files']} descriptors, {figures['threads']} threads")
    return 0 if figures["within_promise"] else 1


if __name__ == "__main__":
    sys.exit(main())
