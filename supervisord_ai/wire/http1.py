"""HTTP/1.1 as bytes: heads and bodies in, events out. Knows nothing of sockets, time or routes.

A head is collected whole, within our bounds, and only then given to llhttp (through httptools), which checks every byte of it
but bounds nothing. Each head gets a fresh parser (1.8 us with the parse), so nothing leaks from one message into the next.
Bodies are counted here or taken apart by `chunked.py`, because the end of a message must be known exactly: what follows it is
another request.

Where we are stricter than Go's net/http, on purpose:
1. `Content-Length` beside `Transfer-Encoding` is 400 (Go lets the latter win): a second reader in front of or behind us may
   choose the other one, and then the body is a request (RFC 9112, 6.1 and 6.3).
2. Repeated `Content-Length` is 400 even if equal; `Transfer-Encoding` on HTTP/1.0 is 400; lines end in CRLF, never in LF alone.
3. A target with bytes above 0x7e is 400: it should have been percent-encoded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import httptools

from supervisord_ai.wire.chunked import ChunkedDecoder, ChunkedError
from supervisord_ai.wire.heads import (
    LAST_CHUNK,
    Headers,
    RequestHead,
    ResponseHead,
    chunk_bytes,
    request_bytes,
    response_head_bytes,
)

__all__ = [
    "Broken",
    "END",
    "End",
    "Headers",
    "LAST_CHUNK",
    "RequestEvent",
    "RequestHead",
    "RequestParser",
    "ResponseEvent",
    "ResponseHead",
    "ResponseParser",
    "chunk_bytes",
    "request_bytes",
    "response_head_bytes",
]

# Go takes any token as a method and llhttp only those of its list. The method changes no framing but CONNECT's, so every
# other one is parsed as POST and kept as it was sent.
_PLAIN_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"})
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST = re.compile(r"[A-Za-z0-9!$%&'()*+,\-.:;=\[\]_~]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NEVER_IN_A_HEAD = re.compile(rb"(?<!\r)\n|\r(?!\n)(?=.)|\0", re.DOTALL)


class End(Enum):
    """The event after the last byte of a message."""

    MESSAGE = "message"


END = End.MESSAGE


@dataclass(frozen=True, slots=True)
class Broken:
    """The event after which a parser takes no more: the rest of the connection cannot be understood.

    `detail` is in Go's words, which may be none: its server does not explain every 400.
    """

    status: int
    detail: str
    is_in_body: bool = False


RequestEvent = RequestHead | bytes | End | Broken
ResponseEvent = ResponseHead | bytes | End | Broken


class _BrokenHeadError(ValueError):
    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


class _HeadCollector:
    """Receives llhttp's callbacks."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def headers(self) -> Headers:
        # llhttp leaves the white space behind a value.
        return Headers([(n.decode("latin-1"), v.decode("latin-1").rstrip(" \t")) for n, v in self.fields])


