"""An Ollama that costs as little as Python can: fixed answers, no model, so that a gateway's own cost shows.

    python -m bench.upstream 127.0.0.1:0      prints the address it listens on, then serves until it is killed

A prompt says how it is answered: `[[n=100 gap=0.01]]` is a hundred lines, a hundredth of a second apart; without it the whole
answer is there at once, in one write.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

MODEL = "llama3.2:3b"
_DETAILS = {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M"}  # fmt: skip
_SIZES = {"name": MODEL, "model": MODEL, "digest": "a" * 64, "size": 2_000_000_000, "details": _DETAILS}
_FIXED: dict[str, Any] = {
    "/api/version": {"version": "0.33.0"},
    "/api/tags": {"models": [_SIZES | {"modified_at": "2026-11-23T08:00:00Z"}]},
    "/api/ps": {"models": [_SIZES | {"expires_at": "2318-01-01T00:00:00Z", "size_vram": 2_000_000_000, "context_length": 4096}]},
    "/api/show": {"details": _DETAILS, "parameters": "", "template": "", "modelfile": "", "license": "",
                  "model_info": {"general.architecture": "llama"}, "capabilities": ["completion"]},
}  # fmt: skip
_COMPLETION = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1_770_000_000, "model": MODEL, "system_fingerprint": "fp_ollama",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "token token token "}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
}  # fmt: skip
_FIXED["/v1/chat/completions"] = _COMPLETION
_SCRIPT = re.compile(rb"\[\[n=(\d+) gap=([\d.]+)\]\]")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def _line(**fields: object) -> bytes:
    return json.dumps({"model": MODEL, "created_at": "2026-11-23T08:00:00.000000Z", **fields}).encode() + b"\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


TOKEN = _chunk(_line(response="token ", done=False))
LAST = _chunk(
    _line(response="", done=True, done_reason="stop", context=[1, 2, 3], total_duration=1, load_duration=1,
          prompt_eval_count=9, prompt_eval_duration=1, eval_count=9, eval_duration=1)
)  # fmt: skip
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
WHOLE = HEAD + TOKEN * 3 + LAST + END


class Served(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        while True:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            length = _LENGTH.search(head)
            size = int(length.group(1)) if length else 0
            if len(rest) < size:
                return
            body, self._received = rest[:size], rest[size:]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        assert self._transport is not None
        if path in _FIXED:
            text = json.dumps(_FIXED[path]).encode()
            kind = b"Content-Type: application/json; charset=utf-8"
            self._transport.write(b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(text), text))
        elif (script := _SCRIPT.search(body)) is not None:
            self._transport.write(HEAD)
            self._say(int(script.group(1)), float(script.group(2)))
        else:
            self._transport.write(WHOLE)

    def _say(self, lines: int, gap_s: float) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if lines == 0:
            self._transport.write(LAST + END)
            return
        self._transport.write(TOKEN)
        asyncio.get_running_loop().call_later(gap_s, self._say, lines - 1, gap_s)


async def main(address: str) -> None:
    host, _, port = address.rpartition(":")
    server = await asyncio.get_running_loop().create_server(Served, host, int(port))
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
