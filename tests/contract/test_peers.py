"""What the kernel says of a peer, and that the fake says the same sort of thing."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

import pytest

from supervisord_ai.core.identity import PeerFacts, TcpFacts
from supervisord_ai.errors import HostFault
from supervisord_ai.host import peers as host_peers
from supervisord_ai.host import procfs
from supervisord_ai.host.peers import (
    KernelPeers,
    Peers,
    cgroup_id,
    parse_sock_diag,
    proc_net_address,
    process_facts,
    unix_peer,
)
from tests.fakes.peers import FakePeers
from tests.system.harness import eventually

TAG = "run-tag-of-a-test"

CONNECT = """
import os, socket, sys
kind, where, uid, after = sys.argv[1:]
if uid != "-":
    os.setgroups([7, 8]); os.setgid(int(uid)); os.setuid(int(uid))
s = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET6 if ":" in where else socket.AF_INET)
name = "\\0" + where
s.connect(name if kind == "unix" else (where.split(" ")[0], int(where.split(" ")[1])))
if after == "fork":
    # A grandchild in a session of its own holds the connection; the one that connected ends.
    if os.fork():
        os._exit(0)
    os.setsid()
    print(os.getpid(), flush=True)
elif after == "deep":
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        os._exit(0)
    t = socket.socket(socket.AF_UNIX); t.connect(name); s = t
    print(os.getpid(), flush=True)
else:
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


@dataclass
class Caller:
    """A process with a connection to us."""

    sock: socket.socket
    pid: int
    end: Callable[[], None]


class World(Protocol):
    """Where processes connect."""

    peers: Peers

    def caller(self) -> Caller: ...
    def tcp_caller(self) -> Caller: ...


class RealWorld:
    def __init__(self, name: str) -> None:
        self.peers: Peers = KernelPeers()
        self._name = name
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(20)  # a child that cannot connect must not hang the suite
        self._listener.bind("\0" + name)  # abstract: another user may not enter the test's folder
        self._listener.listen()
        self._open: list[socket.socket] = [self._listener]
        self._children: list[subprocess.Popen[bytes]] = []

    def caller(self, uid: str = "-", after: str = "stay", connections: int = 1) -> Caller:
        child = self._start("unix", self._name, uid, after)
        accepted = [self._listener.accept()[0] for _ in range(connections)]
        self._open += accepted
        return self._caller(child, accepted[-1])

    def tcp_caller(self, host: str = "127.0.0.1", uid: str = "-") -> Caller:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, 0), family=family)
        listener.settimeout(20)
        self._open.append(listener)
        child = self._start("tcp", f"{host} {listener.getsockname()[1]}", uid, "stay")
        sock, _ = listener.accept()
        self._open.append(sock)
        return self._caller(child, sock)

    def _start(self, *argv: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CONNECT, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"AI_SUPERVISOR_RUN": TAG, "OTHER": "1"},
            start_new_session=True,
        )
        self._children.append(child)
        return child

    def _caller(self, child: subprocess.Popen[bytes], sock: socket.socket) -> Caller:
        assert child.stdout is not None
        pid = int(child.stdout.readline())

        def end() -> None:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()
            deadline = time.monotonic() + 10
            while procfs.stat(pid) is not None:  # a grandchild is reaped by others
                assert time.monotonic() < deadline
                select.select([], [], [], 0.01)

        return Caller(sock, pid, end)

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        for child in self._children:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.close()
            child.stdout.close()
            child.wait()


class FakeWorld:
    def __init__(self) -> None:
        self._fake = FakePeers()
        self.peers: Peers = self._fake
        self._open: list[socket.socket] = []

    def caller(self) -> Caller:
        return self._caller(tcp=False)

    def tcp_caller(self) -> Caller:
        return self._caller(tcp=True)

    def _caller(self, *, tcp: bool) -> Caller:
        ours, theirs = socket.socketpair()
        self._open += [ours, theirs]
        pid = 4242
        me = procfs.stat(os.getpid())
        assert me is not None
        facts = PeerFacts(
            pid, os.getuid(), os.getgid(), 999, ("memory:/", ":/"), pid, TAG, ((me.pid, me.start_ticks),), groups=()
        )
        if tcp:
            self._fake.connects_tcp(ours, TcpFacts(os.getuid(), 77), holder=facts)
        else:
            self._fake.connects(ours, facts)
        return Caller(ours, pid, lambda: self._fake.ends(pid))

    def close(self) -> None:
        for sock in self._open:
            sock.close()


