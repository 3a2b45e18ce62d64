"""NDJSON as Ollama's clients can read it: one JSON object a line, split at LF only, ASCII-escaped on the way out."""

from __future__ import annotations

MAX_LINE_BYTES = 8_000_000  # Ollama's own Go client gives up at 8 MB


class LineSplitter:
    """Cuts a byte stream at LF, whatever its chunks are. Blank lines are dropped: they break ollama-python."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        raise NotImplementedError

    def feed(self, data: bytes) -> list[bytes]:
        """Return the complete lines, without their newline.

        Raises:
            LineTooLong: the line under way has passed the bound.
        """
        raise NotImplementedError

    @property
    def tail(self) -> bytes:
        """What came after the last newline: not empty at the end of a stream means it was cut."""
        raise NotImplementedError


class LineTooLong(Exception):  # noqa: N818
    """A line longer than any client accepts."""


def reencode(line: bytes) -> bytes:
    """Return the same JSON value in ASCII, with a newline.

    Raises:
        ValueError: the line is not one JSON object.
    """
    raise NotImplementedError
