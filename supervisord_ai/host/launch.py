"""What is said to and by the door to processes: how a child is to be started, who it runs as, and what can be done with it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import trio

from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.errors import SpawnFailed


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class Launch:
    """How a child is to be started. The child gets exactly this environment and nothing of ours.

    `join_files` are the cgroup.procs files that it enters before its first instruction. `rlimits` are (name, value):
    "data" in bytes, "core" in blocks, "nofile". stdout and stderr: a descriptor of the caller's, who closes his own; None
    is /dev/null for stdout, and the same as stdout for stderr. With stdin "pipe" the handle has its other end (a socket,
    so that the child can answer on it); else it is /dev/null. `account` None: whoever we are. `fence_fd` is kept open in it.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None = None
    stdout_fd: int | None = None
    stderr_fd: int | None = None
    stdin: Literal["pipe"] | None = None
    join_files: tuple[str, ...] = ()
    account: Account | None = None
    rlimits: tuple[tuple[str, int], ...] = ()
    oom_score_adj: int | None = None
    fence_fd: int | None = None


def account(user: str | None) -> Account:
    """Return the account of a user by name or number; None is whoever we are.

    Raises:
        SpawnFailed: there is no such user.
    """
    try:
        if user is not None and not user.isdecimal():
            entry = pwd.getpwnam(user)
        else:
            entry = pwd.getpwuid(os.geteuid() if user is None else int(user))
    except KeyError:
        if user is not None:
            raise SpawnFailed("failed:cage", f"there is no user {user} on this machine") from None
        return Account(str(os.geteuid()), os.geteuid(), os.getegid(), "/")  # a container's nameless uid
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


class ProcessHandle(Protocol):
    """One process, pinned: a signal can never reach another that got its number later."""

    @property
    def pid(self) -> int: ...

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
        """Send a signal; False when it is gone already, or is somebody else's process by now (set-user-id)."""

    def close(self) -> None:
        """Give up what is held of a process that ended."""


class ProcessDoor(Protocol):
    """What agents/ needs of processes; `Processes` is the machine's, `tests/fakes/process.py` is made up."""

    async def spawn(self, launch: Launch, *, hold: bool = False) -> ProcessHandle:
        """Start a child in a session of its own and return when it is in its cage.

        With `hold` it then waits for `go()` before it executes its program, so that it can be written down first; it ends
        by itself, without having run, when we die before that.

        Raises:
            SpawnFailed: `failed:cage` (it could not be put into its cage) or `failed:exec` (no such folder). A program that
                cannot be executed is seen later, as an ExitStatus with `never_ran`.
        """

    def find(self, pid: int, start_ticks: int, boot_id: str) -> ProcessHandle | None:
        """Return a handle of a process that somebody else started; None when it is gone or the number has a new owner."""

    def reap_strays(self) -> int:
        """Take the status of orphans that ended and became ours; returns how many."""

    def become_subreaper(self) -> None:
        """Have orphans of our descendants become our children instead of init's (prctl(2), PR_SET_CHILD_SUBREAPER).

        Raises:
            HostFault: the kernel refused.
        """

    def boot_id(self) -> str:
        """Identify this boot."""

    def account(self, user: str | None) -> Account:
        """Return who an agent will run as.

        Raises:
            SpawnFailed: there is no such user.
        """
