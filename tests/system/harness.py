"""A real daemon in a folder of its own, and a real Ollama double, for the tests that need the whole thing.

Nothing here waits a fixed time: `eventually` polls a condition until a deadline with much room, and says what it saw.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parent.parent.parent
T = TypeVar("T")

# A class without a user is refused for root; in a test the children may be root's.
USER_LINE = 'user = "root"\n' if os.geteuid() == 0 else ""

THREE_SLEEPERS = f"""
[class.opus]
memory = "50MB"
start = "100ms"
ceiling = 3
{USER_LINE}
[[agents]]
name = "opus-{{n:02}}"
class = "opus"
count = 3
command = ["sleep", "infinity"]
"""


def eventually(look: Callable[[], T | None], *, within_s: float = 30.0, what: str) -> T:
    """Return the first truthy thing `look` returns.

    Raises:
        AssertionError: it never did; the text says what was last seen.
    """
    deadline = time.monotonic() + within_s
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {within_s:.0f} s; last seen: {seen!r}"
        time.sleep(0.02)


class UnixHTTP(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float = 60.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    path: Path,
    target: str,
    payload: dict[str, Any] | None = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Answered:
    """Send one request over a Unix socket and read the whole answer; header names in lower case."""
    connection = UnixHTTP(path, timeout_s)
    try:
        body = json.dumps(payload).encode() if payload is not None else None
        connection.request(method or ("POST" if payload is not None else "GET"), target, body, headers or {})
        answer = connection.getresponse()
        return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@dataclass
class Daemon:
    """A daemon as a child process; `start` and `kill` may alternate on the same folder."""

    folder: Path
    config: str
    process: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def llm(self) -> Path:
        return self.folder / "run" / "llm.sock"

    @property
    def control(self) -> Path:
        return self.folder / "run" / "control.sock"

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def start(self, *arguments: str) -> None:
        self.folder.chmod(0o755)
        config_file = self.folder / "config.toml"
        config_file.write_text(self.config)
        with (self.folder / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "supervisord_ai", "run", "--accept-smaller-machine"),
                    *("--config", str(config_file), *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **self.env},
            )
        try:
            eventually(self._answers, what="the daemon's control socket")
        except AssertionError as never:
            if self.process.poll() is None:  # where it hangs: faulthandler writes the stacks at ABRT, as for systemd's watchdog
                self.process.send_signal(signal.SIGABRT)
                self.process.wait(10)
            lines = self.log.splitlines()
            raise AssertionError("\n".join([str(never), *lines[-60:]])) from None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}"
        try:
            return ask(self.control, "/healthz").status in {200, 503}
        except OSError:
            return False

    def status(self) -> dict[str, Any]:
        answer = ask(self.control, "/v1/status")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    def agents(self) -> dict[str, dict[str, Any]]:
        return {agent["name"]: agent for agent in ask(self.control, "/v1/agents").json["agents"]}

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self, within_s: float = 20.0) -> int:
        """Send TERM and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


def config_text(folder: Path, *, ollama: str, extra: str = "", tcp: str = "[]", web: str = "") -> str:
    """A small config whose files are all below `folder`. The page is off: several daemons run at once."""
    return f"""
[daemon]
runtime_dir = "{folder}/run"
state_dir = "{folder}/state"
log_dir = "{folder}/log"
[listen]
tcp = {tcp}
[web]
listen = "{web}"
[[ollama]]
name = "main"
url = "{ollama}"
{extra}
"""


@contextmanager
def running_daemon(
    folder: Path, *, ollama: str, extra: str = "", tcp: str = "[]", web: str = "", arguments: tuple[str, ...] = ()
) -> Iterator[Daemon]:
    """A daemon that is up, and gone afterwards."""
    daemon = Daemon(folder, config_text(folder, ollama=ollama, extra=extra, tcp=tcp, web=web))
    try:
        daemon.start(*arguments)
        yield daemon
    finally:
        with suppress(subprocess.TimeoutExpired):
            daemon.stop()
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


@contextmanager
def ollama_double(*arguments: str) -> Iterator[str]:
    """The double of Ollama as a process; yields its URL."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.ollama_double", "--listen", "127.0.0.1:0", *arguments],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = [word for word in line.split() if word.startswith("http://")]
            assert found, f"the double did not say where it listens: {line!r}"
            yield found[0]
        finally:
            process.terminate()


def journal(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Read the journal of a daemon that runs or not, without writing to it."""
    with closing(sqlite3.connect(f"file:{folder}/state/journal.db?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def lines(body: bytes) -> Sequence[dict[str, Any]]:
    """The JSON lines of a streamed answer."""
    return [json.loads(line) for line in body.splitlines()]
