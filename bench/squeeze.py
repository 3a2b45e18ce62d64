"""Memory squeeze: a hog takes what is free in a cgroup that holds daemon, agents and hog. Does relief come before the OOM killer?

    python -m bench.squeeze [--runs 20] [--keep]

Needs root and the memory controller of cgroup v1 or v2 at a group that may be made. Each run is a whole life: a group with a hard
limit, a real daemon in it with real agents of real memory, a hog in a group of its own below it that takes what is free within
some seconds and holds it, then lets go. Looked at: the journal (the steps in their written order, who was shed), the kernel's
oom_kill counters of every group, and whether everybody runs again in the end. Prints JSON, one line a run, and the sum.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supervisord_ai.cli.door import Door
from supervisord_ai.errors import NotRunning

MB = 10**6
LIMIT = 600 * MB
RESERVE = 120 * MB
AGENT = 20 * MB
SONNETS, OPUSES = 10, 2
MARGIN = 25 * MB  # what the hog leaves: the kernel's own pages need some
HOG_PER_S = 40 * MB
HELD_S = 8.0
ROOT = Path(__file__).parent.parent
ORDER = ["memory.starts-paused", "memory.cache-dropped", "agent.shed"]

EATER = "import sys, time; held = bytearray(b'x') * int(sys.argv[1]); time.sleep(10**6)"
HOG = """
import sys, time
goal, per_s = int(sys.argv[1]), int(sys.argv[2])
held, step = [], per_s // 10
while sum(map(len, held)) < goal:
    held.append(bytearray(b'x') * step)
    time.sleep(0.1)
print('held', flush=True)
time.sleep(10**6)
"""


@dataclass(frozen=True)
class Run:
    """One squeeze. Times in seconds from the hog's start, sizes in bytes."""

    oom_kills: int
    shed: int
    order_kept: bool
    critical_shed: int
    lowest_free: int
    first_shed_s: float | None
    all_back_s: float | None


class Group:
    """A memory cgroup with a limit, and one below it for the hog."""

    def __init__(self, limit: int) -> None:
        v1 = Path("/sys/fs/cgroup/memory")
        self.is_v2 = not v1.is_dir()
        self.path = (Path("/sys/fs/cgroup") if self.is_v2 else v1) / f"ai-squeeze-{os.getpid()}"
        self.path.mkdir()
        (self.path / ("memory.max" if self.is_v2 else "memory.limit_in_bytes")).write_text(str(limit))
        with suppress(OSError):
            (self.path / ("memory.swap.max" if self.is_v2 else "memory.memsw.limit_in_bytes")).write_text(
                "0" if self.is_v2 else str(limit)
            )
        self.hog = self.path / "hog"
        self.daemon = self.path / "daemon"
        self.hog.mkdir()
        self.daemon.mkdir()

    def free(self) -> int:
        used = int((self.path / ("memory.current" if self.is_v2 else "memory.usage_in_bytes")).read_text())
        key = "inactive_file" if self.is_v2 else "total_inactive_file"
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        return LIMIT - used + int(stat[key])

    def oom_kills(self) -> int:
        name = "memory.events" if self.is_v2 else "memory.oom_control"
        found = 0
        for file in self.path.rglob(name):
            found += sum(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("oom_kill "))
        return found

    def run(self, where: Path, argv: list[str], **more: Any) -> subprocess.Popen[bytes]:
        shim = 'echo $$ >"$1" || exit 125; shift; exec "$@"'
        return subprocess.Popen(["/bin/sh", "-c", shim, "shim", str(where / "cgroup.procs"), *argv], **more)

    def remove(self) -> None:
        for folder in sorted(self.path.rglob("*"), key=lambda p: -len(p.parts)):
            if folder.is_dir():
                with suppress(OSError):
                    folder.rmdir()
        with suppress(OSError):
            self.path.rmdir()


