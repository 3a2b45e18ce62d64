"""Asks the kernel for every TCP connection of this machine: sock_diag(7), all sockets in one answer (1 ms for some hundred).

Which process holds one is written nowhere; `KernelPeers.holder_of` finds it by its inode.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Set
from ipaddress import IPv6Address, ip_address

from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.core.isolation import Address, Dialled
from supervisord_ai.errors import HostFault
from supervisord_ai.host import procfs
from supervisord_ai.host.peers import KernelPeers

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x1 | 0x300
# Established, being made, and half closed: TCP_ESTABLISHED 1, SYN_SENT 2, FIN_WAIT1 4, FIN_WAIT2 5, CLOSE_WAIT 8.
_STATES = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8
_HEADER = struct.Struct("=IHHII")
_MESSAGE = struct.Struct("!BBBBHH16s16s")  # inet_diag_msg up to the addresses; uid and inode are at 64


class KernelConnections:
    """The connections of this machine."""

    def dialled(self, ports: frozenset[int]) -> list[Dialled]:
        return dialled(ports)

    def own(self) -> frozenset[int]:
        return own_sockets()

    def holder_of(self, inode: int) -> PeerFacts | None:
        return KernelPeers().holder_of(inode)

    def name_of(self, pid: int) -> str:
        known = procfs.stat(pid)
        return f"{known.comm} {pid}" if known is not None else f"process {pid}"


def dialled(ports: Set[int]) -> list[Dialled]:
    """Return the connections to these ports, each as the one who made it has it.

    Raises:
        HostFault: the kernel does not tell.
    """
    try:
        return [one for family in (socket.AF_INET, socket.AF_INET6) for one in _dump(family) if one.port in ports]
    except OSError as exc:
        raise HostFault(f"sock_diag: {exc.strerror or exc}") from exc


def own_sockets() -> frozenset[int]:
    """Return the inodes of the sockets that this process holds.

    Raises:
        HostFault: it has no descriptor left to look with.
    """
    found = set()
    try:
        with os.scandir("/proc/self/fd") as entries:
            for entry in entries:
                try:
                    name = os.readlink(entry.path)
                except OSError:  # the descriptor of the folder itself, closed by now
                    continue
                if name.startswith("socket:["):
                    found.add(int(name[8:-1]))
    except OSError as exc:
        raise HostFault(f"/proc/self/fd: {exc.strerror}") from exc
    return frozenset(found)


def _dump(family: int) -> Iterator[Dialled]:
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _STATES) + bytes(48)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1.0)
        netlink.sendto(_HEADER.pack(16 + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 0, 0) + body, (0, 0))
        while True:
            answer = netlink.recv(1 << 18)
            yield from parse(answer)
            if is_last(answer):
                return


def parse(answer: bytes) -> Iterator[Dialled]:
    """Read the messages of one datagram (linux/inet_diag.h)."""
    at = 0
    while at + 16 <= len(answer):
        length, kind = struct.unpack_from("=IH", answer, at)
        if length < 16:
            return
        if kind == _SOCK_DIAG_BY_FAMILY and length >= 16 + 72:
            family, _state, _timer, _retrans, _port, port, local, remote = _MESSAGE.unpack_from(answer, at + 16)
            uid, inode = struct.unpack_from("=II", answer, at + 16 + 64)
            yield Dialled(_address(family, local), _address(family, remote), port, uid, inode)
        at += (length + 3) & ~3


def is_last(answer: bytes) -> bool:
    """Tell whether a datagram ends the answer: the kernel says so in its last message, or it is an error."""
    at, kind = 0, _NLMSG_ERROR
    while at + 16 <= len(answer):
        length, kind = struct.unpack_from("=IH", answer, at)
        if kind in {_NLMSG_DONE, _NLMSG_ERROR} or length < 16:
            return True
        at += (length + 3) & ~3
    return not answer


def _address(family: int, packed: bytes) -> Address:
    if family == socket.AF_INET:
        return ip_address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
