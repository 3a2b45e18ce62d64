"""The door on which agents tell how far they are, in systemd's words (sd_notify(3)): one datagram socket each.

Who sent is the kernel's word (SCM_CREDENTIALS, unix(7)), not the sender's; whether that process belongs to the agent is decided
by who knows the agent's cage. The socket is the agent's user's alone (0600), so nobody else can fill its queue. Descriptors that
come along are never taken: the room for ancillary data ends behind the credentials, so the kernel drops them. That closes the
pipe of `BARRIER=1` as soon as what came before it was read, which is what `systemd-notify` waits for.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from supervisord_ai.errors import HostFault
from supervisord_ai.host.state_folder import make_folder

STATUS_CHARS = 200
_MESSAGE_BYTES = 4096
_LONGEST_PATH = 107  # sockaddr_un.sun_path with its NUL
_DIGITS = 18  # of a number of microseconds: thirty thousand years
_UCRED = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class Notice:
    """What a process said of itself; None: nothing. pid 0: one of another pid namespace.

    `watchdog_s`: a heartbeat will come at least this often (0: none will). `is_hung`: it says so itself (WATCHDOG=trigger).
    `extend_s`: what it is doing, starting or stopping, takes this much longer.
    """

    pid: int
    is_ready: bool = False
    is_stopping: bool = False
    status: str | None = None
    is_heartbeat: bool = False
    is_hung: bool = False
    watchdog_s: float | None = None
    extend_s: float | None = None


class NotifySocket(Protocol):
    """Where one generation of one agent is heard."""

    @property
    def path(self) -> str:
        """What NOTIFY_SOCKET says."""

    async def receive(self) -> Notice:
        """Return the next notice, whoever sent it."""

    def close(self) -> None:
        """Hear no more. May be called twice."""


class NotifyDoor(Protocol):
    """Makes these sockets; `NotifyFolder` is the machine's."""

    def open(self, name: str, *, uid: int) -> NotifySocket:
        """Return the socket of an agent; only `uid`, and root, can send to it.

        Raises:
            HostFault: it cannot be made.
        """


class _Socket:
    """A bound datagram socket and its file."""

    def __init__(self, path: Path, bound: socket.socket) -> None:
        self.path = str(path)
        self._file = path
        self._inode = path.lstat().st_ino
        self._socket = trio.socket.from_stdlib_socket(bound)

    def __repr__(self) -> str:
        return f"<notify socket {self.path}>"

    async def receive(self) -> Notice:
        message, ancillary, _, _ = await self._socket.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(_UCRED.size))
        pid = 0
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _UCRED.unpack(data[: _UCRED.size])[0]
        return parse(message, pid)

    def close(self) -> None:
        with suppress(FileNotFoundError):
            if self._socket.fileno() >= 0 and self._file.lstat().st_ino == self._inode:
                self._file.unlink()
        self._socket.close()


class NotifyFolder:
    """The folder of the sockets. `for_others`: agents run as other users and must be able to reach into it."""

    def __init__(self, path: Path, *, for_others: bool) -> None:
        self._path = path
        make_folder(path, 0o711 if for_others else 0o700)

    def __repr__(self) -> str:
        return f"<notify sockets in {self._path}>"

    def open(self, name: str, *, uid: int) -> NotifySocket:
        path = self._path / name
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise HostFault(f"{path} is too long for a socket ({_LONGEST_PATH} bytes): set a shorter daemon.runtime_dir")
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                path.unlink()  # of a supervisor that was killed: the folder is ours, and there is one supervisor
            made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # before the first message can come
            made.setblocking(False)
            os.fchmod(made.fileno(), 0o600)  # never wider, not even between bind and chmod
            made.bind(str(path))
            os.chmod(path, 0o600)  # the umask may have taken bits away
            if uid != os.geteuid():
                os.chown(path, uid, -1)
            return _Socket(path, made)
        except OSError as exc:
            made.close()
            raise HostFault(f"{path}: {exc.strerror}") from exc


def parse(message: bytes, pid: int) -> Notice:
    """Read one message: lines of NAME=VALUE, unknown names passed over. Text is made harmless here, once."""
    words = dict(line.split("=", 1) for line in message.decode("utf-8", "replace").split("\n") if "=" in line)
    status = words.get("STATUS")
    return Notice(
        pid,
        is_ready=words.get("READY") == "1",
        is_stopping=words.get("STOPPING") == "1",
        status=None if status is None else _harmless(status),
        is_heartbeat=words.get("WATCHDOG") == "1",
        is_hung=words.get("WATCHDOG") == "trigger",
        watchdog_s=_seconds(words.get("WATCHDOG_USEC")),
        extend_s=_seconds(words.get("EXTEND_TIMEOUT_USEC")),
    )


def _seconds(microseconds: str | None) -> float | None:
    """Read a number of microseconds; what is none was not said."""
    if microseconds is None or not (microseconds.isascii() and microseconds.isdigit()) or len(microseconds) > _DIGITS:
        return None
    return int(microseconds) / 1e6


def _harmless(text: str) -> str:
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:STATUS_CHARS])
