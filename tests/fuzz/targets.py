"""What is fuzzed: each target reads any bytes, and raises an AssertionError (or anything else unasked) where a promise breaks.

A reader that does not crash is the least of it. Where bytes come in pieces, the cut must not matter; what is written again must
read as the same; what was judged must be what is sent; and a bound must bind.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from supervisord_ai.config import load
from supervisord_ai.core.calls import Json, ModelPins, Pins
from supervisord_ai.core.model_name import ModelName, read_name
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.token import read_token, token_for
from supervisord_ai.errors import ConfigError, HostFault, Problem, Refused
from supervisord_ai.gateway.classify import classify
from supervisord_ai.host.notify import STATUS_CHARS, parse
from supervisord_ai.wire.chunked import ChunkedDecoder, ChunkedError
from supervisord_ai.wire.go_struct import WrongType, duration_s
from supervisord_ai.wire.gzip_body import PIECE_BYTES, Gunzip, GzipError
from supervisord_ai.wire.heads import LAST_CHUNK, chunk_bytes
from supervisord_ai.wire.http1 import Broken, End, RequestHead, RequestParser, ResponseHead, ResponseParser
from supervisord_ai.wire.json_go import NotJson, decode, encode, encode_utf8, fold
from supervisord_ai.wire.messages import STRUCTS, read_body
from supervisord_ai.wire.ndjson import LineSplitter, LineTooLong, read_line, reencode
from supervisord_ai.wire.sse import EventSplitter, read_event, write_event
from supervisord_ai.wire.sse import reencode as reencode_event

T = TypeVar("T")

SECRET = b"fuzz" * 8
USER = Surroundings(1000, "/home/ann", {"XDG_RUNTIME_DIR": "/run/user/1000"})
PINS = Pins(default=ModelPins(num_ctx=4096))
FUZZED_PATHS = (
    *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show", "/api/pull", "/api/create"),
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
)


def cut(data: bytes) -> tuple[Sequence[int], bytes]:
    """Take the sizes of pieces off the front of the input: a count, then so many bytes."""
    count = data[0] % 8 if data else 0
    return list(data[1 : 1 + count]), data[1 + count :]


def in_pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in [*pieces, data] if piece]


def joined(events: Sequence[T | bytes]) -> list[T | bytes]:
    """Neighbouring pieces of a body as one."""
    made: list[T | bytes] = []
    for event in events:
        last = made[-1] if made else None
        if isinstance(event, bytes) and isinstance(last, bytes):
            made[-1] = last + event
        else:
            made.append(event)
    return made


def http_requests(data: bytes) -> None:
    """The requests of a connection, and where each of them ends, do not depend on how the bytes arrive."""
    sizes, raw = cut(data)
    whole, piecewise = RequestParser(), RequestParser()
    seen = joined([*whole.feed(raw), *whole.feed_eof()])
    again = joined([event for piece in in_pieces(raw, sizes) for event in piecewise.feed(piece)] + piecewise.feed_eof())
    assert _shapes(seen) == _shapes(again)
    for at, event in enumerate(seen):
        if isinstance(event, Broken):
            assert at == len(seen) - 1, "a poisoned parser went on"
        if isinstance(event, RequestHead):
            _judge_head(event)


def _judge_head(head: RequestHead) -> None:
    lengths, codings = head.headers.get_all("content-length"), head.headers.get_all("transfer-encoding")
    assert len(lengths) + len(codings) <= 1, "two framings of one body"
    assert len(head.headers.get_all("host")) <= 1
    assert head.body_bytes is None or head.body_bytes >= 0
    assert "\r" not in head.target
    for name, value in head.headers.items():
        assert name, "a header without a name"
        assert not set(name + value) & set("\r\n\0"), "a header that holds another"


def _shapes(events: Sequence[object]) -> list[object]:
    """Comparable events. Of a message that is refused the refusal counts, not how much of its body came before, nor which 4xx
    or 5xx: whoever sends all at once may be told of another fault in the same head than who sends it byte by byte."""
    kept = list(events)
    if len(kept) > 1 and isinstance(kept[-1], Broken) and isinstance(kept[-2], bytes):
        del kept[-2]
    return [_shape(event) for event in kept]


def _shape(event: object) -> object:
    if isinstance(event, RequestHead):
        return ("request", event.method, event.target, event.path, event.query, event.headers.items(), event.version)
    if isinstance(event, ResponseHead):
        return ("response", event.status, event.headers.items(), event.version)
    return "broken" if isinstance(event, Broken) else event


def http_responses(data: bytes) -> None:
    """The same for an answer; what follows it makes its connection unfit for another."""
    sizes, raw = cut(data)
    whole, piecewise = ResponseParser(), ResponseParser()
    seen = joined([*whole.feed(raw), *whole.feed_eof()])
    again = joined([event for piece in in_pieces(raw, sizes) for event in piecewise.feed(piece)] + piecewise.feed_eof())
    assert _shapes(seen) == _shapes(again)
    assert whole.is_reusable == piecewise.is_reusable
    assert isinstance(seen[-1], Broken | End), "an answer without an end"


def chunked(data: bytes) -> None:
    """A chunked body ends at one place, whatever the pieces; what we write, we read."""
    sizes, raw = cut(data)
    assert _chunks([raw]) == _chunks(in_pieces(raw, sizes))
    written = b"".join(chunk_bytes(piece) for piece in in_pieces(raw, sizes)) + LAST_CHUNK
    assert _chunks(in_pieces(written + b"GET", sizes)) == (raw, b"GET")


def _chunks(pieces: Sequence[bytes]) -> tuple[bytes, bytes | None] | str:
    decoder, body = ChunkedDecoder(), b""
    rest: bytes | None = None
    try:
        for piece in pieces:
            if rest is not None:
                rest += piece
                continue
            more, rest = decoder.feed(piece)
            body += more
    except ChunkedError:
        return "malformed"
    return body, rest


def json_go(data: bytes) -> None:
    """What is strict JSON reads as Python reads it; what is read is written as the same value."""
    try:
        value = decode(data)
    except NotJson:
        return
    assert _same(decode(encode(value)), value)
    assert _same(decode(encode_utf8(value)), value)
    assert encode(value).isascii()
    try:
        strict = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return  # Go is laxer: what follows the value, bytes that are no UTF-8
    if "\\u" not in data.decode("utf-8"):
        assert _same(value, strict)


def _refuse(_name: str) -> None:
    raise ValueError


def _same(one: Json, other: Json) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and one == other if not isinstance(one, dict) else one == other


def policy(data: bytes) -> None:
    """What was judged is what Ollama is sent: no second spelling of a field, no name that leaves the machine, and no new
    meaning when the same is read again (as it is from the journal)."""
    path = FUZZED_PATHS[data[0] % len(FUZZED_PATHS)] if data else FUZZED_PATHS[0]
    try:
        call = classify("POST", path, data[1:], is_admin_allowed=True, pins=PINS)
    except Refused:
        return
    again = classify("POST", path, bytes(call.caller_body), is_admin_allowed=True, pins=PINS)
    assert bytes(again.upstream_body) == bytes(call.upstream_body)
    assert again.digest == call.digest
    sent = json.loads(bytes(call.upstream_body))
    assert isinstance(sent, dict)
    known = STRUCTS[call.route.op].fields
    for key in sent:
        assert key in known or fold(key) not in known, f"a second spelling of {fold(key)} reaches Ollama"
    if call.canonical_model is not None:
        assert read_name(sent.get("model") or sent.get("name") or "") == ModelName(call.canonical_model)
    assert read_body(call.route.op, bytes(call.upstream_body)).fields == sent


def routes(data: bytes) -> None:
    """Any method and path is a route, a redirect to a clean path, or a refusal; a redirect leads to no second one."""
    method, _, path = data.decode("latin-1").partition(" ")
    places, there = ["/" + path], _sent_to(method, "/" + path)
    while there is not None:
        assert there not in places, "a redirect in circles"
        assert len(places) < 3, "from an unclean path to the clean one, and from there to the one without a slash: no further"
        places.append(there)
        there = _sent_to(method, there)


def _sent_to(method: str, path: str) -> str | None:
    try:
        classify(method, path, b"{}", is_admin_allowed=False, pins=PINS)
    except Refused as refused:
        return refused.location
    return None


def durations(data: bytes) -> None:
    """A Go duration is a number of seconds or a refusal."""
    try:
        seconds = duration_s(data.decode("utf-8", "replace"))
    except WrongType:
        return
    assert seconds >= 0


def ndjson(data: bytes) -> None:
    """Lines do not depend on the pieces; a line that goes on is one line to every reader, and the same value."""
    sizes, raw = cut(data)
    whole, piecewise = LineSplitter(200), LineSplitter(200)
    try:
        lines = whole.feed(raw)
    except LineTooLong:
        return
    assert [line for piece in in_pieces(raw, sizes) for line in piecewise.feed(piece)] == lines
    assert whole.tail == piecewise.tail
    assert len(whole.tail) <= 200
    for line in lines:
        try:
            written = reencode(line)
        except ValueError:
            continue
        assert written.endswith(b"\n")
        assert len(written.decode("ascii").splitlines()) == 1, "some client reads two lines"
        assert read_line(written) == read_line(line)


def sse(data: bytes) -> None:
    """Events do not depend on the pieces, and are the same events after they went through us."""
    sizes, raw = cut(data)
    whole, piecewise = EventSplitter(200), EventSplitter(200)
    try:
        events = whole.feed(raw)
    except LineTooLong:
        return
    if any(len(event) > 190 for event in (*events, whole.tail)):
        return  # a blank line that is under way counts too
    assert [event for piece in in_pieces(raw, sizes) for event in piecewise.feed(piece)] == events
    assert whole.tail == piecewise.tail
    for event in events:
        read = read_event(event)
        assert read_event(reencode_event(event)).json == read.json
        if not set(read.data) & set(b"\r\n") and not set(read.name) & set("\r\n"):
            assert read_event(write_event(read)).data == read.data


def config(data: bytes) -> None:
    """Any text is a config or a list of problems, each of one line with its place."""
    problems: Sequence[Problem] = ()
    try:
        load("/etc/c.toml", _OneFile(data), USER)
    except ConfigError as error:
        problems = error.problems or [Problem("", None, "", "\n")]  # a refusal without a reason
    for problem in problems:
        assert "\n" not in str(problem), f"a problem of more than one line: {problem}"


class _OneFile:
    """A disk with one file on it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, path: str) -> bytes:
        if path != "/etc/c.toml":
            raise HostFault(f"{path}: no such file")
        return self._data

    def matching(self, pattern: str) -> list[str]:
        del pattern
        return []


