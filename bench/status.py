"""How long does `status` take with 131 agents and 10,000 queued?

    .venv/bin/python -m bench.status [--agents 131] [--queued 10000] [--rounds 15] [--json]

A real daemon, real children (`sleep`), an Ollama that accepts and never answers, and requests of the owner's with
`Prefer: respond-async`. Measured in one run: the daemon's answer over the socket, the whole command as it is typed, and beside it
what Python itself needs to start and end; `*_cpu_ms` is processor time, which a busy machine changes less. As installed: with the
bytecode that a release brings. The promise: the command within 100 ms, in a pipe and on a terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.idle import status, wait_until_up, write_config

LIMIT_S = 0.100


def silent_ollama() -> tuple[socket.socket, str]:
    """An address that accepts and never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                kept.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def enqueue(llm: Path, count: int) -> int:
    """Send asynchronous requests on one connection; returns how many were accepted."""
    connection = HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(llm))
    accepted = 0
    for number in range(count):
        body = json.dumps({"model": "m", "prompt": f"question {number}"})
        headers = {"Prefer": "respond-async", "X-AI-Priority": str(2 + number % 9), "Content-Type": "application/json"}
        connection.request("POST", "/api/generate", body, headers)
        answer = connection.getresponse()
        answer.read()
        accepted += answer.status == 202
    connection.close()
    return accepted


def on_a_terminal(command: list[str], env: dict[str, str]) -> None:
    """Run a command as a person does: on a terminal, with colours."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO is a terminal's end
            while os.read(ours, 65536):
                pass
        if process.wait() != 0:
            raise SystemExit(f"{command} ended with {process.returncode}")
    finally:
        os.close(ours)


def cpu_s(deed: Callable[[], object], rounds: int) -> float:
    """Return the median processor time of the children that a deed starts and awaits."""
    taken = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        deed()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(taken)


def median_s(deed: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        deed()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=131)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    listener, url = silent_ollama()
    with tempfile.TemporaryDirectory(prefix="ai-bench-") as name:
        folder = Path(name)
        config = write_config(folder, args.agents)
        text = config.read_text().replace("http://127.0.0.1:9", url)
        config.write_text(text.replace("[start]", f"[class.owner]\nmax_queued = {args.queued}\n[start]", 1))
        command = [sys.executable, "-m", "supervisord_ai"]
        daemon = subprocess.Popen(
            [*command, "run", "--accept-smaller-machine", "--config", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "daemon.log").open("w"),
        )
        try:
            control = folder / "run" / "control.sock"
            wait_until_up(control, args.agents, 120.0)
            accepted = enqueue(folder / "run" / "llm.sock", args.queued)
            seen = status(control)
            assert seen is not None
            env = {**os.environ, "AI_SUPERVISOR_RUNTIME_DIR": str(folder / "run"), "TERM": "xterm-256color"}
            for variable in ("PYTHONDONTWRITEBYTECODE", "NO_COLOR"):
                env.pop(variable, None)

            def typed() -> None:
                subprocess.run([*command, "status"], env=env, check=True, stdout=subprocess.DEVNULL)

            def bare() -> None:
                subprocess.run([sys.executable, "-c", "pass"], check=True)

            typed()  # the first writes the bytecode that an installation has

            figures: dict[str, Any] = {
                "agents": seen["agents"]["total"],
                "accepted": accepted,
                "queued": seen["queue"]["queued"],
                "answer_ms": round(median_s(lambda: status(control), args.rounds) * 1000, 1),
                "command_ms": round(median_s(typed, args.rounds) * 1000, 1),
                "terminal_ms": round(median_s(lambda: on_a_terminal([*command, "status"], env), args.rounds) * 1000, 1),
                "bare_python_ms": round(median_s(bare, args.rounds) * 1000, 1),
                "command_cpu_ms": round(cpu_s(typed, args.rounds) * 1000, 1),
                "bare_python_cpu_ms": round(cpu_s(bare, args.rounds) * 1000, 1),
                "limit_ms": LIMIT_S * 1000,
            }
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)
            listener.close()
    figures["is_within"] = max(figures["command_ms"], figures["terminal_ms"]) <= figures["limit_ms"]
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        for key, value in figures.items():
            print(f"{key:<18} {value}")
    sys.exit(0 if figures["is_within"] and figures["queued"] >= args.queued else 1)


if __name__ == "__main__":
    main()
