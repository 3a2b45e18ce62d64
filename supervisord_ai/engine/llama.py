"""The one door to llama.cpp: its server inside this process, asked over a private Unix socket.

Its HTTP face is used rather than its callbacks because it has what they lack: the template and the tokenizer on their own, a
chosen slot, exact tokens and times, and a call that ends when its connection is closed (0.06 s while it generates). Its key is
random, its socket lies in a folder of ours; nobody else is meant to reach it. It cannot do without threads, so loading and
unloading happen in one of trio's.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import trio

from supervisord_ai.core.calls import Json, JsonObject
from supervisord_ai.engine.asked import Message
from supervisord_ai.engine.generation import Finish, LlamaStream, Piece, Stop
from supervisord_ai.errors import EngineFault, Refused
from supervisord_ai.wire.http1 import Broken, End, ResponseEvent, ResponseHead, ResponseParser
from supervisord_ai.wire.json_go import NotJson, decode, encode
from supervisord_ai.wire.sse import EventSplitter

log = logging.getLogger(__name__)

NOT_NORMALISED = -1
UNLOAD_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class LlamaPolicy:
    """How llama.cpp is set up. `context_tokens` is what one slot holds; a text to embed must fit into `batch_tokens`."""

    model_file: Path
    slots: int
    threads: int
    context_tokens: int = 2048
    batch_tokens: int = 512


class LlamaServer:
    """llama.cpp's server, loaded and unloaded on demand. The socket's name must end with `.sock`, or it is taken for a host."""

    def __init__(self, policy: LlamaPolicy, socket: Path) -> None:
        self._policy = policy
        self._socket = socket
        self._key = secrets.token_hex(16)
        self._server: object | None = None

    async def load(self) -> None:
        """Read the model into memory (0.4 s from a warm page cache). Returns when it answers.

        Raises:
            EngineFault: the file cannot be loaded.
        """
        self._server = await trio.to_thread.run_sync(self._build)
        # One token through its queue. A server that is destroyed before its loop has begun waits for the loop's end for ever.
        async with self._open("/completion", {"prompt": [0], "n_predict": 0}) as answer:
            await answer.whole()
        log.info("loaded %s", self._policy.model_file.name)

    async def unload(self) -> None:
        """Give the memory back (0.03 s). A server that does not end is left behind: what comes next matters more."""
        held, self._server = [self._server], None
        with trio.move_on_after(UNLOAD_WITHIN_S) as waiting:
            await trio.to_thread.run_sync(_destroy, held, abandon_on_cancel=True)
        with suppress(FileNotFoundError):
            self._socket.unlink()
        if waiting.cancelled_caught:
            log.error("llama.cpp did not give %s back within %.0f s", self._policy.model_file.name, UNLOAD_WITHIN_S)
        else:
            log.info("unloaded %s", self._policy.model_file.name)

    async def render(self, messages: Sequence[Message]) -> str:
        turns: Json = [{"role": message.role, "content": message.content} for message in messages]
        answer = await self._ask("/apply-template", {"messages": turns})
        return _text(answer.get("prompt"))

    async def tokenize(self, text: str, *, is_text_special: bool) -> list[int]:
        answer = await self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": is_text_special})
        return list(_tokens(answer.get("tokens")))

    @asynccontextmanager
    async def complete(self, prompt: Sequence[int], slot: int, parameters: JsonObject) -> AsyncIterator[LlamaStream]:
        body: JsonObject = {
            **parameters,
            "prompt": list(prompt),
            "id_slot": slot,
            "cache_prompt": True,
            "return_tokens": True,
            "stream": True,
        }
        async with self._open("/completion", body) as answer:
            yield _Completion(answer)

    async def embed(self, tokens: Sequence[int]) -> list[float]:
        async with self._open("/embeddings", {"content": list(tokens), "embd_normalize": NOT_NORMALISED}) as answer:
            value = _decode(await answer.whole())
        # One item a text, one row a text when pooled: [{"index": 0, "embedding": [[...]]}]
        match value:
            case [{"embedding": [[*numbers]]}]:
                return [float(number) for number in numbers if isinstance(number, int | float)]
        raise EngineFault(f"llama.cpp answered an embedding with {str(value)[:200]}")

    def _build(self) -> object:
        # Imported by who loads: it takes 30 ms and 40 MB, and must not be missed by whoever only reads this module.
        from xllamacpp import CommonParams, Server, llama_pooling_type  # noqa: PLC0415

        policy = self._policy
        params = CommonParams()
        params.model.path = str(policy.model_file)
        params.n_parallel = policy.slots
        params.n_ctx = policy.context_tokens * policy.slots
        params.n_batch = params.n_ubatch = policy.batch_tokens
        for cpu in (params.cpuparams, params.cpuparams_batch):
            cpu.n_threads = policy.threads
            cpu.poll = 0  # its threads spin at barriers otherwise, and a busy machine makes them 4 to 30 times slower
        params.embedding = True
        params.pooling_type = llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_gpu_layers = 0
        params.cache_ram_mib = 0  # 8 GB of old prompts otherwise
        params.warmup = False
        params.ui = False
        params.verbosity = 1  # errors; on standard error, always
        params.hostnames = [str(self._socket)]
        params.api_keys = [self._key]
        with suppress(FileNotFoundError):
            self._socket.unlink()  # one that was left would keep it from starting
        try:
            return Server(params)
        except RuntimeError as exc:
            raise EngineFault(f"llama.cpp cannot load {policy.model_file}: {exc}") from exc

    async def _ask(self, path: str, body: JsonObject) -> JsonObject:
        async with self._open(path, body) as answer:
            value = _decode(await answer.whole())
        if not isinstance(value, dict):
            raise EngineFault(f"llama.cpp answered {path} with {str(value)[:200]}")
        return value

    @asynccontextmanager
    async def _open(self, path: str, body: JsonObject) -> AsyncIterator[_Answer]:
        """One question on a connection of its own: closing it is how a call is ended."""
        payload = encode(body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        try:
            stream = await trio.open_unix_socket(str(self._socket))
        except OSError as exc:
            raise EngineFault(f"llama.cpp does not answer: {exc.strerror}") from exc
        async with stream:
            try:
                await stream.send_all(head.encode() + payload)
            except trio.BrokenResourceError as exc:
                raise EngineFault("llama.cpp closed the connection") from exc
            answer = _Answer(stream)
            await answer.require_success()
            yield answer


def _destroy(held: list[object | None]) -> None:
    """Let go of the only reference: the destructor waits for the server's threads."""
    held.clear()


