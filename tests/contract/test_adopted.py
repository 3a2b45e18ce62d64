"""A process of somebody else: found, watched, signalled, and asked how it ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.host import adopted, procfs
from supervisord_ai.host.adopted import Adopted
from supervisord_ai.host.signals import KILL


@contextmanager
def grandchild(tmp_path: Path, then: str) -> Iterator[Adopted]:
    """A process whose parent is not us. It ends with 7 when it is written to; `then` is what its parent does meanwhile."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f'(read x < "{fifo}"; exit 7) & echo $!; {then}'
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        known = procfs.stat(pid)
        assert known is not None
        found = adopted.find(pid, known.start_ticks)
        assert found is not None
        try:
            yield found
        finally:
            found.signal(KILL)
            found.close()
            parent.kill()


def tells_exits() -> bool:
    return tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 15)


@pytest.mark.skipif(not tells_exits(), reason="PIDFD_INFO_EXIT came with Linux 6.15")
async def test_the_kernel_tells_the_exit_code_of_one_that_was_reaped(tmp_path: Path) -> None:
    with grandchild(tmp_path, "wait") as found:
        (tmp_path / "fifo").write_text("go\n")
        assert await found.wait() == ExitStatus(code=7)
        assert not found.signal(KILL)


@pytest.mark.skipif(not tells_exits(), reason="PIDFD_INFO_EXIT came with Linux 6.15")
async def test_the_kernel_tells_the_signal_of_one_that_was_reaped(tmp_path: Path) -> None:
    with grandchild(tmp_path, "wait") as found:
        assert found.signal(KILL)
        assert await found.wait() == ExitStatus(signal=KILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told the status of another's zombie")
async def test_a_zombie_tells_it_itself(tmp_path: Path) -> None:
    with grandchild(tmp_path, "exec sleep 1000") as found:
        (tmp_path / "fifo").write_text("go\n")
        assert await found.wait() == ExitStatus(code=7)


async def test_where_nobody_tells_it_is_unknown_and_never_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopted, "_PIDFD_GET_INFO", 0)  # an older kernel: ENOTTY
    monkeypatch.setattr(procfs, "zombie", lambda pid: None)
    with grandchild(tmp_path, "wait") as found:
        (tmp_path / "fifo").write_text("go\n")
        assert await found.wait() == ExitStatus()


async def test_who_was_reaped_is_not_found(tmp_path: Path) -> None:
    with grandchild(tmp_path, "wait") as found:
        assert adopted.find(found.pid, found.start_ticks + 1) is None
        (tmp_path / "fifo").write_text("go\n")
        await found.wait()
        assert adopted.find(found.pid, found.start_ticks) is None
