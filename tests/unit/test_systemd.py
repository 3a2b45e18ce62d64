"""How far we are, told to whoever asked."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from supervisord_ai.errors import HostFault
from supervisord_ai.host.systemd import Notifier


def listening(address: str) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(address)
    receiver.settimeout(5)
    return receiver


def test_it_is_told_in_order_and_no_child_can_speak_for_us(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PATH": "/bin"}
    with listening(environ["NOTIFY_SOCKET"]) as receiver:
        notifier = Notifier(environ)
        assert environ == {"PATH": "/bin"}
        notifier.ready("131 agents")
        notifier.stopping()
        assert [receiver.recv(100), receiver.recv(100)] == [b"READY=1\nSTATUS=131 agents", b"STOPPING=1"]


def test_an_abstract_address_begins_with_an_at_sign() -> None:
    with listening("\0ai-supervisor-test-notify") as receiver:
        Notifier({"NOTIFY_SOCKET": "@ai-supervisor-test-notify"}).status("starting")
        assert receiver.recv(100) == b"STATUS=starting"


def test_where_nobody_asked_nobody_is_told_and_one_who_cannot_be_reached_is_named(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    with pytest.raises(HostFault, match=r"NOTIFY_SOCKET /.*/nowhere: No such file"):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).ready("x")
