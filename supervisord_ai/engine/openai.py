"""OpenAI's dialect: the bodies and events of /v1, as Ollama writes them."""

from __future__ import annotations

import struct
from base64 import b64encode
from dataclasses import dataclass

from supervisord_ai.core.calls import Json, JsonObject
from supervisord_ai.engine.asked import Completion, Fields, read_messages, read_options
from supervisord_ai.engine.generation import Embedded, Metrics, normalised
from supervisord_ai.engine.gguf import Weights
from supervisord_ai.errors import Refused
from supervisord_ai.wire.json_go import encode

DONE = b"data: [DONE]\n\n"

# What OpenAI calls an option, and Ollama's name for it (openai/openai.go; max_completion_tokens is not read there either).
_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "max_tokens": "num_predict",
}


@dataclass(frozen=True, slots=True)
class Chat:
    """The frame of one answer: everything that stays the same over its chunks."""

    id: str
    model: str
    created: int

    def chunk(self, delta: JsonObject, finish_reason: str | None) -> JsonObject:
        choice: Json = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def first(self, text: str) -> JsonObject:
        return self.chunk({"role": "assistant", "content": text}, None)

    def text(self, text: str) -> JsonObject:
        return self.chunk({"content": text}, None)

    def usage(self, metrics: Metrics) -> JsonObject:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage_of(metrics)}

    def body(self, text: str, metrics: Metrics) -> JsonObject:
        choice: Json = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": metrics.stop.value}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage_of(metrics)}

    def _head(self, what: str) -> JsonObject:
        return {"id": self.id, "object": what, "created": self.created, "model": self.model, "system_fingerprint": "fp_ollama"}


def event(value: JsonObject) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def usage_of(metrics: Metrics) -> JsonObject:
    return {
        "prompt_tokens": metrics.prompt_tokens,
        "completion_tokens": metrics.tokens,
        "total_tokens": metrics.prompt_tokens + metrics.tokens,
    }


def read_chat_completion(fields: Fields) -> Completion:
    """The completion that /v1/chat/completions asks for, with OpenAI's defaults of 1 for temperature and top_p.

    Raises:
        Refused: 400.
    """
    items = fields.items("messages")
    if not items:
        raise Refused(400, "[] is too short - 'messages'")
    messages = read_messages([_plain(item) for item in items])
    options: JsonObject = {"temperature": 1.0, "top_p": 1.0}
    for name, ours in _OPTIONS.items():
        value = fields.get(name)
        if value is not None:
            options[ours] = value
    stop = fields.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    return Completion(messages, None, read_options(options) | _format_of(fields))


def _plain(item: Json) -> Json:
    """Content in parts as one text: OpenAI's clients send both forms."""
    if isinstance(item, dict) and isinstance(parts := item.get("content"), list):
        texts = []
        for part in parts:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(text := part.get("text"), str):
                raise Refused(400, "invalid message format")
            texts.append(text)
        return {**item, "content": "".join(texts)}
    return item


def _format_of(fields: Fields) -> JsonObject:
    asked = fields.part("response_format")
    match asked.text("type"):
        case "json_object":
            return {"json_schema": {}}
        case "json_schema":
            return {"json_schema": asked.part("json_schema").mapping("schema")}
        case _:
            return {}


def read_embedding_inputs(fields: Fields) -> list[str]:
    """The texts of /v1/embeddings. A single "" is one text here.

    Raises:
        Refused: 400.
    """
    value = fields.get("input")
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        texts = [item for item in value if isinstance(item, str)]
        if len(texts) == len(value):
            return texts
    raise Refused(400, "invalid input")


def embeddings_body(model: str, embedded: Embedded, *, is_base64: bool, dimensions: int | None) -> JsonObject:
    data: list[Json] = []
    for index, vector in enumerate(embedded.vectors):
        unit = normalised(vector[:dimensions] if dimensions else vector)
        written: Json = b64encode(struct.pack(f"<{len(unit)}f", *unit)).decode() if is_base64 else list(unit)
        data.append({"object": "embedding", "embedding": written, "index": index})
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
    }


def model_card(model: str, weights: Weights) -> JsonObject:
    return {"id": model, "object": "model", "created": int(weights.modified_at), "owned_by": "library"}


def models_body(model: str, weights: Weights) -> JsonObject:
    return {"object": "list", "data": [model_card(model, weights)]}
