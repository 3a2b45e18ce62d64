"""The double set up as the server of the transcripts was, and raw requests to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import trio

from supervisord_ai.errors import PeerGone
from supervisord_ai.ollama.transport import ByteStream
from tests.fakes.ollama_double import Ask, Double, DoubleOptions, ModelSpec, Script, embedding_model
from tests.fakes.ollama_double.scripting import script_in

from .golden.requests import http

RECORDED_MODELS = (
    ModelSpec("chat-alias", blob="chat", modified_at=1_795_426_079.3),
    ModelSpec("chat-sys", blob="chat", parameters={"num_ctx": 2048}, system="be brief", modified_at=1_795_426_079.2),
    ModelSpec("second", modified_at=1_795_423_675.3),
    ModelSpec("chat", blob="chat", modified_at=1_795_423_675.2),
    embedding_model("embed", modified_at=1_795_423_675.1),
)

RECORDED_VECTORS = {
    "one": [4.0, 8.0, 3.0, 4.0],
    "two words": [2.0, 1.0, 3.0, 4.0],
    "[[n=1]]": [2.0, 11.0, 3.0, 4.0],
    "a": [7.0, 10.0, 3.0, 4.0],
    "b c": [6.0, 10.0, 3.0, 4.0],
    "": [2.0, 2.0, 3.0, 4.0],
    "a" * 29: [4.0, 2.0, 3.0, 4.0],
    "d": [1.0, 5.0, 3.0, 4.0],
}
"""What the transcripts' runner gave: the raw vector that each recorded answer can only have come from."""


def recorded_double(**options: Any) -> Double:
    """The double with the transcripts' models, version and runner."""
    double = Double(RECORDED_MODELS, DoubleOptions(version="0.0.0", **options))
    double.machine.vector = lambda text: RECORDED_VECTORS[text]
    double.script = ten_prompt_tokens
    return double


def ten_prompt_tokens(ask: Ask) -> Script:
    """The recorded runner counted every prompt as ten tokens."""
    return replace(script_in(ask.prompt) or Script(), prompt_tokens=10)


async def read_all(stream: ByteStream, *, quiet_s: float = 3600.0) -> tuple[bytes, bool]:
    """Everything the server sends until it closes, or until it says nothing for so long; and whether it closed.

    Under an autojump clock the long quiet costs nothing, and is longer than any pause the double was told to make.
    """
    received = b""
    while True:
        data = None
        with trio.move_on_after(quiet_s):
            try:
                data = await stream.receive_some()
            except PeerGone:
                data = b""
        if not data:
            return received, data is not None
        received += data


async def exchange(double: Double, request: bytes) -> bytes:
    """The raw answer to one raw request on a connection of its own."""
    stream = await double.dial()
    try:
        await stream.send_all(request)
        return (await read_all(stream))[0]
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()


async def ask(double: Double, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
    """Status and JSON (or text) of one call whose answer is not chunked."""
    raw = await exchange(double, http(method, path, body, ("Connection", "close")))
    head, _, text = raw.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode()


async def say(double: Double, prompt: str = "[[n=1]]", model: str = "chat", **more: Any) -> tuple[int, Any]:
    """One generation without a stream."""
    return await ask(double, "POST", "/api/generate", {"model": model, "prompt": prompt, "stream": False, **more})


async def loaded(double: Double) -> list[str]:
    """What /api/ps lists."""
    _, answer = await ask(double, "GET", "/api/ps")
    return [model["name"] for model in answer["models"]]