class _Answer:
    """One answer of llama.cpp's server as it comes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._parser = ResponseParser()
        self._ready: list[bytes] = []
        self._is_over = False

    async def require_success(self) -> None:
        """Wait for the head; a status other than 200 is an error with llama.cpp's words."""
        status = None
        while status is None:
            for event in await self._receive():
                if isinstance(event, ResponseHead):
                    status = event.status
        if status != 200:
            raise _fault(status, await self.whole())

    async def next(self) -> bytes | None:
        """The next bytes of the body, None at its end."""
        while not self._ready:
            if self._is_over:
                return None
            await self._receive()
        return self._ready.pop(0)

    async def whole(self) -> bytes:
        pieces = []
        while (piece := await self.next()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    async def _receive(self) -> list[ResponseEvent]:
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError as exc:
            raise EngineFault("llama.cpp reset the connection") from exc
        events = self._parser.feed(data) if data else self._parser.feed_eof()
        for event in events:
            match event:
                case bytes():
                    self._ready.append(event)
                case End():
                    self._is_over = True
                case Broken():
                    raise EngineFault(f"llama.cpp's answer broke off: {event.detail}")
                case ResponseHead():
                    pass
                case _:
                    assert_never(event)
        return events


class _Completion:
    """Server-sent events as pieces of text."""

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._splitter = EventSplitter()
        self._events: list[bytes] = []

    async def next(self) -> Piece | Finish:
        while not self._events:
            data = await self._answer.next()
            if data is None:
                raise EngineFault("an error was encountered while running the model: unexpected EOF")
            self._events = self._splitter.feed(data)
        return _read_event(self._events.pop(0))


def _read_event(event: bytes) -> Piece | Finish:
    """One `data: {...}` of a completion."""
    value = _decode(event.removeprefix(b"data: "))
    if not isinstance(value, dict):
        raise EngineFault(f"llama.cpp sent {event[:200]!r}")
    if "error" in value:
        raise _fault(500, encode(value))
    if not value.get("stop"):
        return Piece(_text(value.get("content")), _tokens(value.get("tokens")))
    timings = value.get("timings")
    times = timings if isinstance(timings, dict) else {}
    return Finish(
        stop=Stop.LENGTH if value.get("stop_type") == "limit" else Stop.STOP,
        prompt_tokens=int(_number(value.get("tokens_evaluated"))),
        prompt_ms=_number(times.get("prompt_ms")),
        tokens=int(_number(value.get("tokens_predicted"))),
        tokens_ms=_number(times.get("predicted_ms")),
    )


def _fault(status: int, body: bytes) -> EngineFault | Refused:
    """What llama.cpp said of a request. What it calls the caller's fault (a schema that makes no grammar) is the caller's."""
    value = _decode(body)
    error = value.get("error") if isinstance(value, dict) else None
    message = _text(error.get("message")) if isinstance(error, dict) else body[:200].decode(errors="replace")
    return Refused(400, message) if 400 <= status < 500 and status not in {401, 404} else EngineFault(f"llama.cpp: {message}")


def _decode(body: bytes) -> Json:
    try:
        return decode(body)
    except NotJson as exc:
        raise EngineFault(f"llama.cpp answered with {body[:200]!r}") from exc


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Json) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _tokens(value: Json) -> tuple[int, ...]:
    return tuple(token for token in value if isinstance(token, int)) if isinstance(value, list) else ()