@pytest.fixture(params=["fake", "kernel"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = FakeWorld() if request.param == "fake" else RealWorld(str(tmp_path))
    yield made
    made.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealWorld]:
    made = RealWorld(str(tmp_path))
    yield made
    made.close()


class TestBoth:
    def test_a_living_caller_is_known_by_process_session_tag_and_ancestors(self, world: World) -> None:
        caller = world.caller()
        facts = world.peers.unix(caller.sock)
        assert (facts.pid, facts.uid, facts.gid) == (caller.pid, os.getuid(), os.getgid())
        assert facts.pidfd_matches
        assert facts.session == caller.pid
        assert facts.run_tag == TAG
        assert facts.start_ticks is not None
        me = procfs.stat(os.getpid())
        assert me is not None
        assert (me.pid, me.start_ticks) in facts.ancestors
        assert facts.cgroups
        assert all(":" in line for line in facts.cgroups)

    def test_of_one_that_has_ended_only_user_and_group_are_left(self, world: World) -> None:
        caller = world.caller()
        caller.end()
        facts = world.peers.unix(caller.sock)
        assert not facts.pidfd_matches
        assert (facts.uid, facts.gid) == (os.getuid(), os.getgid())
        assert (facts.start_ticks, facts.cgroups, facts.session, facts.run_tag, facts.ancestors) == (None, (), None, None, ())

    def test_a_socket_that_is_none_is_an_error(self, world: World) -> None:
        with socket.socket(socket.AF_INET) as sock, pytest.raises(HostFault, match="not connected"):
            world.peers.unix(sock)

    def test_behind_tcp_is_a_user_an_inode_and_with_patience_a_process(self, world: World) -> None:
        caller = world.tcp_caller()
        facts = world.peers.tcp(caller.sock)
        assert facts.uid == os.getuid()
        assert facts.inode is not None
        holder = world.peers.holder_of(facts.inode)
        assert holder is not None
        assert (holder.pid, holder.run_tag, holder.session) == (caller.pid, TAG, caller.pid)

    def test_what_is_not_there_is_none(self, world: World) -> None:
        assert world.peers.holder_of(2**31 - 7) is None
        assert world.peers.cgroup_id("/no/such/group") is None


# --- the kernel alone ---------------------------------------------------------------------------------------------------


def test_who_connected_and_ended_is_not_taken_for_the_one_that_holds_the_socket_now(real: RealWorld) -> None:
    caller = real.caller(after="fork")
    child = real._children[-1]
    child.wait()
    facts = unix_peer(caller.sock)
    assert facts.pid == child.pid != caller.pid
    assert not facts.pidfd_matches


def test_a_zombie_has_ended(real: RealWorld) -> None:
    caller = real.caller()
    child = real._children[-1]
    pidfd = os.pidfd_open(child.pid)
    child.kill()
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    stat = procfs.stat(child.pid)
    assert stat is not None
    assert stat.state == "Z"
    assert not unix_peer(caller.sock).pidfd_matches


@pytest.mark.skipif(not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK) or os.getuid() != 0, reason="only root picks pids")
def test_a_process_that_was_given_the_pid_of_the_one_that_connected_is_not_taken_for_it(real: RealWorld) -> None:
    for _ in range(50):  # somebody else on the machine may fork in between
        caller = real.caller()
        caller.end()
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(caller.pid - 1))
        heir = subprocess.Popen(["/bin/sleep", "60"], env={"AI_SUPERVISOR_RUN": "the heir's"})
        try:
            if heir.pid == caller.pid:
                facts = unix_peer(caller.sock)
                # For a moment of execve a process has no environment yet.
                eventually(partial(procfs.environ_value, heir.pid, "AI_SUPERVISOR_RUN"), what="its environment")
                assert procfs.environ_value(heir.pid, "AI_SUPERVISOR_RUN") == "the heir's"
                assert (facts.pid, facts.pidfd_matches, facts.run_tag) == (heir.pid, False, None)
                return
        finally:
            heir.kill()
            heir.wait()
    pytest.skip("the pid was never given again")


def test_without_a_pinned_process_the_start_time_decides(real: RealWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_peers, "_peer_pidfd", lambda sock: None)  # a kernel before 6.5
    caller = real.caller()
    assert unix_peer(caller.sock).run_tag == TAG
    monkeypatch.setattr(host_peers, "_ticks_now", lambda: 1)  # as if it had started after the accept
    assert not unix_peer(caller.sock).pidfd_matches


def test_a_grandchild_has_its_ancestors(real: RealWorld) -> None:
    caller = real.caller(after="deep", connections=2)
    facts = unix_peer(caller.sock)
    assert facts.pid == caller.pid
    assert facts.ancestors[0][0] == real._children[-1].pid


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_known_with_its_groups(real: RealWorld) -> None:
    facts = unix_peer(real.caller(uid="65534").sock)
    assert (facts.uid, facts.gid, set(facts.groups)) == (65534, 65534, {7, 8})
    assert real.peers.tcp(real.tcp_caller(uid="65534").sock).uid == 65534


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.9.8.7"])
def test_tcp_is_told_the_same_by_sock_diag_and_by_proc(real: RealWorld, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = real.tcp_caller(host)
    asked = real.peers.tcp(caller.sock)
    monkeypatch.setattr(host_peers, "_ask_sock_diag", lambda ends: None)
    read = real.peers.tcp(caller.sock)
    assert (asked.uid, asked.inode) == (read.uid, read.inode) == (os.getuid(), asked.inode)
    assert asked.inode
    caller.end()
    assert real.peers.tcp(caller.sock).inode is None


def test_a_mapped_address_is_found_like_the_plain_one() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET6) as caller,
    ):
        caller.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        sock, _ = listener.accept()
        with sock:
            assert KernelPeers().tcp(sock).inode == os.fstat(caller.fileno()).st_ino


