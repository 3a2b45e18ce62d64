"""The Connection contract, on raw Unix and TCP sockets and on both forms in memory."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from supervisord_ai.errors import PeerGone
from supervisord_ai.serve.connection import Connection, MemoryConnection, SocketConnection
from tests.contract.transports import KINDS, Ends, connect, read_to_end

SOON_S = 0.25  # the promise: a leaver is seen within this


@pytest.fixture(params=KINDS)
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    pair = connect(request.param)
    yield pair
    pair.served.close()
    pair.caller.close()


async def is_gone_soon(connection: Connection) -> bool:
    with trio.move_on_after(SOON_S):
        await connection.wait_gone()
        return True
    return False


async def test_bytes_go_both_ways(ends: Ends) -> None:
    await ends.caller.send_all(b"question")
    assert await ends.served.receive_some() == b"question"
    await ends.served.send_all(b"answer")
    assert await ends.caller.receive_some() == b"answer"


async def test_a_read_takes_no_more_than_it_was_asked_for(ends: Ends) -> None:
    await ends.caller.send_all(b"12345")
    assert await ends.served.receive_some(2) == b"12"
    assert await ends.served.receive_some(10) == b"345"


async def test_a_half_close_is_read_as_the_end_after_what_was_sent_and_can_still_be_answered(ends: Ends) -> None:
    await ends.caller.send_all(b"all of it")
    ends.caller.half_close()
    assert await ends.served.receive_some() == b"all of it"
    assert await ends.served.receive_some() == b""
    assert await ends.served.receive_some() == b""
    await ends.served.send_all(b"answer")
    ends.served.close()
    assert await read_to_end(ends.caller) == b"answer"


async def test_a_half_close_is_a_leaver_on_tcp_and_a_caller_still_waiting_on_unix(ends: Ends) -> None:
    ends.caller.half_close()
    assert await is_gone_soon(ends.served) == ends.served.peer.kind.endswith("tcp")


async def test_a_hang_up_is_seen_soon_even_behind_bytes_that_nobody_read(ends: Ends) -> None:
    await ends.caller.send_all(b"unread")
    ends.caller.close()
    assert await is_gone_soon(ends.served)


async def test_a_hang_up_is_seen_while_another_task_reads(ends: Ends) -> None:
    seen: list[bytes] = []

    async def read() -> None:
        seen.append(await ends.served.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(ends.served.wait_gone)
        await trio.testing.wait_all_tasks_blocked()
        ends.caller.close()
    assert seen == [b""]


async def test_a_reset_is_seen_soon(ends: Ends) -> None:
    ends.caller.abort()
    assert await is_gone_soon(ends.served)


async def test_a_peer_that_is_there_is_not_gone_whatever_it_sends(ends: Ends) -> None:
    await ends.caller.send_all(b"x" * 1000)
    with trio.move_on_after(0.02) as scope:
        await ends.served.wait_gone()
    assert scope.cancelled_caught
    assert await ends.served.receive_some() == b"x" * 1000


async def test_any_number_of_tasks_may_wait_for_the_end(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ends.served.wait_gone)
        await trio.testing.wait_all_tasks_blocked()
        ends.caller.close()


async def test_waiting_for_the_end_can_be_given_up_and_taken_up_again(ends: Ends) -> None:
    for _ in range(3):
        with trio.move_on_after(0.01):
            await ends.served.wait_gone()
    ends.caller.close()
    assert await is_gone_soon(ends.served)
    assert await is_gone_soon(ends.served)


async def test_sending_to_a_leaver_is_peer_gone(ends: Ends) -> None:
    ends.caller.close()
    await ends.served.wait_gone()
    # The kernel's TCP takes bytes until it hears the reset; none of them may block.
    with pytest.raises(PeerGone):
        await ends.served.send_all(b"x" * 10_000_000)


async def test_what_is_sent_before_the_close_is_read_before_the_end(ends: Ends) -> None:
    await ends.served.send_all(b"x" * 20_000)
    ends.served.close()
    assert await read_to_end(ends.caller) == b"x" * 20_000


async def test_after_the_end_of_sending_reading_goes_on(ends: Ends) -> None:
    ends.served.send_eof()
    assert await read_to_end(ends.caller) == b""
    await ends.caller.send_all(b"more")
    assert await ends.served.receive_some() == b"more"


async def test_a_big_answer_waits_for_a_slow_reader_and_loses_nothing(ends: Ends) -> None:
    data = os.urandom(3_000_000)
    sent = trio.Event()

    async def answer() -> None:
        await ends.served.send_all(data)
        sent.set()
        ends.served.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not sent.is_set()
        assert await read_to_end(ends.caller) == data


async def test_a_reader_that_takes_nothing_is_given_up(ends: Ends) -> None:
    ends.served.write_timeout_s = 0.05
    with pytest.raises(PeerGone, match="took no byte"):
        await ends.served.send_all(b"x" * 10_000_000)
    with pytest.raises(PeerGone):
        await ends.served.send_all(b"x")


async def test_a_reader_that_takes_a_little_in_time_is_not_given_up(ends: Ends) -> None:
    ends.served.write_timeout_s = 0.5
    data = b"x" * 2_000_000
    received = 0

    async def answer() -> None:
        await ends.served.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        while received < len(data):
            received += len(await ends.caller.receive_some(200_000))
            await trio.sleep(0.02)
    assert received == len(data)


async def test_closing_wakes_who_reads_who_writes_and_who_waits(ends: Ends) -> None:
    woken: list[str] = []

    async def read() -> None:
        with pytest.raises(PeerGone):
            await ends.served.receive_some()
        woken.append("reader")

    async def write() -> None:
        with pytest.raises(PeerGone):
            await ends.served.send_all(b"x" * 10_000_000)
        woken.append("writer")

    async def wait() -> None:
        await ends.served.wait_gone()
        woken.append("waiter")

    async with trio.open_nursery() as nursery:
        for task in (read, write, wait):
            nursery.start_soon(task)
        await trio.testing.wait_all_tasks_blocked(0.01)
        ends.served.close()
    assert sorted(woken) == ["reader", "waiter", "writer"]


async def test_a_closed_connection_fails_and_is_gone_and_closes_again(ends: Ends) -> None:
    ends.served.close()
    ends.served.close()
    ends.served.abort()
    ends.served.send_eof()
    assert await is_gone_soon(ends.served)
    with pytest.raises(PeerGone):
        await ends.served.receive_some()
    with pytest.raises(PeerGone):
        await ends.served.send_all(b"x")


async def test_an_abort_is_an_error_at_the_other_end_where_the_transport_can_say_so(ends: Ends) -> None:
    await ends.served.send_all(b"half an ans")
    ends.served.abort()
    if ends.served.peer.kind == "unix":
        assert await read_to_end(ends.caller) == b"half an ans"
    else:
        with pytest.raises(PeerGone):
            await read_to_end(ends.caller)


async def test_every_wait_can_be_cancelled_and_leaves_no_descriptor(ends: Ends) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with trio.move_on_after(0.005):
            await ends.served.receive_some()
        with trio.move_on_after(0.005):
            await ends.served.wait_gone()
        with trio.move_on_after(0.005):
            await ends.served.send_all(b"x" * 10_000_000)
    assert len(os.listdir("/proc/self/fd")) == before
    is_real = ends.served.raw is not None
    ends.served.close()
    assert len(os.listdir("/proc/self/fd")) == before - is_real


async def test_every_operation_on_a_cancelled_connection_is_a_checkpoint(ends: Ends) -> None:
    ends.served.write_timeout_s = 1
    await ends.caller.send_all(b"x")
    for operation in (ends.served.receive_some, ends.served.wait_gone, lambda: ends.served.send_all(b"x")):
        with trio.CancelScope() as scope:
            scope.cancel()
            await operation()
        assert scope.cancelled_caught


async def test_a_peer_says_how_it_came() -> None:
    for kind in KINDS:
        ends = connect(kind)
        assert ends.served.peer.kind == kind
        assert isinstance(ends.served, MemoryConnection if kind.startswith("memory") else SocketConnection)
        assert (ends.served.raw is None) == kind.startswith("memory")
        ends.served.close()
        ends.caller.close()


async def test_a_peer_that_left_before_it_was_named_is_still_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    theirs.close()
    connection = SocketConnection(ours)
    assert connection.peer.address
    connection.close()
