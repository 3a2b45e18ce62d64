"""What a program does that knows the official clients and nothing of us: run by test_clients, as an agent or by hand.

    python -m tests.system.clients_agent OUT_FILE [SOCKET]

Without a socket the clients are made from the environment alone. Writes what each call gave, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import ollama
import openai

MODEL = "chat"
ASKED = [{"role": "user", "content": "[[n=3 delay=0.01]]"}]
BROKEN = [{"role": "user", "content": "[[n=9 fail=3 delay=0.01]]"}]
ODD = [{"role": "user", "content": "[[n=2 uni=1]]"}]


def clients(socket_path: str | None) -> tuple[ollama.Client, openai.OpenAI]:
    """Both clients: over a Unix socket by a transport, or as their own documentation makes them."""
    if socket_path is None:
        return ollama.Client(), openai.OpenAI()
    transport = httpx.HTTPTransport(uds=socket_path)
    openai_http = httpx2.Client(transport=httpx2.HTTPTransport(uds=socket_path))
    return (
        ollama.Client(host="http://localhost", transport=transport),
        openai.OpenAI(base_url="http://localhost/v1", api_key="unused", http_client=openai_http),
    )


def conversation(native: ollama.Client, other: openai.OpenAI) -> dict[str, Any]:
    """Every call and what came of it; errors by class, status and text."""

    def chat_stream(messages: list[dict[str, str]]) -> list[Any]:
        return [(part.message.content, part.done) for part in native.chat(MODEL, messages, stream=True)]

    def openai_stream(messages: list[Any]) -> list[Any]:
        parts = other.chat.completions.create(model=MODEL, messages=messages, stream=True)
        return [(part.choices[0].delta.content, part.choices[0].finish_reason) for part in parts if part.choices]

    def openai_chat() -> list[Any]:
        answer = other.chat.completions.create(model=MODEL, messages=ASKED)  # type: ignore[arg-type]
        assert answer.usage is not None
        return [answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage.completion_tokens]

    calls: dict[str, Callable[[], Any]] = {
        "list": lambda: sorted(model.model or "" for model in native.list().models),
        "show": lambda: native.show(MODEL).capabilities,
        "chat": lambda: native.chat(MODEL, ASKED).message.content,
        "chat stream": lambda: chat_stream(ASKED),
        "chat odd characters": lambda: [part for part, _ in chat_stream(ODD)],
        "chat error in the middle": lambda: chat_stream(BROKEN),
        "generate": lambda: native.generate(MODEL, "[[n=2]]").response,
        "generate without the model": lambda: native.generate("nope", "x"),
        "embed": lambda: native.embed("embed", ["a", "b c"]).embeddings,
        "openai models": lambda: sorted(model.id for model in other.models.list()),
        "openai chat": openai_chat,
        "openai stream": lambda: openai_stream(ASKED),
        "openai error in the middle": lambda: openai_stream(BROKEN),
        "openai embeddings": lambda: other.embeddings.create(model="embed", input="a").data[0].embedding,
        "openai without the model": lambda: other.chat.completions.create(model="nope", messages=ASKED),  # type: ignore[arg-type]
    }
    return {name: _outcome(call) for name, call in calls.items()}


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ollama.ResponseError as error:
        return ["ollama.ResponseError", error.status_code, error.error]
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.message]
    except openai.APIError as error:
        return [type(error).__name__, error.message]
    except json.JSONDecodeError:
        return ["the client could not read a line"]


def main() -> None:
    out, *socket_path = sys.argv[1:]
    told = conversation(*clients(socket_path[0] if socket_path else None))
    told["environment"] = {name: "OLLAMA" in name for name in os.environ if name.startswith(("OLLAMA", "OPENAI"))}
    temporary = Path(f"{out}.tmp")
    temporary.write_text(json.dumps(told))
    temporary.rename(out)


if __name__ == "__main__":
    main()
