"""Decides who a caller is from what the kernel says of it. Reads nothing itself and knows no sockets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CallerKind(StrEnum):
    """What sort of caller asks."""

    AGENT = "agent"
    OWNER = "owner"
    GUEST = "guest"


class Proof(StrEnum):
    """How sure we are. Proved: no other agent can pass for it. Tagged: prevents mistakes, not malice. Token: it holds a secret."""

    PROVED = "proved"
    TAGGED = "tagged"
    TOKEN = "token"  # noqa: S105 - a word, not a secret


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` is the agent's, or "owner" or "guest"; `generation` is 0 for those two."""

    kind: CallerKind
    name: str
    agent_class: str
    generation: int
    proof: Proof
    uid: int | None


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What the kernel says of the process at the other end of a Unix socket.

    `cgroups` has every line of /proc/PID/cgroup as "controllers:path" ("" as controllers is cgroup v2). `session` is its
    session id, `run_tag` the AI_SUPERVISOR_RUN of its environment at exec, `ancestors` the (pid, start ticks) of its
    parents, nearest first. `pidfd_matches` is False when the process that connected has ended, or may have: then nothing
    read from /proc is its own, and only uid and gid count.
    """

    pid: int
    uid: int
    gid: int
    start_ticks: int | None = None
    cgroups: tuple[str, ...] = ()
    session: int | None = None
    run_tag: str | None = None
    ancestors: tuple[tuple[int, int], ...] = ()
    pidfd_matches: bool = True
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TcpFacts:
    """What the kernel says of the socket at the other end of a loopback connection; None where it says nothing.

    `cgroup_id` is the cgroup v2 the socket was made in (the inode number of its folder), `inode` the socket's own.
    """

    uid: int | None = None
    inode: int | None = None
    cgroup_id: int | None = None
