"""The door to processes: starts a child in its cage, knows when it ended and how, and signals it without hitting another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import trio

from supervisord_ai.core.verdict import ExitStatus


@dataclass(frozen=True, slots=True)
class Launch:
    """How a child is to be started. The child gets exactly this environment and nothing of ours.

    `join_files` are cgroup.procs (v2) or tasks files (v1) that it enters before its first instruction. `rlimits` are
    (name, value) with the names of `ulimit`: "data" in bytes, "core" in blocks, "nofile". stdout and stderr: a descriptor
    of the caller's, who closes his own; None is /dev/null for stdout, the same as stdout for stderr.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None = None
    stdout_fd: int | None = None
    stderr_fd: int | None = None
    stdin: Literal["pipe"] | None = None
    join_files: tuple[str, ...] = ()
    user: str | None = None
    rlimits: tuple[tuple[str, int], ...] = ()
    oom_score_adj: int | None = None


class ProcessHandle(Protocol):
    """One process, pinned by a pidfd: a signal can never reach another that got its number later."""

    @property
    def pid(self) -> int: ...

    @property
    def pidfd(self) -> int:
        """-1 in a fake."""

    @property
    def start_ticks(self) -> int:
        """Field 22 of /proc/PID/stat."""

    @property
    def stdin(self) -> trio.abc.SendStream | None:
        """The child's stdin where Launch asked for a pipe; closing it is the child's end of file."""

    def go(self) -> None:
        """Let a child that was spawned with `hold` execute its program."""

    async def wait(self) -> ExitStatus:
        """Return how it ended. May be called by several tasks, and again afterwards."""

    def signal(self, signum: int) -> bool:
        """Send a signal; False when it is gone already."""

    def close(self) -> None:
        """Give up the pidfd and what else is held. The process is not touched."""


class ProcessDoor(Protocol):
    """What agents/ needs of processes; `Processes` is the real one, tests have another."""

    async def spawn(self, launch: Launch, *, hold: bool = False) -> ProcessHandle:
        """Start a child in a session of its own and return when it is caged.

        With `hold` it then waits for `go()` before it executes its program, so that it can be written down first; it ends
        by itself (219) when we die before that.

        Raises:
            SpawnFailed: `failed:cage` (it could not be put into its cage) or `failed:exec` (no such folder).
        """


@dataclass
class Processes:
    """The machine's processes."""

    known: dict[int, ProcessHandle] = field(default_factory=dict)

    async def spawn(self, launch: Launch, *, hold: bool = False) -> ProcessHandle:
        raise NotImplementedError
