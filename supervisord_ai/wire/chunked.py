"""Takes chunked bodies apart (RFC 9112, section 7.1), strictly, and says exactly where a message ends.

llhttp decodes chunks too, but tells neither where the message ended inside a feed nor how much of what it ate was no data,
and both decide about smuggling: what follows belongs to the next request, and extensions are a way to send without end.
The texts of the errors are those of Go's net/http, which clients of Ollama know.
"""

from __future__ import annotations

import re
from enum import Enum, auto

MAX_LINE_BYTES = 4096  # as Go: one chunk-size line with its extensions, or one trailer line
MAX_EXCESS_BYTES = 16 * 1024  # as Go: what may be no data beyond 16 bytes a chunk and twice its length
MAX_TRAILER_BYTES = 16 * 1024

_HEX = re.compile(rb"[0-9A-Fa-f]+")
_BARE = re.compile(rb"[\r\n\0]")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*")


class ChunkedError(ValueError):
    """The framing is broken; nothing after this point can be trusted."""


class _Expects(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    NOTHING = auto()


class ChunkedDecoder:
    """Decodes one body. Feed it until `feed` returns what follows the message."""

    __slots__ = ("_excess", "_expects", "_left", "_partial", "_trailer_bytes")

    def __init__(self) -> None:
        self._expects = _Expects.SIZE
        self._left = 0  # bytes of the current chunk still to come
        self._partial = b""  # an unfinished line
        self._excess = 0
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the body bytes in `data`, and what follows the message, or None while it has not ended.

        Raises: ChunkedError.
        """
        assert self._expects is not _Expects.NOTHING
        if self._partial:
            data, self._partial = self._partial + data, b""
        pieces: list[bytes] = []
        at = 0
        while True:
            if self._expects is _Expects.DATA:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if self._left:
                    return b"".join(pieces), None
                self._expects = _Expects.DATA_END
            if self._expects is _Expects.DATA_END:
                end = data[at : at + 2]
                if not b"\r\n".startswith(end):
                    raise ChunkedError("malformed chunked encoding")
                if len(end) < 2:
                    self._partial = end
                    return b"".join(pieces), None
                at += 2
                self._expects = _Expects.SIZE
            line_end = data.find(b"\r\n", at, at + MAX_LINE_BYTES)
            if line_end < 0:
                self._keep_partial(data[at:])
                return b"".join(pieces), None
            line = data[at:line_end]
            at = line_end + 2
            if self._expects is _Expects.SIZE:
                self._left = self._size(line)
                self._expects = _Expects.DATA if self._left else _Expects.TRAILER
            elif not line:
                self._expects = _Expects.NOTHING
                return b"".join(pieces), data[at:]
            else:
                self._trailer_bytes += len(line) + 2
                if self._trailer_bytes > MAX_TRAILER_BYTES:
                    raise ChunkedError("http: suspiciously long trailer after chunked body")
                if not _TRAILER.fullmatch(line):
                    raise ChunkedError("malformed trailer")

    def _keep_partial(self, rest: bytes) -> None:
        if len(rest) >= MAX_LINE_BYTES:
            raise ChunkedError("header line too long")
        # Only a carriage return that may still get its line feed is good: whoever ends lines otherwise need not be waited for.
        if _BARE.search(rest.removesuffix(b"\r")):
            raise ChunkedError("malformed chunked encoding")
        self._partial = rest

    def _size(self, line: bytes) -> int:
        if _BARE.search(line):
            raise ChunkedError("malformed chunked encoding")
        digits = line.partition(b";")[0]
        if not digits:
            raise ChunkedError("empty hex number for chunk length")
        if not _HEX.fullmatch(digits):
            raise ChunkedError("invalid byte in chunk length")
        if len(digits) > 15:  # Go takes 16 digits; fifteen are a petabyte and stay below 2**63
            raise ChunkedError("http chunk length too large")
        size = int(digits, 16)
        self._excess = max(0, self._excess + len(line) + 2 - 16 - 2 * size)
        if self._excess > MAX_EXCESS_BYTES:
            raise ChunkedError("chunked encoding contains too much non-data")
        return size