class _LengthDecoder:
    """A body of so many bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        if len(data) < self._left:
            self._left -= len(data)
            return data, None
        return data[: self._left], data[self._left :]


class _UntilEnd:
    """A body that ends with the connection."""

    __slots__ = ()

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        return data, None


class _HeadBuffer:
    """Collects one head, within bounds."""

    __slots__ = ("_bytes", "_limit")

    def __init__(self, limit: int) -> None:
        self._bytes = bytearray()
        self._limit = limit

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes, *, skip_empty_lines: bool) -> tuple[bytes, bytes] | None:
        """Return (head with its empty line, the rest), or None while it is not complete. Raises: _BrokenHeadError."""
        if skip_empty_lines and not self._bytes:
            data = data.lstrip(b"\r\n")  # RFC 9112, 2.2: an old client's CRLF after a body
        seen = len(self._bytes)
        self._bytes += data
        end = self._bytes.find(b"\r\n\r\n", max(0, seen - 3))
        if end > self._limit or (end < 0 and len(self._bytes) > self._limit):
            raise _BrokenHeadError(431)
        if end >= 0:
            head, rest = bytes(self._bytes[: end + 4]), bytes(self._bytes[end + 4 :])
            self._bytes.clear()
            return head, rest
        # Who speaks TLS or ends lines with LF alone will never send the end we wait for.
        if _NEVER_IN_A_HEAD.search(self._bytes, max(0, seen - 1)):
            raise _BrokenHeadError(400)
        return None


class RequestParser:
    """Reads the requests of one connection. After `Broken` it is poisoned and returns nothing more."""

    __slots__ = ("_body", "_head", "_header_count", "_is_poisoned")

    def __init__(self, *, headers_bytes: int = 64_000, header_count: int = 128) -> None:
        self._head = _HeadBuffer(headers_bytes)
        self._header_count = header_count
        self._body: _LengthDecoder | ChunkedDecoder | None = None
        self._is_poisoned = False

    @property
    def is_between_messages(self) -> bool:
        """Whether no byte of an unfinished message is held."""
        return self._body is None and not self._head and not self._is_poisoned

    def feed(self, data: bytes) -> list[RequestEvent]:
        """Take bytes from the connection; return what they complete, in order."""
        events: list[RequestEvent] = []
        while data and not self._is_poisoned:
            try:
                if self._body is None:
                    split = self._head.feed(data, skip_empty_lines=True)
                    if split is None:
                        break
                    raw, data = split
                    head = (_parse_again if len(raw) <= _REPEATED_BYTES else _parse_request)(raw, self._header_count)
                    length = head.body_bytes
                    self._body = ChunkedDecoder() if length is None else _LengthDecoder(length) if length else None
                    events.append(head)
                    if self._body is None:
                        events.append(END)
                else:
                    piece, rest = self._body.feed(data)
                    if piece:
                        events.append(piece)
                    if rest is None:
                        break
                    data = rest
                    self._body = None
                    events.append(END)
            except _BrokenHeadError as broken:
                self._is_poisoned = True
                events.append(Broken(broken.status, broken.detail))
            except ChunkedError as error:
                self._is_poisoned = True
                events.append(Broken(400, str(error), is_in_body=True))
        return events

    def feed_eof(self) -> list[RequestEvent]:
        """Take the end of the connection's bytes: nothing between two requests, `Broken` inside one."""
        if self.is_between_messages or self._is_poisoned:
            return []
        self._is_poisoned = True
        return [Broken(400, "unexpected EOF", is_in_body=True) if self._body is not None else Broken(400, "")]


class ResponseParser:
    """Reads one answer. `is_reusable` says afterwards whether its connection may carry another."""

    __slots__ = ("_body", "_head", "_header_count", "_is_head_request", "_is_over", "_is_surplus", "_keep_alive")

    def __init__(self, *, is_head_request: bool = False, headers_bytes: int = 64_000, header_count: int = 256) -> None:
        self._head = _HeadBuffer(headers_bytes)
        self._header_count = header_count
        self._is_head_request = is_head_request
        self._body: _LengthDecoder | ChunkedDecoder | _UntilEnd | None = None
        self._is_over = False
        self._is_surplus = False
        self._keep_alive = False

    @property
    def is_reusable(self) -> bool:
        """Whether the answer ended by its own framing, with nothing behind it, and nobody asked for the end."""
        return self._is_over and self._keep_alive and not self._is_surplus

    def feed(self, data: bytes) -> list[ResponseEvent]:
        """Take bytes from the connection; return what they complete, in order. 1xx answers are skipped."""
        events: list[ResponseEvent] = []
        while data:
            if self._is_over:
                self._is_surplus = True
                break
            try:
                if self._body is None:
                    split = self._head.feed(data, skip_empty_lines=False)
                    if split is None:
                        break
                    raw, data = split
                    head = self._parse(raw)
                    if head is not None:
                        events.append(head)
                        if self._body is None:
                            self._is_over = True
                            events.append(END)
                else:
                    piece, rest = self._body.feed(data)
                    if piece:
                        events.append(piece)
                    if rest is None:
                        break
                    data = rest
                    self._is_over = True
                    events.append(END)
            except _BrokenHeadError as broken:
                events.append(self._break(broken.detail))
            except ChunkedError as error:
                events.append(self._break(str(error)))
        return events

    def feed_eof(self) -> list[ResponseEvent]:
        """Take the end of the connection's bytes: the end of the answer only where its framing says so."""
        if self._is_over:
            return []
        if isinstance(self._body, _UntilEnd):
            self._is_over = True
            return [END]
        return [self._break("unexpected EOF")]

    def _break(self, detail: str) -> Broken:
        self._is_over = True
        self._keep_alive = False
        return Broken(502, detail, is_in_body=self._body is not None)

    def _parse(self, raw: bytes) -> ResponseHead | None:
        if _NEVER_IN_A_HEAD.search(raw):
            raise _BrokenHeadError(502)  # llhttp looks at every byte but those of the reason
        found = _HeadCollector()
        parser = httptools.HttpResponseParser(found)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade as upgrade:
            raise _BrokenHeadError(502, "answered with another protocol") from upgrade
        except httptools.HttpParserError as error:
            raise _BrokenHeadError(502, str(error)) from error
        if len(found.fields) > self._header_count:
            raise _BrokenHeadError(502, "too many header fields")
        status: int = parser.get_status_code()  # never 101: the parser has stopped at that
        if 100 <= status < 200:
            return None
        head = ResponseHead(status, found.headers(), parser.get_http_version())
        words = head.headers.tokens("connection")
        self._keep_alive = "close" not in words if head.version == "1.1" else "keep-alive" in words
        if self._is_head_request or status in {204, 304}:
            return head
        length = head.headers.get("content-length")
        if _is_chunked(head.headers):
            self._body = ChunkedDecoder()
        elif length is None:
            self._keep_alive = False
            self._body = _UntilEnd()
        elif int(length):
            self._body = _LengthDecoder(int(length))
        return head


