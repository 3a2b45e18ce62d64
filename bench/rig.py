"""Everything a comparison needs, in a folder of its own, and ended with it: the fixed upstream, nginx, our daemon, callers.

All of them run at once and are measured in turn, round by round, so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from bench.peers import program
from bench.report import Figures
from bench.upstream import MODEL

BUFFERED, UNBUFFERED = "on", "off"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody who answers requests. `address`: the path of a Unix socket, or host:port."""

    name: str
    address: str
    pids: tuple[int, ...]


@dataclass(slots=True)
class Rig:
    """What is running."""

    folder: Path
    candidates: list[Candidate] = field(default_factory=list)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    # --- who is there --------------------------------------------------------------------------------------------------

    def start_upstream(self) -> str:
        """The fixed upstream; returns its address."""
        command = [sys.executable, "-m", "bench.upstream", "127.0.0.1:0"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._children.append(child)
        assert child.stdout is not None
        return child.stdout.readline().decode().strip()

    def start_nginx(self, name: str, location: str, *, http: str = "") -> Candidate:
        """nginx with one worker on a Unix socket; `location` is what it does with every request."""
        where = self._room(name)
        address = where / "nginx.sock"
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""  # the folder is nobody else's
        (where / "nginx.conf").write_text(
            f"""
{user} worker_processes 1; pid {where}/nginx.pid; error_log {where}/error.log; daemon off;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000; client_body_temp_path {where}; client_body_buffer_size 64k; {http}
    proxy_temp_path {where}; fastcgi_temp_path {where}; uwsgi_temp_path {where}; scgi_temp_path {where};
    server {{ listen unix:{address}; location / {{ {location} }} }}
}}
"""
        )
        child = subprocess.Popen([program("nginx", "nginx-light"), "-c", str(where / "nginx.conf")], stderr=subprocess.DEVNULL)
        self._children.append(child)
        wait_until_accepts(str(address))
        return self._candidate(name, str(address), child)

    def start_daemon(
        self,
        name: str,
        upstream: str,
        *,
        durability: str = "power",
        slots: int = 2,
        sampled: Path | None = None,
        before: Callable[[Path], None] = lambda _state_dir: None,
    ) -> Candidate:
        """Our daemon without agents: the caller is the owner, who has no rate. `sampled`: where its profile goes at its end.

        `before` is called with its state folder when all is there but the daemon.
        """
        where = self._room(name)
        (where / "state").mkdir(mode=0o700)
        config = where / "config.toml"
        config.write_text(
            f"""
[daemon]
runtime_dir = "{where}/run"
state_dir = "{where}/state"
durability = "{durability}"
[web]
listen = ""
[listen]
tcp = []
[memory]
total = "48GB"
[[ollama]]
name = "main"
url = "http://{upstream}"
slots = {slots}
connections = {slots + 8}
"""
        )
        before(where / "state")
        module = ["supervisord_ai"] if sampled is None else ["bench.sampled", str(sampled)]
        command = [sys.executable, "-m", *module, "run", "--accept-smaller-machine", "--config", str(config)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(where / "daemon.log").open("w"))
        self._children.append(child)
        address = str(where / "run" / "llm.sock")
        try:
            wait_until_accepts(address)
        except SystemExit as exc:
            raise SystemExit(f"{exc}; its last words:\n{(where / 'daemon.log').read_text()[-2000:]}") from exc
        return self._candidate(name, address, child)

    def start(self, name: str, address: str, command: list[str], environ: Mapping[str, str]) -> Candidate:
        """Somebody else's server. It may take long until it accepts: `wait_until_accepts`, then `look_again`."""
        child = subprocess.Popen(command, env=dict(environ), stdout=(self.folder / f"{address.rpartition('/')[2]}.log").open("w"),
                                 stderr=subprocess.STDOUT)  # fmt: skip
        self._children.append(child)
        return self._candidate(name, address, child)

    def keep(self, child: subprocess.Popen[bytes]) -> None:
        """Have it ended with the rest."""
        self._children.append(child)

    def look_again(self) -> None:
        """Find the processes that the candidates have made since they were started."""
        for place, one in enumerate(self.candidates):
            if one.pids:
                below = (process.pid for process in psutil.Process(one.pids[0]).children(recursive=True))
                self.candidates[place] = replace(one, pids=(one.pids[0], *below))

    def _room(self, name: str) -> Path:
        where = self.folder / name.replace(" ", "-")
        where.mkdir()
        return where

    def _candidate(self, name: str, address: str, child: subprocess.Popen[bytes]) -> Candidate:
        pids = (child.pid, *(process.pid for process in psutil.Process(child.pid).children(recursive=True)))
        candidate = Candidate(name, address, pids)
        self.candidates.append(candidate)
        return candidate

    # --- measuring -----------------------------------------------------------------------------------------------------

    def compare(self, requests: dict[str, bytes], *, connections: int, seconds: float, rounds: int) -> dict[str, Figures]:
        """Measure every candidate in turn, `rounds` times; the median of each figure, and how many requests are behind it.

        `requests`: by candidate's name, what it is asked. Raises: SystemExit when a window saw an error or too little.
        """
        seen: dict[str, list[Figures]] = {name: [] for name in requests}
        by_name = {candidate.name: candidate for candidate in self.candidates}
        for _ in range(rounds):
            for name, request in requests.items():
                figures = call(by_name[name], request, connections=connections, seconds=seconds)
                if figures["not_ok"] or figures["requests"] < 20:
                    raise SystemExit(f"{name}: not a measurement: {figures}")
                seen[name].append(figures)
        return {name: median_of(windows) for name, windows in seen.items()}

    def end(self) -> None:
        """End what was started, by pid, the last first."""
        for child in reversed(self._children):
            child.send_signal(signal.SIGTERM)
        for child in reversed(self._children):
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()


@contextmanager
def rig() -> Iterator[Rig]:
    """An empty rig in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ai-bench-") as name:
        made = Rig(Path(name))
        try:
            yield made
        finally:
            made.end()


def call(candidate: Candidate, request: bytes, *, connections: int, seconds: float, warm_up_s: float = 0.5) -> Figures:
    """One window of callers before one candidate."""
    plan = {
        "address": candidate.address,
        "request": request.decode(),
        "connections": connections,
        "seconds": seconds,
        "warm_up_s": warm_up_s,
        "pids": list(candidate.pids),
    }
    command = [sys.executable, "-m", "bench.load", json.dumps(plan)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: Figures = json.loads(done.stdout)
    return found


def median_of(windows: Sequence[Figures]) -> Figures:
    """The median of each figure; `requests` is the sum, `rounds` says of how many."""
    made: Figures = {key: statistics.median(window[key] for window in windows) for key in windows[0]}
    return made | {"requests": sum(window["requests"] for window in windows), "rounds": len(windows)}


def generate(prompt: str, **fields: Any) -> bytes:
    """A request for `/api/generate`, head and body."""
    body = json.dumps({"model": MODEL, "prompt": prompt, **fields})
    heads = ("POST /api/generate HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return ("\r\n".join(heads) + "\r\n\r\n" + body).encode()


def wait_until_accepts(address: str, within_s: float = 15.0) -> None:
    """Return when a Unix socket, or a host:port, accepts."""
    host, _, port = address.rpartition(":")
    is_unix = address.startswith("/")
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET) as sock:
            try:
                sock.connect(address if is_unix else (host, int(port)))
            except OSError:
                time.sleep(0.05)
            else:
                return
    raise SystemExit(f"{address} did not accept within {within_s:.0f} s")


def proxy_to(upstream: str, *, buffering: str = UNBUFFERED) -> tuple[str, str]:
    """nginx's `location` and `http` texts of a proxy that keeps its connections to the upstream."""
    location = f'proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering {buffering};'
    return location, f"upstream backend {{ server {upstream}; keepalive 64; keepalive_requests 1000000; }}"
