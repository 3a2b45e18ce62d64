"""Sockets that others connect to, made on the real kernel in folders of the test."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.errors import HostFault
from supervisord_ai.host import sockets
from supervisord_ai.host.sockets import BACKLOG, bind_tcp, bind_unix, make_runtime_dir, parse_address


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


def test_a_socket_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        wide = bind_unix(tmp_path / "llm.sock", mode=0o666)
        os.umask(0)
        narrow = bind_unix(tmp_path / "control.sock", mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE(wide.path.lstat().st_mode) == 0o666
    assert stat.S_IMODE(narrow.path.lstat().st_mode) == 0o600
    connect(wide.path).close()
    wide.close()
    narrow.close()
    assert list(tmp_path.iterdir()) == []


def test_131_callers_in_one_moment_find_room(tmp_path: Path) -> None:
    listener = bind_unix(tmp_path / "s", mode=0o600)
    callers = []
    for _ in range(131):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        assert sock.connect_ex(str(listener.path)) == 0
        callers.append(sock)
    assert BACKLOG >= 131
    for sock in callers:
        sock.close()
    listener.close()


def test_a_file_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
        left_behind.listen()
    assert path.exists()
    listener = bind_unix(path, mode=0o600)
    connect(path).close()
    listener.close()


@pytest.mark.parametrize("is_full", [False, True])
def test_a_living_socket_is_left_alone(tmp_path: Path, is_full: bool) -> None:
    path = tmp_path / "s"
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(path))
    other.listen(0)
    waiting = [connect(path)] if is_full else []
    inode = path.lstat().st_ino
    with pytest.raises(HostFault, match="somebody listens there; is another ai-supervisor running"):
        bind_unix(path, mode=0o600)
    assert path.lstat().st_ino == inode
    for sock in (other, *waiting):
        sock.close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(HostFault, match="is in the way and is not a socket"):
        bind_unix(path, mode=0o600)
    assert path.read_text() == "precious"
    target = tmp_path / "t"
    link = tmp_path / "l"
    link.symlink_to(target)
    with pytest.raises(HostFault, match="is not a socket"):
        bind_unix(link, mode=0o600)
    assert link.is_symlink()
    assert not target.exists()


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(HostFault, match="link"):
        bind_unix(tmp_path / "link" / "s", mode=0o600)


def test_closing_leaves_the_file_of_a_successor(tmp_path: Path) -> None:
    first = bind_unix(tmp_path / "s", mode=0o600)
    (tmp_path / "s").unlink()
    second = bind_unix(tmp_path / "s", mode=0o600)
    first.close()
    connect(second.path).close()
    second.close()
    assert not (tmp_path / "s").exists()
    second.close()


def test_a_path_too_long_for_a_socket_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match=r"too long for a socket \(107 bytes\): set daemon.runtime_dir"):
        bind_unix(tmp_path / ("x" * 120), mode=0o600)


def test_a_folder_for_others_can_be_entered_and_one_for_us_cannot(tmp_path: Path) -> None:
    make_runtime_dir(tmp_path / "a", for_others=True)
    make_runtime_dir(tmp_path / "b" / "c", for_others=False)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "b" / "c").stat().st_mode) == 0o700


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(HostFault, match="can be written by others: chmod go-w"):
        make_runtime_dir(folder, for_others=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(HostFault, match="file"):
        make_runtime_dir(tmp_path / "file", for_others=True)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(HostFault, match="is not a folder"):
        make_runtime_dir(tmp_path / "link", for_others=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with pytest.raises(HostFault, match="belongs to user 65534, not to the user who runs this"):
        make_runtime_dir(folder, for_others=True)


def test_a_file_that_cannot_be_removed_is_said_and_the_socket_is_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = bind_unix(tmp_path / "s", mode=0o600)

    def unlink(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", unlink)
    listener.close()
    assert caplog.messages == [f"{tmp_path / 's'} was not removed: Read-only file system"]
    with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
        caller.connect(str(tmp_path / "s"))


def test_a_socket_that_cannot_be_given_to_its_group_is_not_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")

    def chown(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", chown)  # a normal user gives files only to groups of his
    with pytest.raises(HostFault, match=r"/s: Operation not permitted$"):
        bind_unix(tmp_path / "s", mode=0o660, gid=4711)
    assert os.listdir("/proc/self/fd") == before
    bind_unix(tmp_path / "s", mode=0o660).close()  # nobody listens on what is left of it


# --- TCP ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_loopback_is_listened_on(where: str) -> None:
    listener = bind_tcp(where)
    socket.create_connection(listener.getsockname()[:2]).close()
    assert listener.getblocking() is False
    listener.close()


def test_a_taken_port_says_by_whom_and_what_to_do() -> None:
    first = bind_tcp("127.0.0.1:0")
    port = first.getsockname()[1]
    with pytest.raises(HostFault, match=rf"127\.0\.0\.1:{port} is taken by \S+ \(pid {os.getpid()}\): stop it, or set another"):
        bind_tcp(f"127.0.0.1:{port}")
    first.close()
    bind_tcp(f"127.0.0.1:{port}").close()


def test_a_port_taken_by_one_whom_we_may_not_look_into_is_taken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first = bind_tcp("127.0.0.1:0")
    where = f"127.0.0.1:{first.getsockname()[1]}"
    monkeypatch.setattr(sockets, "holders_of", lambda inodes: iter([99_999_999]))  # it ended since
    with pytest.raises(HostFault, match=rf"^{where} is taken: stop it, or set another address$"):
        bind_tcp(where)
    really = Path.read_text

    def read_text(path: Path, *args: Any, **named: Any) -> str:
        if str(path).startswith("/proc/net/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return really(path, *args, **named)

    monkeypatch.undo()
    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(HostFault, match=rf"^{where} is taken: stop it, or set another address$"):
        bind_tcp(where)
    first.close()


def test_a_kernel_without_ipv6_is_a_fault_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(family: int, kind: int) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", made)
    with pytest.raises(HostFault, match=r"^\[::1\]:0: Address family not supported by protocol$"):
        bind_tcp("[::1]:0")


@pytest.mark.parametrize("where", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"])
def test_beyond_loopback_must_be_said_twice(where: str) -> None:
    with pytest.raises(HostFault, match="not a loopback address"):
        bind_tcp(where)


def test_beyond_loopback_said_twice() -> None:
    listener = bind_tcp("0.0.0.0:0", beyond_loopback=True)
    assert listener.getsockname()[0] == "0.0.0.0"
    listener.close()


@pytest.mark.parametrize(
    "where", ["", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "host:80", "::1:80:", "1.2.3.4:٣"]
)
def test_what_is_no_address_is_said(where: str) -> None:
    with pytest.raises(HostFault, match="is not an address: write 127"):
        parse_address(where)


def test_an_address_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(HostFault, match=r"192\.0\.2\.1:0: Cannot assign") as caught:
        bind_tcp("192.0.2.1:0", beyond_loopback=True)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EADDRNOTAVAIL