def test_where_sock_diag_may_not_be_asked_proc_tells_and_where_neither_does_nothing_is_known(
    real: RealWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = real.tcp_caller()
    really_made, really_read = socket.socket, Path.read_text

    def made(family: int = -1, *args: Any) -> socket.socket:
        if family == socket.AF_NETLINK:  # a filter of system calls, of a container
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return really_made(family, *args)

    monkeypatch.setattr(socket, "socket", made)
    assert real.peers.tcp(caller.sock).uid == os.getuid()

    def read_text(path: Path, *args: Any, **named: Any) -> str:
        if str(path).startswith("/proc/net/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return really_read(path, *args, **named)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert real.peers.tcp(caller.sock) == TcpFacts()


def test_one_that_left_before_it_was_looked_at_is_an_error() -> None:
    with socket.socket(socket.AF_INET) as sock, pytest.raises(HostFault, match=r"^a socket without a peer: .* not connected$"):
        KernelPeers().tcp(sock)
    closed = socket.socket(socket.AF_UNIX)
    closed.close()
    with pytest.raises(HostFault, match="a socket without a peer: Bad file descriptor"):
        unix_peer(closed)


def test_a_kernel_that_knows_no_groups_of_a_peer_tells_none(real: RealWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_peers, "_SO_PEERGROUPS", 9999)  # before 4.13
    caller = real.caller()
    facts = unix_peer(caller.sock)
    assert (facts.pid, facts.groups) == (caller.pid, ())


def test_a_process_that_goes_while_it_is_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    assert process_facts(child.pid) is None
    before = os.listdir("/proc/self/fd")
    assert process_facts(os.getpid()) is not None
    really = os.stat
    monkeypatch.setattr(host_peers, "_is_alive", lambda pidfd: False)
    assert process_facts(os.getpid()) is None
    monkeypatch.undo()

    def stat(path: str, *args: Any, **named: Any) -> os.stat_result:
        if path == f"/proc/{os.getpid()}":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return really(path, *args, **named)

    monkeypatch.setattr(os, "stat", stat)
    assert process_facts(os.getpid()) is None
    assert os.listdir("/proc/self/fd") == before


def test_one_whom_we_may_not_signal_lives(real: RealWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = real.caller()

    def theirs(pidfd: int, signum: int) -> None:
        raise PermissionError

    monkeypatch.setattr(signal, "pidfd_send_signal", theirs)
    assert unix_peer(caller.sock).pidfd_matches


def test_ancestors_end_where_one_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent that ends between two readings: what is above it is not known, and not made up."""
    own = procfs.stat(os.getpid())
    assert own is not None
    grandparent = replace(own, pid=300, ppid=200, start_ticks=7)
    known = {300: grandparent}
    monkeypatch.setattr(procfs, "stat", known.get)
    assert host_peers._ancestors(replace(own, pid=400, ppid=300)) == ((300, 7),)


def test_where_no_cgroup_v2_is_mounted_no_path_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    only_v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    monkeypatch.setattr(Path, "read_text", lambda path: only_v1)
    assert KernelPeers().cgroup_id("/") is None

    def hidden(path: Path) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", hidden)
    assert KernelPeers().cgroup_id("/") is None


def test_the_number_of_a_group_is_that_of_its_folder_below_what_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    number = (tmp_path / "one").stat().st_ino
    assert cgroup_id("/one", ("/", str(tmp_path))) == number
    assert cgroup_id("/docker/abc/one", ("/docker/abc", str(tmp_path))) == number
    assert cgroup_id("/two", ("/", str(tmp_path))) is None


def test_addresses_are_written_as_proc_writes_them() -> None:
    if sys.byteorder != "little":
        pytest.skip("written for a little-endian machine")
    assert proc_net_address(ip_address("127.0.0.1"), "tcp") == "0100007F"
    assert proc_net_address(ip_address("127.0.0.1"), "tcp6") == "0000000000000000FFFF00000100007F"
    assert proc_net_address(ip_address("::1"), "tcp6") == "00000000000000000000000001000000"


@pytest.mark.parametrize("answer", [b"", b"\0" * 87, b"\x24\0\0\0\x02\0" + b"\0" * 100])
def test_an_answer_that_is_none_says_nothing(answer: bytes) -> None:
    assert parse_sock_diag(answer) is None


def test_attributes_that_lie_about_their_length_do_no_harm() -> None:
    head = (16 + 72 + 12).to_bytes(4, sys.byteorder) + (20).to_bytes(2, sys.byteorder) + b"\0" * 10
    for attribute in (b"\0\0\x15\0" + b"\0" * 8, b"\xff\xff\x15\0" + b"\1" * 8, b"\x03\0\x15\0" + b"\1" * 8):
        found = parse_sock_diag(head + b"\0" * 72 + attribute)
        assert found is not None
        assert found.cgroup_id is None
