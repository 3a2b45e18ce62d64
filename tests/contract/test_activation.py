"""Sockets that systemd passes: taken by their address, closed where nobody asks for them, and their files left to systemd."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from supervisord_ai.host.activation import PassedSockets


def passed(*sockets: socket.socket) -> PassedSockets:
    """Pass these as systemd would, at descriptors in a row."""
    first = 200
    for number, one in enumerate(sockets):
        os.dup2(one.fileno(), first + number, inheritable=True)
        one.close()
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": "x", "PATH": "/bin"}
    found = PassedSockets(environ, first_fd=first)
    assert environ == {"PATH": "/bin"}  # no child of ours takes them for its own
    return found


def unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def tcp(host: str = "127.0.0.1") -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.bind((host, 0))
    made.listen()
    return made


def test_each_is_found_by_its_address_and_serves(tmp_path: Path) -> None:
    face = tcp()
    where = f"localhost:{face.getsockname()[1]}"
    found = passed(unix(tmp_path / "llm.sock"), face)
    listener, taken = found.unix(tmp_path / "llm.sock"), found.tcp(where)
    assert listener is not None
    assert taken is not None
    for one in (listener.socket, taken):
        assert not one.get_inheritable()
        assert not one.getblocking()
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(str(tmp_path / "llm.sock"))
    listener.socket.accept()[0].close()
    caller.close()
    taken.close()
    listener.close()
    assert (tmp_path / "llm.sock").exists()  # systemd's, who goes on listening
    found.close()


def test_a_face_of_ipv6_is_found() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        face = tcp("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    where = f"[::1]:{face.getsockname()[1]}"
    taken = passed(face).tcp(where)
    assert taken is not None
    taken.close()


def test_what_nobody_asks_for_is_closed_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    face = tcp()
    port = face.getsockname()[1]
    found = passed(unix(tmp_path / "other.sock"), face)
    assert found.unix(tmp_path / "llm.sock") is None
    assert found.tcp("127.0.0.1:1") is None
    found.close()
    assert f"systemd listens on 127.0.0.1:{port}, which the config does not name" in caplog.text
    assert str(tmp_path / "other.sock") in caplog.text
    with socket.socket() as caller:
        assert caller.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(("pid", "fds"), [("", ""), ("1", "1"), (str(os.getpid()), "x")], ids=["nobody", "another", "us"])
def test_what_is_meant_for_another_process_is_not_touched(pid: str, fds: str, tmp_path: Path) -> None:
    found = PassedSockets({"LISTEN_PID": pid, "LISTEN_FDS": fds})
    assert found.unix(tmp_path / "llm.sock") is None
    assert repr(found) == "<sockets passed by systemd: none>"
