"""The client of Ollama: every byte, no false end, and connections that are kept, given up and closed as promised."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from supervisord_ai.errors import PeerGone, UpstreamCut, UpstreamFault, UpstreamStalled, UpstreamUnreachable
from supervisord_ai.ollama.client import OllamaClient, Reply
from supervisord_ai.ollama.streams import ByteStream, dial_tcp
from supervisord_ai.serve.connection import Connection, memory_pair
from supervisord_ai.serve.http import Bounds, Exchange, Handler, serve_connection, serve_listener

Serve = Callable[[Connection], Awaitable[None]]
LINES = [b'{"response":"a"}\n', b'{"response":"b"}\n', b'{"done":true}\n']


class Upstream:
    """Dials fresh connections in memory to whatever serves them."""

    def __init__(self, nursery: trio.Nursery, serve: Serve, kind: str = "memory-tcp") -> None:
        self._nursery = nursery
        self._serve = serve
        self._kind = kind
        self.dialled: list[Connection] = []

    async def dial(self) -> ByteStream:
        client, served = memory_pair(self._kind)
        self.dialled.append(served)
        self._nursery.start_soon(self._serve, served)
        return client


def by_handler(handler: Handler) -> Serve:
    async def serve(connection: Connection) -> None:
        await serve_connection(connection, handler)

    return serve


def by_bytes(*answers: bytes) -> Serve:
    """Serves scripted bytes: the first connection gets the first answer, and so on; then it is closed."""
    left = list(answers)

    async def serve(connection: Connection) -> None:
        await connection.receive_some()
        await connection.send_all(left.pop(0))
        connection.close()

    return serve


async def read_all(reply: Reply) -> bytes:
    body = b""
    while (chunk := await reply.next_chunk()) is not None:
        body += chunk
    return body


async def read_answer(client: OllamaClient) -> bytes:
    async with client.open("POST", "/api/generate") as reply:
        return await read_all(reply)


async def stream_lines(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.start(200, [("Content-Type", "application/x-ndjson")])
    for line in LINES:
        await exchange.send(line)
        await trio.sleep(1)
    await exchange.finish()


async def test_chunks_come_as_they_are_sent(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_handler(stream_lines)).dial)
    async with client.open("POST", "/api/generate", body=b"{}") as reply:
        assert (reply.status, reply.headers.get("content-type")) == (200, "application/x-ndjson")
        for n, line in enumerate(LINES):
            assert await reply.next_chunk() == line
            assert trio.current_time() == n
        assert await reply.next_chunk() is None
        assert await reply.next_chunk() is None


async def test_giving_up_a_wait_loses_no_byte(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_handler(stream_lines)).dial)
    received: list[bytes] = []
    async with client.open("POST", "/api/generate") as reply:
        is_ended = False
        while not is_ended:
            with trio.move_on_after(0.3):
                chunk = await reply.next_chunk()
                is_ended = chunk is None
                received.append(chunk or b"")
    assert received == [*LINES, b""]


async def test_what_leaves_is_ours(nursery: trio.Nursery) -> None:
    seen: list[Exchange] = []

    async def note(exchange: Exchange) -> None:
        seen.append(exchange)
        await exchange.body()
        await exchange.respond(200, [], b"{}")

    upstream = Upstream(nursery, by_handler(note))
    theirs = [
        *(("Host", "evil"), ("Origin", "http://evil"), ("authorization", "Bearer agent"), ("Cookie", "a")),
        *(("Content-Length", "999"), ("Transfer-Encoding", "chunked"), ("Connection", "close"), ("Expect", "100-continue")),
        ("User-Agent", "theirs"),
    ]
    for secret, expected in ((None, []), ("s3cret", [("Authorization", "Bearer s3cret")])):
        client = OllamaClient("http://127.0.0.1:11434", dial=upstream.dial, secret=secret)
        async with client.open("POST", "/api/chat?x=1", body=b'{"a":1}', headers=theirs) as reply:
            await read_all(reply)
        await client.request_json("GET", "/api/tags", timeout_s=1)
        await client.aclose()
        head = seen[-2].head
        assert head.target == "/api/chat?x=1"
        assert head.headers.items() == [
            ("Host", "127.0.0.1:11434"),
            *expected,
            ("Content-Type", "application/json"),
            ("User-Agent", "theirs"),
            ("Content-Length", "7"),
        ]
        assert seen[-1].head.headers.get_all("host") == ["127.0.0.1:11434"]
        assert seen[-1].head.headers.get("authorization") == (f"Bearer {secret}" if secret else None)


async def test_a_header_that_would_make_another_is_refused_before_anything_is_sent(nursery: trio.Nursery) -> None:
    upstream = Upstream(nursery, by_bytes())
    client = OllamaClient("http://127.0.0.1:11434", dial=upstream.dial)
    with pytest.raises(ValueError, match="line break"):
        async with client.open("POST", "/api/chat", headers=[("X", "a\r\nOrigin: b")]):
            pass
    assert upstream.dialled == []
    assert client.statistics().in_use == 0


ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}',
    "chunked": b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n',
}


@pytest.mark.parametrize("form", ANSWERS)
async def test_cut_at_any_byte_an_answer_is_never_a_success(nursery: trio.Nursery, form: str) -> None:
    whole = ANSWERS[form]
    for cut in range(len(whole) + 1):
        client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_bytes(whole[:cut])).dial)
        if cut == len(whole):
            assert await read_answer(client) == b'{"a":1}'
        else:
            with pytest.raises(UpstreamFault) as caught:
                await read_answer(client)
            assert caught.value.saw_bytes == (cut > 0)
            assert getattr(caught.value, "after_bytes", 0) == cut
        assert client.statistics().in_use == 0


async def test_bytes_before_a_cut_are_delivered_before_it_is_told(nursery: trio.Nursery) -> None:
    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_bytes(ANSWERS["chunked"][:-3])).dial)
    async with client.open("POST", "/api/generate") as reply:
        assert await reply.next_chunk() == b'{"a":1}'
        with pytest.raises(UpstreamCut):
            await reply.next_chunk()
        with pytest.raises(UpstreamCut):
            await reply.next_chunk()


async def test_a_reset_is_a_cut(nursery: trio.Nursery) -> None:
    async def reset(connection: Connection) -> None:
        await connection.receive_some()
        await connection.send_all(ANSWERS["chunked"][:60])
        await trio.testing.wait_all_tasks_blocked()
        connection.abort()

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, reset).dial)
    async with client.open("POST", "/api/generate") as reply:
        with pytest.raises(UpstreamCut):
            await read_all(reply)


async def test_an_answer_that_is_no_http_is_a_cut(nursery: trio.Nursery) -> None:
    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_bytes(b"SSH-2.0-x\r\n\r\n")).dial)
    with pytest.raises(UpstreamCut):
        async with client.open("GET", "/"):
            pass


async def test_an_answer_may_come_before_the_request_was_read(nursery: trio.Nursery) -> None:
    async def hasty(connection: Connection) -> None:
        await connection.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        connection.close()

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, hasty).dial)
    async with client.open("POST", "/api/chat", body=b"x" * 1_000_000) as reply:
        assert (reply.status, await read_all(reply)) == (413, b"{}")


async def test_a_connection_is_used_again_after_a_whole_answer(nursery: trio.Nursery) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.respond(200, [], await exchange.body())

    upstream = Upstream(nursery, by_handler(answer))
    client = OllamaClient("http://127.0.0.1:11434", dial=upstream.dial)
    for n in range(5):
        async with client.open("POST", "/x", body=b"%d" % n) as reply:
            assert await read_all(reply) == b"%d" % n
    assert len(upstream.dialled) == 1
    assert (client.statistics().kept, client.statistics().in_use) == (1, 0)


async def test_leaving_before_the_end_closes_the_connection_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    gone_at: list[float] = []

    async def endless(exchange: Exchange) -> None:
        async with trio.open_nursery() as watch:

            async def note_leaver() -> None:
                await exchange.wait_gone()
                gone_at.append(trio.current_time())
                watch.cancel_scope.cancel()

            watch.start_soon(note_leaver)
            await exchange.start(200, [])
            while True:
                await exchange.send(b"x\n")
                await trio.sleep(1)

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_handler(endless)).dial)
    async with client.open("POST", "/x") as reply:
        await reply.next_chunk()
    with trio.move_on_after(10.5):
        async with client.open("POST", "/x") as reply:
            await read_all(reply)
    await trio.testing.wait_all_tasks_blocked()
    assert gone_at == [0, 10.5]
    assert (client.statistics().kept, client.statistics().in_use) == (0, 0)


async def test_giving_up_before_the_head_closes_the_connection_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def silent(connection: Connection) -> None:
        await connection.wait_gone()

    upstream = Upstream(nursery, silent)
    client = OllamaClient("http://127.0.0.1:11434", dial=upstream.dial)
    with trio.move_on_after(5):
        async with client.open("POST", "/x"):
            pytest.fail("there is no head")
    with trio.fail_after(0.1):
        await upstream.dialled[0].wait_gone()
    assert client.statistics().in_use == 0


async def test_a_kept_connection_that_died_costs_the_caller_nothing(nursery: trio.Nursery) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.respond(200, [], await exchange.body())

    upstream = Upstream(nursery, by_handler(answer))
    client = OllamaClient("http://127.0.0.1:11434", dial=upstream.dial)
    async with client.open("POST", "/x", body=b"1") as reply:
        await read_all(reply)
    upstream.dialled[0].close()
    async with client.open("POST", "/x", body=b"2") as reply:
        assert await read_all(reply) == b"2"
    assert (client.statistics().dialled, client.statistics().stale) == (2, 1)


async def test_what_came_on_an_idle_connection_is_not_the_next_answer(nursery: trio.Nursery) -> None:
    is_whole, has_talked = trio.Event(), trio.Event()

    async def talkative(connection: Connection) -> None:
        await connection.receive_some()
        await connection.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await is_whole.wait()
        await connection.send_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        has_talked.set()

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, talkative).dial)
    async with client.open("POST", "/x") as reply:
        await read_all(reply)
    is_whole.set()
    await has_talked.wait()
    async with client.open("POST", "/x") as reply:
        assert reply.status == 200
        await read_all(reply)
    assert (client.statistics().dialled, client.statistics().stale) == (2, 1)


@pytest.mark.parametrize(("method", "sent"), [("GET", [b"/1", b"/2", b"/2"]), ("POST", [b"/1", b"/2"])])
async def test_a_connection_that_ends_as_it_is_used_is_tried_again_by_who_counts_attempts(
    nursery: trio.Nursery, method: str, sent: list[bytes]
) -> None:
    seen: list[bytes] = []

    async def answer_once(connection: Connection) -> None:
        seen.append(await connection.receive_some())
        if len(seen) == 1:
            await connection.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            seen.append(await connection.receive_some())
        connection.close()

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, answer_once).dial)
    async with client.open(method, "/1") as reply:
        await read_all(reply)
    with pytest.raises(UpstreamUnreachable):
        async with client.open(method, "/2"):
            pass
    assert [raw.split()[1] for raw in seen] == sent
    with pytest.raises(UpstreamUnreachable):
        async with client.open(method, "/3"):
            pass
    assert [raw.split()[1] for raw in seen] == [*sent, b"/3"]


async def test_a_kept_connection_that_answered_a_byte_is_a_cut_and_not_tried_again(nursery: trio.Nursery) -> None:
    async def answer_once(connection: Connection) -> None:
        await connection.receive_some()
        await connection.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await connection.receive_some()
        await connection.send_all(b"H")
        connection.close()

    upstream = Upstream(nursery, answer_once)
    client = OllamaClient("http://127.0.0.1:11434", dial=upstream.dial)
    async with client.open("POST", "/1") as reply:
        await read_all(reply)
    with pytest.raises(UpstreamCut):
        async with client.open("POST", "/2"):
            pass
    assert len(upstream.dialled) == 1


async def test_more_calls_than_are_kept_do_not_wait_and_only_so_many_are_kept(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client = OllamaClient("http://x", dial=Upstream(nursery, by_handler(stream_lines)).dial, connections=3)

    async def call() -> None:
        async with client.open("POST", "/x") as reply:
            await read_all(reply)

    async with trio.open_nursery() as calls:
        for _ in range(5):
            calls.start_soon(call)
    assert trio.current_time() == 3
    assert (client.statistics().kept, client.statistics().in_use, client.statistics().dialled) == (3, 0, 5)
    await client.aclose()
    assert client.statistics().kept == 0


async def test_metadata_is_read_and_named(nursery: trio.Nursery) -> None:
    async def ollama(exchange: Exchange) -> None:
        answers = {
            "/api/version": (200, b'{"version":"0.33.0"}'),
            "/api/tags": (200, b'{"models":[{"name":"a:latest"}]}'),
            "/api/ps": (200, b'{"models":null}'),
            "/api/show": (200, b'{"capabilities":["completion"]}'),
        }
        status, body = answers[exchange.head.path]
        if exchange.head.path == "/api/show" and b"nope" in await exchange.body():
            status, body = 404, b'{"error":"model \'nope\' not found"}'
        await exchange.respond(status, [], body)

    client = OllamaClient("http://127.0.0.1:11434/", dial=Upstream(nursery, by_handler(ollama)).dial)
    assert await client.version() == "0.33.0"
    assert await client.tags() == [{"name": "a:latest"}]
    assert await client.ps() == []
    assert await client.show("a") == {"capabilities": ["completion"]}
    assert await client.show("nope") is None


async def test_metadata_that_does_not_come_is_a_stall(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.start(200, [])
        await exchange.send(b"{")
        await trio.sleep_forever()

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_handler(half)).dial)
    with pytest.raises(UpstreamStalled):
        await client.request_json("GET", "/api/tags", timeout_s=3)
    assert trio.current_time() == 3
    assert client.statistics().in_use == 0


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"404 page not found", {"error": "404 page not found"}),
        (500, b"", {}),
        (200, b"", {}),
    ],
)
async def test_an_error_in_plain_text_is_an_error_with_that_text(
    nursery: trio.Nursery, status: int, body: bytes, expected: dict[str, str]
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.respond(status, [], body)

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_handler(answer)).dial)
    assert await client.request_json("GET", "/x", timeout_s=1) == (status, expected)


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"x" * 17_000_000])
async def test_metadata_that_is_no_object_or_too_big_is_a_cut(nursery: trio.Nursery, body: bytes) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.respond(200, [], body)

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_handler(answer)).dial)
    with pytest.raises(UpstreamCut):
        await client.version()
    assert client.statistics().in_use == 0


async def test_metadata_in_a_coding_that_nobody_asked_for_is_a_cut(nursery: trio.Nursery) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.respond(200, [("Content-Encoding", "gzip")], b"no gzip")

    client = OllamaClient("http://127.0.0.1:11434", dial=Upstream(nursery, by_handler(answer)).dial)
    with pytest.raises(UpstreamCut):
        await client.version()
    assert client.statistics().in_use == 0


@pytest.mark.parametrize("url", ["https://x", "127.0.0.1:11434", "unix://host/path", "http://", "ftp://x", "http://x?y"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        OllamaClient(url)


async def test_over_real_sockets_it_is_the_same(nursery: trio.Nursery, tmp_path: Path) -> None:
    async def answer(exchange: Exchange) -> None:
        body = await exchange.body()
        await exchange.start(200, [])
        await exchange.send(body)
        await exchange.finish()

    async def on_connection(_connection: Connection) -> Handler:
        return answer

    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "ollama.sock"))
    unix.listen()
    body = b"x" * 3_000_000
    with unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        urls = {f"http://127.0.0.1:{tcp.getsockname()[1]}": tcp, f"unix://{tmp_path}/ollama.sock": unix}
        for url, listener in urls.items():
            async with trio.open_nursery() as serving:

                async def serve(listener: socket.socket = listener) -> None:
                    await serve_listener(listener, on_connection, Bounds(), kind="any")

                serving.start_soon(serve)
                client = OllamaClient(url)
                for _ in range(3):
                    async with client.open("POST", "/x", body=body) as reply:
                        assert await read_all(reply) == body
                assert client.statistics().dialled == 1
                await client.aclose()
                serving.cancel_scope.cancel()


async def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", f"unix://{tmp_path}/none.sock"):
        client = OllamaClient(url)
        with pytest.raises(UpstreamUnreachable):
            await client.version()
        assert client.statistics().in_use == 0
        await client.aclose()


async def test_a_port_where_nobody_listens_is_told_in_the_words_of_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UpstreamUnreachable, match=f"^127.0.0.1:{port}: Connection refused$"):
        await dial_tcp("127.0.0.1", port)()
    with pytest.raises(UpstreamUnreachable, match=r"^localhost:\d+: Connection refused$"):  # also where it has two
        await dial_tcp("localhost", port)()



async def test_a_kept_socket_tells_that_it_has_input_or_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await dial_tcp("127.0.0.1", listener.getsockname()[1])()
        served, _ = listener.accept()
        with served:
            assert not stream.has_input()
            served.send(b"xy")
            assert await stream.receive_some(1) == b"x"
            assert stream.has_input()
            assert await stream.receive_some() == b"y"
            assert not stream.has_input()
        assert await stream.receive_some() == b""
        assert stream.has_input()
        await stream.aclose()
        assert stream.has_input()


async def test_a_closed_stream_is_peer_gone_and_closes_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await dial_tcp("127.0.0.1", listener.getsockname()[1])()
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(PeerGone):
            await stream.receive_some()
        with pytest.raises(PeerGone):
            await stream.send_all(b"x")
