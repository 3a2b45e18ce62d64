"""Asks the kernel who is at the other end of a socket."""

from __future__ import annotations

import socket

from supervisord_ai.core.identity import PeerFacts, TcpFacts

__all__ = ["PeerFacts", "TcpFacts", "unix_peer", "tcp_peer"]


def unix_peer(sock: socket.socket) -> PeerFacts:
    """Return what the kernel says of the process that connected this Unix socket."""
    raise NotImplementedError


def tcp_peer(sock: socket.socket) -> TcpFacts:
    """Return what the kernel says of the socket that connected this loopback socket."""
    raise NotImplementedError
