"""The listener goes on, whatever one connection or the process's descriptors do."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from supervisord_ai.errors import Refused
from supervisord_ai.ollama.streams import ByteStream, dial_tcp
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.http import Bounds, Exchange, Handler, OnConnection, ServeCounts, serve_listener

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_GET = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class StarvedListener(socket.socket):
    """Has no descriptors left for the first few connections."""

    refusals = [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]  # noqa: RUF012

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals:
            number = self.refusals.pop(0)
            raise OSError(number, "starved")
        return super().accept()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as made:
        yield made


async def hello(exchange: Exchange) -> None:
    await exchange.respond(200, [], b"hello")


async def anyone(_connection: Connection) -> Handler:
    return hello


async def start(
    nursery: trio.Nursery, listener: socket.socket, on_connection: OnConnection = anyone, counts: ServeCounts | None = None
) -> None:
    async def run() -> None:
        await serve_listener(listener, on_connection, Bounds(), kind="tcp", counts=counts)

    nursery.start_soon(run)


async def connect(listener: socket.socket) -> ByteStream:
    return await dial_tcp(*listener.getsockname()[:2])()


async def ask(listener: socket.socket, raw: bytes = LAST_GET) -> bytes:
    stream = await connect(listener)
    await stream.send_all(raw)
    received = b""
    while data := await stream.receive_some():
        received += data
    await stream.aclose()
    return received


async def test_131_callers_at_once_are_all_served(nursery: trio.Nursery, listener: socket.socket) -> None:
    counts = ServeCounts()
    await start(nursery, listener, counts=counts)
    answers: list[bytes] = []

    async def one() -> None:
        answers.append(await ask(listener))

    async with trio.open_nursery() as callers:
        for _ in range(131):
            callers.start_soon(one)
    assert all(answer.endswith(b"hello") for answer in answers)
    await trio.testing.wait_all_tasks_blocked()
    seen = counts.statistics()
    assert (seen.accepted, seen.requests, seen.open, seen.failed) == (131, 131, 0, 0)


async def test_who_calls_is_asked_once_per_connection(nursery: trio.Nursery, listener: socket.socket) -> None:
    asked: list[Connection] = []

    async def on_connection(connection: Connection) -> Handler:
        asked.append(connection)
        return hello

    await start(nursery, listener, on_connection)
    assert (await ask(listener, GET * 2 + LAST_GET)).count(b"hello") == 3
    assert len(asked) == 1
    assert asked[0].raw is not None
    assert asked[0].peer.kind == "tcp"


async def test_who_may_not_call_is_told_so_and_sent_away(nursery: trio.Nursery, listener: socket.socket) -> None:
    async def on_connection(_connection: Connection) -> Handler:
        raise Refused(403, "not one of us")

    await start(nursery, listener, on_connection)
    answer = await ask(listener, GET * 2)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"not one of us" in answer


async def test_a_failing_connection_ends_alone(
    nursery: trio.Nursery, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    is_failing = True

    async def on_connection(_connection: Connection) -> Handler:
        if is_failing:
            raise ZeroDivisionError
        return hello

    await start(nursery, listener, on_connection)
    assert await ask(listener) == b""
    assert "ZeroDivisionError" in caplog.text
    is_failing = False
    assert (await ask(listener)).endswith(b"hello")


async def test_a_peer_that_resets_ends_alone(nursery: trio.Nursery, listener: socket.socket) -> None:
    await start(nursery, listener)
    for raw in (b"", GET, GET[:5]):
        with socket.create_connection(listener.getsockname()) as rude:
            rude.send(raw)
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await trio.testing.wait_all_tasks_blocked()
    assert (await ask(listener)).endswith(b"hello")


async def test_out_of_descriptors_it_waits_says_so_once_and_goes_on(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    with StarvedListener(socket.AF_INET) as listener, caplog.at_level(logging.INFO):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        await start(nursery, listener)
        assert (await ask(listener)).endswith(b"hello")
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "starved" in caplog.text
        nursery.cancel_scope.cancel()


async def test_a_listener_that_is_gone_is_no_reason_to_spin(listener: socket.socket) -> None:
    listener.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(2):
        await serve_listener(listener, anyone, kind="tcp")
    assert caught.group_contains(OSError)
