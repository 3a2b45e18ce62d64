"""The door to systemd's journal: an entry with fields of its own, by the native protocol.

What a service writes to stderr becomes entries of a text and a priority. Sent to journald itself, an entry says whose deed it is
in fields that can be asked for: `journalctl AGENT=sonnet-07`, `journalctl REQUEST_ID=...`. The protocol is systemd's "Native
Journal Protocol": one datagram an entry, `NAME=value` a line, and a value with line breaks behind its length; what is too large
for a datagram goes as a sealed memfd.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping

from supervisord_ai.errors import HostFault

SOCKET = "/run/systemd/journal/socket"
SEND_BUFFER_BYTES = 8 * 1024 * 1024  # as sd-journal asks for; the kernel gives what it allows
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")  # what begins with `_` is journald's own
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_TOO_LARGE = {errno.EMSGSIZE, errno.ENOBUFS}


def encoded(fields: Mapping[str, str]) -> bytes:
    """Return an entry as it is sent.

    Raises:
        ValueError: journald would leave out a field of this name.
    """
    entry = bytearray()
    for name, value in fields.items():
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a field")
        data = value.encode(errors="backslashreplace")
        if b"\n" in data:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            entry += name.encode() + b"=" + data + b"\n"
    return bytes(entry)


class Journald:
    """Where entries go. Sending never waits: a journal that is full is a fault, and its caller has another way."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def __repr__(self) -> str:
        return f"<journald {self._path}>"

    def close(self) -> None:
        self._socket.close()

    def send(self, fields: Mapping[str, str]) -> None:
        """Send one entry.

        Raises:
            HostFault: nobody took it.
        """
        entry = encoded(fields)
        try:
            try:
                self._socket.sendto(entry, self._path)
            except OSError as exc:
                if exc.errno not in _TOO_LARGE:
                    raise
                self._send_file(entry)
        except OSError as exc:
            raise HostFault(f"{self._path}: {exc.strerror}") from exc

    def _send_file(self, entry: bytes) -> None:
        file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(entry)
            while rest:
                rest = rest[os.write(file, rest) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file))]
            self._socket.sendmsg([b""], passed, 0, self._path)
        finally:
            os.close(file)
