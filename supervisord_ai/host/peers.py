"""Asks the kernel who is at the other end of a socket.

Unix (unix(7)): SO_PEERCRED has pid, uid and gid of the process that called connect(), as they were then. A pid may since be
somebody else's, so SO_PEERPIDFD (Linux 6.5) pins the process that connected: what /proc says of the pid is believed only if
the pinned process is alive after it was read. On older kernels the start time is read before and after, and must lie before
the accept. Who passes a connected socket on to another process passes its name on with it.

TCP on loopback: NETLINK_SOCK_DIAG (sock_diag(7)) finds the peer's socket by its addresses and tells the user id, inode and
cgroup v2 it was made with; where that is not to be had, /proc/net/tcp tells user id and inode. Which process holds a socket is
written nowhere: `holder_of` reads the descriptors of every process, tens of milliseconds on a full machine, so it is called
in a thread and only where nothing else decides.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence, Set
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Protocol

from supervisord_ai.core.identity import PeerFacts, TcpFacts
from supervisord_ai.errors import HostFault
from supervisord_ai.host import procfs

__all__ = ["KernelPeers", "PeerFacts", "Peers", "TcpFacts", "cgroup_id", "process_facts", "tcp_peer", "unix_peer"]

RUN_TAG = "AI_SUPERVISOR_RUN"

_SO_PEERPIDFD = 77
_SO_PEERGROUPS = 59
_MAX_ANCESTORS = 64
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_CGROUP_ID = 21
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8


class Peers(Protocol):
    """The door to what the kernel says; the fake in the tests says what it was told to. Raises HostFault for no such socket."""

    def unix(self, sock: socket.socket) -> PeerFacts:
        """Return who connected this Unix socket."""

    def tcp(self, sock: socket.socket) -> TcpFacts:
        """Return what is known of the socket that connected this one."""

    def holder_of(self, inode: int, likely: int | None = None) -> PeerFacts | None:
        """Return the process that holds the socket with this inode. Slow, unless it is the one that is likely."""

    def cgroup_id(self, path: str) -> int | None:
        """Return the number by which TcpFacts names a cgroup v2 path; None where there is no such group."""


class KernelPeers:
    """The real kernel."""

    def unix(self, sock: socket.socket) -> PeerFacts:
        return unix_peer(sock)

    def tcp(self, sock: socket.socket) -> TcpFacts:
        return tcp_peer(sock)

    def holder_of(self, inode: int, likely: int | None = None) -> PeerFacts | None:
        holders = holders_of({inode}, first=(likely,) if likely is not None else ())
        return next((facts for pid in holders if (facts := process_facts(pid)) is not None), None)

    def cgroup_id(self, path: str) -> int | None:
        return None if self._cgroup2 is None else cgroup_id(path, self._cgroup2)

    @cached_property
    def _cgroup2(self) -> tuple[str, str] | None:
        return _cgroup2()


# --- Unix ---------------------------------------------------------------------------------------------------------------


def unix_peer(sock: socket.socket) -> PeerFacts:
    """Return what the kernel says of the process that connected this Unix socket. Call it right after the accept.

    Raises:
        HostFault: it is not a connected Unix socket.
    """
    accepted_ticks = _ticks_now()
    try:
        pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError as exc:
        raise HostFault(f"a socket without a peer: {exc.strerror}") from exc
    if uid == -1:
        raise HostFault("a socket without a peer: it is not connected")
    groups = _peer_groups(sock)
    if pid <= 0:  # of a pid namespace that is not below ours
        return PeerFacts(0, uid, gid, pidfd_matches=False, groups=groups)
    pidfd = _peer_pidfd(sock)
    try:
        read = _read(pid)
        is_same = read is not None and (
            _is_alive(pidfd) if pidfd is not None else _is_unchanged(pid, read[0], accepted_ticks)
        )
    finally:
        if pidfd is not None:
            os.close(pidfd)
    if read is None or not is_same:
        return PeerFacts(pid, uid, gid, pidfd_matches=False, groups=groups)
    stat, cgroups, run_tag, ancestors = read
    return PeerFacts(pid, uid, gid, stat.start_ticks, cgroups, stat.session, run_tag, ancestors, True, groups)


def process_facts(pid: int) -> PeerFacts | None:
    """Return the same of a process found by its pid; None when there is none, or it changed while it was read."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        read = _read(pid)
        owner = os.stat(f"/proc/{pid}")
        if read is None or not _is_alive(pidfd):
            return None
    except OSError:
        return None
    finally:
        os.close(pidfd)
    stat, cgroups, run_tag, ancestors = read
    return PeerFacts(pid, owner.st_uid, owner.st_gid, stat.start_ticks, cgroups, stat.session, run_tag, ancestors)


def _peer_pidfd(sock: socket.socket) -> int | None:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:  # ENOPROTOOPT before 6.5; EINVAL or ESRCH when it has been reaped, which `_is_unchanged` then finds
        return None


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # 256 groups; Python takes no larger buffer
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


_Read = tuple[procfs.ProcStat, tuple[str, ...], str | None, tuple[tuple[int, int], ...]]


