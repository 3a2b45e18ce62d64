"""What the scripts of the guest share: they print `ok - sentence` or `not ok - sentence` a line, and look at a real daemon."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUN = Path("/run/ai-supervisor")


class Tally:
    """Counts what was not as it should be."""

    failures = 0

    def check(self, sentence: str, good: object, detail: object = "") -> None:
        self.failures += not good
        print(f"{'ok' if good else 'not ok'} - {sentence}{'' if good else f': {detail}'}", flush=True)

    def end(self, *units: str) -> int:
        if self.failures:
            wanted = [word for unit in units for word in ("-u", unit)]
            subprocess.run(["journalctl", *wanted, "-n", "150", "--no-pager", "-o", "cat"], check=False)
        os.sync()
        print(f"{'FAILED' if self.failures else 'passed'}: {self.failures} not ok")
        return 1 if self.failures else 0


def until(condition: Callable[[], object], within_s: float = 120.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


def ask(path: str, *, at: str = "control.sock", timeout_s: float = 60.0) -> Any:
    """Return the JSON of a GET over one of the sockets; raises OSError."""
    connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(timeout_s)
    try:
        connection.sock.connect(str(RUN / at))
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except http.client.HTTPException as exc:
        raise ConnectionResetError(repr(exc)) from exc
    finally:
        connection.close()


def agents() -> dict[str, dict[str, Any]]:
    try:
        return {one["name"]: one for one in ask("/v1/agents")["agents"]}
    except OSError:
        return {}


def pids() -> dict[str, int]:
    return {name: one["pid"] for name, one in agents().items() if one["pid"]}


def command(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, **more)


def systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=True)


def shown(unit: str, what: str) -> str:
    return command("systemctl", "show", "--value", f"--property={what}", unit).stdout.strip()


class Caller:
    """Calls llm.sock twice a second, until told to stop. `refused` are connects that failed, `cut` answers that did not come."""

    def __init__(self) -> None:
        self.answered = self.cut = 0
        self.refused: list[str] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        while not self._is_over.wait(0.5):  # each call costs an emulated guest 50 ms
            try:
                ask("/supervisor/v1/whoami", at="llm.sock", timeout_s=120)
                self.answered += 1
            except (ConnectionRefusedError, FileNotFoundError) as exc:
                self.refused.append(repr(exc))
            except OSError:
                self.cut += 1

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def __repr__(self) -> str:
        return f"{self.answered} answered, {self.cut} cut, {len(self.refused)} refused {self.refused[:2]}"


if __name__ == "__main__":
    sys.exit("this is a module")
