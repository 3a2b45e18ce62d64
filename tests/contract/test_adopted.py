"""A process of somebody else: found, watched, signalled, and asked how it ended."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.errors import HostFault
from supervisord_ai.host import adopted, procfs
from supervisord_ai.host.adopted import Adopted
from supervisord_ai.host.pinned import send, signal_pinned
from supervisord_ai.host.signals import KILL, TERM
from tests.eventually import until


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


@pytest.mark.skipif(not tells_exits(), reason="PIDFD_INFO_EXIT came with Linux 6.15")
async def test_one_that_nobody_reaps_at_once_is_asked_again_until_somebody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procfs, "zombie", lambda pid: None)  # we are not root
    reap = tmp_path / "reap"
    os.mkfifo(reap)
    # A shell may reap whenever it likes; this parent does when it is told.
    parent = f"import os; open('{reap}').read(); os.wait()"
    with grandchild(tmp_path, f'exec "{sys.executable}" -I -S -c "{parent}"') as found:
        own = procfs.stat(found.pid)
        assert own is not None
        await until(lambda: (above := procfs.stat(own.ppid)) is not None and above.comm != "sh", what="its parent")
        seen: list[ExitStatus] = []

        async def wait() -> None:
            seen.append(await found.wait())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)  # the second one is told by the first
            (tmp_path / "fifo").write_text("go\n")
            await until(lambda: (known := procfs.stat(found.pid)) is not None and known.state == "Z", what="its end")
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert seen == []
            reap.write_text("go\n")
        assert seen == [ExitStatus(code=7)] * 2
        found.close()
        assert not found.signal(KILL)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_where_no_descriptor_is_left_it_is_not_known_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for gone it would be started a second time."""

    def pidfd_open(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    with pytest.raises(HostFault, match=rf"^pidfd_open\({os.getpid()}\): Too many open files$"):
        adopted.find(os.getpid(), 1)


def test_one_that_ends_while_it_is_looked_at_is_gone_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        known = procfs.stat(child.pid)
        child.kill()
    assert known is not None
    before = descriptors()
    assert adopted.find(child.pid, known.start_ticks) is None
    ours = procfs.stat(os.getpid())
    assert ours is not None

    def gone(pidfd: int, signum: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(signal, "pidfd_send_signal", gone)  # after its stat was read
    assert adopted.find(os.getpid(), ours.start_ticks) is None
    assert descriptors() == before


def test_one_that_became_another_user_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = procfs.stat(os.getpid())
    assert ours is not None

    def theirs(pidfd: int, signum: int) -> None:
        raise PermissionError

    monkeypatch.setattr(signal, "pidfd_send_signal", theirs)
    found = adopted.find(os.getpid(), ours.start_ticks)
    assert found is not None
    assert not found.signal(TERM)
    found.close()


# --- signals to those who are known by number ---


def test_whom_we_may_not_signal_does_not_let_the_others_escape(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    children = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    pids = [child.pid for child in children]
    sent: list[int] = []
    really = signal.pidfd_send_signal

    def pidfd_send_signal(pidfd: int, signum: int) -> None:
        sent.append(pidfd)
        if len(sent) == 2:  # it executed a set-user-id program
            raise PermissionError
        really(pidfd, signum)

    monkeypatch.setattr(signal, "pidfd_send_signal", pidfd_send_signal)
    assert signal_pinned(pids, lambda: frozenset(pids), KILL) == 2
    assert caplog.messages == [f"signal {int(KILL)} to {pids[1]}: not permitted"]
    assert children[0].wait() == children[2].wait() == -KILL
    assert children[1].poll() is None
    children[1].kill()
    children[1].wait()


def test_a_pin_on_one_that_was_reaped_signals_nobody() -> None:
    with subprocess.Popen(["true"]) as child:
        pidfd = os.pidfd_open(child.pid)
    assert not send(pidfd, KILL, child.pid)
    os.close(pidfd)
