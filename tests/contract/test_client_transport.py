"""The agents' transport on both loops, before a server that does to each connection what the test says."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import SocketStream

from supervisord_ai import client
from supervisord_ai.client import Transport

LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])
BODY = b"the answer"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b"6\r\nfirst \r\n"

Story = Callable[[Path], Awaitable[None]]


class Scripted:
    """A server on a Unix socket: its first connection gets the first reply, and so on; each ends after its reply."""

    def __init__(self, path: Path, *replies: bytes) -> None:
        self.path = path
        self.seen: list[bytes] = []
        self._replies = list(replies)
        self._connections = 0

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        listener = await anyio.create_unix_listener(self.path)
        async with listener:
            task_status.started()
            await listener.serve(self._serve)

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            reply = self._replies[min(self._connections, len(self._replies) - 1)]
            self._connections += 1
            got = b""
            while b"\r\n\r\n" not in got:
                got += await stream.receive()
            head, _, body = got.partition(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
            is_chunked = b"\r\ntransfer-encoding" in head.lower()
            while len(body) < length or (is_chunked and not body.endswith(b"0\r\n\r\n")):
                body += await stream.receive()
            self.seen.append(head + b"\r\n\r\n" + body)
            await stream.send(reply)

    def keys(self) -> list[str]:
        lines = [line for text in self.seen for line in text.split(b"\r\n") if line.lower().startswith(b"idempotency-key:")]
        return [line.split(b":")[1].strip().decode() for line in lines]


def on(loop: str, story: Story) -> None:
    with tempfile.TemporaryDirectory(prefix="ai-client-") as folder:
        anyio.run(story, Path(folder) / "s", backend=loop)


async def asked(
    path: Path, replies: tuple[bytes, ...], *, target: str = "/api/chat", method: str = "POST", patience_s: float = 10.0
) -> tuple[Scripted, httpx.Response | httpx.TransportError, Transport]:
    """Send one request to a scripted server; return the server, what came of it, and the transport."""
    server = Scripted(path, *replies)
    transport = Transport(str(path), patience_s=patience_s)
    outcome: httpx.Response | httpx.TransportError
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.run)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            try:
                outcome = await http.request(method, target, content=b"{}" if method == "POST" else None)
            except httpx.TransportError as error:
                outcome = error
        tasks.cancel_scope.cancel()
    return server, outcome, transport


@LOOPS
def test_a_call_cut_before_its_answer_is_sent_again_with_its_key(loop: str) -> None:
    async def story(path: Path) -> None:
        for number, first in enumerate((b"", b"HTTP/1.1 200", HEAD, STREAM_HEAD)):
            server, outcome, transport = await asked(path.with_suffix(f".{number}"), (first, first, HEAD + BODY))
            assert isinstance(outcome, httpx.Response)
            assert outcome.content == BODY
            assert len(server.keys()) == 3
            assert len(set(server.keys())) == 1
            assert len(set(server.seen)) == 1
            assert transport.statistics().sent_again == 2

    on(loop, story)


@LOOPS
def test_after_the_first_byte_of_a_body_nothing_is_sent_again(loop: str) -> None:
    async def story(path: Path) -> None:
        for number, first in enumerate((HEAD + b"the", STREAM_HEAD + PIECE)):
            server, outcome, _ = await asked(path.with_suffix(f".{number}"), (first, HEAD + BODY))
            assert isinstance(outcome, httpx.RemoteProtocolError)
            assert len(server.seen) == 1

    on(loop, story)


@LOOPS
@pytest.mark.parametrize("target", ["/api/pull", "/api/create", "/api/blobs/sha256:0"])
def test_what_no_key_joins_to_its_first_is_sent_once(loop: str, target: str) -> None:
    async def story(path: Path) -> None:
        server, outcome, _ = await asked(path, (b"", HEAD + BODY), target=target)
        assert isinstance(outcome, httpx.RemoteProtocolError)
        assert (len(server.seen), server.keys()) == (1, [])

    on(loop, story)


@LOOPS
def test_a_get_is_sent_again_and_needs_no_key(loop: str) -> None:
    async def story(path: Path) -> None:
        server, outcome, _ = await asked(path, (b"", HEAD + BODY), target="/api/tags", method="GET")
        assert isinstance(outcome, httpx.Response)
        assert (len(server.seen), server.keys()) == (2, [])

    on(loop, story)


@LOOPS
def test_a_refusal_is_an_answer(loop: str) -> None:
    async def story(path: Path) -> None:
        refusal = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"
        server, outcome, _ = await asked(path, (refusal, HEAD + BODY))
        assert isinstance(outcome, httpx.Response)
        assert (outcome.status_code, len(server.seen)) == (503, 1)

    on(loop, story)


@LOOPS
def test_a_supervisor_that_is_not_there_yet_is_waited_for_whatever_is_asked(loop: str) -> None:
    async def story(path: Path) -> None:
        transport = Transport(str(path))
        server = Scripted(path, HEAD + BODY)
        came = []
        base_url = "http://localhost"
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as http, anyio.create_task_group() as tasks:

            async def pull() -> None:
                came.append((await http.post("/api/pull", content=b"{}")).content)
                tasks.cancel_scope.cancel()

            tasks.start_soon(pull)
            while transport.statistics().sent_again < 2:  # noqa: ASYNC110 - a count of the transport's: nothing to wait on
                await anyio.sleep(0.01)
            assert not came
            await tasks.start(server.run)
        assert came == [BODY]
        assert len(server.seen) == 1

    on(loop, story)


@LOOPS
def test_patience_ends_with_the_error_of_the_last_attempt(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def story(path: Path) -> None:
        async with httpx.AsyncClient(transport=Transport(str(path), patience_s=0.2)) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("http://localhost/api/tags")

    on(loop, story)
    # Who waits for a socket that is not there is told once, not at each attempt.
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("supervisord_ai.client")]
    assert "ConnectError" in said


@LOOPS
def test_a_body_that_comes_from_a_generator_is_sent_again_whole(loop: str) -> None:
    async def story(path: Path) -> None:
        server = Scripted(path, b"", HEAD + BODY)
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run)

            async def pieces() -> AsyncIterator[bytes]:
                yield b'{"model":'
                yield b'"m"}'

            async with httpx.AsyncClient(transport=Transport(str(path))) as http:
                answer = await http.post("http://localhost/v1/chat/completions", content=pieces())
            tasks.cancel_scope.cancel()
        assert answer.content == BODY
        bodies = [seen.partition(b"\r\n\r\n")[2] for seen in server.seen]
        assert len(bodies) == 2
        assert all(b'{"model":' in body and b'"m"}' in body for body in bodies)

    on(loop, story)


@LOOPS
def test_a_key_of_the_callers_own_stays(loop: str) -> None:
    async def story(path: Path) -> None:
        server = Scripted(path, HEAD + BODY)
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.run)
            async with client.http(str(path)) as http:
                await http.post("/api/chat", json={}, headers={"Idempotency-Key": "mine"})
            tasks.cancel_scope.cancel()
        assert server.keys() == ["mine"]

    on(loop, story)


@LOOPS
def test_a_caller_that_is_cancelled_while_it_waits_leaves_no_connection(loop: str) -> None:
    async def story(path: Path) -> None:
        server = Scripted(path, b"")
        left = anyio.Event()

        async def hold(stream: SocketStream) -> None:
            async with stream:
                await stream.receive()
                started.set()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
                left.set()

        started = anyio.Event()
        server._serve = hold  # type: ignore[method-assign]
        async with client.http(str(path)) as http, anyio.create_task_group() as tasks:
            await tasks.start(server.run)
            async with anyio.create_task_group() as callers:
                callers.start_soon(http.post, "/api/chat")
                await started.wait()
                callers.cancel_scope.cancel()
            with anyio.fail_after(10):
                await left.wait()
            tasks.cancel_scope.cancel()

    on(loop, story)


def test_who_is_no_agent_is_told_to_name_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AI_SUPERVISOR_SOCKET", raising=False)
    with pytest.raises(client.NoSocketError, match="AI_SUPERVISOR_SOCKET is not set"):
        client.http()
    monkeypatch.setenv("AI_SUPERVISOR_SOCKET", "/run/x")
    assert client.socket_path() == "/run/x"
    assert client.socket_path("/run/y") == "/run/y"
