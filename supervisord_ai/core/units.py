"""Writes the systemd units of an installation from their templates. Knows no file system and no systemd.

    ai.slice                everything below
      ai-agents.service       the holder: never restarted, carries the fleet's limit; every agent is in a cgroup below it
      ai-supervisor.service   this program, beside the agents and not above them, so that its end is not theirs
    ai-supervisor.socket    llm.sock and the TCP face, held by systemd so that callers wait while the supervisor restarts

A template is a unit with `@NAME@` where an installation differs. A line whose name has no value is left out, one whose name
has several is written once for each. No key is newer than systemd 252, and none hides from the agents what they need: what
the supervisor's unit says, they inherit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.places import HOLDER_LEAF, SOCKET_NAME
from supervisord_ai.core.roster import Roster

SLICE = "ai.slice"
HOLDER = "ai-agents.service"
SOCKETS = "ai-supervisor.socket"
SERVICE = "ai-supervisor.service"
UNITS = (SLICE, HOLDER, SOCKETS, SERVICE)

_NAME = re.compile(r"@([A-Z_]+)@")
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,+-]+")


@dataclass(frozen=True, slots=True)
class Installation:
    """What the units of one installation say.

    `program` is the command of the release that is current, `tcp` are the loopback faces, `is_shared` tells whether other
    users than the daemon's have business with llm.sock, `is_user` whether the units are of a user's own systemd.
    """

    program: str
    config: str
    llm_socket: str
    tcp: tuple[str, ...]
    fleet_bytes: int
    is_shared: bool
    is_user: bool = False
    accepts_smaller_machine: bool = False


def fleet_bytes(memory: MemoryPolicy, *, keeps_engine: bool) -> int:
    """Return the limit of all agents together: their part of the machine, and Ollama's where we keep it among them.

    Not times `overcommit`: the caps may add up to that much, so a limit there would never bind.
    """
    return memory.agents_bytes + (memory.ollama_bytes if keeps_engine else 0)


def has_other_users(roster: Roster, uid: int) -> bool:
    """Tell whether agents run as others than the daemon, which runs as `uid`: then they must be able to reach its sockets."""
    return uid == 0 and {spec.policy.user for spec in roster.agents.values()} - {None} != {"root"}


def render(template: str, one: Installation) -> str:
    """Return a template with what this installation says.

    Raises:
        KeyError: the template has a name that nobody gives.
    """
    values = _values(one)
    lines: list[str] = []
    for line in template.splitlines():
        found = None if line.startswith("#") else _NAME.search(line)
        if found is None:
            lines.append(line)
        else:
            lines += _with(line, values)
    return "\n".join(lines) + "\n"


def _values(one: Installation) -> Mapping[str, Sequence[str]]:
    """Return each name's values: () leaves its line out."""
    return {
        "LEAF": (HOLDER_LEAF,),
        "FLEET_BYTES": (str(one.fleet_bytes),),
        "LLM_SOCKET": (_literal(one.llm_socket),),
        "TCP": tuple(address.replace("localhost:", "127.0.0.1:") for address in one.tcp),
        "SOCKET_NAME": (SOCKET_NAME,),
        # Who may call is decided by the kernel's word on each connection, not by the mode of a file.
        "SOCKET_MODE": ("0666" if one.is_shared else "0600",),
        "DIRECTORY_MODE": ("0755" if one.is_shared else "0700",),
        "PROGRAM": (_quoted(one.program),),
        "CONFIG": (_quoted(one.config),),
        "RUN_OPTIONS": ("--accept-smaller-machine" if one.accepts_smaller_machine else "",),
        # A user's systemd may not lower these, and its sandboxing would take away what agents had before.
        "OOM_SCORE": () if one.is_user else ("-900",),
        "HOLDER_OOM_SCORE": () if one.is_user else ("-1000",),
        "SYSTEM": () if one.is_user else ("",),
        "TARGET": ("default.target" if one.is_user else "multi-user.target",),
    }


def _with(line: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    names = _NAME.findall(line)
    written = [line]
    for name in dict.fromkeys(names):
        written = [each.replace(f"@{name}@", value).rstrip() for each in written for value in values[name]]
    return written


def _literal(text: str) -> str:
    """Keep systemd from reading specifiers in a value (systemd.unit(5))."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """Return one word of a command line (systemd.service(5))."""
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return _literal(f'"{escaped}"')
