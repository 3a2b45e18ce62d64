"""Callers in a closed loop, and what they cost the servers they call.

    python -m bench.load '{"address": "/run/x.sock", "request": "...", "connections": 131, "seconds": 3, "pids": [1, 2]}'

A process of its own, so that its work is nobody else's. Each connection sends the same request again as soon as it is answered.
After the warm-up a window is measured: requests, lines, time to the first byte and to the last, and the CPU the servers' threads
used meanwhile (/proc/PID/task/*/schedstat, nanoseconds). A server's CPU a request does not depend on who is faster, the
callers or the server; requests a second do: `own_utilisation` near 1 says that the callers were the limit.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.report import percentile


def cpu_ns(pids: list[int]) -> int:
    """What all threads of these processes have used so far."""
    files = (file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(file.read_text().split()[0]) for file in files)


class Window:
    """What is counted while `is_open`."""

    def __init__(self) -> None:
        self.is_open = False
        self.requests = self.lines = self.refused = 0
        self.first_s: list[float] = []
        self.whole_s: list[float] = []


class Caller(asyncio.Protocol):
    """One connection that asks the same again and again."""

    def __init__(self, request: bytes, window: Window) -> None:
        self._request = request
        self._window = window
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._first_s = 0.0
        self._began_at = 0.0
        self._needed: int | None = None  # bytes of the answer; None: chunked, or its head is not here yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._window.refused += self._window.is_open

    def _ask(self) -> None:
        assert self._transport is not None
        self._received.clear()
        self._needed = None
        self._began_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._received:
            self._first_s = time.perf_counter() - self._began_at
        self._received += data
        if self._needed is None:
            head, found, _ = bytes(self._received[:2000]).partition(b"\r\n\r\n")
            if found and b"hunked" not in head:
                length = head.lower().partition(b"content-length:")[2].split(b"\r", 1)[0]
                self._needed = len(head) + 4 + int(length)
        is_whole = self._received.endswith(b"0\r\n\r\n") if self._needed is None else len(self._received) >= self._needed
        if is_whole:
            self._count()
            self._ask()

    def _count(self) -> None:
        window = self._window
        if window.is_open:
            window.requests += 1
            window.lines += self._received.count(b'"done":')
            window.refused += not self._received.startswith(b"HTTP/1.1 200")
            window.first_s.append(self._first_s)
            window.whole_s.append(time.perf_counter() - self._began_at)


async def measure(plan: dict[str, Any]) -> dict[str, Any]:
    """Call as planned and return what was seen in the window."""
    loop, window = asyncio.get_running_loop(), Window()
    request, address = plan["request"].encode(), plan["address"]
    for _ in range(plan["connections"]):
        if address.startswith("/"):
            await loop.create_unix_connection(lambda: Caller(request, window), address)
        else:
            host, _, port = address.rpartition(":")
            await loop.create_connection(lambda: Caller(request, window), host, int(port))
    await asyncio.sleep(plan["warm_up_s"])
    own, server, began_at = time.process_time(), cpu_ns(plan["pids"]), time.perf_counter()
    window.is_open = True
    await asyncio.sleep(plan["seconds"])
    window.is_open = False
    spent_s = time.perf_counter() - began_at
    server_us, own_s = (cpu_ns(plan["pids"]) - server) / 1000, time.process_time() - own
    requests, lines = max(window.requests, 1), max(window.lines, 1)
    return {
        "requests": window.requests,
        "not_ok": window.refused,
        "per_s": round(window.requests / spent_s, 1),
        "cpu_us_per_request": round(server_us / requests, 2),
        "cpu_us_per_line": round(server_us / lines, 2),
        "first_byte_ms_p50": round(percentile(window.first_s, 50) * 1000, 3),
        "first_byte_ms_p99": round(percentile(window.first_s, 99) * 1000, 3),
        "whole_ms_p50": round(percentile(window.whole_s, 50) * 1000, 3),
        "server_utilisation": round(server_us / 1e6 / spent_s, 2),
        "own_utilisation": round(own_s / spent_s, 2),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(json.loads(sys.argv[1])))))
