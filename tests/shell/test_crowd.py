"""As many connections as there can be: whoever holds most of them loses one, and nobody else."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio
import trio.testing

from supervisord_ai.errors import PeerGone
from supervisord_ai.ollama.streams import ByteStream, dial_tcp
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.http import Exchange, Handler, OnConnection, OpenConnections, serve_listener

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
Dial = Callable[[], Awaitable[ByteStream]]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
async def dial(listener: socket.socket) -> AsyncIterator[Dial]:
    """Connects, and waits until that was seen."""
    made = []

    async def one() -> ByteStream:
        made.append(await dial_tcp(*listener.getsockname()[:2])())
        await settled()
        return made[-1]

    yield one
    for stream in made:
        await stream.aclose()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.05)


def serve(nursery: trio.Nursery, listener: socket.socket, on_connection: OnConnection, crowd: OpenConnections) -> None:
    nursery.start_soon(partial(serve_listener, listener, on_connection, kind="tcp", crowd=crowd))


class Callers:
    """Tells who each connection is of, in the order in which they come, and keeps what is asked until it is let go."""

    def __init__(self, *names: str) -> None:
        self._names = iter(names)
        self.go = trio.Event()

    async def __call__(self, connection: Connection) -> Handler:
        await trio.lowlevel.checkpoint()
        connection.whose = next(self._names)

        async def handle(exchange: Exchange) -> None:
            await self.go.wait()
            await exchange.respond(200, [], b"hello")

        return handle


async def answer(stream: ByteStream, raw: bytes = GET) -> bytes:
    """What comes back; b"" from one that was ended."""
    with trio.fail_after(5):
        try:
            await stream.send_all(raw)
            return await stream.receive_some(1000)
        except PeerGone:
            return b""


async def test_who_takes_all_connections_loses_its_own_idlest_and_nobody_else_is_kept_waiting(
    nursery: trio.Nursery, listener: socket.socket, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    crowd, callers = OpenConnections(most=4), Callers("alice", "mallory", "mallory", "mallory", "bob", "carol")
    callers.go.set()
    serve(nursery, listener, callers, crowd)
    alice, *mallory = [await dial() for _ in range(4)]
    bob, carol = await dial(), await dial()
    for kept in (alice, mallory[2], bob, carol):
        assert b"hello" in await answer(kept)
    assert [await answer(ended) for ended in mallory[:2]] == [b"", b""]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "4 connections are too many, and mallory has 3 of them; the longest idle of them are ended"
    ]
    assert repr(crowd) == "<Crowd 4 of 4, 4 holders>"


async def test_who_has_nothing_but_busy_ones_is_told_why_one_of_them_ends(
    nursery: trio.Nursery, listener: socket.socket, dial: Dial
) -> None:
    callers = Callers("mallory", "mallory", "bob")
    serve(nursery, listener, callers, OpenConnections(most=2))
    first, second = await dial(), await dial()
    for stream in (first, second):
        await stream.send_all(GET)
        await settled()
    bob = await dial()
    told = await first.receive_some(1000)
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b"2 connections are too many, and mallory has 2 of them" in told
    assert await answer(first) == b""
    callers.go.set()
    assert b"hello" in await second.receive_some(1000)
    assert b"hello" in await answer(bob)


async def test_those_who_never_say_who_they_are_crowd_out_each_other(
    nursery: trio.Nursery, listener: socket.socket, dial: Dial
) -> None:
    callers = Callers("alice", "", "", "")
    callers.go.set()
    serve(nursery, listener, callers, OpenConnections(most=3))
    alice, *silent = [await dial() for _ in range(4)]
    assert b"hello" in await answer(alice)
    assert await answer(silent[0]) == b""
    assert b"hello" in await answer(silent[1])


async def test_an_answer_that_is_under_way_when_it_must_go_is_broken_off_and_never_ended_well(
    nursery: trio.Nursery, listener: socket.socket, dial: Dial
) -> None:
    async def trickle(exchange: Exchange) -> None:
        await exchange.start(200, [])
        await exchange.send(b"half")
        await trio.sleep_forever()

    async def mallorys(connection: Connection) -> Handler:
        await trio.lowlevel.checkpoint()
        connection.whose = "mallory"
        return trickle

    serve(nursery, listener, mallorys, OpenConnections(most=1))
    first = await dial()
    await first.send_all(GET)
    await settled()
    await dial()
    said = b""
    while data := await first.receive_some(1000):
        said += data
    assert said.endswith(b"4\r\nhalf\r\n"), "the last chunk, which would make it whole, is not there"


async def test_out_of_descriptors_room_is_made_too(nursery: trio.Nursery, listener: socket.socket, dial: Dial) -> None:
    """Others of the process may have taken what connections were to have."""
    crowd = OpenConnections()
    callers = Callers("mallory", "mallory", "bob")
    callers.go.set()
    serve(nursery, listener, callers, crowd)
    first, second = await dial(), await dial()
    crowd.make_room()
    assert await answer(first) == b""
    assert b"hello" in await answer(second)
    await second.aclose()
    await settled()
    crowd.make_room()  # nobody is there
    assert b"hello" in await answer(await dial())


async def test_who_gives_way_in_the_turn_in_which_it_came_is_not_asked_who_it_is(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    async def on_connection(connection: Connection) -> Handler:
        assert connection.raw is not None
        seen.append(connection.raw.fileno())
        await trio.sleep_forever()
        raise AssertionError

    callers = [socket.create_connection(listener.getsockname()[:2]) for _ in range(5)]
    async with trio.open_nursery() as nursery:
        serve(nursery, listener, on_connection, OpenConnections(1))
        await settled()
        nursery.cancel_scope.cancel()
    for one in callers:
        one.close()
    assert len(seen) == 1
    assert all(descriptor >= 0 for descriptor in seen)
    assert "Traceback" not in caplog.text
