"""A journald that only listens: reads entries of the native protocol, from datagrams and from memfds."""

from __future__ import annotations

import array
import os
import socket
import struct
from pathlib import Path
from types import TracebackType


class FakeJournald:
    """Its socket is at `path` while the block runs; `entry` returns the next entry that was sent."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> FakeJournald:
        self._socket.bind(self.path)
        self._socket.settimeout(10)
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._socket.close()

    def entry(self) -> dict[str, str]:
        data, passed, _, _ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for _, kind, content in passed:
            assert kind == socket.SCM_RIGHTS
            (file,) = array.array("i", content)
            try:
                data = os.pread(file, os.fstat(file).st_size, 0)
            finally:
                os.close(file)
        return decoded(data)


def decoded(data: bytes) -> dict[str, str]:
    """Read an entry as journald does (systemd: journald-native.c)."""
    found: dict[str, str] = {}
    while data:
        line, end, rest = data.partition(b"\n")
        assert end, "the last line has no end"
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n", "a value with a length ends with a line break"
            rest = rest[1:]
        found[name.decode()] = value.decode()
        data = rest
    return found
