"""Decides how an Ollama that has its usual address is moved behind us, and writes down what is needed to move it back.

Programs call localhost:11434. With Ollama at another port and us at that one, they need no change. What is known only at the
time of the move stands in the drop-in itself, so that it can be taken back after a crash, from nothing but that file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from supervisord_ai.core.locate import LOOPBACK, read_ollama_host
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.core.serving import OLLAMA_PORT
from supervisord_ai.errors import UsageError

DROP_IN = "ai-supervisor.conf"
OUR_UNIT = "ai-supervisor.service"
NEW_PORT = 11436

_NOTE = re.compile(r"^# (config|address|backend|url) = (.*)$", re.MULTILINE)
_HOST = re.compile(r'^Environment="OLLAMA_HOST=127\.0\.0\.1:(\d+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Move:
    """One Ollama, moved from `address` (which becomes ours) to `port` of the loopback.

    `backend` is the index of its backend in the config file `config`, `url` what stood there before.
    """

    config: str
    address: str
    port: int
    backend: int
    url: str

    @property
    def old_url(self) -> str:
        return f"http://{self.address}"

    @property
    def new_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """What systemd says of a service. `has_failed`: it ended, and systemd does not start it again by itself."""

    is_loaded: bool = False
    is_active: bool = False
    environment: Mapping[str, str] | None = None
    has_failed: bool = False


def plan(
    unit: str, facts: UnitFacts, *, config: str, backends: Sequence[BackendSpec], port: int, may_close: bool
) -> Move:
    """Return the move, or say why there is none. `may_close`: others on the network may lose it.

    Raises:
        UsageError: with what to do instead.
    """
    if not facts.is_loaded:
        raise UsageError(f"systemd knows no {unit}: for an Ollama that runs otherwise see `ai-supervisor takeover --print`")
    if not facts.is_active:
        raise UsageError(f"{unit} does not run: start it first (systemctl start {unit})")
    said = (facts.environment or {}).get("OLLAMA_HOST", "")
    host, old_port = read_ollama_host(said) or (LOOPBACK, OLLAMA_PORT)
    if host not in {LOOPBACK, "localhost"}:
        raise UsageError(f"{unit} listens at {said}, which is not this machine's loopback: we serve no other")
    if any(name in said for name in ("0.0.0.0", "[::]")) and not may_close:
        raise UsageError(f"{unit} listens at {said}: other machines may use it and would lose it. --yes says that they may")
    if old_port == port:
        raise UsageError(f"{unit} listens at port {port} already: name another with --port")
    for index, backend in enumerate(backends):
        if _is_at(backend, old_port):
            return Move(config, f"{LOOPBACK}:{old_port}", port, index, backend.url)
    url = f'url = "http://{LOOPBACK}:{old_port}"'
    raise UsageError(f"no [[ollama]] of {config} is the Ollama at port {old_port}: set {url} first")


def _is_at(backend: BackendSpec, port: int) -> bool:
    if backend.command:
        return False
    if backend.url == "auto":
        return True
    parts = urlsplit(backend.url)
    return parts.hostname in {LOOPBACK, "localhost", "::1"} and (parts.port or OLLAMA_PORT) == port


def drop_in(move: Move) -> str:
    """Return the drop-in of the move, with what is needed to take it back."""
    return (
        "# Written by `ai-supervisor takeover`. `ai-supervisor takeover --undo` takes it back.\n"
        f"# config = {move.config}\n"
        f"# address = {move.address}\n"
        f"# backend = {move.backend}\n"
        f"# url = {move.url}\n"
        "[Service]\n"
        f'Environment="OLLAMA_HOST={LOOPBACK}:{move.port}"\n'
    )


def read_drop_in(text: str) -> Move | None:
    """Return the move that a drop-in tells of; None when it is not one of ours."""
    notes = dict(_NOTE.findall(text))
    port = _HOST.search(text)
    if port is None or notes.keys() != {"config", "address", "backend", "url"} or not notes["backend"].isdigit():
        return None
    return Move(notes["config"], notes["address"], int(port[1]), int(notes["backend"]), notes["url"])


def lines_by_hand(port: int = NEW_PORT) -> str:
    """Return what to type where no systemd moves Ollama for us."""
    return f"""\
# An Ollama of this system's systemd: `ai-supervisor takeover` does this for you.
#   /etc/systemd/system/ollama.service.d/{DROP_IN}
[Service]
Environment="OLLAMA_HOST={LOOPBACK}:{port}"
#   then: systemctl daemon-reload && systemctl restart ollama
#   config.toml
[[ollama]]
url = "http://{LOOPBACK}:{port}"
[listen]
tcp = ["127.0.0.1:11435", "{LOOPBACK}:{OLLAMA_PORT}"]

# An Ollama that you start yourself: OLLAMA_HOST={LOOPBACK}:{port} ollama serve, and the same config.

# An Ollama on Windows, WSL in NAT mode (the default): port {OLLAMA_PORT} of this system is free, so Ollama stays at its own.
#   in a PowerShell of an administrator on Windows, then quit Ollama in the tray and start it again
setx OLLAMA_HOST "0.0.0.0:{OLLAMA_PORT}"
New-NetFirewallRule -DisplayName "Ollama for WSL" -Direction Inbound -Protocol TCP -LocalPort {OLLAMA_PORT} -Action Allow `
  -InterfaceAlias "vEthernet (WSL (Hyper-V firewall))"
#   (older Windows call it "vEthernet (WSL)"; Get-NetAdapter -IncludeHidden lists them)
#   config.toml
[[ollama]]
url = "windows"
[listen]
tcp = ["127.0.0.1:11435", "{LOOPBACK}:{OLLAMA_PORT}"]

# An Ollama on Windows, WSL in mirrored mode: both systems share their ports, so Ollama moves.
#   %UserProfile%\\.wslconfig
[wsl2]
networkingMode=mirrored
#   in a PowerShell on Windows, then quit Ollama and start it again; then: wsl --shutdown
setx OLLAMA_HOST "{LOOPBACK}:{port}"
#   config.toml
[[ollama]]
url = "http://{LOOPBACK}:{port}"
[listen]
tcp = ["127.0.0.1:11435", "{LOOPBACK}:{OLLAMA_PORT}"]
"""
