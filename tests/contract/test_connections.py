"""What the kernel says of the connections of this machine, and nft where it is."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.core.isolation import BackDoor, rules, table_name
from supervisord_ai.errors import HostFault, UsageError
from supervisord_ai.host import firewall
from supervisord_ai.host.connections import KernelConnections, dialled, is_last, own_sockets, parse
from supervisord_ai.host.firewall import Nft


def listening(host: str = "127.0.0.1") -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.bind((host, 0))
    except OSError:
        made.close()
        pytest.skip(f"no {host} here")
    made.listen()
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_is_found_from_its_callers_side_with_its_socket(host: str) -> None:
    with listening(host) as listener:
        where = listener.getsockname()[:2]
        with socket.create_connection(where) as caller, listener.accept()[0]:
            (found,) = dialled(frozenset({where[1]}))
            assert (str(found.address), found.port, found.uid) == (host, where[1], os.getuid())
            assert found.inode == os.fstat(caller.fileno()).st_ino
            assert found.inode in own_sockets()
        assert dialled(frozenset({where[1]})) == []  # what is closed is nobody's


def test_a_hundred_connections_fit_into_the_answer() -> None:
    with listening() as listener:
        listener.listen(200)
        callers = [socket.create_connection(listener.getsockname()) for _ in range(150)]
        try:
            assert len({one.inode for one in dialled(frozenset({listener.getsockname()[1]}))}) == 150
        finally:
            for one in callers:
                one.close()


def test_another_process_is_found_by_its_socket_and_named() -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        script = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); input()"
        with subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE) as other, listener.accept()[0]:
            (found,) = dialled(frozenset({port}))
            assert found.inode not in own_sockets()
            holder = KernelConnections().holder_of(found.inode)
            assert holder is not None
            assert holder.pid == other.pid
            assert KernelConnections().name_of(other.pid).endswith(str(other.pid))
            other.kill()


def test_an_error_or_nonsense_ends_the_reading() -> None:
    assert is_last(struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -1))
    assert is_last(struct.pack("=IHHII", 16, 3, 0, 0, 0))
    assert is_last(b"")
    assert list(parse(struct.pack("=IHHII", 3, 20, 0, 0, 0))) == []


def test_a_kernel_that_does_not_tell_is_a_fault_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    really = socket.socket

    def made(family: int = -1, *args: Any) -> socket.socket:
        if family == socket.AF_NETLINK:  # a filter of system calls, of a container
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return really(family, *args)

    monkeypatch.setattr(socket, "socket", made)
    with pytest.raises(HostFault, match=r"^sock_diag: Operation not permitted$"):
        dialled(frozenset({80}))


def test_a_kernel_that_does_not_answer_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(socket.socket):
        def recv(self, *_: int) -> bytes:
            raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "socket", Silent)
    with pytest.raises(HostFault, match=r"^sock_diag: timed out$"):
        dialled(frozenset({80}))


def test_without_a_descriptor_to_look_with_no_socket_is_taken_for_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing found would mean that all connections are somebody else's."""

    def scandir(path: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(HostFault, match=r"^/proc/self/fd: Too many open files$"):
        own_sockets()


# --- the firewall -------------------------------------------------------------------------------------------------------


def nft(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Nft:
    """Return the door to a command that stands for nft(8)."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (folder / "nft").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nft").chmod(0o755)
    return Nft()


def test_nft_reads_the_whole_table_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    door = nft(tmp_path, monkeypatch, f'echo "$@" >>{tmp_path}/log; cat >>{tmp_path}/log')
    assert repr(door) == f"<{tmp_path}/nft>"
    door.load("table inet one {\n}\n")
    door.remove("one")
    # What is not there cannot be deleted, so it is made first.
    assert (tmp_path / "log").read_text() == "-f -\ntable inet one {\n}\n-f -\ntable inet one\ndelete table inet one\n"


def test_what_nft_says_no_to_is_one_line_that_begins_with_who_wanted_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    door = nft(tmp_path, monkeypatch, "cat >/dev/null; echo 'Error: No such file' >&2; echo '  socket cgroupv2 ^^^' >&2; exit 1")
    with pytest.raises(HostFault, match=r'^\[isolation\] mode = "nft": Error: No such file$'):
        door.load("table inet one { }")
    door = nft(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(HostFault, match=r'^\[isolation\] mode = "nft": nft failed$'):
        door.load("")
    monkeypatch.setattr(firewall, "PATIENCE_S", 0.02)
    door = nft(tmp_path, monkeypatch, "exec sleep 1000")
    with pytest.raises(HostFault, match=r"/nft: does not end$"):
        door.load("")
    (tmp_path / "nft").unlink()  # removed while we run
    with pytest.raises(HostFault, match=r"/nft: No such file or directory$"):
        door.load("")


def test_without_root_or_nft_the_owner_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="needs root: run ai-supervisor as a service of the system"):
        Nft()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(UsageError, match="needs the nft command: apt-get install -y nftables"):
        Nft("no-such-nft")


@pytest.mark.skipif(shutil.which("nft", path="/usr/sbin:/sbin") is None or os.geteuid() != 0, reason="no nft that is ours")
def test_nft_takes_the_rules_and_gives_them_back() -> None:
    """On a machine whose own cgroup can be named; the guest of scripts/test-vm shows what they do."""
    with open("/proc/self/cgroup") as file:
        own = next((line.rstrip().removeprefix("0::") for line in file if line.startswith("0::")), "/")
    if own == "/" or not os.path.isdir(f"/sys/fs/cgroup{own}"):
        pytest.skip("no cgroup v2 of our own")
    try:
        Nft().load(rules(own, [BackDoor("main", None, 9)]))
    except HostFault as exc:
        pytest.skip(f"this kernel has no such rule: {exc}")
    Nft().remove(table_name(own))
    Nft().remove(table_name(own))
