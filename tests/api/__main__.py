"""Runs schemathesis against a real daemon: `python -m tests.api SCHEMATHESIS [WORDS ...]`; scripts/test-api calls it.

Left out: `/v1/stop`, which ends what is tested, `/v1/events`, which has no end, and `/v1/exec`, which takes in the process that
asks (the relay here) and ends it with the daemon. All have tests of their own.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from tests.system.harness import ROOT, USER_LINE, eventually, ollama_double, running_daemon

DESCRIPTION = ROOT / "supervisord_ai" / "control" / "openapi.json"
LEFT_OUT = ("/v1/stop", "/v1/events", "/v1/exec")
AGENTS = f"""
[class.sonnet]
memory = "64MB"
ceiling = 3
start = "100ms"
{USER_LINE}
[[agents]]
name = "sonnet-{{n:02}}"
class = "sonnet"
count = 3
command = "sleep 1000"
[[agents]]
name = "editor"
class = "sonnet"
external = true
"""


def relay(target: Path) -> tuple[socket.socket, int]:
    """Make a Unix socket reachable on a loopback port; returns the listener and the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve(peer: socket.socket) -> None:
        with peer, socket.socket(socket.AF_UNIX) as inner:
            inner.connect(str(target))
            up = threading.Thread(target=copy, args=(peer, inner), daemon=True)
            up.start()
            copy(inner, peer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener, listener.getsockname()[1]


def main() -> int:
    program, *words = sys.argv[1:]
    with (
        tempfile.TemporaryDirectory(prefix="ai-api-") as name,
        ollama_double() as url,
        running_daemon(Path(name), ollama=url, extra=AGENTS) as daemon,
    ):
        eventually(lambda: daemon.status()["backends"][0]["state"] == "ready", what="the double")
        listener, port = relay(daemon.control)
        with listener:
            command = [
                *(program, "run", str(DESCRIPTION), "--url", f"http://127.0.0.1:{port}", "--request-timeout", "30"),
                *(word for path in LEFT_OUT for word in ("--exclude-path", path)),
                *("--max-examples", "60", "--seed", "1"),
                *("--generation-database", "none", *words),
            ]
            code = subprocess.run(command, check=False, cwd=name).returncode
        if "Traceback" in daemon.log:
            print(daemon.log[-5000:])
            return 1
        return code


if __name__ == "__main__":
    sys.exit(main())
