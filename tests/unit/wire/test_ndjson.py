"""Lines: whole, byte by byte, cut, too long; and that each is one line to every client."""

from __future__ import annotations

import json
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.wire.ndjson import LineSplitter, LineTooLong, read_line, reencode

STREAM = '{"response":"é漢😀 \\u2028"}\n{"response":"a\\n"}\n\n \n{"done":true}\n'.encode()
LINES = [line for line in STREAM.split(b"\n") if line.strip()]


def test_lines_are_the_same_in_one_piece_and_byte_by_byte() -> None:
    whole, by_byte = LineSplitter(), LineSplitter()
    assert whole.feed(STREAM) == LINES
    assert [line for byte in STREAM for line in by_byte.feed(bytes([byte]))] == LINES
    assert whole.tail == by_byte.tail == b""


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=6))
def test_lines_do_not_depend_on_where_the_chunks_end(cuts: list[int]) -> None:
    splitter = LineSplitter()
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(places)]
    assert [line for chunk in chunks for line in splitter.feed(chunk)] == LINES


def test_half_a_line_stays_in_the_tail() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b'{"a":1}\n{"b"') == [b'{"a":1}']
    assert splitter.tail == b'{"b"'
    assert splitter.feed(b":2}\n") == [b'{"b":2}']
    assert splitter.tail == b""


@pytest.mark.parametrize("chunks", [[b"x" * 101], [b"x" * 60, b"x" * 60], [b"x" * 101 + b"\n"]])
def test_a_line_past_the_bound_is_an_error_complete_or_not(chunks: list[bytes]) -> None:
    splitter = LineSplitter(max_line_bytes=100)
    with pytest.raises(LineTooLong):
        deque(map(splitter.feed, chunks))


@pytest.mark.parametrize("text", ["\u0085", "\u2028", "\u2029", "\x0b\x0c\x1c", "a\r\nb", "\x00", "<>&", "é漢😀"])
def test_a_line_written_again_is_one_line_to_every_reader(text: str) -> None:
    raw = json.dumps({"response": text}, ensure_ascii=False).encode()
    written = reencode(raw)
    assert written.isascii()
    assert written.decode().splitlines(keepends=True) == [written.decode()]
    assert json.loads(written) == {"response": text}


def test_a_line_that_is_ascii_already_keeps_its_numbers_as_written() -> None:
    assert reencode(b'{"a":1e-7,"b":0.10}') == b'{"a":1e-7,"b":0.10}\n'


@pytest.mark.parametrize("line", [b"", b"[]", b"nope", b'{"a":', "é".encode()])
def test_what_is_no_object_is_no_line(line: bytes) -> None:
    for reader in (reencode, read_line):
        with pytest.raises(ValueError, match="JSON"):
            reader(line)


@pytest.mark.parametrize("line", [b'{}v"x\r\x00\x03"}', b'{"a":1} {"b":2}', b'{"a":1}]', b"{}\x0b"])
def test_what_follows_the_object_of_a_line_is_not_passed_on(line: bytes) -> None:
    """Found by fuzzing: to a client it may be a second line."""
    with pytest.raises(ValueError, match="follows"):
        reencode(line)


def test_a_carriage_return_between_two_tokens_ends_no_line() -> None:
    assert reencode(b'{"a":\r1}\r') == b'{"a":1}\n'
