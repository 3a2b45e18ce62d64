"""A process that another supervisor started: pinned by a pidfd, watched and signalled like a child, but nobody's to wait for.

How it ended is its parent's to know: waitid(2) gives ECHILD. Two ways are left. While it is a zombie the last field of
/proc/PID/stat is its wait status, a race with whoever reaps it; and once it is reaped, PIDFD_GET_INFO tells what it left
(PIDFD_INFO_EXIT, Linux 6.15), if its pidfd was open before. Where neither tells, its status is unknown, and never 0.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct

import trio

from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.errors import HostFault
from supervisord_ai.host import procfs
from supervisord_ai.host.pinned import send

REAPED_WITHIN_S = 1.0  # init reaps at once; one that does not leaves us without a status

# linux/pidfd.h: struct pidfd_info begins with __u64 mask, and has __s32 exit_code at 60.
_INFO = struct.Struct("=Q52xi")
_PIDFD_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3


class Adopted:
    """A process found by its number. Compares by identity."""

    stdin = None

    def __init__(self, pid: int, pidfd: int, start_ticks: int) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self._pidfd = pidfd
        self._status: ExitStatus | None = None
        self._waiting = trio.Lock()

    def __repr__(self) -> str:
        return f"<adopted {self.pid} {self._status or 'running'}>"

    def go(self) -> None:
        raise AssertionError("it has long gone")

    async def wait(self) -> ExitStatus:
        async with self._waiting:
            if self._status is None:
                await trio.lowlevel.wait_readable(self._pidfd)
                self._status = _of_zombie(self.pid, self.start_ticks) or await self._of_reaped()
        return self._status

    async def _of_reaped(self) -> ExitStatus:
        pause_s = 0.002
        with trio.move_on_after(REAPED_WITHIN_S):
            while True:
                try:
                    found = fcntl.ioctl(self._pidfd, _PIDFD_GET_INFO, _INFO.pack(_PIDFD_INFO_EXIT, 0))
                except OSError:  # ENOTTY: a kernel before 6.13. EINVAL, ESRCH: one before 6.15
                    break
                mask, status = _INFO.unpack(found)
                if mask & _PIDFD_INFO_EXIT:
                    return status_of(status)
                await trio.sleep(pause_s)  # a zombie yet, and nobody tells when it is reaped
                pause_s = min(pause_s * 2, 0.1)
        return ExitStatus()

    def signal(self, signum: int) -> bool:
        return self._status is None and self._pidfd >= 0 and send(self._pidfd, signum, self.pid)

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def find(pid: int, start_ticks: int) -> Adopted | None:
    """Return a process of this boot; None when it is gone, or the number has a new owner.

    Raises:
        HostFault: it could not be pinned, so whether it is there is not known.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as exc:
        if exc.errno in {errno.ESRCH, errno.EINVAL}:  # gone; or a thread of somebody has the number
            return None
        raise HostFault(f"pidfd_open({pid}): {exc.strerror}") from exc
    # The pidfd first, then the reading: what is read now is about the process that the pidfd pins, or it is gone. A
    # zombie has the same start time and is no survivor.
    known = procfs.stat(pid)
    if known is None or known.start_ticks != start_ticks or known.state == "Z":
        os.close(pidfd)
        return None
    try:
        signal.pidfd_send_signal(pidfd, 0)  # still there after the reading, so that was about it
    except ProcessLookupError:
        os.close(pidfd)
        return None
    except PermissionError:
        pass  # somebody else's by now, and there
    return Adopted(pid, pidfd, start_ticks)


def status_of(wait_status: int) -> ExitStatus:
    """Return what a wait status says (wait(2))."""
    if os.WIFSIGNALED(wait_status):
        return ExitStatus(signal=os.WTERMSIG(wait_status), core_dumped=os.WCOREDUMP(wait_status))
    return ExitStatus(code=os.WEXITSTATUS(wait_status))


def _of_zombie(pid: int, start_ticks: int) -> ExitStatus | None:
    known = procfs.zombie(pid)
    return status_of(known.wait_status) if known is not None and known.start_ticks == start_ticks else None
