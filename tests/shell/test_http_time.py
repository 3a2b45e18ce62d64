"""What a slow peer may cost, in virtual time."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from supervisord_ai.errors import PeerGone
from supervisord_ai.serve.connection import MemoryClient, memory_pair
from supervisord_ai.serve.http import Bounds, Exchange, serve_connection

BOUNDS = Bounds()


async def echo(exchange: Exchange) -> None:
    await exchange.respond(200, [], await exchange.body())


def serve(nursery: trio.Nursery) -> MemoryClient:
    client, served = memory_pair()

    async def run() -> None:
        await serve_connection(served, echo, BOUNDS)

    nursery.start_soon(run)
    return client


async def seconds_until_end(client: MemoryClient) -> tuple[float, bytes]:
    """How long it took until the server ended the connection, and what it said."""
    started_at, received = trio.current_time(), b""
    while data := await client.receive_some():
        received += data
    return trio.current_time() - started_at, received


async def drip(client: MemoryClient, data: bytes, every_s: float) -> None:
    try:
        for byte in data:
            await client.send_all(bytes([byte]))
            await trio.sleep(every_s)
    except PeerGone:
        return


async def test_a_connection_that_says_nothing_ends_after_the_idle_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    assert await seconds_until_end(serve(nursery)) == (BOUNDS.idle_s, b"")


async def test_the_idle_time_starts_again_with_each_request(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client = serve(nursery)
    for _ in range(5):
        await trio.sleep(BOUNDS.idle_s - 1)
        await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_a_head_that_comes_a_byte_at_a_time_ends_after_the_head_time(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client = serve(nursery)
    nursery.start_soon(drip, client, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000, 1.0)
    took_s, answer = await seconds_until_end(client)
    assert BOUNDS.head_timeout_s <= took_s <= BOUNDS.head_timeout_s + 1
    assert answer == b""


async def test_half_a_pipelined_head_has_no_more_time_than_a_first_one(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client = serve(nursery)
    await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT")
    took_s, _ = await seconds_until_end(client)
    assert took_s <= BOUNDS.head_timeout_s + 1


async def test_empty_lines_for_ever_are_idle(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    client = serve(nursery)
    nursery.start_soon(drip, client, b"\r\n" * 10_000, 1.0)
    took_s, _ = await seconds_until_end(client)
    assert took_s <= BOUNDS.idle_s + 1


async def test_a_body_that_stops_coming_is_408_and_one_that_comes_slowly_is_not(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n"
    client = serve(nursery)
    await client.send_all(head + b"x")
    took_s, answer = await seconds_until_end(client)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert BOUNDS.body_timeout_s <= took_s <= BOUNDS.body_timeout_s + 1

    client = serve(nursery)
    await client.send_all(head)
    nursery.start_soon(drip, client, b"x" * 20, BOUNDS.body_timeout_s - 1)
    assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_a_handler_may_take_as_long_as_it_likes(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    async def slow(exchange: Exchange) -> None:
        await trio.sleep(86_000)
        await exchange.respond(200, [], b"at last")

    client, served = memory_pair()
    nursery.start_soon(serve_connection, served, slow)
    await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.receive_some()).endswith(b"at last")


async def test_a_reader_that_takes_nothing_ends_its_own_answer_and_no_other(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    failed_at: list[float] = []

    async def huge(exchange: Exchange) -> None:
        if exchange.head.path == "/small":
            return await exchange.respond(200, [], b"small")
        try:
            await exchange.respond(200, [], b"x" * 1_000_000)
        except PeerGone:
            failed_at.append(trio.current_time())
            raise
        return None

    dead, dead_served = memory_pair()
    nursery.start_soon(serve_connection, dead_served, huge)
    await dead.send_all(b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    alive, alive_served = memory_pair()
    nursery.start_soon(serve_connection, alive_served, huge)
    await alive.send_all(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await alive.receive_some()).endswith(b"small")
    assert trio.current_time() == 0
    with pytest.raises(PeerGone):
        await seconds_until_end_of(dead, after_s=BOUNDS.write_timeout_s + 1)
    assert failed_at == [BOUNDS.write_timeout_s]


async def seconds_until_end_of(client: MemoryClient, *, after_s: float) -> None:
    await trio.sleep(after_s)
    await seconds_until_end(client)


async def test_a_burst_of_pipelined_requests_lets_others_have_their_turn(nursery: trio.Nursery) -> None:
    order: list[str] = []

    async def note(exchange: Exchange) -> None:
        order.append(exchange.head.path)
        await exchange.respond(200, [], b"")

    burst, burst_served = memory_pair(room_bytes=1_000_000)
    other, other_served = memory_pair()
    await burst.send_all(b"GET /burst HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
    await other.send_all(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
    nursery.start_soon(serve_connection, burst_served, note)
    nursery.start_soon(serve_connection, other_served, note)
    while len(order) < 501:
        await trio.testing.wait_all_tasks_blocked()
    assert order.index("/other") < 50
    burst.close()
    other.close()
