"""131 bodies of 40 MB at once: how much memory does the daemon take?

    python -m bench.bodies [--callers 131] [--body-mb 40] [--seconds 900]

A real daemon with the shipped [limits] before the double of Ollama; callers on llm.sock that all send one image of 40 MB in
base64 at the same moment, and again when they are told to come back, until every one has its answer. What is printed is the peak
of the daemon's resident memory as the kernel counted it (VmHWM), and the bound that it has to hold: what it has at rest, all that
[limits] ingest lets in, and four copies of one body beside it, since bodies are read one at a time (as bytes and as text, as a
value, and as that value written again, first as text).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from supervisord_ai.core.policies import LimitsPolicy
from supervisord_ai.core.roster import MB

ROOT = Path(__file__).parent.parent
MODEL = "llama3.2:3b"
COPIES = 4


def high_water_bytes(pid: int, name: str = "VmHWM") -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(name))


async def call(socket: str, head: bytes, body: bytes, until: float, ends: Counter[str]) -> None:
    """Send it again and again until it is answered or time is over."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_unix_connection(socket)
        except OSError:
            ends["no connection"] += 1
            await asyncio.sleep(0.5)
            continue
        try:
            writer.write(head)
            sender = asyncio.ensure_future(_send(writer, body))
            answer = await asyncio.wait_for(reader.read(65536), max(0.1, until - time.monotonic()))
            sender.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sender
            status = answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.1 ") else "cut"
            ends[status] += 1
            if status == "200":
                return
        except (OSError, TimeoutError):
            ends["cut"] += 1
        finally:
            writer.close()
        await asyncio.sleep(2.0)


async def _send(writer: asyncio.StreamWriter, body: bytes) -> None:
    with suppress(OSError, AttributeError):  # refused in the middle; AttributeError: asyncio's own, of a loop that is closing
        for at in range(0, len(body), 1 << 16):
            writer.write(body[at : at + (1 << 16)])
            await writer.drain()


async def storm(socket: str, callers: int, body: bytes, seconds: float) -> Counter[str]:
    head = (
        f"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    ends: Counter[str] = Counter()
    until = time.monotonic() + seconds
    await asyncio.gather(*(call(socket, head, body, until, ends) for _ in range(callers)))
    return ends


def config_of(folder: Path, upstream: str) -> str:
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
[class.owner]
max_queued = 1000
[[ollama]]
url = "{upstream}"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="how much memory do large bodies take?")
    parser.add_argument("--callers", type=int, default=131)
    parser.add_argument("--body-mb", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=900.0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bodies-"))
    words = [sys.executable, "-m", "tests.fakes.ollama_double", "--model", MODEL]
    double = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert double.stdout is not None
    upstream = double.stdout.readline().split()[-1]
    (folder / "c.toml").write_text(config_of(folder, upstream))
    run = ["run", "--accept-smaller-machine", "--config", str(folder / "c.toml")]
    with (folder / "log.txt").open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "supervisord_ai", *run], stdout=log, stderr=log, cwd=ROOT)
    try:
        socket = folder / "run" / "llm.sock"
        for _ in range(200):
            if socket.exists():
                break
            time.sleep(0.1)
        time.sleep(3)
        rest = high_water_bytes(daemon.pid, "VmRSS")
        image = "A" * (args.body_mb * MB // 4 * 4)
        body = json.dumps({"model": MODEL, "prompt": "what is this?", "images": [image], "stream": False}).encode()
        ends = asyncio.run(storm(str(socket), args.callers, body, args.seconds))
        peak = high_water_bytes(daemon.pid)
        time.sleep(1)
        bound = rest + LimitsPolicy().ingest_bytes + COPIES * len(body)
        told = {
            "callers": args.callers,
            "body_mb": args.body_mb,
            "answered": ends["200"],
            "ends": dict(ends),
            "rest_mb": round(rest / MB, 1),
            "peak_mb": round(peak / MB, 1),
            "bound_mb": round(bound / MB, 1),
            "after_mb": round(high_water_bytes(daemon.pid, "VmRSS") / MB, 1),
            "holds": peak <= bound,
        }
        print(json.dumps(told))
        return 0 if peak <= bound and ends["200"] == args.callers else 1
    finally:
        for child in (daemon, double):
            child.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(15)
            if child.poll() is None:
                child.kill()
                child.wait()
        double.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
