"""A kernel that says of each connection what it was told to say."""

from __future__ import annotations

import socket
from dataclasses import replace

from supervisord_ai.core.identity import PeerFacts, TcpFacts
from supervisord_ai.errors import HostFault


class FakePeers:
    """Processes are values; `connects` makes a connected socket that belongs to one of them."""

    def __init__(self) -> None:
        self._unix: dict[int, PeerFacts] = {}
        self._tcp: dict[int, TcpFacts] = {}
        self._holders: dict[int, PeerFacts] = {}
        self._cgroups: dict[str, int] = {}
        self.looked_for: list[int] = []

    def connects(self, sock: socket.socket, facts: PeerFacts) -> None:
        self._unix[sock.fileno()] = facts

    def connects_tcp(self, sock: socket.socket, facts: TcpFacts, holder: PeerFacts | None = None) -> None:
        self._tcp[sock.fileno()] = facts
        if holder is not None and facts.inode is not None:
            self.holds(facts.inode, holder)

    def holds(self, inode: int, facts: PeerFacts) -> None:
        self._holders[inode] = facts

    def has_cgroup(self, path: str, number: int) -> None:
        self._cgroups[path] = number

    def ends(self, pid: int) -> None:
        """The process has ended: what is left are its user and group, as they were when it connected."""
        for fd, facts in self._unix.items():
            if facts.pid == pid:
                self._unix[fd] = PeerFacts(facts.pid, facts.uid, facts.gid, pidfd_matches=False, groups=facts.groups)
        self._holders = {inode: facts for inode, facts in self._holders.items() if facts.pid != pid}

    def unix(self, sock: socket.socket) -> PeerFacts:
        try:
            return replace(self._unix[sock.fileno()])
        except KeyError:
            raise HostFault("a socket without a peer: not connected") from None

    def tcp(self, sock: socket.socket) -> TcpFacts:
        return self._tcp.get(sock.fileno(), TcpFacts())

    def holder_of(self, inode: int, likely: int | None = None) -> PeerFacts | None:
        self.looked_for.append(inode)
        return self._holders.get(inode)

    def cgroup_id(self, path: str) -> int | None:
        return self._cgroups.get(path)
