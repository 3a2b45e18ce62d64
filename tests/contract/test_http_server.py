"""The server's manners, on raw Unix and TCP sockets and on both forms in memory, byte for byte those of Go."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.errors import PeerGone, Refused
from supervisord_ai.serve.http import Bounds, Exchange, Handler, ServeCounts, serve_connection
from supervisord_ai.wire.http1 import RequestHead
from tests.contract.transports import KINDS, Caller, connect, read_to_end

SERVER_LOG = "supervisord_ai.serve.http"
Open = Callable[..., Caller]


async def echo(exchange: Exchange) -> None:
    """Answers as the request asks by its path."""
    match exchange.head.path:
        case "/ignore":
            await exchange.respond(200, [], b"ignored")
        case "/stream":
            body = await exchange.body()
            await exchange.start(200, [("Content-Type", "application/x-ndjson")])
            for line in body.splitlines(keepends=True):
                await exchange.send(line)
            await exchange.finish()
        case "/nothing":
            await exchange.respond(204, [("Allow", "POST")])
        case "/refuse":
            await exchange.body()
            raise Refused(503, "no", retry_after_s=1.2)
        case "/method":
            raise Refused(405, "405 method not allowed", allow="GET")
        case "/crash":
            raise KeyError("secret")
        case "/forget":
            pass
        case "/break":
            await exchange.start(200, [])
            await exchange.send(b"half an ans")
            exchange.break_off()
        case _:
            body = await exchange.body()
            words = [exchange.head.method, exchange.head.path, body.decode("latin-1")]
            await exchange.respond(200, [("Content-Type", "text/plain")], " ".join(words).encode())


@pytest.fixture(params=KINDS)
async def open_to(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Open]:
    """Opens connections to a server; all of them are closed afterwards."""
    opened: list[Caller] = []

    def open_one(handler: Handler = echo, bounds: Bounds = Bounds(), counts: ServeCounts | None = None) -> Caller:  # noqa: B008
        ends = connect(request.param)

        async def serve() -> None:
            await serve_connection(ends.served, handler, bounds, counts=counts)

        nursery.start_soon(serve)
        opened.append(ends.caller)
        return ends.caller

    yield open_one
    for caller in opened:
        caller.close()


async def ask(caller: Caller, raw: bytes) -> bytes:
    """Send, say that this was all, and read to the end; Date is left out and CRLF is LF, to be readable."""
    await caller.send_all(raw)
    caller.half_close()
    return plain(await read_to_end(caller))


def plain(raw: bytes) -> bytes:
    return re.sub(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", b"", raw).replace(b"\r\n", b"\n")


async def read_until(caller: Caller, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        data = await caller.receive_some()
        assert data, received
        received += data
    return plain(received)


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_an_answer_has_its_fields_then_date_and_length(open_to: Open) -> None:
    caller = open_to()
    await caller.send_all(post("/x", b"hi"))
    raw = await caller.receive_some()
    assert re.fullmatch(
        rb"HTTP/1\.1 200 OK\r\nContent-Type: text/plain\r\nDate: [^\r]+ GMT\r\nContent-Length: 10\r\n\r\nPOST /x hi", raw
    )


async def test_one_connection_carries_many_requests(open_to: Open) -> None:
    caller = open_to()
    for n in range(200):
        await caller.send_all(post("/x", b"%d" % n))
        assert (await read_until(caller, b" %d" % n)).startswith(b"HTTP/1.1 200 OK\n")


async def test_pipelined_requests_are_answered_in_order(open_to: Open) -> None:
    get = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
    raw = get % 1 + get % 2 + post("/stream", b"a\nb\n") + get.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % 3
    assert await ask(open_to(), raw) == (
        b"HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 7\n\nGET /1 "
        b"HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 7\n\nGET /2 "
        b"HTTP/1.1 200 OK\nContent-Type: application/x-ndjson\nTransfer-Encoding: chunked\n\n2\na\n\n2\nb\n\n0\n\n"
        b"HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 7\nConnection: close\n\nGET /3 "
    )


async def test_byte_by_byte_the_answer_is_the_same(open_to: Open) -> None:
    caller = open_to()
    chunks = b"".join(b"1\r\n%c\r\n" % c for c in b"hello")
    raw = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nT: x\r\n\r\n"
    for at in range(len(raw)):
        await caller.send_all(raw[at : at + 1])
    assert await read_until(caller, b"hello") == b"HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 13\n\nPOST /x hello"


async def test_head_gets_the_head_alone(open_to: Open) -> None:
    caller = open_to()
    for path in (b"/x", b"/x"):
        await caller.send_all(b"HEAD %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        assert await read_until(caller, b"\r\n\r\n") == b"HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 8\n\n"
    assert await ask(caller, b"HEAD /method HTTP/1.1\r\nHost: a\r\n\r\n") == (
        b"HTTP/1.1 405 Method Not Allowed\nContent-Type: application/json; charset=utf-8\nAllow: GET\nContent-Length: 34\n\n"
    )


async def test_no_content_has_no_length(open_to: Open) -> None:
    assert await ask(open_to(), post("/nothing", b"")) == b"HTTP/1.1 204 No Content\nAllow: POST\n\n"


async def test_a_stream_sends_nothing_before_its_first_piece_and_each_piece_at_once(open_to: Open) -> None:
    go = trio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.start(200, [])
        await go.wait()
        await exchange.send(b"one")
        await exchange.send(b"")
        await exchange.send(b"two")
        await exchange.finish()

    caller = open_to(slow)
    await caller.send_all(post("/x", b""))
    with trio.move_on_after(0.02) as scope:
        await caller.receive_some()
    assert scope.cancelled_caught
    go.set()
    assert await read_until(caller, b"0\r\n\r\n") == b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\none\n3\ntwo\n0\n\n"


async def test_a_stream_without_a_piece_is_a_whole_empty_answer(open_to: Open) -> None:
    assert await ask(open_to(), post("/stream", b"")) == (
        b"HTTP/1.1 200 OK\nContent-Type: application/x-ndjson\nTransfer-Encoding: chunked\n\n0\n\n"
    )


async def test_http_1_0_gets_its_version_and_the_end_of_the_connection(open_to: Open) -> None:
    raw = b"POST /stream HTTP/1.0\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\na\nb\n"
    await (caller := open_to()).send_all(raw)
    assert plain(await read_to_end(caller)) == b"HTTP/1.0 200 OK\nContent-Type: application/x-ndjson\n\na\nb\n"
    await (caller := open_to()).send_all(b"GET /x HTTP/1.0\r\n\r\n")
    assert plain(await read_to_end(caller)) == b"HTTP/1.0 200 OK\nContent-Type: text/plain\nContent-Length: 7\n\nGET /x "


async def test_http_1_0_keeps_a_connection_that_it_asked_to_keep(open_to: Open) -> None:
    raw = b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    one = b"HTTP/1.0 200 OK\nContent-Type: text/plain\nContent-Length: 7\nConnection: keep-alive\n\nGET /x "
    assert await ask(open_to(), raw * 2) == one * 2


async def test_100_continue_comes_when_the_body_is_read(open_to: Open) -> None:
    caller = open_to()
    await caller.send_all(post("/x", b"hi", "Expect: 100-Continue")[:-2])
    assert await read_until(caller, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\n\n"
    await caller.send_all(b"hi")
    assert (await read_until(caller, b"hi")).startswith(b"HTTP/1.1 200 OK\n")


async def test_who_waits_for_100_and_gets_an_answer_instead_is_sent_away(open_to: Open) -> None:
    caller = open_to()
    await caller.send_all(post("/ignore", b"hi", "Expect: 100-continue")[:-2])
    assert plain(await read_to_end(caller)) == b"HTTP/1.1 200 OK\nContent-Length: 7\nConnection: close\n\nignored"


async def test_another_expectation_is_417(open_to: Open) -> None:
    answer = await ask(open_to(), post("/x", b"hi", "Expect: tea"))
    assert answer.startswith(b"HTTP/1.1 417 Expectation Failed\n")
    assert b"Content-Length: 0\n" in answer


TEXT = b"\nContent-Type: text/plain; charset=utf-8\nConnection: close\n\n"
MALFORMED = {
    "words": (b"garbage\r\n\r\n", b"HTTP/1.1 400 Bad Request" + TEXT + b"400 Bad Request"),
    "no host": (
        b"GET / HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 400 Bad Request: missing required Host header" + TEXT + b"400 Bad Request: missing required Host header",
    ),
    "huge head": (
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 431 Request Header Fields Too Large" + TEXT + b"431 Request Header Fields Too Large",
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 400 Bad Request" + TEXT + b"400 Bad Request",
    ),
    "gzip": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 501 Not Implemented" + TEXT + b"Unsupported transfer encoding",
    ),
    "half a head": (b"GET / HT", b"HTTP/1.1 400 Bad Request" + TEXT + b"400 Bad Request"),
    "a bad chunk": (
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 400 Bad Request\nContent-Type: application/json; charset=utf-8\nContent-Length: 40\nConnection: close\n\n"
        b'{"error":"invalid byte in chunk length"}',
    ),
    "a short body": (
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 400 Bad Request\nContent-Type: application/json; charset=utf-8\nContent-Length: 26\n\n"
        b'{"error":"unexpected EOF"}',
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_input_gets_gos_answer_and_the_end(open_to: Open, case: str) -> None:
    raw, answer = MALFORMED[case]
    counts = ServeCounts()
    assert await ask(open_to(counts=counts), raw) == answer
    assert await ask(open_to(counts=counts), b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n") != b""
    assert counts.statistics().failed == 0


async def test_what_follows_malformed_input_is_never_served(open_to: Open) -> None:
    smuggled = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert (await ask(open_to(), smuggled + post("/x", b"!"))).count(b"HTTP/1.1") == 1
    broken_body = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + post("/x", b"!")
    assert (await ask(open_to(), broken_body)).count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_the_limit_is_413_and_its_sender_can_read_that_while_sending(open_to: Open, is_chunked: bool) -> None:
    caller = open_to(bounds=Bounds(body_bytes=100_000))
    size = 300_000
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % size
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size) if is_chunked else b"x" * size
    answers: list[bytes] = []

    async def read() -> None:
        answers.append(await read_to_end(caller))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await caller.send_all(b"POST /x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing + body)
        caller.half_close()
    assert answers[0].startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
    assert answers[0].endswith(b'{"error":"http: request body too large"}')


async def test_a_handler_may_ask_for_less_than_the_limit(open_to: Open) -> None:
    async def small(exchange: Exchange) -> None:
        await exchange.respond(200, [], await exchange.body(max_bytes=3))

    assert (await ask(open_to(small), post("/x", b"123"))).endswith(b"\n\n123")
    assert b" 413 " in await ask(open_to(small), post("/x", b"1234"))


async def test_a_body_that_nobody_read_is_not_the_next_request(open_to: Open) -> None:
    inner = post("/crash", b"")
    assert (await ask(open_to(), post("/ignore", inner) + post("/x", b"hi"))).endswith(b"POST /x hi")


async def test_a_huge_body_that_nobody_read_ends_the_connection(open_to: Open) -> None:
    answer = await ask(open_to(), post("/ignore", b"x" * 300_000) + post("/x", b"hi"))
    assert answer == b"HTTP/1.1 200 OK\nContent-Length: 7\nConnection: close\n\nignored"


async def test_a_refusal_is_answered_and_the_connection_goes_on(open_to: Open) -> None:
    answer = await ask(open_to(), post("/refuse", b"x") + post("/x", b"hi"))
    assert answer.startswith(
        b"HTTP/1.1 503 Service Unavailable\nContent-Type: application/json; charset=utf-8\nRetry-After: 2\n"
        b'Content-Length: 14\n\n{"error":"no"}HTTP/1.1 200 OK\n'
    )


@pytest.mark.parametrize(("wait_s", "told"), [(0.0, b"1"), (59.1, b"60"), (3600.0, b"60")])
async def test_retry_after_is_whole_seconds_from_1_to_60(open_to: Open, wait_s: float, told: bytes) -> None:
    async def refuse(_exchange: Exchange) -> None:
        raise Refused(429, "slowly", retry_after_s=wait_s)

    assert b"\nRetry-After: %b\n" % told in await ask(open_to(refuse), post("/x", b""))


async def test_a_refusal_out_of_a_nursery_is_a_refusal(open_to: Open) -> None:
    async def refuse(_exchange: Exchange) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise Refused(422, "another body under this key")

    assert (await ask(open_to(refuse), post("/x", b""))).startswith(b"HTTP/1.1 422 Unprocessable Entity\n")


async def test_a_refusal_may_have_another_shape(nursery: trio.Nursery) -> None:
    ends = connect("memory-unix")

    async def serve() -> None:
        await serve_connection(ends.served, echo, shape=shout)

    def shout(head: RequestHead | None, refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
        return [("X", head.path if head else "?")], refused.message.upper().encode()

    nursery.start_soon(serve)
    assert (await ask(ends.caller, post("/refuse", b""))).endswith(b"X: /refuse\nRetry-After: 2\nContent-Length: 2\n\nNO")


async def test_a_crash_is_a_500_that_tells_nothing_and_one_log_line(open_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    counts = ServeCounts()
    with caplog.at_level(logging.INFO, SERVER_LOG):
        answer = await ask(open_to(counts=counts), post("/crash", b"") + post("/x", b"hi"))
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"secret" not in answer
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert counts.statistics().failed == 1


async def test_a_handler_that_forgets_to_answer_is_a_500(open_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    assert (await ask(open_to(), post("/forget", b""))).startswith(b"HTTP/1.1 500 ")
    assert "without an answer" in caplog.text


async def test_a_stream_that_crashes_is_cut_and_never_ends_well(open_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    async def crash(exchange: Exchange) -> None:
        await exchange.start(200, [])
        await exchange.send(b"half")
        raise Refused(503, "too late for a refusal")

    answer = await ask(open_to(crash), post("/x", b""))
    assert answer == b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n"
    assert "failed" in caplog.text


async def test_an_answer_that_is_broken_off_lacks_its_end(open_to: Open) -> None:
    answer = await ask(open_to(), post("/break", b"") + post("/x", b""))
    assert answer == b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nb\nhalf an ans\n"


async def test_an_http_1_0_answer_is_broken_off_by_a_reset(open_to: Open, request: pytest.FixtureRequest) -> None:
    caller = open_to()
    await caller.send_all(b"GET /break HTTP/1.0\r\n\r\n")
    if request.node.callspec.params["open_to"] == "unix":
        assert (await read_to_end(caller)).endswith(b"half an ans")
    else:
        with pytest.raises(PeerGone):
            await read_to_end(caller)


async def test_a_line_break_in_a_header_is_a_500_and_never_a_header(open_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    async def inject(exchange: Exchange) -> None:
        await exchange.respond(200, [("X", "a\r\nSet-Cookie: b")], b"")

    answer = await ask(open_to(inject), post("/x", b""))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Set-Cookie" not in answer


async def test_a_leaver_is_seen_by_the_handler_and_is_no_error(open_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    is_serving, is_over = trio.Event(), trio.Event()

    async def stream(exchange: Exchange) -> None:
        is_serving.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await exchange.wait_gone()
                told.append("gone")
                await exchange.start(200, [])
                for _ in range(1000):
                    await exchange.send(b"x" * 10_000)
        finally:
            is_over.set()

    caller = open_to(stream)
    await caller.send_all(post("/x", b""))
    await is_serving.wait()
    caller.close()
    with caplog.at_level(logging.INFO, SERVER_LOG), trio.fail_after(2):
        await is_over.wait()
        await trio.testing.wait_all_tasks_blocked()
    assert told == ["gone"]
    assert not caplog.records


async def test_an_error_beside_a_cancellation_does_not_outlive_it(open_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn(_exchange: Exchange) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

    ends = connect("memory-unix")
    async with trio.open_nursery() as daemon:
        daemon.start_soon(serve_connection, ends.served, stubborn)
        await ends.caller.send_all(post("/x", b""))
        await trio.testing.wait_all_tasks_blocked()
        daemon.cancel_scope.cancel()
    assert "ZeroDivisionError" in caplog.text


async def test_a_handler_that_goes_on_after_the_leaver_is_told_again(open_to: Open, caplog: pytest.LogCaptureFixture) -> None:
    told = trio.Event()

    async def deaf(exchange: Exchange) -> None:
        await exchange.wait_gone()
        await exchange.start(200, [])
        for _ in range(3):
            with pytest.raises(PeerGone):
                await exchange.send(b"x" * 10_000_000)
        with pytest.raises(PeerGone):
            await exchange.finish()
        told.set()

    caller = open_to(deaf)
    await caller.send_all(post("/x", b""))
    await trio.testing.wait_all_tasks_blocked()
    caller.close()
    with trio.fail_after(2):
        await told.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert not caplog.records


FRAGMENTS = st.sampled_from(
    [
        *(b"GET /x HTTP/1.1\r\n", b"POST /stream HTTP/1.1\r\n", b"HEAD /x HTTP/1.0\r\n", b"Host: a\r\n", b"\r\n", b"\r", b"\n"),
        *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n"),
        *(b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc", b"\x00", b"Upgrade: h2c\r\nConnection: upgrade\r\n"),
    ]
)


@given(st.lists(FRAGMENTS, max_size=20), st.lists(st.integers(1, 30), max_size=30))
async def test_whatever_comes_the_server_answers_in_http_and_ends(fragments: list[bytes], sizes: list[int]) -> None:
    ends, counts = connect("memory-unix"), ServeCounts()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_connection(ends.served, echo, counts=counts)

        nursery.start_soon(serve)
        rest = b"".join(fragments)
        with contextlib.suppress(PeerGone):
            for size in [*sizes, len(rest)]:
                await ends.caller.send_all(rest[:size])
                rest = rest[size:]
        ends.caller.half_close()
        with trio.fail_after(5):
            answer = await read_to_end(ends.caller)
    assert answer.startswith(b"HTTP/1.") or not answer
    assert (counts.statistics().failed, counts.statistics().open) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_the_server_closes_the_connection(kind: str) -> None:
    ends = connect(kind)
    counts = ServeCounts()
    async with trio.open_nursery() as inner:

        async def serve() -> None:
            await serve_connection(ends.served, echo, counts=counts)

        inner.start_soon(serve)
        await ends.caller.send_all(b"GET /x HT")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert counts.statistics().open == 1
        inner.cancel_scope.cancel()
    assert counts.statistics().open == 0
    assert plain(await read_to_end(ends.caller)) == b""
    ends.caller.close()