def _parse_request(raw: bytes, header_count: int) -> RequestHead:
    if _NEVER_IN_A_HEAD.search(raw):
        raise _BrokenHeadError(400)  # llhttp takes LF behind a query as the end of the request line, as HTTP/0.9 had it
    line = raw[: raw.index(b"\r\n")]
    method, _, after = line.partition(b" ")
    target, _, protocol = after.partition(b" ")
    if not target or not protocol or not _TOKEN.fullmatch(method):
        raise _BrokenHeadError(400)
    if protocol not in {b"HTTP/1.1", b"HTTP/1.0"}:
        if re.fullmatch(rb"HTTP/[0-9]\.[0-9]", protocol):
            raise _BrokenHeadError(505, "unsupported protocol version")
        raise _BrokenHeadError(400)
    found = _HeadCollector()
    known = raw if method in _PLAIN_METHODS else b"POST" + raw[len(method) :]
    try:
        httptools.HttpRequestParser(found).feed_data(known)
    except httptools.HttpParserUpgrade:
        pass  # an offer we do not take up: the request is answered in HTTP/1.1 (RFC 9110, 7.8)
    except httptools.HttpParserError as error:
        headers = found.headers()
        if "content-length" not in headers:
            _is_chunked(headers)
        raise _BrokenHeadError(400) from error
    if len(found.fields) > header_count:
        raise _BrokenHeadError(431)
    version = protocol[-3:].decode()
    headers = found.headers()
    _check_host(headers, version)
    if _is_chunked(headers) and version == "1.0":
        raise _BrokenHeadError(400)
    text = target.decode("ascii")  # llhttp let nothing else through
    path, query = _path_and_query(text)
    return RequestHead(method.decode("ascii"), text, path, query, headers, version)


# A client sends the same head with every request but for its length, and a head is a value: what these bytes mean is remembered.
# 512 heads of 2 KB and what was made of them are 3 MB. A head that is refused raises, and is not remembered.
_REPEATED_BYTES = 2_000
_parse_again = lru_cache(maxsize=512)(_parse_request)


def _is_chunked(headers: Headers) -> bool:
    if "transfer-encoding" not in headers:
        return False
    if [coding.lower() for coding in headers.get_all("transfer-encoding")] != ["chunked"]:
        raise _BrokenHeadError(501, "Unsupported transfer encoding")
    return True


def _check_host(headers: Headers, version: str) -> None:
    hosts = headers.get_all("host")
    if not hosts and version == "1.1":
        raise _BrokenHeadError(400, "missing required Host header")
    if len(hosts) > 1:
        raise _BrokenHeadError(400, "too many Host headers")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise _BrokenHeadError(400, "malformed Host header")


def _path_and_query(target: str) -> tuple[str, str]:
    if not target.startswith("/") and "://" in target:  # absolute form, as proxies send it
        _, _, after = target.partition("://")
        slash = min((i for i in (after.find("/"), after.find("?")) if i >= 0), default=len(after))
        target = after[slash:]
        if not target.startswith("/"):
            target = "/" + target
    path, _, query = target.partition("?")
    if _BAD_ESCAPE.search(path):
        raise _BrokenHeadError(400)
    return path, query
