"""Decides where an Ollama may be when the config says `auto` or `windows`, and what to tell who has none.

`auto` is this system first, then Windows below WSL. How Windows is reached depends on how WSL is connected
(https://learn.microsoft.com/windows/wsl/networking):

    mirrored  both systems share one loopback; the default gateway is then the router of the house, which is nobody's Ollama
    NAT       Windows is the default gateway, at another address after each start of the machine

So the gateway is asked only below WSL, only where the loopback is not shared, and only at a private address: a prompt must
never reach a router. Mirrored mode is known by its interface `loopback0` (as moby does, https://github.com/moby/moby/pull/48075).
Knows no files and no sockets; the facts are read anew for each connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, ip_address
from typing import Literal
from urllib.parse import urlsplit

from supervisord_ai.core.serving import OLLAMA_PORT

Word = Literal["auto", "windows"]

LOOPBACK = "127.0.0.1"
MIRRORED_INTERFACE = "loopback0"
_UP, _GATEWAY = 0x1, 0x2  # RTF_UP, RTF_GATEWAY of <linux/route.h>


class Way(StrEnum):
    """On which side an Ollama was found."""

    HERE = "this system"
    NAMED = "OLLAMA_HOST"
    MIRRORED = "Windows, mirrored loopback"
    GATEWAY = "Windows, default gateway"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision is made on: the text of kernel files, and OLLAMA_HOST as this process has it ("" where not).

    `ours` are the addresses (host, port) that this daemon itself listens on.
    """

    osrelease: str = ""  # /proc/sys/kernel/osrelease
    route: str = ""  # /proc/net/route
    interfaces: str = ""  # /proc/net/dev
    ollama_host: str = ""
    ours: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an Ollama may be."""

    host: str
    port: int
    way: Way

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.url} ({self.way})"


def places(word: Word, facts: Facts) -> tuple[Place, ...]:
    """Return where to look, in this order. An address of our own is left out: asked there, we would ask ourselves."""
    found: list[Place] = []
    if word == "auto":
        named = read_ollama_host(facts.ollama_host)
        found.append(Place(*named, Way.NAMED) if named is not None else Place(LOOPBACK, OLLAMA_PORT, Way.HERE))
    if is_wsl(facts.osrelease):
        if is_mirrored(facts.interfaces):
            found.append(Place(LOOPBACK, OLLAMA_PORT, Way.MIRRORED))
        elif (gateway := default_gateway(facts.route)) is not None and gateway.is_private:
            found.append(Place(str(gateway), OLLAMA_PORT, Way.GATEWAY))
    ours = {_address(host, port) for host, port in facts.ours}
    kept: dict[tuple[str, int], Place] = {}
    for place in found:
        if _address(place.host, place.port) not in ours:
            kept.setdefault((place.host, place.port), place)
    return tuple(kept.values())


def is_wsl(osrelease: str) -> bool:
    """Tell whether this kernel is WSL's: "5.15.167.4-microsoft-standard-WSL2", and "4.4.0-19041-Microsoft" of WSL 1."""
    return "microsoft" in osrelease.lower()


def is_mirrored(interfaces: str) -> bool:
    """Tell from /proc/net/dev whether Windows and this system share one loopback."""
    names = {line.partition(":")[0].strip() for line in interfaces.splitlines() if ":" in line}
    return MIRRORED_INTERFACE in names


def windows_drive(osrelease: str, mounts: str) -> str | None:
    r"""Return where WSL has mounted C:, from /proc/mounts; None elsewhere."""
    if not is_wsl(osrelease):
        return None
    for line in mounts.splitlines():
        source, point, kind, options, *_ = (*line.split(" "), "", "", "")
        # drvfs over 9p says `path=C:\\`, over virtiofs the source is `drvfsC...`, on WSL 1 it is `C:`.
        is_c = source.upper().startswith(("C:", "DRVFSC")) or "PATH=C:" in options.upper()
        if is_c and kind in {"9p", "drvfs", "virtiofs"}:
            return point.replace("\\040", " ")
    return None


def default_gateway(route: str) -> IPv4Address | None:
    """Return the default gateway of least metric from the text of /proc/net/route, None where there is none.

    Addresses stand there as the hexadecimal number that the kernel has in memory; every machine that runs WSL is little-endian.
    """
    best: tuple[int, IPv4Address] | None = None
    for line in route.splitlines()[1:]:
        fields = line.split()
        try:
            destination, gateway, flags, metric, mask = (
                *(int(fields[n], 16) for n in (1, 2, 3)),
                int(fields[6]),
                int(fields[7], 16),
            )
        except (IndexError, ValueError):
            continue
        if destination == 0 and mask == 0 and flags & (_UP | _GATEWAY) == _UP | _GATEWAY and (best is None or metric < best[0]):
            best = metric, IPv4Address(gateway.to_bytes(4, "little"))
    return None if best is None else best[1]


def read_ollama_host(value: str) -> tuple[str, int] | None:
    """Read OLLAMA_HOST as Ollama's clients do: a host, a port or both. None where it says nothing that can be called.

    0.0.0.0 and :: are where a server listens, not where it is: then it is the loopback. https is not spoken here.
    """
    text = value.strip().strip("\"'")
    if not text:
        return None
    scheme, _, rest = text.rpartition("://")
    if scheme not in {"", "http"}:
        return None
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or LOOPBACK, parts.port
    except ValueError:
        return None
    if scheme and port is None:
        port = 80  # a scheme brings its own port, as Ollama reads it
    try:
        if ip_address(host).is_unspecified:
            host = LOOPBACK
    except ValueError:
        pass  # a name
    return host, OLLAMA_PORT if port is None else port


def what_to_do(word: Word, facts: Facts, tried: Sequence[tuple[Place, str]]) -> str:
    """Return one line for an owner whose Ollama was not found: where we looked, what each said, what helps."""
    looked = "; ".join(f"{place}: {why}" for place, why in tried) or "there was nowhere to look"
    return f"no Ollama found. {looked}. {_help(word, facts)}"


def _help(word: Word, facts: Facts) -> str:
    here = "Start one here (ollama serve). " if word == "auto" else ""
    if not is_wsl(facts.osrelease):
        return here.rstrip() or 'This system does not run below Windows: set url = "auto" or an address'
    if is_mirrored(facts.interfaces):
        return f"{here}Start Ollama on Windows"
    return (
        f'{here}On Windows it must listen for this system: setx OLLAMA_HOST "0.0.0.0:{OLLAMA_PORT}", quit it and start it again '
        "(`ai-supervisor takeover --print` has the firewall's line too)"
    )


def _address(host: str, port: int) -> tuple[str, int]:
    """Every loopback name is one place."""
    try:
        is_loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    return (LOOPBACK if is_loopback else host, port)
