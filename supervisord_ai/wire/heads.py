"""The heads of HTTP messages as values, and how they are written.

Read from bytes they are in `http1.py`; names and values are latin-1 there and here, so any byte survives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


class Headers:
    """Header fields in the order and spelling they were sent; names compare without case."""

    __slots__ = ("_first", "_items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = tuple(items)
        self._first: dict[str, str] = {}
        for name, value in self._items:
            self._first.setdefault(name.lower(), value)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of this name."""
        return self._first.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        """Every value of this name, in order."""
        wanted = name.lower()
        return [value for key, value in self._items if key.lower() == wanted]

    def tokens(self, name: str) -> set[str]:
        """The comma-separated words under this name, in lower case: `Connection: Keep-Alive, x` has "keep-alive" and "x"."""
        if name.lower() not in self._first:
            return set()
        return {word.strip().lower() for value in self.get_all(name) for word in value.split(",")}

    def items(self) -> list[tuple[str, str]]:
        """Every field as it was sent."""
        return list(self._items)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._first

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({list(self._items)!r})"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request, without its body. `path` is the raw path (still percent-encoded) without the query.

    `body_bytes` is the declared length of the body, 0 without one, None when it is chunked; `wants_keep_alive` says whether the
    caller would send another request on this connection.
    """

    method: str
    target: str
    path: str
    query: str
    headers: Headers
    version: str  # "1.1" | "1.0"
    body_bytes: int | None = field(init=False, compare=False)
    wants_keep_alive: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Once for each head and not at each look: the same head comes again and again.
        headers = self.headers
        length = None if "transfer-encoding" in headers else int(headers.get("content-length") or 0)
        words = headers.tokens("connection")
        object.__setattr__(self, "body_bytes", length)
        object.__setattr__(self, "wants_keep_alive", "close" not in words if self.version == "1.1" else "keep-alive" in words)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """One answer, without its body."""

    status: int
    headers: Headers
    version: str


def request_bytes(method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """Write one request. Raises: ValueError where a field would break the framing."""
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers]
    return _head_bytes(lines) + body


def response_head_bytes(status_line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Write the head of one answer. Raises: ValueError where a field would break the framing."""
    return _head_bytes([status_line, *[f"{name}: {value}" for name, value in headers]])


def _head_bytes(lines: list[str]) -> bytes:
    head = "\r\n".join(lines).encode("latin-1", "replace")
    # One check for all: a line break inside a value would make a field, or an answer, of its own.
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
        raise ValueError("a header value holds a line break")
    return head + b"\r\n\r\n"


def chunk_bytes(data: bytes) -> bytes:
    """Write one chunk of a chunked body; the empty one would end it, so there must be data."""
    assert data
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
