"""Asks each Ollama of a config what it is, once and quickly, for `doctor`; and who else has a connection to it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from typing import Any, Protocol
from urllib.parse import urlsplit

from supervisord_ai.core.doctor import EngineFacts, Intruder
from supervisord_ai.core.isolation import back_doors, through
from supervisord_ai.core.locate import Facts, Way, Word, places, read_ollama_host, what_to_do
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.core.serving import OLLAMA_PORT
from supervisord_ai.errors import HostFault
from supervisord_ai.health.back_doors import Connections
from supervisord_ai.host.tree import Tree

PROBE_S = 5.0
UNIT_FOLDERS = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
_ENVIRONMENT = re.compile(r'^Environment=(?:"([^"=]+)=([^"]*)"|([^"=\s]+)=(\S*))\s*$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Told:
    """What an Ollama said of itself. `at_wall` is its own clock, None where its answer had no date."""

    version: str
    models: tuple[str, ...]
    at_wall: float | None = None


class Asker(Protocol):
    """Asks over the network; the fake in the tests has its answers."""

    def ask(self, url: str) -> Told:
        """Return what the Ollama there says.

        Raises:
            HostFault: nobody answers, or it is no Ollama.
        """


class RealAsker:
    """This machine's network; no proxy is asked."""

    def ask(self, url: str) -> Told:
        try:
            version, date = _get(url, "/api/version")
            tags, _ = _get(url, "/api/tags")
            models = tuple(str(one["name"]) for one in tags.get("models") or ())
            return Told(str(version["version"]), models, None if date is None else parsedate_to_datetime(date).timestamp())
        except OSError as exc:
            raise HostFault("no answer" if exc.strerror is None else exc.strerror.lower()) from exc
        except (HTTPException, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise HostFault("something answers there that is not an Ollama") from exc


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PROBE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _get(url: str, path: str) -> tuple[dict[str, Any], str | None]:
    parts = urlsplit(url)
    connection = (
        _UnixConnection(parts.path)
        if parts.scheme == "unix"
        else HTTPConnection(parts.hostname or "", parts.port or OLLAMA_PORT, timeout=PROBE_S)
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        return told, answer.getheader("Date")
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Probing:
    """The doors that are asked. `ours`: processes whose connections are ours (the daemon's)."""

    asker: Asker
    connections: Connections
    tree: Tree
    facts: Facts
    ours: frozenset[int]


def examine_engines(
    specs: Sequence[BackendSpec], probing: Probing, *, light_model: str, now_wall: float
) -> tuple[tuple[EngineFacts, ...], float | None]:
    """Return what every backend is, and how far our clock is ahead of one on Windows, if one told."""
    skew_s = None
    found = []
    intruders = _intruders(specs, probing)
    for spec in specs:
        engine, told, is_elsewhere = _one(spec, probing, light_model)
        if told is not None and told.at_wall is not None and is_elsewhere:
            skew_s = now_wall - told.at_wall
        found.append(replace(engine, intruders=tuple(intruders.get(spec.name, ()))))
    return tuple(found), skew_s


def _one(spec: BackendSpec, probing: Probing, light_model: str) -> tuple[EngineFacts, Told | None, bool]:
    is_ours = bool(spec.command) or spec.url == "embedded"

    def facts(**more: Any) -> EngineFacts:
        return EngineFacts(spec.name, spec.url, spec.slots, is_ours=is_ours, light_model=light_model, **more)

    if spec.url == "embedded":
        return facts(trouble="it is reached through the daemon alone"), None, False
    word = _word(spec.url)
    wheres = () if word is None else places(word, probing.facts)
    ways = [(spec.url, None, spec.url)] if word is None else [(place.url, place.way, str(place)) for place in wheres]
    tried = []
    for url, way, where in ways:
        try:
            told = probing.asker.ask(url)
        except HostFault as exc:
            tried.append(str(exc))
            continue
        is_on_windows = way in {Way.GATEWAY, Way.MIRRORED}
        environ = None if is_on_windows else environ_of(probing.tree, urlsplit(url).port or OLLAMA_PORT)
        more = {"where": where, "version": told.version, "models": told.models, "environ": environ}
        return facts(**more, is_on_windows=is_on_windows), told, is_on_windows
    trouble = "; ".join(tried) if word is None else what_to_do(word, probing.facts, list(zip(wheres, tried, strict=True)))
    return facts(trouble=trouble), None, False


def _word(url: str) -> Word | None:
    match url:
        case "auto" | "windows":
            return url
        case _:
            return None


def environ_of(tree: Tree, port: int) -> dict[str, str] | None:
    """Return the environment of the Ollama that serves a port: of its process, else of its unit; None where neither is seen."""
    for pid in tree.names("/proc"):
        if not pid.isdigit() or (tree.read(f"/proc/{pid}/comm") or "").strip() != "ollama":
            continue
        if "\0serve" not in (tree.read(f"/proc/{pid}/cmdline") or ""):
            continue
        pairs = (pair.partition("=") for pair in (tree.read(f"/proc/{pid}/environ") or "").split("\0"))
        environ = {name: value for name, is_pair, value in pairs if is_pair}
        if environ and _port_of(environ) == port:
            return environ
    said = _of_unit(tree)
    return said if said is not None and _port_of(said) == port else None


def _of_unit(tree: Tree) -> dict[str, str] | None:
    text = next((text for folder in UNIT_FOLDERS if (text := tree.read(f"{folder}/ollama.service")) is not None), None)
    if text is None:
        return None
    drop_ins = f"{UNIT_FOLDERS[0]}/ollama.service.d"
    texts = [text, *(tree.read(f"{drop_ins}/{name}") or "" for name in tree.names(drop_ins) if name.endswith(".conf"))]
    return {(quoted or plain): (value or other) for one in texts for quoted, value, plain, other in _ENVIRONMENT.findall(one)}


def _port_of(environ: dict[str, str]) -> int:
    place = read_ollama_host(environ.get("OLLAMA_HOST", ""))
    return OLLAMA_PORT if place is None else place[1]


def _intruders(specs: Sequence[BackendSpec], probing: Probing) -> dict[str, list[Intruder]]:
    doors = back_doors(specs, probing.facts)
    if not doors:
        return {}
    try:
        dialled = probing.connections.dialled(frozenset(door.port for door in doors))
    except HostFault:
        return {}  # the kernel does not tell: nothing is claimed
    own = probing.connections.own()
    counts: dict[tuple[str, int, int], int] = {}
    for one in dialled:
        door = through(doors, one)
        if door is None or not one.inode or one.inode in own:
            continue
        holder = probing.connections.holder_of(one.inode)
        if holder is not None and holder.pid not in probing.ours:
            key = (door.backend, holder.pid, holder.uid)
            counts[key] = counts.get(key, 0) + 1
    found: dict[str, list[Intruder]] = {}
    for (backend, pid, uid), count in counts.items():
        found.setdefault(backend, []).append(Intruder(f"{probing.connections.name_of(pid)} (uid {uid})", count))
    return found
