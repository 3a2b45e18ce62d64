"""A machine's connections, made up; and a firewall that remembers what it was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.core.isolation import Dialled
from supervisord_ai.errors import HostFault


@dataclass
class FakeConnections:
    """Who is connected to what, by the inode of the caller's socket."""

    open: dict[int, Dialled] = field(default_factory=dict)
    holders: dict[int, PeerFacts] = field(default_factory=dict)
    ours: set[int] = field(default_factory=set)
    looked_for: list[int] = field(default_factory=list)

    def dialled(self, ports: frozenset[int]) -> list[Dialled]:
        return [one for one in self.open.values() if one.port in ports]

    def own(self) -> frozenset[int]:
        return frozenset(self.ours)

    def holder_of(self, inode: int) -> PeerFacts | None:
        self.looked_for.append(inode)
        return self.holders.get(inode)

    def name_of(self, pid: int) -> str:
        return f"curl {pid}"


@dataclass
class FakeFirewall:
    """Tables by name."""

    tables: dict[str, str] = field(default_factory=dict)
    is_broken: bool = False

    def load(self, script: str) -> None:
        if self.is_broken:
            raise HostFault("nft: Operation not supported")
        self.tables[script.split()[2]] = script

    def remove(self, table: str) -> None:
        self.tables.pop(table, None)
