"""Ollama's native answers as bytes: a stream's lines joined to one body, a kept answer replayed, the calls we make ourselves.

The kept form of a generate or chat is its NDJSON lines, from which a stream and one body are both made; of an embed it is the
one body as a line. A replay carries the caller's own model name, a fresh `created_at` and the real `total_duration`; the counts
and `eval_duration` stay those of the sample, since clients divide one by the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisord_ai.core.calls import Body, Json, JsonObject, Op
from supervisord_ai.wire.faces import error_body, error_line
from supervisord_ai.wire.json_go import decode, encode, encode_utf8
from supervisord_ai.wire.ndjson import read_line

__all__ = [
    "Assembler",
    "as_single",
    "as_stream",
    "error_body",
    "error_line",
    "join_lines",
    "keep_alive_json",
    "load_request",
    "unload_body",
    "unload_request",
    "why_not_kept",
]

REPLAYED_LOAD_NS = 1  # "small, not zero": Go leaves zeros out, and some clients want the field


class Assembler:
    """Joins the NDJSON lines of one generate or chat into the one body that `stream: false` gives.

    As server/routes.go does: the last line is the answer, with the texts, thinking, logprobs (and a chat's tool calls) of all
    lines in it. So a stream that ended without `done: true` gives a body with `done: false`, as it does there.
    """

    def __init__(self) -> None:
        self._last: JsonObject | None = None
        self._texts: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[Json] = []
        self._tool_calls: list[Json] = []
        self.error: str | None = None  # of an error line: the stream failed after it had begun

    @property
    def is_done(self) -> bool:
        """The final line came."""
        return self._last is not None and self._last.get("done") is True and self.error is None

    def feed(self, line: JsonObject) -> None:
        """Take the next line."""
        error = line.get("error")
        if isinstance(error, str) and error:
            self.error = error
            return
        self._last = line
        message = line.get("message")
        holder = message if isinstance(message, dict) else line
        _collect(self._texts, holder.get("content" if holder is message else "response"))
        _collect(self._thinking, holder.get("thinking"))
        logprobs, tool_calls = line.get("logprobs"), holder.get("tool_calls")
        if isinstance(logprobs, list):
            self._logprobs += logprobs
        if isinstance(tool_calls, list):
            self._tool_calls += tool_calls

    def result(self) -> JsonObject:
        """Return the one body.

        Raises:
            ValueError: no line came that is an answer.
        """
        if self._last is None:
            raise ValueError("no line of an answer came")
        made = dict(self._last)
        thinking = "".join(self._thinking)
        message = made.get("message")
        if isinstance(message, dict):
            whole: JsonObject = {"role": message.get("role", "assistant"), "content": "".join(self._texts)}
            whole |= {"thinking": thinking} if thinking else {}
            whole |= {name: value for name, value in message.items() if name not in {"role", "content", "thinking"}}
            whole |= {"tool_calls": self._tool_calls} if self._tool_calls else {}
            made["message"] = whole
        else:
            made["response"] = "".join(self._texts)
            made.pop("thinking", None)
            made |= {"thinking": thinking} if thinking else {}
        if self._logprobs:
            made["logprobs"] = self._logprobs
        return made


def _collect(texts: list[str], value: Json) -> None:
    if isinstance(value, str):
        texts.append(value)


def join_lines(lines: Sequence[bytes]) -> bytes:
    """The kept form of native lines, each with or without its newline."""
    return b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Mould:
    """A kept object written once, with holes for what differs from caller to caller: filled, it is that caller's answer."""

    pieces: tuple[bytes, ...]  # one more than there are holes
    holes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.pieces))

    def fill(self, values: Mapping[str, bytes]) -> bytes:
        """Return the object with these values, written as JSON, in its holes."""
        parts = [self.pieces[0]]
        for hole, piece in zip(self.holes, self.pieces[1:], strict=True):
            parts += (values[hole], piece)
        return b"".join(parts)


HOLES = ("model", "created_at", "total_duration")


def hole_values(model: str, created_at: str, total_ns: int) -> dict[str, bytes]:
    """Return what goes into the holes of a mould."""
    return {"model": encode(model), "created_at": encode(created_at), "total_duration": b"%d" % total_ns}


def _mould(fields: JsonObject, end: bytes = b"") -> Mould:
    pieces, holes = [b"{"], []
    for name, value in fields.items():
        comma = b"," if pieces != [b"{"] else b""
        pieces[-1] += comma + encode(name) + b":"
        if name in HOLES:
            holes.append(name)
            pieces.append(b"")
        else:
            pieces[-1] += encode(REPLAYED_LOAD_NS if name == "load_duration" else value)
    pieces[-1] += b"}" + end
    return Mould(tuple(pieces), tuple(holes))


def single_mould(lines: bytes) -> Mould:
    """Return the mould of the one body that kept native lines make, without a newline, as Ollama sends it."""
    return _mould(_whole(lines))


def stream_moulds(lines: bytes) -> tuple[Mould, ...]:
    """Return the moulds of kept native lines, one each, with their newline."""
    return tuple(_mould(line, b"\n") for line in _read_kept(lines))


