"""How long until 131 programs are up, and what does their supervisor cost then? Beside supervisord 4.3 and circus 0.19.

    .venv/bin/python -m bench.fleet [--agents 131] [--rounds 3] [--seconds 20] [--json]

All three are started in every round, in an order that rotates, with the same Python, one log file a child, and children that do
nothing (`sleep`). Up means that the program itself is being executed, as /proc says; the clock starts with the supervisor's own
process, so its imports count, each of bytecode, as an installation has it. Ours does more in that time: a memory cap before the
first instruction of each, a generation number and a pid that are durable (fsync), identity, two sockets. Its tables are there, as
at every start but the first. What is in /run on an installation (sockets, locks, pid files) is in memory here too, each one's.
Idle cost is that of the supervisor's own process over the window, ours with its sampling on. The peers are installed with their
hashes into a venv of their own, once.

The promise: up in at most half of supervisord's time, below 60 MB and 1 % of a core.
"""

from __future__ import annotations

import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import idle, report
from bench.peers import venv_of
from supervisord_ai.store.disk import make_private
from supervisord_ai.store.schema import CACHE, JOURNAL, connect, migrate

ROOT = Path(__file__).parent.parent
UP_WITHIN_S = 180.0
LOOK_S = 0.02
SETTLE_S = 5.0  # between being up and the window: nobody's start is in his idle cost
LIMIT_UP_RATIO = 0.5


@dataclass
class Contender:
    """One supervisor: what runs it in a folder and a runtime folder, with so many children that sleep for `seconds`."""

    name: str
    argv: Callable[[Path, Path, int, str], list[str]]
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    up_s: list[float] = field(default_factory=list)
    children_s: list[float] = field(default_factory=list)  # of that: from the first child to the last
    rss_bytes: list[int] = field(default_factory=list)
    pss_bytes: list[int] = field(default_factory=list)
    cpu_share: list[float] = field(default_factory=list)


def ours(folder: Path, runtime: Path, agents: int, seconds: str) -> list[str]:
    (folder / "state").mkdir(mode=0o700)
    for name, schema in (("journal.db", JOURNAL), ("cache.db", CACHE)):
        path = folder / "state" / name
        make_private(path)
        with closing(connect(path, schema)) as conn:
            migrate(conn, path, schema)
    config = idle.write_config(folder, agents, runtime)
    config.write_text(config.read_text().replace('"infinity"', f'"{seconds}"'))
    return [sys.executable, "-m", "supervisord_ai", "run", "--accept-smaller-machine", "--config", str(config)]


def compiled(into: Path) -> dict[str, str]:
    """Return an environment in which what we import has its bytecode; the checkout is left as it is."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = str(into)
    imported = "import supervisord_ai.__main__, supervisord_ai.cli.run"
    subprocess.run([sys.executable, "-c", imported], cwd=ROOT, env=environ, check=True)
    return environ


def supervisord(folder: Path, runtime: Path, agents: int, seconds: str) -> list[str]:
    config = folder / "supervisord.conf"
    config.write_text(
        f"""
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {runtime}/supervisord.pid
childlogdir = {folder}
{"user = root" if os.geteuid() == 0 else ""}
[program:agent]
command = sleep {seconds}
numprocs = {agents}
process_name = %(process_num)03d
stdout_logfile = {folder}/%(process_num)03d.log
redirect_stderr = true
"""
    )
    return [str(venv_of("fleet") / "bin" / "supervisord"), "-c", str(config)]


def circus(folder: Path, runtime: Path, agents: int, seconds: str) -> list[str]:
    config = folder / "circus.ini"
    head = f"""
[circus]
endpoint = ipc://{runtime}/endpoint
pubsub_endpoint = ipc://{runtime}/pubsub
"""
    each = """