def _read(pid: int) -> _Read | None:
    stat = procfs.stat(pid)
    if stat is None or stat.state in "ZX":
        return None
    return stat, _cgroups(pid), procfs.environ_value(pid, RUN_TAG), _ancestors(stat)


def _cgroups(pid: int) -> tuple[str, ...]:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ()
    return tuple(line.partition(":")[2] for line in lines)


def _ancestors(stat: procfs.ProcStat) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    while stat.ppid > 1 and len(found) < _MAX_ANCESTORS:
        parent = procfs.stat(stat.ppid)
        if parent is None:
            break
        found.append((parent.pid, parent.start_ticks))
        stat = parent
    return tuple(found)


def _is_alive(pidfd: int) -> bool:
    """Say whether the pinned process still has its pid, so that what was read under that pid is its own."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _is_unchanged(pid: int, before: procfs.ProcStat, accepted_ticks: int) -> bool:
    """Without a pin: the same process as before the reading, and none that was started after the accept."""
    after = procfs.stat(pid)
    return after is not None and after.start_ticks == before.start_ticks <= accepted_ticks and after.state not in "ZX"


def _ticks_now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


# --- TCP ----------------------------------------------------------------------------------------------------------------

Address = IPv4Address | IPv6Address
_Ends = tuple[Address, int, Address, int]


def tcp_peer(sock: socket.socket) -> TcpFacts:
    """Return what the kernel says of the socket that connected this loopback socket; nothing if it is not of this machine.

    Raises:
        HostFault: it is not a connected TCP socket; the peer may have left before it was looked at.
    """
    try:
        there, here = sock.getpeername(), sock.getsockname()
    except OSError as exc:
        raise HostFault(f"a socket without a peer: {exc.strerror}") from exc
    ends = (_address(there[0]), int(there[1]), _address(here[0]), int(here[1]))
    return _ask_sock_diag(ends) or _read_proc_net(ends) or TcpFacts()


def _address(text: str) -> Address:
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


def _ask_sock_diag(ends: _Ends) -> TcpFacts | None:
    source, source_port, target, target_port = ends
    family = socket.AF_INET if isinstance(source, IPv4Address) else socket.AF_INET6
    ids = struct.pack("!HH16s16sI", source_port, target_port, source.packed, target.packed, 0) + _NO_COOKIE
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + ids
    header = struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, 1, 0, 0)  # NLM_F_REQUEST: exactly this socket
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(0.2)  # the kernel answers within the send; never hang on it
            netlink.sendto(header + body, (0, 0))
            answer = netlink.recv(8192)
    except OSError:
        return None
    return parse_sock_diag(answer)


def parse_sock_diag(answer: bytes) -> TcpFacts | None:
    """Read one inet_diag_msg (linux/inet_diag.h) with its attributes; None for an error message."""
    if len(answer) < 16 + 72:
        return None
    length, kind = struct.unpack_from("=IH", answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        return None
    uid, inode = struct.unpack_from("=II", answer, 16 + 64)
    at, end = 16 + 72, min(length, len(answer))
    cgroup = None
    while at + 4 <= end:
        size, attribute = struct.unpack_from("=HH", answer, at)
        if size < 4 or at + size > end:
            break
        if attribute & 0x3FFF == _INET_DIAG_CGROUP_ID and size >= 12:
            (cgroup,) = struct.unpack_from("=Q", answer, at + 4)
        at += (size + 3) & ~3
    return TcpFacts(uid, inode or None, cgroup)


def _read_proc_net(ends: _Ends) -> TcpFacts | None:
    source, source_port, target, target_port = ends
    for name in ("tcp", "tcp6"):
        wanted = (
            f"{proc_net_address(source, name)}:{source_port:04X}",
            f"{proc_net_address(target, name)}:{target_port:04X}",
        )
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if (fields[1], fields[2]) == wanted:
                return TcpFacts(int(fields[7]), int(fields[9]) or None)
    return None


def proc_net_address(address: Address, table: str) -> str:
    """Write an address as /proc/net/tcp or tcp6 does: 32-bit words in the machine's byte order, in hexadecimal."""
    packed = address.packed
    if table == "tcp6" and len(packed) == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def holders_of(inodes: Set[int], *, first: Sequence[int] = ()) -> Iterator[int]:
    """Yield the processes that hold one of these sockets, as far as we may look. Reads the descriptors of every process."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in (*first, *procfs.pids()):
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                is_holder = any(_link(entry.path) in wanted for entry in entries)
        except OSError:  # it ended, or is not ours to look into
            continue
        if is_holder:
            yield pid


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def cgroup_id(path: str, mounted: tuple[str, str]) -> int | None:
    """Return the id of a cgroup v2 path as /proc/PID/cgroup shows it: the inode number of its folder.

    `mounted` is which of its folders is mounted, and where.
    """
    root, point = mounted
    inside = path.removeprefix(root) if root != "/" else path
    try:
        return os.stat(f"{point}/{inside.lstrip('/')}").st_ino
    except OSError:
        return None


def _cgroup2() -> tuple[str, str] | None:
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    for line in mounts:
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            fields = left.split(" ")
            return fields[3], fields[4]
    return None
