"""How a kept answer lies on the disk: packed with zstd where that pays, else as it is.

Measured by `bench.packing` (docs/performance.md): level 1 makes a streamed answer 4 to 18 times smaller (every line repeats the
model's name and the time) and a list of vectors 2.5 times, for 3 us a small answer and 3 us per KB of vectors; level 3 takes
twice as long and makes vectors larger. Below 500 bytes the pages of the file do not get fewer.
"""

from __future__ import annotations

import threading
from enum import IntEnum

import zstandard

WORTH_BYTES = 500
WORTH_SHARE = 0.9  # what is hardly smaller is not worth the unpacking at each hit
LEVEL = 1


class Coding(IntEnum):
    """How the stored bytes stand for the body."""

    PLAIN = 0
    ZSTD = 1


class Damaged(Exception):  # noqa: N818
    """The stored bytes do not unpack."""


class _Own(threading.local):
    """One packer for each thread: it may not be used by two at once, and a new one costs five times a small answer."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_own = _Own()


def pack(body: bytes) -> tuple[Coding, bytes]:
    """Return a body as it is to be stored."""
    if len(body) < WORTH_BYTES:
        return Coding.PLAIN, body
    packed = _own.compress(body)
    return (Coding.ZSTD, packed) if len(packed) <= len(body) * WORTH_SHARE else (Coding.PLAIN, body)


def unpack(coding: int, stored: bytes) -> bytes:
    """Return the body.

    Raises:
        Damaged: it is not one.
    """
    if coding == Coding.PLAIN:
        return stored
    try:
        return _own.decompress(stored)
    except zstandard.ZstdError as exc:
        raise Damaged(str(exc)) from exc
