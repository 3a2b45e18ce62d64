"""Ollama's answers as bytes: a stream's lines joined to one body, a kept answer replayed, errors in the caller's dialect."""

from __future__ import annotations

from collections.abc import Sequence

from supervisord_ai.core.calls import Face, JsonObject


class Assembler:
    """Joins the NDJSON lines of one generate or chat into the one body that `stream: false` gives."""

    def feed(self, line: JsonObject) -> None:
        raise NotImplementedError

    def result(self) -> JsonObject:
        raise NotImplementedError


def as_stream(lines: bytes, model: str, created_at: str, total_ns: int) -> list[bytes]:
    """Replay kept native lines as a stream: one complete line (with its newline) an item."""
    raise NotImplementedError


def as_single(lines: bytes, model: str, created_at: str, total_ns: int) -> bytes:
    """Replay kept native lines as one body."""
    raise NotImplementedError


def error_body(face: Face, status: int, message: str) -> tuple[str, bytes]:
    """An error answer before anything was sent: (content type, body)."""
    raise NotImplementedError


def error_line(face: Face, message: str) -> bytes:
    """The error that ends a stream already begun."""
    raise NotImplementedError


def unload_body(call_path: str, model: str, created_at: str) -> bytes:
    """The answer to an unload that is granted to nobody but the owner: 200, `done_reason: "unload"`, no effect."""
    raise NotImplementedError


def load_request(model: str, *, is_embedding: bool, num_ctx: int | None, keep_alive_s: float | None) -> tuple[str, bytes]:
    """Path and body of the call that loads a model and returns when it is loaded."""
    raise NotImplementedError


def join_lines(lines: Sequence[bytes]) -> bytes:
    """The kept form of native lines."""
    raise NotImplementedError