[watcher:a{n:03}]
cmd = sleep {seconds}
stdout_stream.class = FileStream
stdout_stream.filename = {folder}/{n:03}.log
stderr_stream.class = FileStream
stderr_stream.filename = {folder}/{n:03}.log
"""
    config.write_text(head + "".join(each.format(n=n, seconds=seconds, folder=folder) for n in range(agents)))
    return [str(venv_of("fleet") / "bin" / "circusd"), "--log-output", str(folder / "circus.log"), str(config)]


def sleepers(seconds: str, but: frozenset[str] = frozenset()) -> list[int]:
    """Return the pids of the children that are being executed by now; `but` are processes that are not looked at."""
    wanted = b"sleep\0" + seconds.encode() + b"\0"
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and name not in but:
            with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read(64) == wanted:
                    found.append(int(name))
    return found


def until_up(
    process: subprocess.Popen[bytes], agents: int, seconds: str, began: float, others: frozenset[str]
) -> tuple[float, float]:
    """Return how long all children took, and how long the first one did. Who is up is not looked at again: looks cost too."""
    first_s = None
    up: set[str] = set()
    while True:
        up.update(map(str, sleepers(seconds, others | up)))
        if len(up) >= agents:
            break
        if up and first_s is None:
            first_s = time.monotonic() - began
        if process.poll() is not None or time.monotonic() - began > UP_WITHIN_S:
            raise SystemExit(f"{process.args!r}: {len(sleepers(seconds))} of {agents} are up, exit code {process.poll()}")
        time.sleep(LOOK_S)
    all_s = time.monotonic() - began
    return all_s, all_s if first_s is None else first_s


def _memory() -> str | None:
    """Return a folder that is in memory, as /run is; None, which is the usual place, where there is none that we may use."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def one_round(contender: Contender, agents: int, window_s: float, mark: int) -> None:
    seconds = f"86{mark:03}"  # by it this round's children are known
    with ExitStack() as folders:
        folder, runtime = (
            Path(folders.enter_context(tempfile.TemporaryDirectory(prefix="ai-bench-", dir=where))) for where in (None, _memory())
        )
        folder.chmod(0o755)
        argv = contender.argv(folder, runtime, agents, seconds)
        with (folder / "output").open("wb") as output:
            others = frozenset(os.listdir("/proc"))
            began = time.monotonic()
            process = subprocess.Popen(argv, stdout=output, stderr=output, cwd=ROOT, env=contender.environ)
        try:
            all_s, first_s = until_up(process, agents, seconds, began, others)
            contender.up_s.append(all_s)
            contender.children_s.append(all_s - first_s)
            time.sleep(SETTLE_S)
            watched = psutil.Process(process.pid)
            before, since = watched.cpu_times(), time.monotonic()
            time.sleep(window_s)
            after = watched.cpu_times()
            used_s = after.user + after.system - before.user - before.system
            contender.cpu_share.append(used_s / (time.monotonic() - since))
            memory = watched.memory_full_info()
            contender.rss_bytes.append(memory.rss)
            contender.pss_bytes.append(memory.pss)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pid in sleepers(seconds):  # ours and the others' are gone by now; whoever is not was left behind
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def compare(agents: int, rounds: int, window_s: float) -> report.Figures:
    venv_of("fleet")
    with tempfile.TemporaryDirectory(prefix="ai-bench-") as bytecode:
        return _compared(agents, rounds, window_s, compiled(Path(bytecode)))


def _compared(agents: int, rounds: int, window_s: float, environ: dict[str, str]) -> report.Figures:
    contenders = [
        Contender("ai-supervisor", ours, environ),
        Contender("supervisord 4.3", supervisord),
        Contender("circus 0.19", circus),
    ]
    load = os.getloadavg()[0]
    for number in range(rounds):
        for place in range(len(contenders)):
            index = (number + place) % len(contenders)
            one_round(contenders[index], agents, window_s, mark=number * len(contenders) + index)
    found: dict[str, Any] = {
        one.name: {
            "until_up_s": round(statistics.median(one.up_s), 3),
            "first_to_last_s": round(statistics.median(one.children_s), 3),
            "until_up_each_s": [round(value, 3) for value in one.up_s],
            "rss_bytes": int(statistics.median(one.rss_bytes)),
            "pss_bytes": int(statistics.median(one.pss_bytes)),
            "cpu_share_of_a_core": round(statistics.median(one.cpu_share), 5),
        }
        for one in contenders
    }
    us, they = found["ai-supervisor"], found["supervisord 4.3"]
    ratio = us["until_up_s"] / they["until_up_s"]
    is_light = us["rss_bytes"] < idle.LIMIT_RSS_BYTES and us["cpu_share_of_a_core"] < idle.LIMIT_CPU_SHARE
    return {
        "agents": agents,
        "rounds": rounds,
        "window_s": window_s,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {platform.release()}",
        "load_before": round(load, 2),
        "contenders": found,
        "up_ratio": round(ratio, 3),
        "within_promise": ratio <= LIMIT_UP_RATIO and is_light,
    }


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument("--agents", type=int, default=131)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    figures = compare(args.agents, args.rounds, args.seconds)
    rows = [
        (
            name,
            f"{one['until_up_s']:.2f}",
            f"{one['first_to_last_s']:.2f}",
            f"{one['rss_bytes'] / 1e6:.1f}",
            f"{one['pss_bytes'] / 1e6:.1f}",
            f"{one['cpu_share_of_a_core'] * 100:.2f}",
        )
        for name, one in figures["contenders"].items()
    ]
    title = f"{figures['agents']} children, median of {figures['rounds']}; {figures['machine']}, load {figures['load_before']}"
    heads = ("", "up after s", "first to last", "RSS MB", "PSS MB", "CPU % idle")
    report.show(figures, args.json, title, heads, rows)
    return 0 if figures["within_promise"] else 1


if __name__ == "__main__":
    sys.exit(main())
