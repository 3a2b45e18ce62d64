"""What do the page and the metrics cost the daemon?

    .venv/bin/python -m bench.page [--agents 131] [--seconds 60] [--json]

One daemon with idle agents, three windows: nobody looks; one page is open; one page is open and /metrics is scraped each 15 s.
CPU is the time of the daemon's one process, from /proc, as a share of one core; the cost is the difference to the first window.
The time of one scrape is measured alone. The promise: page and metrics together cost under 1 % of a core.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from bench.idle import wait_until_up, write_config
from bench.report import Figures, arguments, percentile, show
from tests.web.ports import free_port

LIMIT_CPU_SHARE = 0.01
SCRAPE_EVERY_S = 15.0
SCRAPES_TIMED = 20


class OpenPage(threading.Thread):
    """A browser with the page open: it reads what it is told."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.read_bytes = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        with suppress(http.client.IncompleteRead):  # the daemon ends first
            while data := answer.read1(65536):
                self.read_bytes += len(data)


def scrape(port: int) -> tuple[float, int]:
    """Return how long one scrape took, and its lines."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began = time.perf_counter()
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    connection.close()
    return time.perf_counter() - began, body.count(b"\n")


def window(process: psutil.Process, seconds: float, port: int | None) -> float:
    """Return the share of a core that the daemon used; `port`: scraped each 15 s."""
    before, began = process.cpu_times(), time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        if port is not None:
            scrape(port)
        time.sleep(min(left, SCRAPE_EVERY_S))
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / (time.monotonic() - began)


def measure(agents: int, seconds: float) -> Figures:
    """Start a daemon and look at it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ai-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        config = write_config(folder, agents)
        config.write_text(config.read_text().replace('[web]\nlisten = ""', f'[web]\nlisten = "127.0.0.1:{port}"'))
        daemon = subprocess.Popen(
            [sys.executable, "-m", "supervisord_ai", "run", "--accept-smaller-machine", "--config", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "daemon.log").open("w"),
        )
        try:
            wait_until_up(folder / "run" / "control.sock", agents, 120.0)
            process = psutil.Process(daemon.pid)
            alone = window(process, seconds, None)
            rss_alone = process.memory_info().rss
            page = OpenPage(port)
            page.start()
            looked_at = window(process, seconds, None)
            told_bytes = page.read_bytes
            scraped = window(process, seconds, port)
            timed = [scrape(port) for _ in range(SCRAPES_TIMED)]
            cost = scraped - alone
            return {
                "agents": agents,
                "window_s": seconds,
                "cpu_alone": round(alone, 5),
                "cpu_with_page": round(looked_at, 5),
                "cpu_with_page_and_scrapes": round(scraped, 5),
                "cost": round(cost, 5),
                "page_bytes_per_s": round(told_bytes / seconds),
                "scrape_lines": timed[0][1],
                "scrape_p50_s": round(percentile([took for took, _ in timed], 50), 4),
                "rss_alone_bytes": rss_alone,
                "rss_bytes": process.memory_info().rss,
                "load_average": round(os.getloadavg()[0], 1),
                "within_promise": cost < LIMIT_CPU_SHARE,
            }
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(20)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--agents", type=int, default=131)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    figures = measure(args.agents, args.seconds)
    rows = [
        ("nobody looks", f"{figures['cpu_alone']:.2%}", ""),
        ("one page open", f"{figures['cpu_with_page']:.2%}", f"{figures['page_bytes_per_s'] / 1000:.1f} kB/s"),
        ("and a scrape each 15 s", f"{figures['cpu_with_page_and_scrapes']:.2%}", f"{figures['scrape_lines']} lines"),
        ("cost (promise: under 1 %)", f"{figures['cost']:.2%}", "good" if figures["within_promise"] else "TOO MUCH"),
        ("one scrape takes", f"{figures['scrape_p50_s'] * 1000:.0f} ms", ""),
        ("memory of the daemon", f"{figures['rss_bytes'] / 1e6:.1f} MB", f"{figures['rss_alone_bytes'] / 1e6:.1f} before"),
    ]
    title = f"{args.agents} idle agents, windows of {args.seconds:.0f} s, load average {figures['load_average']}"
    show(figures, args.json, title, ("", "of a core", ""), rows)
    return 0 if figures["within_promise"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
