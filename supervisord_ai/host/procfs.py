"""Reads /proc: who runs, whose child it is, which tag it carries. proc(5) has the fields.

Everything here is a snapshot that may be stale when it returns; whoever acts on a pid pins it with a pidfd first and reads
again (see process.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcStat:
    """The fields of /proc/PID/stat that matter here. A zombie (`state` "Z") keeps its start ticks and has no memory."""

    pid: int
    comm: str
    state: str
    ppid: int
    session: int
    start_ticks: int
    rss_bytes: int


def read_raw(path: str, cap_bytes: int = 4096) -> bytes | None:
    """Return the file, or None when the process is gone or not ours to read.

    Raw descriptors: this runs for every process of the machine, and `open()` costs four times as much.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, cap_bytes)
    except OSError:  # ESRCH: it ended between open and read
        return None
    finally:
        os.close(fd)


def parse_stat(text: bytes) -> ProcStat:
    """Parse one line of /proc/PID/stat. The name may hold spaces and brackets: fields start after the last one."""
    head, _, tail = text.rpartition(b")")
    pid, _, comm = head.partition(b" (")
    f = tail.split()
    return ProcStat(
        pid=int(pid),
        comm=comm.decode("utf-8", "replace"),
        state=f[0].decode(),
        ppid=int(f[1]),
        session=int(f[3]),
        start_ticks=int(f[19]),
        rss_bytes=int(f[21]) * PAGE_BYTES,
    )


def stat(pid: int) -> ProcStat | None:
    """Return what /proc says of a process; None when there is none."""
    text = read_raw(f"/proc/{pid}/stat")
    return parse_stat(text) if text else None


@dataclass(frozen=True, slots=True)
class Zombie:
    """A process that has ended and was not reaped: when it started, and its wait status (wait(2))."""

    start_ticks: int
    wait_status: int


def zombie(pid: int) -> Zombie | None:
    """Return how a process ended that was not reaped yet; None when it is not such a one, or the kernel does not tell us.

    The last field of stat, `exit_code` (3.5), is 0 for those who may not trace the process; only root is believed, therefore.
    """
    text = read_raw(f"/proc/{pid}/stat")
    if not text or os.geteuid() != 0:
        return None
    fields = text.rpartition(b")")[2].split()
    if fields[0] != b"Z" or len(fields) < 50:
        return None
    return Zombie(start_ticks=int(fields[19]), wait_status=int(fields[49]))


def pids() -> list[int]:
    """Return every process of this pid namespace."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environ_value(pid: int, name: str) -> str | None:
    """Return a variable of the environment a process was started with; None if it has none or may not be read.

    The kernel shows the memory that exec filled: a child that only forked shows its parent's, a program may scribble over it.
    """
    text = read_raw(f"/proc/{pid}/environ", 1 << 20)
    if not text:
        return None
    key = name.encode() + b"="
    if text.startswith(key):
        start = len(key)
    else:
        at = text.find(b"\0" + key)
        if at < 0:
            return None
        start = at + 1 + len(key)
    end = text.find(b"\0", start)
    return text[start : end if end >= 0 else None].decode("utf-8", "replace")


def holders(device: int, inode: int) -> list[int]:
    """Return who else has this file open, as far as we may look. Reads every descriptor of every process: for errors only."""
    found = []
    for pid in pids():
        if pid == os.getpid():
            continue
        try:
            open_files = [os.stat(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:  # gone, or somebody else's
            continue
        if any((file.st_dev, file.st_ino) == (device, inode) for file in open_files):
            found.append(pid)
    return found


def oom_score_adj() -> int:
    """Return how ready the kernel is to end us when memory runs out, -1000 (never) to 1000 (first)."""
    return int(read_raw("/proc/self/oom_score_adj") or b"0")


def boot_id() -> str:
    """Return the id of this boot: pids and start ticks mean nothing across two of them."""
    return (read_raw("/proc/sys/kernel/random/boot_id") or b"").decode().strip()
