"""Ollama's own dialect: the lines and bodies of /api, as JSON values equal to Ollama's."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from supervisord_ai.core.calls import JsonObject
from supervisord_ai.engine.generation import Embedded, Metrics, normalised
from supervisord_ai.engine.gguf import Weights

FOR_EVER = "2319-03-05T00:00:00Z"  # what Go makes of a negative keep_alive: about 292 years from now


def timestamp(wall: float) -> str:
    """RFC 3339 in UTC, trailing zeros of the fraction trimmed, as Go writes it."""
    text = datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


def generate_line(model: str, wall: float, text: str) -> JsonObject:
    return {"model": model, "created_at": timestamp(wall), "response": text, "done": False}


def chat_line(model: str, wall: float, text: str) -> JsonObject:
    return {"model": model, "created_at": timestamp(wall), "message": {"role": "assistant", "content": text}, "done": False}


def final(line: JsonObject, metrics: Metrics, total_ns: int, *, has_context: bool) -> JsonObject:
    """The last line of a stream, or the one body, from a line of its kind."""
    ended: JsonObject = {**line, "done": True, "done_reason": metrics.stop.value}
    if has_context:
        ended["context"] = list(metrics.context)
    counts: Iterable[tuple[str, int]] = (
        ("total_duration", total_ns),
        ("load_duration", metrics.load_ns),
        ("prompt_eval_count", metrics.prompt_tokens),
        ("prompt_eval_duration", metrics.prompt_ns),
        ("eval_count", metrics.tokens),
        ("eval_duration", metrics.tokens_ns),
    )
    ended.update({name: value for name, value in counts if value})  # Go leaves out what is 0
    return ended


def loaded(line: JsonObject, reason: str) -> JsonObject:
    """The answer to a load or an unload."""
    return {**line, "done": True, "done_reason": reason}


def embed_body(model: str, embedded: Embedded, total_ns: int, dimensions: int | None) -> JsonObject:
    """The answer of /api/embed: vectors of length one, cut to `dimensions` first."""
    vectors = [list(normalised(v[:dimensions] if dimensions else v)) for v in embedded.vectors]
    body: JsonObject = {"model": model, "embeddings": [list(v) for v in vectors]}
    if vectors:
        counts = (("total_duration", total_ns), ("load_duration", embedded.load_ns), ("prompt_eval_count", embedded.tokens))
        body.update({name: value for name, value in counts if value})
    return body


def details(weights: Weights) -> JsonObject:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": weights.family,
        "families": [weights.family],
        "parameter_size": weights.parameter_size,
        "quantization_level": weights.quantization,
    }


def tags_body(model: str, weights: Weights) -> JsonObject:
    return {
        "models": [
            {
                "name": model,
                "model": model,
                "modified_at": timestamp(weights.modified_at),
                "size": weights.size_bytes,
                "digest": weights.digest,
                "details": {
                    **details(weights),
                    "context_length": weights.context_length,
                    "embedding_length": weights.embedding_length,
                },
                "capabilities": ["completion"],
            }
        ]
    }


def ps_body(model: str, weights: Weights, *, is_loaded: bool, context_tokens: int, expires_wall: float | None) -> JsonObject:
    """What is in memory. `size` is the weights alone: llama.cpp does not tell its buffers."""
    if not is_loaded:
        return {"models": []}
    return {
        "models": [
            {
                "name": model,
                "model": model,
                "size": weights.size_bytes,
                "digest": weights.digest,
                "details": details(weights),
                "expires_at": FOR_EVER if expires_wall is None else timestamp(expires_wall),
                "size_vram": 0,
                "context_length": context_tokens,
            }
        ]
    }


def show_body(model: str, weights: Weights) -> JsonObject:
    info: JsonObject = {key: value for key, value in weights.metadata.items() if key != "tokenizer.chat_template"}
    info["general.parameter_count"] = weights.parameters
    return {
        "license": str(weights.metadata.get("general.license", "")),
        "modelfile": f"# {model}, from {weights.path.name}\nFROM {weights.path}\n",
        "template": weights.chat_template,
        "details": details(weights),
        "model_info": info,
        "capabilities": ["completion"],
        "modified_at": timestamp(weights.modified_at),
    }
