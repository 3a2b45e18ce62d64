"""NDJSON as Ollama's clients can read it: one JSON object a line, split at LF only, ASCII-escaped on the way out.

Clients split lines where Unicode says a line may end (httpx's `iter_lines`: U+0085, U+2028, VT, FF and more), and Ollama writes
U+0085 raw; a blank line ends ollama-python's loop with an error. Escaped to ASCII, one object is one line to everybody.
"""

from __future__ import annotations

from supervisord_ai.core.calls import JsonObject
from supervisord_ai.wire.json_go import NotJson, decode_only, encode

MAX_LINE_BYTES = 8_000_000  # Ollama's own Go client gives up at 8 MB


class LineTooLong(Exception):  # noqa: N818
    """A line longer than any client accepts."""


class LineSplitter:
    """Cuts a byte stream at LF, whatever its chunks are. Blank lines are dropped."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []  # of the line under way: joined once, so a long line costs its length and not its square
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the complete lines, without their newline.

        Raises:
            LineTooLong: the line under way has passed the bound.
        """
        *ended, rest = data.split(b"\n")
        lines = []
        for piece in ended:
            line = b"".join([*self._parts, piece]) if self._parts else piece
            self._parts.clear()
            self._held_bytes = 0
            if len(line) > self._max_line_bytes:
                raise LineTooLong(f"a line of {len(line)} bytes")
            if line.strip():
                lines.append(line)
        if rest:
            self._parts.append(rest)
            self._held_bytes += len(rest)
        if self._held_bytes > self._max_line_bytes:
            raise LineTooLong(f"a line of more than {self._max_line_bytes} bytes")
        return lines

    @property
    def tail(self) -> bytes:
        """What came after the last newline: not blank at the end of a stream means it was cut."""
        return b"".join(self._parts)


def read_line(line: bytes) -> JsonObject:
    """Return the object of one line.

    Raises:
        ValueError: it is not one JSON object.
    """
    try:
        value = decode_only(line)
    except NotJson as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def write_line(value: JsonObject) -> bytes:
    """One object as a line, with its newline."""
    return encode(value) + b"\n"


def reencode(line: bytes) -> bytes:
    """Return the same JSON value in ASCII, with a newline.

    Raises:
        ValueError: the line is not one JSON object.
    """
    bare = line.strip(b" \t\r\n")  # what is blank to JSON; to Python more is
    if bare.isascii() and b"\n" not in bare and b"\r" not in bare:
        read_line(bare)
        return bare + b"\n"  # ASCII already: keep the number formats as they were written
    return write_line(read_line(line))
