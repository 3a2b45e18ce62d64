"""A port that nobody has, for servers that must be told one."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