def config_of(folder: Path) -> str:
    def agents(name: str, count: int, size: int) -> str:
        command = json.dumps([sys.executable, "-I", "-S", "-c", EATER, str(size)])
        return f'[[agents]]\nname = "{name}-{{n:02}}"\nclass = "{name}"\ncount = {count}\ncommand = {command}\n'

    return f"""
[daemon]
runtime_dir = "{folder}/run"
state_dir = "{folder}/state"
log_dir = "{folder}/log"
durability = "process"
[web]
listen = ""
[listen]
tcp = []
[memory]
total = "600MB"
os = "10MB"
ollama = "10MB"
cache = "10MB"
monitoring = "10MB"
agents = "560MB"
reserve = "{RESERVE // MB}MB"
[levels]
dwell = "3s"
[start]
batch_size = 20
[class.opus]
memory = "40MB"
start = "500ms"
grace = "2s"
user = "root"
[class.sonnet]
memory = "40MB"
start = "500ms"
grace = "2s"
user = "root"
[[ollama]]
url = "http://127.0.0.1:9"
{agents("opus", OPUSES, AGENT)}
{agents("sonnet", SONNETS, AGENT)}
"""


def wait(condition: Any, within_s: float) -> bool:
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        with suppress(NotRunning):
            if condition():
                return True
        time.sleep(0.1)
    return False


def squeeze(keep: bool) -> Run:
    """One whole life."""
    folder = Path(tempfile.mkdtemp(prefix="squeeze-"))
    (folder / "c.toml").write_text(config_of(folder))
    group = Group(LIMIT)
    door = Door(str(folder / "run" / "control.sock"))
    log = (folder / "daemon.log").open("wb")
    argv = [sys.executable, "-m", "supervisord_ai", "run", "--accept-smaller-machine", "--config", str(folder / "c.toml")]
    daemon = group.run(group.daemon, argv, stdout=log, stderr=log, cwd=ROOT)
    hog: subprocess.Popen[bytes] | None = None

    def running() -> int:
        return sum(one["state"] == "running" for one in door.get("/v1/agents")["agents"])

    try:
        if not wait(lambda: running() == SONNETS + OPUSES, 60):
            raise SystemExit(f"the fleet did not come up: see {folder}/daemon.log")
        time.sleep(1)
        began, began_wall = time.monotonic(), time.time()
        goal = group.free() - MARGIN
        hog = group.run(group.hog, [sys.executable, "-I", "-S", "-c", HOG, str(goal), str(HOG_PER_S)], stdout=subprocess.DEVNULL)
        lowest = group.free()
        until = began + goal / HOG_PER_S + HELD_S
        while time.monotonic() < until:
            lowest = min(lowest, group.free())
            time.sleep(0.05)
        hog.kill()
        hog.wait()
        is_back = wait(lambda: running() == SONNETS + OPUSES, 120)
        all_back_s = time.monotonic() - began if is_back else None
        events = [one for one in door.get("/v1/events?n=2000")["events"] if one["at_wall"] >= began_wall]
        steps = [one for one in events if one["kind"] in ORDER]
        firsts = [next((i for i, one in enumerate(steps) if one["kind"] == kind), None) for kind in ORDER]
        shed = [one for one in steps if one["kind"] == "agent.shed"]
        known = [first for first in firsts if first is not None]
        return Run(
            oom_kills=group.oom_kills(),
            shed=len(shed),
            order_kept=len(known) == len(ORDER) and known == sorted(known),
            critical_shed=sum(one["agent"].startswith("opus") for one in shed),
            lowest_free=lowest,
            first_shed_s=round(shed[0]["at_wall"] - began_wall, 2) if shed else None,
            all_back_s=None if all_back_s is None else round(all_back_s, 1),
        )
    finally:
        if hog is not None and hog.poll() is None:
            hog.kill()
            hog.wait()
        daemon.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(15)
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        log.close()
        group.remove()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="a hog takes what is free; does relief come before the OOM killer?")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    args = parser.parse_args()
    runs = []
    for number in range(args.runs):
        run = squeeze(args.keep)
        runs.append(run)
        print(json.dumps({"run": number + 1, **asdict(run)}), flush=True)
    good = sum(not run.oom_kills and run.order_kept and not run.critical_shed and run.all_back_s is not None for run in runs)
    summary = {
        "runs": len(runs),
        "good": good,
        "oom_kills": sum(run.oom_kills for run in runs),
        "shed": sum(run.shed for run in runs),
        "lowest_free_mb": round(min(run.lowest_free for run in runs) / MB, 1),
    }
    print(json.dumps(summary))
    return 0 if good == len(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
