"""A request body in gzip (RFC 1952, RFC 9110 8.4.1.3), decoded as it comes and bounded while it is.

A kilobyte may stand for a megabyte: so the output comes in pieces, and whoever takes them stops where it has enough. Several
members one after the other are one body, as for Go's reader. Codings other than gzip are nobody's business here: Ollama
ignores `Content-Encoding`, reads the bytes as JSON, and says what it thinks of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from supervisord_ai.wire.heads import Headers

PIECE_BYTES = 256 * 1024
_GZIP_ONLY = 16 + zlib.MAX_WBITS


class GzipError(ValueError):
    """These bytes are no gzip, or end before their end."""


def is_gzip(headers: Headers) -> bool:
    """Say whether a body is in gzip, and in nothing else beside it."""
    if "content-encoding" not in headers:
        return False
    return [coding.strip().lower() for coding in headers.get_all("content-encoding")] in (["gzip"], ["x-gzip"])


class Gunzip:
    """Decodes one body. Feed it what comes, then call `end`."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_ONLY)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what these bytes stand for, in pieces of at most PIECE_BYTES. Whoever stops taking has paid for no more.

        Raises:
            GzipError: they are no gzip.
        """
        while True:
            if self._member.eof:
                if not data:
                    return
                self._member = zlib.decompressobj(_GZIP_ONLY)
            try:
                piece = self._member.decompress(data, PIECE_BYTES)
            except zlib.error as exc:
                raise GzipError("gzip: invalid data") from exc
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if piece:
                yield piece
            elif not self._member.eof:
                return  # it waits for more; while there was a piece, zlib may hold another that no input stands for

    def end(self) -> None:
        """Say that nothing more comes.

        Raises:
            GzipError: more should.
        """
        if not self._member.eof:
            raise GzipError("gzip: unexpected end")
