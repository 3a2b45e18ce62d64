"""Chunked bodies: the same bytes as llhttp's, our own bounds, and the exact end of the message."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.wire.chunked import MAX_LINE_BYTES, ChunkedDecoder, ChunkedError


def decode(raw: bytes, sizes: list[int] | None = None) -> tuple[bytes, bytes | None]:
    """Feed it in pieces; return the body and what followed, as if fed whole."""
    decoder = ChunkedDecoder()
    body, at = b"", 0
    for size in [*(sizes or []), len(raw)]:
        piece, rest = decoder.feed(raw[at : at + size])
        at += size
        body += piece
        if rest is not None:
            return body, rest + raw[at:]
    return body, None


def llhttp(raw: bytes) -> tuple[bytes, bool] | None:
    """The same by llhttp: the body and whether it ended, None where it objects."""

    class Collector:
        def __init__(self) -> None:
            self.body = b""
            self.is_ended = False

        def on_body(self, data: bytes) -> None:
            self.body += data

        def on_message_complete(self) -> None:
            self.is_ended = True

    found = Collector()
    parser = httptools.HttpRequestParser(found)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        parser.feed_data(raw)
    except httptools.HttpParserError:
        return None
    return found.body, found.is_ended


CHUNK_PARTS = st.sampled_from(
    [
        *(b"0\r\n", b"00\r\n", b"\r\n", b"T: v\r\n", b"0;e\r\n\r\n"),
        *(b"1\r\na\r\n", b"a\r\n0123456789\r\n", b"A;x=y\r\n0123456789\r\n", b"1 \r\na\r\n"),
        *(b"\n", b"\r", b"g", b" ", b"1\r\nab\r\n"),
    ]
)


@settings(max_examples=500)
@given(st.lists(CHUNK_PARTS, max_size=8), st.lists(st.integers(1, 9), max_size=30))
def test_it_never_takes_what_llhttp_refuses_and_reads_the_same_bytes(parts: list[bytes], sizes: list[int]) -> None:
    raw = b"".join(parts)
    try:
        body, rest = decode(raw, sizes)
    except ChunkedError:
        return  # being stricter is allowed
    if rest is None:  # llhttp may have seen already that the unfinished line is no good
        assert llhttp(raw) in {None, (body, False)}
    else:
        assert llhttp(raw[: len(raw) - len(rest)]) == (body, True)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.binary(max_size=20), st.lists(st.integers(1, 9), max_size=40))
def test_it_takes_every_good_body_however_it_is_cut(chunks: list[bytes], behind: bytes, sizes: list[int]) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert decode(raw + behind, sizes) == (b"".join(chunks), behind)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"zz\r\n", "invalid byte in chunk length"),
        (b"0x5\r\nhello\r\n", "invalid byte in chunk length"),
        (b"1_0\r\n", "invalid byte in chunk length"),
        (b"-1\r\n", "invalid byte in chunk length"),
        (b" 5\r\nhello\r\n", "invalid byte in chunk length"),
        (b"5 \r\nhello\r\n", "invalid byte in chunk length"),
        (b"\r\n", "empty hex number for chunk length"),
        (b";x\r\n", "empty hex number for chunk length"),
        (b"fffffffffffffffff\r\n", "http chunk length too large"),
        (b"5\r\nhelloo", "malformed chunked encoding"),
        (b"5\r\nhello\n0\r\n\r\n", "malformed chunked encoding"),
        (b"5\nhello\r\n", "malformed chunked encoding"),
        (b"5;a\nb\r\nhello\r\n", "malformed chunked encoding"),
        (b"5;" + b"x" * MAX_LINE_BYTES, "header line too long"),
        (b"0\r\nno colon\r\n\r\n", "malformed trailer"),
        (b"0\r\n folded: x\r\n\r\n", "malformed trailer"),
    ],
)
def test_broken_framing_is_named_in_gos_words(raw: bytes, words: str) -> None:
    with pytest.raises(ChunkedError, match=words):
        decode(raw)
    with pytest.raises(ChunkedError, match=words):
        decode(raw, [1] * len(raw))


def test_extensions_without_end_are_refused_though_each_is_short() -> None:
    chunk = b"1;" + b"x" * 1000 + b"\r\na\r\n"
    assert decode(chunk * 16) == (b"a" * 16, None)
    with pytest.raises(ChunkedError, match="too much non-data"):
        decode(chunk * 18)


def test_many_small_chunks_are_no_excess() -> None:
    assert decode(b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n") == (b"a" * 100_000, b"")


def test_trailers_are_bounded_too() -> None:
    assert decode(b"0\r\n" + b"A: b\r\n" * 100 + b"\r\nnext") == (b"", b"next")
    with pytest.raises(ChunkedError, match="trailer"):
        decode(b"0\r\n" + b"A: b\r\n" * 10_000 + b"\r\n")