def token(data: bytes) -> None:
    """Nobody is who they say they are by a token that we did not make, byte for byte."""
    text = data.decode("latin-1")
    named = read_token(SECRET, text)
    assert named is None or token_for(SECRET, *named) == text
    agent = text.partition(".")[0]
    if agent and text.isprintable():
        assert read_token(SECRET, token_for(SECRET, agent, len(text))) == (agent, len(text))


def notify(data: bytes) -> None:
    """A notice of an agent has bounded, harmless text and bounded numbers."""
    notice = parse(data, 1)
    assert notice.status is None or (len(notice.status) <= STATUS_CHARS and (notice.status.isprintable() or not notice.status))
    for seconds in (notice.watchdog_s, notice.extend_s):
        assert seconds is None or 0 <= seconds <= 1e12


def gzip_body(data: bytes) -> None:
    """What gzip says of a body is what the standard library says, in pieces that are bounded, whatever the cut."""
    sizes, raw = cut(data)
    body = _gunzipped(in_pieces(raw, sizes))
    assert body == _gunzipped([raw])
    written = gzip.compress(raw, 1)
    assert _gunzipped(in_pieces(written, sizes)) == raw


def _gunzipped(pieces: Sequence[bytes]) -> bytes | None:
    gunzip, body = Gunzip(), b""
    try:
        for data in pieces:
            for piece in gunzip.feed(data):
                assert len(piece) <= PIECE_BYTES
                body += piece
                if len(body) > 4_000_000:
                    return None  # whoever takes it stops where it has enough
        gunzip.end()
    except GzipError:
        return None
    return body


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(http_requests, http_responses, chunked, json_go, policy, routes, durations, ndjson, sse),
        *(config, token, notify, gzip_body),
    )
}
