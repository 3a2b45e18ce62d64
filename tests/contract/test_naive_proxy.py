"""What thirty lines of proxy do to an Ollama that leaks: the reason for the spool, the load lane and the careful close.

Each switch of the double is shown to bite: a proxy that is correct by every book loses slots or connections with it, and loses
none without. So a gateway that passes with the switches on has done something about them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from supervisord_ai.errors import PeerGone
from supervisord_ai.serve.connection import MemoryClient, memory_pair
from supervisord_ai.serve.http import Exchange, serve_connection
from tests.fakes.ollama_double import Double, DoubleOptions, Leaks, ModelSpec, running

from .double_bench import exchange
from .golden.requests import generate, http

Clock = trio.abc.Clock
ROOM_BYTES = 1000  # what a reader that does not read lets through


class NaiveProxy:
    """Streams each answer as it comes, no faster than its caller reads, and stops asking at once when the caller leaves."""

    def __init__(self, double: Double) -> None:
        self.double = double

    async def handle(self, exchange: Exchange) -> None:
        body = await exchange.body()
        upstream = await self.double.dial()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_when_gone, exchange, nursery.cancel_scope)
            try:
                await upstream.send_all(http(exchange.head.method, exchange.head.path, body, ("Connection", "close")))
                received = b""
                while b"\r\n\r\n" not in received:
                    received += await upstream.receive_some()
                head, _, rest = received.partition(b"\r\n\r\n")
                await exchange.start(int(head.split()[1]), [])
                while rest:
                    await exchange.send(rest)
                    rest = await upstream.receive_some()
                await exchange.finish()
            except PeerGone:
                exchange.break_off()
            finally:
                await upstream.aclose()
            nursery.cancel_scope.cancel()

    async def _close_when_gone(self, exchange: Exchange, scope: trio.CancelScope) -> None:
        await exchange.wait_gone()
        exchange.break_off()
        scope.cancel()


class Callers:
    """Who calls through the proxy."""

    def __init__(self, double: Double, nursery: trio.Nursery) -> None:
        self.double = double
        self._nursery = nursery
        self._proxy = NaiveProxy(double)

    async def call(self, request: bytes) -> MemoryClient:
        client, served = memory_pair("memory-tcp", room_bytes=ROOM_BYTES)
        self._nursery.start_soon(serve_connection, served, self._proxy.handle)
        await client.send_all(request)
        return client

    async def is_served_within(self, seconds: float) -> bool:
        """Whether one more caller gets a whole answer."""
        client = await self.call(generate("[[n=1]]"))
        received = b""
        with trio.move_on_after(seconds):
            while b'"done":true' not in received and (data := await client.receive_some()):
                received += data
        client.close()
        return b'"done":true' in received


@asynccontextmanager
async def callers_of(leaks: Leaks, *, load_s: float = 0.5) -> AsyncIterator[Callers]:
    options = DoubleOptions(leaks=leaks, load_s=load_s)
    double = Double([ModelSpec("chat"), ModelSpec("second")], options, room_bytes=ROOM_BYTES)
    async with running(double), trio.open_nursery() as nursery:
        yield Callers(double, nursery)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_leaking", [False, True])
async def test_two_slow_readers_that_leave_cost_a_naive_proxy_both_slots(is_leaking: bool, autojump_clock: Clock) -> None:
    async with callers_of(Leaks(on_slow_disconnect=is_leaking)) as callers:
        slow = [await callers.call(generate("[[n=1000 delay=0.01]]")) for _ in range(2)]
        await trio.sleep(60)
        assert callers.double.statistics().running == 2  # held by readers who do not read
        for client in slow:
            client.close()
        assert await callers.is_served_within(60) is not is_leaking
        assert callers.double.statistics().lost_slots == (2 if is_leaking else 0)


@pytest.mark.parametrize("is_leaking", [False, True])
async def test_callers_that_leave_while_a_model_loads_cost_a_naive_proxy_a_handler_each(
    is_leaking: bool, autojump_clock: Clock
) -> None:
    async with callers_of(Leaks(on_pending_cancel=is_leaking), load_s=5) as callers:
        first = await callers.call(generate("[[n=1]]"))
        await trio.testing.wait_all_tasks_blocked()
        impatient = [await callers.call(generate("[[n=1]]", model="second")) for _ in range(3)]
        await trio.sleep(1)
        for client in impatient:
            client.close()
        assert await callers.is_served_within(60)
        first.close()
        await trio.testing.wait_all_tasks_blocked()
        counts = callers.double.statistics()
        assert counts.leaked_handlers == counts.connections == (3 if is_leaking else 0)


@pytest.mark.parametrize("fraction", [0.0, 0.5])
async def test_cancels_at_any_moment_cost_a_naive_proxy_both_slots(fraction: float, autojump_clock: Clock) -> None:
    async with callers_of(Leaks(mid_stream_cancel=fraction)) as callers:
        assert await callers.is_served_within(60)
        for number in range(20):
            client = await callers.call(generate("[[n=50 delay=0.1]]"))
            await trio.sleep(0.25 + 0.013 * number)
            client.close()
            await trio.testing.wait_all_tasks_blocked()
            if callers.double.statistics().lost_slots == 2:
                break
        assert callers.double.statistics().lost_slots == (2 if fraction else 0)
        assert await callers.is_served_within(60) is not bool(fraction)


async def test_the_naive_proxy_is_a_proxy(autojump_clock: Clock) -> None:
    async with callers_of(Leaks()) as callers:
        direct = await exchange(callers.double, generate("[[n=3]]"))
        assert b'"response":"w2 "' in direct
        assert await callers.is_served_within(60)
