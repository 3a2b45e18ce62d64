"""Sockets that systemd holds and passes on (sd_listen_fds(3)): callers wait in them while no supervisor runs.

Which is which is read from the sockets themselves, because a socket unit has one name for all of them. What the config asks
for and systemd does not pass is bound as ever; what systemd passes and the config does not ask for is closed, with a word.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from ipaddress import ip_address
from pathlib import Path

from supervisord_ai.host.sockets import UnixListener, parse_address

log = logging.getLogger(__name__)

_FIRST_FD = 3


class PassedSockets:
    """What came with this process. Each socket is taken once; `close` lets go of those that nobody took.

    The variables are taken out of the environment: they are meant for this process and not for its children.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None, *, first_fd: int = _FIRST_FD) -> None:
        environ = os.environ if environ is None else environ
        told = {name: environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        is_for_us = told["LISTEN_PID"] == str(os.getpid()) and told["LISTEN_FDS"].isdecimal()
        count = int(told["LISTEN_FDS"]) if is_for_us else 0
        self._sockets = [_taken(fd) for fd in range(first_fd, first_fd + count)]

    def __repr__(self) -> str:
        return f"<sockets passed by systemd: {', '.join(map(_name_of, self._sockets)) or 'none'}>"

    def unix(self, path: Path) -> UnixListener | None:
        """Return the listener at this path; its file is systemd's to remove."""
        for one in self._sockets:
            if one.family == socket.AF_UNIX and os.path.realpath(_name_of(one)) == os.path.realpath(path):
                self._sockets.remove(one)
                return UnixListener(path, one, None)
        return None

    def tcp(self, where: str) -> socket.socket | None:
        """Return the listener at "HOST:PORT"."""
        host, port = parse_address(where)
        wanted = (ip_address("127.0.0.1" if host == "localhost" else host), port)
        for one in self._sockets:
            if one.family in {socket.AF_INET, socket.AF_INET6}:
                name = one.getsockname()
                if (ip_address(name[0]), name[1]) == wanted:
                    self._sockets.remove(one)
                    return one
        return None

    def close(self) -> None:
        """Let go of what the config does not ask for: whoever calls there is refused, as by a closed port."""
        for one in self._sockets:
            log.warning("systemd listens on %s, which the config does not name: ai-supervisor install brings them together",
                        _name_of(one))  # fmt: skip
            one.close()
        self._sockets = []


def _taken(fd: int) -> socket.socket:
    made = socket.socket(fileno=fd)
    made.set_inheritable(False)
    made.setblocking(False)
    return made


def _name_of(one: socket.socket) -> str:
    name = one.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return os.fsdecode(name)