def as_stream(lines: bytes, model: str, created_at: str, total_ns: int) -> list[bytes]:
    """Replay kept native lines as a stream: one complete line (with its newline) an item."""
    values = hole_values(model, created_at, total_ns)
    return [mould.fill(values) for mould in stream_moulds(lines)]


def as_single(lines: bytes, model: str, created_at: str, total_ns: int) -> bytes:
    """Replay kept native lines as one body, without a newline, as Ollama sends it."""
    return single_mould(lines).fill(hole_values(model, created_at, total_ns))


def single_of(lines: bytes) -> bytes:
    """Make one body of kept native lines, as it would have been sent when it was new."""
    return encode(_whole(lines))


def _whole(lines: bytes) -> JsonObject:
    kept = _read_kept(lines)
    if len(kept) == 1 and not {"response", "message"} & kept[0].keys():
        return kept[0]  # an embed
    assembler = Assembler()
    for line in kept:
        assembler.feed(line)
    return assembler.result()


def _read_kept(lines: bytes) -> list[JsonObject]:
    return [read_line(line) for line in lines.split(b"\n") if line.strip()]


def why_not_kept(op: Op, status: int, lines: Sequence[JsonObject]) -> str:
    """Say why a native answer may not be kept, "" if it may.

    Only whole answers are: 200, a final line, not the answer to a load, no error, no tool call (its id is random and it has
    effects), nothing that came from another machine.
    """
    if status != 200:
        return f"status {status}"
    if not lines:
        return "no answer"
    if any("error" in line for line in lines):
        return "it holds an error"
    if any("remote_host" in line or "_debug_info" in line for line in lines):
        return "it did not come from a model here"
    last = lines[-1]
    if op == Op.EMBED:
        return "" if last.get("embeddings") else "no embeddings"
    if op == Op.EMBEDDINGS:
        return "" if last.get("embedding") else "no embedding"
    if last.get("done") is not True:
        return "it has no final line"
    if last.get("done_reason") in {"load", "unload"}:
        return "it loads a model"
    if any(_has_tool_calls(line) for line in lines):
        return "it calls a tool"
    return ""


def _has_tool_calls(line: JsonObject) -> bool:
    message = line.get("message")
    return bool(line.get("tool_calls")) or (isinstance(message, dict) and bool(message.get("tool_calls")))


def bounded(op: Op, body: Body, num_predict: int) -> Body:
    """Return the body of a call with a bound on its answer, in the words of its face. It has none of its own."""
    members = dict(body.members or {})
    if op in {Op.GENERATE, Op.CHAT}:
        options = decode(members["options"]) if "options" in members else None
        members["options"] = encode_utf8({**(options if isinstance(options, dict) else {}), "num_predict": num_predict})
    else:
        members["max_output_tokens" if op is Op.RESPONSES else "max_tokens"] = encode_utf8(num_predict)
    return Body(members=members)


def asked_of(body: Body, model: str) -> bytes:
    """Return a body as if another model had been asked."""
    return bytes(Body(members={**(body.members or {}), "model": encode_utf8(model)}))


# --- calls and answers of our own -------------------------------------------------------------------------------------


def unload_body(op: Op, model: str, created_at: str) -> bytes:
    """The answer to an unload that is not granted: 200 and `done_reason: "unload"`, as when it is, but nothing happens."""
    said: JsonObject = {"message": {"role": "assistant", "content": ""}} if op == Op.CHAT else {"response": ""}
    return encode({"model": model, "created_at": created_at, **said, "done": True, "done_reason": "unload"})


def load_request(model: str, *, is_embedding: bool, num_ctx: int | None, keep_alive_s: float | None) -> tuple[str, bytes]:
    """Path and body of the call that loads a model and returns when it is loaded.

    An embedding-only model refuses `/api/generate`, so its load is an `/api/embed` without input.
    """
    body: JsonObject = {"model": model}
    if num_ctx is not None:
        body["options"] = {"num_ctx": num_ctx}
    if keep_alive_s is not None:
        body["keep_alive"] = keep_alive_json(keep_alive_s)
    return ("/api/embed" if is_embedding else "/api/generate"), encode(body)


def unload_request(model: str) -> tuple[str, bytes]:
    """Path and body of the call that unloads a model, once nobody uses it: poll `/api/ps` to see it gone."""
    return "/api/generate", encode({"model": model, "keep_alive": 0})


def probe_request(model: str, *, is_embedding: bool, num_ctx: int | None, keep_alive_s: float | None) -> tuple[str, bytes]:
    """Path and body of a small call that speaks for a while: as many at once as a model has slots must all be speaking."""
    body: JsonObject = {"model": model}
    options: JsonObject = {} if num_ctx is None else {"num_ctx": num_ctx}
    if keep_alive_s is not None:
        body["keep_alive"] = keep_alive_json(keep_alive_s)
    if is_embedding:
        return "/api/embed", encode(body | {"input": "probe", "options": options})
    options |= {"num_predict": 32, "temperature": 0}
    return "/api/generate", encode(body | {"prompt": "Count from 1 to 100.", "stream": True, "options": options})


def keep_alive_json(seconds: float) -> Json:
    """Seconds as Ollama's `keep_alive`; inf is -1, for ever."""
    if seconds == float("inf"):
        return -1
    return int(seconds) if seconds == int(seconds) else seconds
