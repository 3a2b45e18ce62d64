"""What `doctor` gets to know of an Ollama by asking it, over TCP and over a Unix socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisord_ai.cli.probing import RealAsker, Told
from supervisord_ai.errors import HostFault

VERSION = b'{"version":"0.12.6"}'
TAGS = b'{"models":[{"name":"llama3.2:3b"},{"name":"tinyllama:latest"}]}'
DATED = "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n"


@contextmanager
def answering(listener: socket.socket, *bodies: bytes, head: str = "") -> Iterator[list[bytes]]:
    """Answers one connection after the other with these bodies; returns what was asked."""
    listener.listen()
    listener.settimeout(10)
    asked: list[bytes] = []

    def answer() -> None:
        for body in bodies:
            peer, _ = listener.accept()
            with peer:
                asked.append(peer.recv(65536).partition(b"\r\n")[0])
                peer.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield asked
    finally:
        thread.join(10)
        listener.close()


def tcp() -> tuple[socket.socket, str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_ollama_tells_its_version_its_models_and_what_time_it_is_there() -> None:
    listener, url = tcp()
    with answering(listener, VERSION, TAGS, head=DATED) as asked:
        assert RealAsker().ask(url) == Told("0.12.6", ("llama3.2:3b", "tinyllama:latest"), 1_800_000_000.0)
    assert asked == [b"GET /api/version HTTP/1.1", b"GET /api/tags HTTP/1.1"]


def test_one_behind_a_unix_socket_is_asked_there_and_may_have_no_clock_and_no_model(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/o.sock")
    with answering(listener, VERSION, b'{"models":null}'):
        assert RealAsker().ask(f"unix://{tmp_path}/o.sock") == Told("0.12.6", (), None)


@pytest.mark.parametrize(
    "bodies",
    [(b"<html>",), (b"[]", TAGS), (b'{"version":"1"}', b"[]"), (b'{"version":"1"}', b'{"models":[1]}'), (b"{}", TAGS)],
    ids=["html", "a list", "no tags", "odd models", "no version"],
)
def test_what_answers_otherwise_is_no_ollama(bodies: tuple[bytes, ...]) -> None:
    listener, url = tcp()
    with answering(listener, *bodies), pytest.raises(HostFault, match="something answers there that is not an Ollama"):
        RealAsker().ask(url)


def test_where_nobody_listens_the_kernels_word_is_passed_on(tmp_path: Path) -> None:
    listener, url = tcp()
    listener.close()
    with pytest.raises(HostFault, match="connection refused"):
        RealAsker().ask(url)
    with pytest.raises(HostFault, match="no such file or directory"):
        RealAsker().ask(f"unix://{tmp_path}/o.sock")


def test_one_that_accepts_and_says_nothing_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisord_ai.cli.probing.PROBE_S", 0.05)
    listener, url = tcp()
    listener.listen()
    with listener, pytest.raises(HostFault, match="no answer"):
        RealAsker().ask(url)
