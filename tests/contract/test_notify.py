"""Notify sockets, made up and real: who said what, for as long as the generation runs."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from supervisord_ai.errors import HostFault
from supervisord_ai.host.notify import STATUS_CHARS, Notice, NotifyDoor, NotifyFolder, parse
from tests.fakes.notify import FakeNotify

Say = Callable[[str, bytes], None]


def say_to_fake(fake: FakeNotify) -> Say:
    return lambda path, message: fake.sockets[path.rpartition("/")[2]].say(os.getpid(), message)


def say_to_kernel(path: str, message: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(message, path)


@pytest.fixture(params=["fake", "kernel"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[NotifyDoor, Say]:
    if request.param == "fake":
        fake = FakeNotify()
        return fake, say_to_fake(fake)
    return NotifyFolder(tmp_path / "notify", for_others=False), say_to_kernel


async def test_what_is_said_is_heard_in_its_order_with_the_pid_of_who_said_it(door: tuple[NotifyDoor, Say]) -> None:
    sockets, say = door
    one = sockets.open("opus-01", uid=os.geteuid())
    say(one.path, b"STATUS=loading\n")
    say(one.path, b"READY=1\nSTATUS=serving\nMAINPID=1")
    say(one.path, b"STOPPING=1")
    with trio.fail_after(5):
        assert await one.receive() == Notice(os.getpid(), status="loading")
        assert await one.receive() == Notice(os.getpid(), is_ready=True, status="serving")
        assert await one.receive() == Notice(os.getpid(), is_stopping=True)
    one.close()


async def test_heartbeats_and_more_time_are_systemds_words(door: tuple[NotifyDoor, Say]) -> None:
    sockets, say = door
    one = sockets.open("opus-01", uid=os.geteuid())
    say(one.path, b"READY=1\nWATCHDOG_USEC=30000000")
    say(one.path, b"WATCHDOG=1")
    say(one.path, b"STOPPING=1\nEXTEND_TIMEOUT_USEC=2500000")
    say(one.path, b"WATCHDOG=trigger")
    with trio.fail_after(5):
        assert await one.receive() == Notice(os.getpid(), is_ready=True, watchdog_s=30.0)
        assert await one.receive() == Notice(os.getpid(), is_heartbeat=True)
        assert await one.receive() == Notice(os.getpid(), is_stopping=True, extend_s=2.5)
        assert await one.receive() == Notice(os.getpid(), is_hung=True)
    one.close()


@pytest.mark.parametrize("said", ["-1", "1e6", "", " 5", "9" * 400, "\u0665"])
def test_what_is_no_number_of_microseconds_was_not_said(said: str) -> None:
    assert parse(f"WATCHDOG_USEC={said}".encode(), 1) == Notice(1)


async def test_after_the_close_nobody_is_heard_and_the_next_generation_has_heard_nothing(door: tuple[NotifyDoor, Say]) -> None:
    sockets, say = door
    one = sockets.open("opus-01", uid=os.geteuid())
    say(one.path, b"READY=1")
    one.close()
    one.close()
    with pytest.raises(OSError, match=r"opus-01|No such file"):
        say(one.path, b"READY=1")
    again = sockets.open("opus-01", uid=os.geteuid())
    say(again.path, b"STATUS=new")
    with trio.fail_after(5):
        assert (await again.receive()).status == "new"
    again.close()


async def test_a_wait_can_be_given_up_and_taken_up_again(door: tuple[NotifyDoor, Say]) -> None:
    sockets, say = door
    one = sockets.open("opus-01", uid=os.geteuid())
    with trio.move_on_after(0.01) as scope:
        await one.receive()
    assert scope.cancelled_caught
    say(one.path, b"READY=1")
    with trio.fail_after(5):
        assert (await one.receive()).is_ready
    one.close()


# --- of the kernel's only ---


async def test_the_pid_is_the_kernels_word_and_descriptors_that_come_along_are_not_taken(tmp_path: Path) -> None:
    one = NotifyFolder(tmp_path / "notify", for_others=False).open("a", uid=os.geteuid())
    child = (
        "import array, os, socket, sys\n"
        "reads, writes = os.pipe()\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:\n"
        "    s.connect(sys.argv[1])\n"
        "    s.sendmsg([b'READY=1'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [writes]))])\n"
        "os.close(writes)\n"
        "assert os.read(reads, 1) == b''\n"  # as with BARRIER=1: the end of file comes when it was read
    )
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        process = await nursery.start(trio.run_process, [sys.executable, "-c", child, one.path])
        with trio.fail_after(20):
            assert await one.receive() == Notice(process.pid, is_ready=True)
            await process.wait()
    assert process.returncode == 0
    assert len(os.listdir("/proc/self/fd")) <= before
    one.close()


async def test_the_socket_is_its_users_alone_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    folder = NotifyFolder(tmp_path / "notify", for_others=True)
    left_behind = folder.open("a", uid=os.geteuid())
    one = folder.open("a", uid=os.geteuid())
    assert stat.S_IMODE(os.stat(one.path).st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "notify").stat().st_mode) == 0o711
    left_behind.close()  # late: the file is the new one's by now
    say_to_kernel(one.path, b"READY=1")
    one.close()
    assert list((tmp_path / "notify").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_as_root_the_socket_belongs_to_the_agents_user(tmp_path: Path) -> None:
    one = NotifyFolder(tmp_path / "notify", for_others=True).open("a", uid=65534)
    assert os.stat(one.path).st_uid == 65534
    one.close()


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    folder = NotifyFolder(tmp_path / "notify", for_others=False)
    with pytest.raises(HostFault, match="too long for a socket"):
        folder.open("a" * 107, uid=os.geteuid())


def test_text_is_bounded_and_harmless_and_junk_is_passed_over() -> None:
    assert parse(b"STATUS=\x1b[2J\xff\x00" + "é".encode(), 1).status == "\ufffd[2J\ufffd\ufffdé"
    assert parse(b"STATUS=" + b"a" * 4000, 1).status == "a" * STATUS_CHARS
    for junk in (b"", b"\n\n", b"READY", b"=", b"READY=yes", b"\xff\xfe", b"READY=1 "):
        assert parse(junk, 7) == Notice(7)


def test_a_socket_that_cannot_be_made_or_given_to_its_user_is_a_fault_and_no_descriptor_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = NotifyFolder(tmp_path / "notify", for_others=True)
    before = os.listdir("/proc/self/fd")

    def chown(path: Path, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", chown)  # a normal user's supervisor
    with pytest.raises(HostFault, match=r"notify/one: Operation not permitted$"):
        folder.open("one", uid=os.geteuid() + 1)
    (tmp_path / "notify" / "two").mkdir()
    with pytest.raises(HostFault, match=r"notify/two: Is a directory$"):
        folder.open("two", uid=os.geteuid())
    assert os.listdir("/proc/self/fd") == before
