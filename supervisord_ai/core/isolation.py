"""Decides which addresses are the backends' back doors, and writes the firewall rules that close them to the fleet.

The gateway is the only door to Ollama; whoever calls a backend itself takes a slot that nobody gave. The rules match the
cgroup that all agents live in (nft's `socket cgroupv2`, Linux 5.13) and nobody else: the owner and this daemon are not in it.
Knows no sockets and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from supervisord_ai.core.locate import Facts, places
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.core.serving import OLLAMA_PORT

Address = IPv4Address | IPv6Address

_TABLE = """\
table inet {name}
delete table inet {name}
table inet {name} {{
	chain output {{
		type filter hook output priority filter; policy accept;
		socket cgroupv2 level {level} "{cgroup}" jump agents
	}}
	chain agents {{
{rules}
	}}
}}
"""


@dataclass(frozen=True, slots=True)
class BackDoor:
    """Where a backend listens. `address` None: a name that was not resolved, so the port at every address counts."""

    backend: str
    address: Address | None
    port: int


@dataclass(frozen=True, slots=True)
class Dialled:
    """A TCP connection of this machine, as its caller has it. `inode` is its socket's; `uid` who made it."""

    local: Address
    address: Address
    port: int
    uid: int
    inode: int


def back_doors(backends: Iterable[BackendSpec], facts: Facts) -> tuple[BackDoor, ...]:
    """Return where the backends can be called over TCP; one that is looked for may be at any of its places."""
    found: dict[BackDoor, None] = {}
    for spec in backends:
        match spec.url:
            case "auto" | "windows" as word:
                wheres = [(place.host, place.port) for place in places(word, facts)]
            case url if url.startswith("http://"):
                parts = urlsplit(url)
                wheres = [(parts.hostname or "", parts.port or OLLAMA_PORT)]
            case _:  # a Unix socket: its file says who may call
                wheres = []
        for host, port in wheres:
            found[BackDoor(spec.name, _address(host), port)] = None
    return tuple(found)


def _address(host: str) -> Address | None:
    if host == "localhost":
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        return None


def through(doors: Sequence[BackDoor], one: Dialled) -> BackDoor | None:
    """Return the back door that a connection goes through; a machine's own addresses are all one place."""
    for door in doors:
        if door.port != one.port:
            continue
        if door.address is None or door.address == one.address or (_is_here(door.address) and _is_to_itself(one)):
            return door
    return None


def _is_here(address: Address) -> bool:
    return address.is_loopback or address.is_unspecified


def _is_to_itself(one: Dialled) -> bool:
    return one.address.is_loopback or one.address == one.local


def table_name(fleet: str) -> str:
    """Return the name of the table that belongs to a fleet's cgroup."""
    parts = [part for part in fleet.split("/") if part.startswith("ai-supervisor-")]
    return (parts[-1] if parts else "ai-supervisor").replace("-", "_")


def rules(fleet: str, doors: Sequence[BackDoor]) -> str:
    """Return the nft script that closes these doors to everybody in or below the cgroup `fleet`, in place of what was there."""
    path = fleet.strip("/")
    lines = dict.fromkeys(f"\t\t{_rule(door)}" for door in doors)
    return _TABLE.format(name=table_name(fleet), level=path.count("/") + 1, cgroup=path, rules="\n".join(lines))


def _rule(door: BackDoor) -> str:
    closed = f"tcp dport {door.port} counter reject with tcp reset"
    if door.address is None:
        return closed
    if _is_here(door.address):
        return f'oifname "lo" {closed}'
    return f"{'ip' if door.address.version == 4 else 'ip6'} daddr {door.address} {closed}"
