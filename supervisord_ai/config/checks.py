"""Checks what one key cannot say alone: paths, addresses, and keys that must agree with each other."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

from supervisord_ai.config.units import shown
from supervisord_ai.config.values import Config, ListenPolicy
from supervisord_ai.core.places import CONTROL_SOCKET
from supervisord_ai.core.policies import BackendSpec, LevelsPolicy
from supervisord_ai.core.serving import engine_name

SOCKET_PATH_BYTES = 107  # sun_path is 108 with its NUL, unix(7)
_URL = re.compile(r"http://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?/?")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(\d{1,5})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,56}")  # "engine-" before it is the name of a log and of a cgroup
URL_WORDS = ("auto", "windows", "embedded")


def check_paths(runtime_dir: str, state_dir: str, log_dir: str) -> Iterator[tuple[str, str]]:
    """Yield (key, what) for folders that cannot be used."""
    for key, path in (("runtime_dir", runtime_dir), ("state_dir", state_dir), ("log_dir", log_dir)):
        if not path.startswith("/"):
            yield key, f"must be an absolute path, not {shown(path)}"
    length = len(f"{runtime_dir}/{CONTROL_SOCKET}".encode())
    if length > SOCKET_PATH_BYTES:
        most = SOCKET_PATH_BYTES - len(CONTROL_SOCKET) - 1
        yield "runtime_dir", f"is too long for the sockets in it: at most {most} bytes, not {length - len(CONTROL_SOCKET) - 1}"


def check_tcp(listen: ListenPolicy) -> Iterator[tuple[int, str]]:
    """Yield (index, what) for addresses that are not loopback ones."""
    for index, address in enumerate(listen.tcp):
        if what := _why_no_loopback(address, "127.0.0.1:11435", "agents on other machines are not served"):
            yield index, what
        elif address in listen.tcp[:index]:
            yield index, f"{shown(address)} stands twice"


def check_web(where: str, listen: ListenPolicy) -> str:
    """Return what is wrong with the address of the page; "" when nothing is."""
    if where in listen.tcp and not where.endswith(":0"):
        return f"{shown(where)} is an address of [listen] tcp"
    return _why_no_loopback(where, "127.0.0.1:8787", "the page is for this machine, and a tunnel brings it to another")


def _why_no_loopback(address: str, example: str, why: str) -> str:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65_535:
        return f'must be an address and a port, such as "{example}", not {shown(address)}'
    return "" if is_loopback(match[1].strip("[]")) else f"{match[1]} is not a loopback address: {why}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address. Names are not resolved: only `localhost` is known to be."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_backend(backend: BackendSpec) -> Iterator[tuple[str, str]]:
    """Yield (key, what) for a backend that could not be called."""
    if _NAME.fullmatch(backend.name) is None:
        yield "name", "is not a name: letters, digits, `.`, `_` and `-`, at most 57"
    url = backend.url
    if backend.command:
        yield from _check_command(backend)
    if url.startswith("https://"):
        yield "url", "https is not in effect yet: use http://"
    elif url.startswith("unix://"):
        if not url.removeprefix("unix://").startswith("/"):
            yield "url", "must have an absolute path: unix:///run/ollama.sock"
    elif url not in URL_WORDS:
        match = _URL.fullmatch(url)
        if match is None or int(match[2] or 0) > 65_535:
            yield "url", f'must be "http://host:port", "unix:///path", "embedded", "auto" or "windows", not {shown(url)}'
    if backend.connections <= backend.slots:
        yield "connections", f"must be more than the {backend.slots} slots: probes and metadata use some too"


def _check_command(backend: BackendSpec) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with an Ollama that we are to start."""
    if not backend.command[0]:
        yield "command", 'must begin with a program, such as ["ollama", "serve"]'
    match = _URL.fullmatch(backend.url)
    if match is None or not is_loopback(match[1].strip("[]")):
        where = 'such as "http://127.0.0.1:11434"'
        yield "url", f"must be the loopback address at which `command` is to listen, {where}, not {shown(backend.url)}"


def check_twice(backend: BackendSpec, others: Sequence[BackendSpec]) -> Iterator[tuple[str, str]]:
    """Yield (key, what) for a backend that is one of the others under another name."""
    for other in others:
        if _whose(backend.url) == _whose(other.url) and backend.url != "embedded":  # of which each has an engine of its own
            yield "url", f"is the Ollama of [[ollama]] {other.name}: one Ollama given twice would be handed twice its slots"
            return


def _whose(url: str) -> tuple[str, int] | str:
    match = _URL.fullmatch(url)
    if match is None:
        return url
    host = match[1].strip("[]")
    return ("127.0.0.1" if host in {"localhost", "::1"} else host, int(match[2] or 11434))


def check_loops(listen: ListenPolicy, backends: Sequence[BackendSpec]) -> Iterator[tuple[int, str]]:
    """Yield (index, what) for backends whose address is one of our own: we would be our own Ollama."""
    ours = {where for address in listen.tcp if (where := _place(_ADDRESS.fullmatch(address), 0)) is not None}
    for index, backend in enumerate(backends):
        if _place(_URL.fullmatch(backend.url), 11434) in ours:
            yield index, f"{shown(backend.url)} is an address of [listen] tcp: the supervisor would ask itself"


def _place(match: re.Match[str] | None, usual_port: int) -> tuple[str, int] | None:
    """Return host and port; every loopback name is one place. None for what is no address."""
    if match is None:
        return None
    host = match[1].strip("[]")
    return ("loopback" if is_loopback(host) else host, int(match[2] or usual_port))


def _check_levels(levels: LevelsPolicy) -> Iterator[tuple[str, str, str]]:
    if sorted(levels.enter) != list(levels.enter):
        yield "levels", "enter", "must rise from level to level"
    if levels.leave_below >= levels.enter[0]:
        yield "levels", "leave_below", f"must be less than {levels.enter[0]:g}, where level 1 is entered: it would never be left"
    if levels.ttl_factor[0] != 1:
        yield "levels", "ttl_factor", "must begin with 1: level 0 changes nothing"
    if sorted(levels.ttl_factor) != list(levels.ttl_factor):
        yield "levels", "ttl_factor", "must not fall from level to level"


def check_tables(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield (table, key, what) for keys that contradict each other."""
    if config.restart.base_s > config.restart.max_s:
        yield "restart", "base", f"is longer than max ({config.restart.max_s:g} s)"
    yield from _check_levels(config.levels)
    kept = [backend for backend in config.backends if backend.command]
    if kept and config.memory.ollama_bytes == 0:
        yield "memory", "ollama", "must be more than 0: it is the cap of what `command` starts"
    for backend in kept:
        if engine_name(backend.name) in config.roster.agents:
            yield "agents", "name", f"{shown(engine_name(backend.name))} is the name of the engine of [[ollama]] {backend.name}"
    if config.limits.body_bytes > config.limits.ingest_bytes:
        yield "limits", "body", "is larger than ingest, which bounds all bodies together"
    if config.cache.l1_per_agent_bytes > config.cache.l1_total_bytes:
        yield "cache", "l1", "per_agent is larger than total"
