"""Makes the sockets others connect to: two Unix sockets in a folder of ours, and loopback TCP.

A socket file outlives the process that made it. One that nobody listens on is removed, but only after a connect has failed
(unix(7): ECONNREFUSED), because removing a living one would cut off a running daemon without anyone noticing. The file is
looked at, changed and removed through a descriptor of its folder, so that a link put in its way is not followed.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from supervisord_ai.errors import HostFault
from supervisord_ai.host import procfs
from supervisord_ai.host.peers import holders_of
from supervisord_ai.host.state_folder import make_folder

log = logging.getLogger(__name__)

# A connect to a full backlog of a Unix socket fails at once with EAGAIN; 131 agents may well come in one moment.
BACKLOG = 1024
_LONGEST_PATH = 107  # sockaddr_un.sun_path with its NUL


@dataclass(eq=False)
class UnixListener:
    """A listening Unix socket and its file. `close` removes the file, if it is still the one we made (`_inode`)."""

    path: Path
    socket: socket.socket
    _inode: tuple[int, int] | None

    def close(self) -> None:
        # The file first: while the socket is open its inode number cannot be given to a successor's file.
        if self._inode is not None:
            self._remove_file(self._inode)
        self.socket.close()

    def _remove_file(self, inode: tuple[int, int]) -> None:
        try:
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == inode and self.socket.fileno() >= 0:
                self.path.unlink()
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                log.warning("%s was not removed: %s", self.path, exc.strerror)


def make_runtime_dir(path: Path, *, for_others: bool) -> None:
    """Make the folder of the sockets. `for_others`: agents with other users must be able to enter it.

    Raises:
        HostFault: it cannot be made, or is somebody else's.
    """
    make_folder(path, 0o755 if for_others else 0o700)


def bind_unix(path: Path, *, mode: int, gid: int | None = None, uid: int | None = None) -> UnixListener:
    """Listen on a Unix socket with that mode and owner. Its folder exists and is ours.

    Raises:
        HostFault: somebody listens there, the name is taken by something else, or it is too long.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise HostFault(f"{path} is too long for a socket ({_LONGEST_PATH} bytes): set daemon.runtime_dir to a shorter folder")
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise HostFault(f"{path.parent}: {exc.strerror}") from exc
    try:
        _clear(path, folder)
        return _bind(path, folder, mode, -1 if uid is None else uid, -1 if gid is None else gid)
    except OSError as exc:
        raise HostFault(f"{path}: {exc.strerror}") from exc
    finally:
        os.close(folder)


def _bind(path: Path, folder: int, mode: int, uid: int, gid: int) -> UnixListener:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The file gets the mode of the socket's own inode less the umask: never wider than asked, not even for a moment.
        os.fchmod(made.fileno(), mode)
        made.bind(str(path))
        found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if (uid, gid) != (-1, -1):
            os.chown(path.name, uid, gid, dir_fd=folder, follow_symlinks=False)
        os.chmod(path.name, mode, dir_fd=folder)  # the umask may have taken bits away
        made.setblocking(False)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return UnixListener(path, made, (found.st_dev, found.st_ino))


def _clear(path: Path, folder: int) -> None:
    """Remove a socket file that nobody listens on."""
    try:
        found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise HostFault(f"{path} is in the way and is not a socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(str(path))
    if refused != errno.ECONNREFUSED:
        words = "somebody listens there" if refused in {0, errno.EAGAIN} else os.strerror(refused)
        raise HostFault(f"{path}: {words}; is another ai-supervisor running? Give this one its own runtime_dir")
    os.unlink(path.name, dir_fd=folder)
    log.info("%s: removed, nobody listened on it any more", path)


def bind_tcp(where: str, *, beyond_loopback: bool = False) -> socket.socket:
    """Listen on "HOST:PORT" or "[IPV6]:PORT". Only loopback, unless it is said twice. Port 0 takes a free one.

    Raises:
        HostFault: it is no such address, not loopback, or taken, and by whom.
    """
    host, port = parse_address(where)
    address = ip_address("127.0.0.1" if host == "localhost" else host)
    if not address.is_loopback and not beyond_loopback:
        raise HostFault(f"{where}: not a loopback address; agents have no business on the network")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:  # a kernel without IPv6
        raise HostFault(f"{where}: {exc.strerror}") from exc
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setblocking(False)
        made.bind((str(address), port))
        made.listen(BACKLOG)
    except OSError as exc:
        made.close()
        if exc.errno == errno.EADDRINUSE:
            raise HostFault(f"{where} is taken{_by_whom(port)}: stop it, or set another address") from exc
        raise HostFault(f"{where}: {exc.strerror}") from exc
    return made


def parse_address(where: str) -> tuple[str, int]:
    """Split "HOST:PORT".

    Raises:
        HostFault: it is not of that form, or the host is no address.
    """
    host, _, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        number = int(port) if port.isascii() and port.isdigit() else -1
        if host != "localhost":
            ip_address(host)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise HostFault(f"{where!r} is not an address: write 127.0.0.1:11435")
    return host, number


def _by_whom(port: int) -> str:
    """Name the process that listens on a port, as far as we may look."""
    inodes = {inode for name in ("tcp", "tcp6") for inode in _listening(name, port)}
    for pid in holders_of(inodes):
        known = procfs.stat(pid)
        if known is not None:
            return f" by {known.comm} (pid {pid})"
    return ""


def _listening(name: str, port: int) -> Sequence[int]:
    try:
        lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    except OSError:
        return ()
    fields = [line.split() for line in lines]
    return [int(f[9]) for f in fields if f[3] == "0A" and f[1].endswith(f":{port:04X}")]
