"""Answers as bytes: an answer that was cut anywhere is never taken for a whole one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.wire.http1 import (
    END,
    Broken,
    ResponseEvent,
    ResponseHead,
    ResponseParser,
    chunk_bytes,
    request_bytes,
    response_head_bytes,
)

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n"
UNTIL_END = b"HTTP/1.0 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n{\"a\":1}"


def parse(
    raw: bytes, sizes: list[int] | None = None, *, is_head_request: bool = False
) -> tuple[list[ResponseEvent], ResponseParser]:
    """Feed it in pieces and then the end of the connection; body bytes are joined."""
    parser = ResponseParser(is_head_request=is_head_request)
    events: list[ResponseEvent] = []
    at = 0
    for size in [*(sizes or []), len(raw)]:
        events += parser.feed(raw[at : at + size])
        at += size
    reusable_before_the_end = parser.is_reusable
    events += parser.feed_eof()
    assert parser.is_reusable == reusable_before_the_end
    body = b"".join(e for e in events if isinstance(e, bytes))
    others = [e for e in events if not isinstance(e, bytes)]
    return [*others[:1], body, *others[1:]], parser


@pytest.mark.parametrize("raw", [LENGTH, CHUNKED, UNTIL_END], ids=["length", "chunked", "until end"])
@given(sizes=st.lists(st.integers(1, 9), max_size=60))
def test_an_answer_is_the_same_however_it_is_cut(raw: bytes, sizes: list[int]) -> None:
    events, parser = parse(raw, sizes)
    assert isinstance(events[0], ResponseHead)
    assert (events[0].status, events[1:]) == (200, [b'{"a":1}', END])
    assert parser.is_reusable == (raw is not UNTIL_END)


@pytest.mark.parametrize("raw", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_cut_at_any_byte_it_never_ends_well(raw: bytes) -> None:
    for cut in range(len(raw)):
        events, parser = parse(raw[:cut])
        assert END not in events
        assert any(isinstance(event, Broken) for event in events)
        assert not parser.is_reusable


def test_only_http_1_0_may_end_with_the_connection_and_that_connection_carries_nothing_more() -> None:
    parser = ResponseParser()
    parser.feed(UNTIL_END)
    assert not parser.is_reusable
    assert parser.feed_eof() == [END]
    assert not parser.is_reusable


def test_early_answers_are_skipped() -> None:
    events, _ = parse(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH)
    assert isinstance(events[0], ResponseHead)
    assert events[0].status == 200


@pytest.mark.parametrize("length", [b"0", b"00"])
def test_an_empty_answer_ends_with_its_head(length: bytes) -> None:
    parser = ResponseParser()
    events = parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % length)
    assert events[1:] == [END]
    assert parser.is_reusable


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_body_whatever_they_declare(status: int) -> None:
    events, parser = parse(b"HTTP/1.1 %d x\r\nContent-Length: 5\r\n\r\n" % status)
    assert events[1:] == [b"", END]
    assert parser.is_reusable


def test_the_answer_to_head_has_no_body() -> None:
    events, parser = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n", is_head_request=True)
    assert events[1:] == [b"", END]
    assert parser.is_reusable


def test_bytes_behind_an_answer_make_its_connection_useless() -> None:
    events, parser = parse(LENGTH + b"HTTP/1.1 200 OK\r\n")
    assert events[1:] == [b'{"a":1}', END]
    assert not parser.is_reusable


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_connection_that_ollama_wants_closed_is_not_used_again(head: bytes) -> None:
    events, parser = parse(head)
    assert events[-1] is END
    assert not parser.is_reusable


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_broken_and_nothing_after_it_is_read(raw: bytes) -> None:
    parser = ResponseParser()
    events = parser.feed(raw)
    assert isinstance(events[-1], Broken)
    assert END not in events
    assert parser.feed(LENGTH) == []
    assert parser.feed_eof() == []
    assert not parser.is_reusable


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(junk: bytes) -> None:
    parse(junk)
    parse(CHUNKED[:50] + junk)


def test_a_line_break_in_a_value_cannot_be_written() -> None:
    for value in ("a\r\nX-Admin: yes", "a\nb", "a\rb", "a\0b"):
        with pytest.raises(ValueError, match="line break"):
            request_bytes("GET", "/", [("X", value)], b"")
        with pytest.raises(ValueError, match="line break"):
            response_head_bytes("HTTP/1.1 200 OK", [("X", value)])
    with pytest.raises(ValueError, match="line break"):
        request_bytes("GET", "/ HTTP/1.1\r\nX: y\r\n", [], b"")


@pytest.mark.parametrize("junk", [b"\0", b"\rx", b"\n"])
def test_a_byte_that_may_not_stand_in_a_head_may_not_stand_in_its_reason_however_it_is_cut(junk: bytes) -> None:
    """Found by fuzzing: whole it was taken, in two pieces it was not."""
    for before in (b"", b"\r\n"):  # llhttp passes over an empty line
        raw = before + b"HTTP/1.1 200 O" + junk + b"K\r\nContent-Length: 0\r\n\r\n"
        for sizes in ([], [18]):
            events, _ = parse(raw, sizes)
            assert [event.status for event in events if isinstance(event, Broken)] == [502]


@pytest.mark.parametrize("more", [b"", b"Upgrade: websocket\r\nConnection: upgrade\r\n"])
def test_an_answer_in_another_protocol_is_broken(more: bytes) -> None:
    (event,) = ResponseParser().feed(b"HTTP/1.1 101 Switching Protocols\r\n" + more + b"\r\n")
    assert isinstance(event, Broken)
    assert event.status == 502


def test_an_answer_with_more_fields_than_anybody_needs_is_broken() -> None:
    def answer(count: int) -> ResponseEvent:
        return ResponseParser(header_count=3).feed(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * count + b"\r\n")[0]

    assert isinstance(answer(3), ResponseHead)
    assert answer(4) == Broken(502, "too many header fields")


@pytest.mark.parametrize("value", ["a\nB: c", "a\r\nB: c", "a\rB", "a\0b"])
def test_no_field_is_written_that_would_be_two(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        response_head_bytes("HTTP/1.1 200 OK", [("A", value)])
    with pytest.raises(ValueError, match="line break"):
        request_bytes("GET", "/", [("A", value)], b"")


def test_a_chunk_says_how_long_it_is_and_fields_can_be_counted() -> None:
    assert chunk_bytes(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    (head,) = ResponseParser().feed(b"HTTP/1.1 204 No Content\r\nA: b\r\nA: c\r\n\r\n")[:1]
    assert isinstance(head, ResponseHead)
    assert (len(head.headers), head.headers.items()) == (2, [("A", "b"), ("A", "c")])


def test_a_head_is_written_as_it_is_read() -> None:
    written = response_head_bytes("HTTP/1.1 200 OK", [("A", "b"), ("C", "\u00e9\u6f22")])
    assert written == b"HTTP/1.1 200 OK\r\nA: b\r\nC: \xe9?\r\n\r\n"
    assert request_bytes("GET", "/x", [("Host", "a")], b"body") == b"GET /x HTTP/1.1\r\nHost: a\r\n\r\nbody"
