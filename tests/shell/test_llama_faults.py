"""llama.cpp where it fails: what its server answers is made up here, byte by byte, over the private socket that it would have."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.engine.generation import Finish, Piece, Stop
from supervisord_ai.engine.llama import LlamaPolicy, LlamaServer
from supervisord_ai.errors import EngineFault, Refused

Asking = Callable[[LlamaServer], Awaitable[Any]]


def http(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@asynccontextmanager
async def answering(folder: Path, answer: bytes) -> AsyncIterator[LlamaServer]:
    """A server that gives every question this answer and closes."""
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    path = folder / "llama.sock"
    await listener.bind(str(path))
    listener.listen()

    async def answer_one(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer_one, [trio.SocketListener(listener)])
        yield LlamaServer(LlamaPolicy(folder / "m.gguf", slots=1, threads=1), path)
        nursery.cancel_scope.cancel()


async def tokenize(llama: LlamaServer) -> object:
    return await llama.tokenize("hi", is_text_special=False)


async def embed(llama: LlamaServer) -> object:
    return await llama.embed([1])


async def complete(llama: LlamaServer) -> list[Piece | Finish]:
    found: list[Piece | Finish] = []
    async with llama.complete([1], 0, {}) as stream:
        while not found or isinstance(found[-1], Piece):
            found.append(await stream.next())
    return found


@pytest.mark.parametrize(
    ("ask", "answer", "words"),
    [
        (tokenize, http("[1]"), r"llama\.cpp answered /tokenize with \[1\]"),
        (tokenize, http("<html>"), r"llama\.cpp answered with b'<html>'"),
        (tokenize, http('{"tokens":[1]}')[:-3], r"llama\.cpp's answer broke off"),
        (tokenize, http("gone", "500 Internal Server Error").replace(b"gone", b'"!!"'), r"llama\.cpp: \"!!\""),
        (tokenize, http('{"error":{"message":"wrong key"}}', "401 Unauthorized"), r"llama\.cpp: wrong key"),
        (embed, http('[{"embedding":[1,2]}]'), r"llama\.cpp answered an embedding with \[\{'embedding': \[1, 2\]\}\]"),
        (complete, http("data: [1]\n\n"), r"llama\.cpp sent b'data: \[1\]"),
        (complete, http('data: {"error":{"message":"out of slots"}}\n\n'), r"llama\.cpp: out of slots"),
        (complete, http('data: {"content":"a","tokens":[5]}\n\n'), "an error was encountered while running the model"),
    ],
)  # fmt: skip
async def test_what_it_says_otherwise_than_it_should_is_its_own_fault_and_in_its_words(
    tmp_path: Path, ask: Asking, answer: bytes, words: str
) -> None:
    async with answering(tmp_path, answer) as llama:
        with pytest.raises(EngineFault, match=words):
            await ask(llama)


async def test_what_it_blames_on_the_caller_is_the_callers(tmp_path: Path) -> None:
    answer = http('{"error":{"message":"failed to parse grammar"}}', "400 Bad Request")
    async with answering(tmp_path, answer) as llama:
        with pytest.raises(Refused, match="failed to parse grammar") as refused:
            await complete(llama)
        assert refused.value.status == 400


async def test_a_completion_is_its_pieces_and_its_counts_and_what_it_does_not_say_is_nothing(tmp_path: Path) -> None:
    events = 'data: {"content":"a","tokens":[5,"x"]}\n\ndata: {"content":7}\n\ndata: {"stop":true,"stop_type":"limit"}\n\n'
    async with answering(tmp_path, http(events)) as llama:
        assert await complete(llama) == [Piece("a", (5,)), Piece("", ()), Finish(Stop.LENGTH, 0, 0.0, 0, 0.0)]


async def test_one_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    llama = LlamaServer(LlamaPolicy(tmp_path / "m.gguf", slots=1, threads=1), tmp_path / "llama.sock")
    with pytest.raises(EngineFault, match=r"llama\.cpp does not answer: No such file or directory"):
        await tokenize(llama)


async def test_a_server_that_does_not_end_is_left_behind(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    is_over = threading.Event()

    class Hanging:
        def __del__(self) -> None:
            is_over.wait(10)

    path = tmp_path / "llama.sock"
    path.write_text("")
    llama = LlamaServer(LlamaPolicy(tmp_path / "m.gguf", slots=1, threads=1), path)
    llama._server = Hanging()
    try:
        with caplog.at_level(logging.ERROR):
            await llama.unload()
    finally:
        is_over.set()
    assert trio.current_time() == pytest.approx(10.0)
    assert caplog.messages == ["llama.cpp did not give m.gguf back within 10 s"]
    assert not path.exists()
