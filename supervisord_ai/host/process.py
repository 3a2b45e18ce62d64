"""The door to processes: starts a child in its cage, knows when it ended and how, and signals it without hitting another.

A handle is a pidfd with a start time, the same for a child of ours and for one we found. Nothing here listens to SIGCHLD or
waits for "any child": a global wait steals the status of somebody else's child. `trio.Process` is not used, since it cannot
stand for a process found after a crash, and a Popen that is collected reaps its child, whose status is then lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import time

import trio

from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.errors import HostFault, SpawnFailed
from supervisord_ai.host import adopted, procfs, shim
from supervisord_ai.host.launch import Account, Launch, ProcessDoor, ProcessHandle, account
from supervisord_ai.host.pinned import send, signal_pinned

logger = logging.getLogger(__name__)

CAGE_TIMEOUT_S = 20.0  # a frozen group would hold the shim for ever
KILL_SHIM_TIMEOUT_S = 2.0
ACCOUNT_KEPT_S = 1.0  # a fleet that starts looks its user up once, and a user who was changed is seen by the next start
_PR_SET_CHILD_SUBREAPER = 36
OPEN_FILES = 16_384  # 131 agents are five descriptors each, and a connection or two
_INHERITED_OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class _Child:
    """A child of ours. Compares by identity; the Popen object is kept so that nobody reaps it but us."""

    def __init__(self, owner: Processes, popen: subprocess.Popen[bytes], ours: socket.socket, *, keeps_stdin: bool) -> None:
        self.pid = popen.pid
        self._owner = owner
        self._popen = popen
        # Not reaped yet, so the number is still its own and the start time too.
        self._pidfd = os.pidfd_open(popen.pid)
        known = procfs.stat(popen.pid)
        self.start_ticks = known.start_ticks if known is not None else 0
        self._control: socket.socket | None = ours
        self._keeps_stdin = keeps_stdin
        self.stdin: trio.SocketStream | None = None
        self._status: ExitStatus | None = None
        self._waiting = trio.Lock()

    def __repr__(self) -> str:
        return f"<child {self.pid} {self._status or 'running'}>"

    async def caged(self) -> None:
        """Return when the shim says so.

        Raises:
            SpawnFailed: it said something else, or ended.
        """
        assert self._control is not None
        said = b""
        with trio.move_on_after(CAGE_TIMEOUT_S):
            while not said.endswith(shim.CAGED):
                await trio.lowlevel.wait_readable(self._control)
                try:
                    more = self._control.recv(4096)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    more = b""
                if not more:
                    break
                said += more
        if said.endswith(shim.CAGED):
            return
        words = "; ".join(said.decode("utf-8", "replace").split("\n")).strip("; ")
        raise SpawnFailed("failed:cage", words or "the shim ended, or did not answer, before the agent was in its cage")

    def go(self) -> None:
        control = self._control
        assert control is not None, "go() is said once"
        self._control = None
        with contextlib.suppress(OSError):  # it was killed while it was held; wait() tells
            control.send(shim.GO)
        if self._keeps_stdin:
            self.stdin = trio.SocketStream(trio.socket.from_stdlib_socket(control))
        else:
            control.close()

    async def wait(self) -> ExitStatus:
        async with self._waiting:  # one task a descriptor; if it is cancelled the next takes over
            if self._status is None:
                await trio.lowlevel.wait_readable(self._pidfd)
                # Still a zombie: the name tells whether the program was ever executed.
                known = procfs.stat(self.pid)
                try:
                    result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)  # noqa: ASYNC222 - it has ended: this never waits
                except ChildProcessError:  # somebody else in this process waited for any child: unknown, and never 0
                    logger.error("the status of child %d was taken by somebody else", self.pid)
                    result = None
                if result is None:
                    self._status = ExitStatus()
                else:
                    self._status = _status_of(result, never_ran=known is not None and known.comm == shim.COMM)
                self._popen.returncode = 0  # Popen.__del__ must not look for it
                self._owner._forget(self.pid)
            return self._status

    def signal(self, signum: int) -> bool:
        return self._status is None and send(self._pidfd, signum, self.pid)

    def abandon(self) -> None:
        """Be a stray from now on, whom `reap_strays` takes once it ends: a child that nobody waits for holds up the others."""
        self._status = ExitStatus()
        self._popen.returncode = 0
        self._owner._forget(self.pid)
        self.close()

    def close(self) -> None:
        assert self._status is not None, "close() comes after wait()"
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._control is not None:
            self._control.close()
            self._control = None
        if self.stdin is not None:
            self.stdin.socket.close()


class Processes:
    """The machine's processes. One object a supervisor: it must know all its children."""

    def __init__(self) -> None:
        self._children: dict[int, _Child] = {}
        self._spawning = 0
        self._setpriv = shutil.which("setpriv")
        self._boot_id = procfs.boot_id()
        self._accounts: dict[str | None, Account] = {}
        self._accounts_until = 0.0

    def __repr__(self) -> str:
        return f"<processes: {len(self._children)} children>"

    def statistics(self) -> int:
        """Return how many children are held, ended ones that nobody waited for included."""
        return len(self._children)

    async def spawn(self, launch: Launch, *, hold: bool = False) -> ProcessHandle:
        argv = shim.command(
            launch.argv,
            join_files=launch.join_files,
            rlimits=(*launch.rlimits, *_open_files_of_a_child()),
            oom_score_adj=_oom_score_adj(launch.oom_score_adj),
            become=self._become(launch.account),
            keep_stdin=launch.stdin == "pipe",
        )
        self._spawning += 1
        try:
            child = await self._fork(launch, argv)
        finally:
            self._spawning -= 1
        try:
            await child.caged()
        except BaseException:
            # It runs nothing but the shim, so SIGKILL ends it at once, unless somebody froze its group.
            with trio.move_on_after(KILL_SHIM_TIMEOUT_S, shield=True) as scope:
                child.signal(signal.SIGKILL)
                await child.wait()
                child.close()
            if scope.cancelled_caught:
                logger.error("shim %d does not end when killed", child.pid)
                child.abandon()
            raise
        if not hold:
            child.go()
        return child

    async def _fork(self, launch: Launch, argv: list[str]) -> _Child:
        try:
            ours, theirs = socket.socketpair()
        except OSError as exc:
            raise SpawnFailed("failed:cage", f"socketpair: {exc.strerror}") from exc
        with theirs:
            try:
                ours.setblocking(False)
                # In a thread because vfork holds the caller until exec, and a frozen group would hold that for ever. Not
                # abandoned when cancelled: a child whose pid nobody knows would be left behind.
                popen = await trio.to_thread.run_sync(_popen, launch, argv, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        try:
            child = _Child(self, popen, ours, keeps_stdin=launch.stdin == "pipe")
        except OSError as exc:  # no descriptor left for the pidfd: without one the child cannot be held
            ours.close()  # the shim reads the end of file and ends
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(popen.wait)
            raise SpawnFailed("failed:cage", f"pidfd_open: {exc.strerror}") from exc
        self._children[child.pid] = child
        return child

    def find(self, pid: int, start_ticks: int, boot_id: str) -> ProcessHandle | None:
        if boot_id != self._boot_id:
            return None
        return adopted.find(pid, start_ticks)

    def become_subreaper(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise HostFault(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}")

    def reap_strays(self) -> int:
        # A child between Popen's fork and our list would be taken for a stray; the next second is early enough.
        if self._spawning:
            return 0
        session = os.getsid(0)
        reaped = 0
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return reaped
            # Its own task takes it, and the ones behind it have time until then.
            if ended is None or ended.si_pid in self._children:
                return reaped
            known = procfs.stat(ended.si_pid)
            # Agents have sessions of their own; a child in ours was started by another part of this process, which waits for it.
            if known is not None and known.session == session:
                return reaped
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)
            logger.debug("reaped stray %d", ended.si_pid)
            reaped += 1

    def boot_id(self) -> str:
        return self._boot_id

    def account(self, user: str | None) -> Account:
        now = time.monotonic()
        if now >= self._accounts_until:
            self._accounts, self._accounts_until = {}, now + ACCOUNT_KEPT_S
        if user not in self._accounts:
            self._accounts[user] = account(user)
        return self._accounts[user]

    def _become(self, target: Account | None) -> list[str]:
        if target is None or target.uid == os.geteuid():
            return []
        if os.geteuid() != 0:
            why = f"only root can start an agent as {target.name}; this supervisor is uid {os.geteuid()}"
            raise SpawnFailed("failed:cage", why)
        if self._setpriv is None:
            raise SpawnFailed("failed:cage", "setpriv is missing (apt install util-linux)")
        groups = ["--init-groups"] if target.name and not target.name.isdigit() else ["--clear-groups"]
        caps = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        return [self._setpriv, f"--reuid={target.uid}", f"--regid={target.gid}", *groups, *caps, "--"]

    def _forget(self, pid: int) -> None:
        del self._children[pid]


def _popen(launch: Launch, argv: list[str], control_fd: int) -> subprocess.Popen[bytes]:
    stdout = subprocess.DEVNULL if launch.stdout_fd is None else launch.stdout_fd
    stderr = stdout if launch.stderr_fd is None else launch.stderr_fd
    try:
        return subprocess.Popen(
            argv,
            stdin=control_fd,
            stdout=stdout,
            stderr=stderr,
            cwd=launch.cwd,
            env=dict(launch.env),
            start_new_session=True,
            close_fds=True,
            pass_fds=() if launch.fence_fd is None else (launch.fence_fd,),
        )
    except (OSError, ValueError) as exc:  # ValueError: a NUL in an argument
        what = f"{exc.filename}: {exc.strerror}" if isinstance(exc, OSError) and exc.filename is not None else str(exc)
        raise SpawnFailed("failed:exec", what) from exc


def allow_open_files() -> int:
    """Raise our soft limit of open files as far as we need and may; children keep the one we were started with. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft not in {resource.RLIM_INFINITY, wanted} and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def open_files() -> int:
    """Return how many files we may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def _open_files_of_a_child() -> tuple[tuple[str, int], ...]:
    """A program that uses select() breaks above 1024: what is raised for us is not raised for it."""
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0] != _INHERITED_OPEN_FILES
    return (("nofile", _INHERITED_OPEN_FILES),) if raised else ()


def _oom_score_adj(wanted: int | None) -> int | None:
    """Nobody may lower what he has (a desktop session starts its programs at 200), so we are the floor."""
    return None if wanted is None else max(wanted, procfs.oom_score_adj())


def _status_of(result: os.waitid_result, *, never_ran: bool) -> ExitStatus:
    match result.si_code:
        case os.CLD_EXITED:
            return ExitStatus(code=result.si_status, never_ran=never_ran and result.si_status in {126, 127})
        case os.CLD_KILLED | os.CLD_DUMPED:
            return ExitStatus(signal=result.si_status, core_dumped=result.si_code == os.CLD_DUMPED)
        case other:
            raise AssertionError(f"waitid(WEXITED) gave si_code {other}")


__all__ = ["Account", "Launch", "ProcessDoor", "ProcessHandle", "Processes", "account", "signal_pinned"]
