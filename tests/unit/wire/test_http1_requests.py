"""Requests as bytes: whole, byte by byte, pipelined, with something behind, and malformed in every way we know of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.wire.http1 import END, Broken, RequestEvent, RequestHead, RequestParser

GET = b"GET /api/tags?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n"


def parse(raw: bytes, sizes: list[int] | None = None, *, eof: bool = False) -> list[RequestEvent]:
    """Feed `raw` whole, or cut in pieces of these sizes (the rest whole), with neighbouring body bytes joined."""
    parser = RequestParser()
    events: list[RequestEvent] = []
    at = 0
    for size in [*(sizes or []), len(raw)]:
        events += parser.feed(raw[at : at + size])
        at += size
    if eof:
        events += parser.feed_eof()
    joined: list[RequestEvent] = []
    for event in events:
        if isinstance(event, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += event
        else:
            joined.append(event)
    return joined


def shape(events: list[RequestEvent]) -> list[object]:
    """The events as comparable values."""
    return [(e.method, e.target, e.headers.items()) if isinstance(e, RequestHead) else e for e in events]


def broken(raw: bytes) -> Broken:
    """The one thing that came of a malformed head; afterwards the parser takes no more, whatever comes."""
    parser = RequestParser()
    events = parser.feed(raw)
    assert len(events) == 1
    assert isinstance(events[0], Broken)
    assert parser.feed(GET) == []
    assert parser.feed_eof() == []
    return events[0]


def request(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


def test_a_request_is_its_head_and_its_end() -> None:
    head, end = parse(GET)
    assert isinstance(head, RequestHead)
    assert (head.method, head.target, head.path, head.query) == ("GET", "/api/tags?x=1", "/api/tags", "x=1")
    assert (head.version, head.wants_keep_alive, head.body_bytes) == ("1.1", True, 0)
    assert head.headers.items() == [("Host", "localhost")]
    assert end is END


@pytest.mark.parametrize("raw", [GET, POST, CHUNKED], ids=["get", "length", "chunked"])
def test_cut_anywhere_in_two_a_request_is_the_same(raw: bytes) -> None:
    whole = shape(parse(raw))
    assert whole[-1] is END
    for cut in range(len(raw)):
        assert shape(parse(raw, [cut])) == whole


@pytest.mark.parametrize("raw", [GET, POST, CHUNKED], ids=["get", "length", "chunked"])
def test_byte_by_byte_a_request_is_the_same(raw: bytes) -> None:
    assert shape(parse(raw, [1] * len(raw))) == shape(parse(raw))


@given(st.lists(st.sampled_from([GET, POST, CHUNKED]), max_size=5), st.lists(st.integers(1, 90), max_size=40))
def test_pipelined_requests_come_in_order_however_they_are_cut(raws: list[bytes], sizes: list[int]) -> None:
    expected = [item for raw in raws for item in shape(parse(raw))]
    assert shape(parse(b"".join(raws), sizes)) == expected


def test_an_old_clients_empty_line_between_requests_is_skipped() -> None:
    assert len(parse(POST + b"\r\n" + GET)) == 5


def test_a_body_may_look_like_a_request() -> None:
    inner = b"GET /api/delete HTTP/1.1\r\nHost: a\r\n\r\n"
    events = parse(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
    assert events[1:] == [inner, END]


def test_any_token_is_a_method_and_keeps_its_case() -> None:
    for method in ("get", "BREW", "PROPFIND", "M-SEARCH"):
        head = parse(request(f"{method} / HTTP/1.1".encode(), b"Host: a"))[0]
        assert isinstance(head, RequestHead)
        assert head.method == method


def test_an_offer_to_upgrade_is_not_taken_up_and_the_body_is_still_the_body() -> None:
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nhi"
    head, body, end = parse(raw)
    assert isinstance(head, RequestHead)
    assert (body, end) == (b"hi", END)


def test_an_absolute_target_gives_its_path() -> None:
    for target, path in [
        (b"http://evil:1/api/tags?q=//x", "/api/tags"),
        (b"http://evil", "/"),
        (b"http://evil?q=/", "/"),
        (b"*", "*"),
        (b"//api/tags", "//api/tags"),
    ]:
        head = parse(request(b"GET %b HTTP/1.1" % target, b"Host: a"))[0]
        assert isinstance(head, RequestHead)
        assert head.path == path


def test_white_space_around_values_is_not_theirs_and_their_case_is() -> None:
    head = parse(request(b"GET / HTTP/1.1", b"Host:\ta ", b"X-Name:  One Two\t "))[0]
    assert isinstance(head, RequestHead)
    assert head.headers.get("x-NAME") == "One Two"
    assert head.headers.items()[1] == ("X-Name", "One Two")


def test_a_host_may_be_empty_but_not_missing_twice_or_malformed() -> None:
    assert len(parse(request(b"GET / HTTP/1.1", b"Host:"))) == 2
    assert broken(request(b"GET / HTTP/1.1")) == Broken(400, "missing required Host header")
    assert broken(request(b"GET / HTTP/1.1", b"Host: a", b"Host: a")) == Broken(400, "too many Host headers")
    assert broken(request(b"GET / HTTP/1.1", b"Host: a/b")) == Broken(400, "malformed Host header")
    assert len(parse(request(b"GET / HTTP/1.0"))) == 2


@pytest.mark.parametrize(
    ("lines", "keeps"),
    [
        ((b"GET / HTTP/1.1", b"Host: a"), True),
        ((b"GET / HTTP/1.1", b"Host: a", b"Connection: x, Close"), False),
        ((b"GET / HTTP/1.1", b"Host: a", b"Connection: x", b"Connection: close"), False),
        ((b"GET / HTTP/1.0",), False),
        ((b"GET / HTTP/1.0", b"Connection: Keep-Alive"), True),
    ],
)
def test_keep_alive_is_the_versions_default_or_what_was_asked(lines: tuple[bytes, ...], keeps: bool) -> None:
    head = parse(request(*lines))[0]
    assert isinstance(head, RequestHead)
    assert head.wants_keep_alive is keeps


SMUGGLING = {
    "a header behind LF in the query": request(b"POST /a?b\nX-Y: z HTTP/1.1", b"Host: a"),
    "length and chunked": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked and length": request(b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two lengths": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Content-Length: 6"),
    "two equal lengths": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", b"Content-Length: 5"),
    "a list of lengths": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5, 5"),
    "a signed length": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: +5"),
    "a hex length": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 0x5"),
    "an empty length": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length:"),
    "a length past 64 bits": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 99999999999999999999"),
    "chunked on 1.0": request(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"),
    "chunked twice": request(b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked, chunked": request(b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked, chunked"),
    "space before the colon": request(b"POST / HTTP/1.1", b"Host: a", b"Content-Length : 5"),
    "a folded value": request(b"GET / HTTP/1.1", b"Host: a", b"X: 1", b" Content-Length: 5"),
    "a folded first field": request(b"GET / HTTP/1.1", b" Host: a"),
    "a bare line feed in a value": b"GET / HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\n",
    "a bare carriage return in a value": b"GET / HTTP/1.1\r\nHost: a\rContent-Length: 5\r\n\r\n",
    "line feeds alone": b"GET / HTTP/1.1\nHost: a\n\n",
    "a NUL": b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n",
    "a control character": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n",
    "no colon": request(b"GET / HTTP/1.1", b"Host a"),
    "no name": request(b"GET / HTTP/1.1", b": a"),
    "two spaces": request(b"GET  / HTTP/1.1", b"Host: a"),
    "a space in the target": request(b"GET /a b HTTP/1.1", b"Host: a"),
    "a trailing space": request(b"GET / HTTP/1.1 ", b"Host: a"),
    "no version": request(b"GET /"),
    "an empty method": request(b" / HTTP/1.1", b"Host: a"),
    "a relative target": request(b"GET api HTTP/1.1", b"Host: a"),
    "a raw byte in the target": request(b"GET /\xc3\xa9 HTTP/1.1", b"Host: a"),
    "a bad escape": request(b"GET /%zz HTTP/1.1", b"Host: a"),
    "another protocol": request(b"GET / RTSP/1.0", b"Host: a"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "words": request(b"garbage"),
}


@pytest.mark.parametrize("raw", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_what_two_readers_could_read_differently_is_400(raw: bytes) -> None:
    assert broken(raw) == Broken(400, "")


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, chunked", b"identity", b"xchunked"])
def test_another_transfer_encoding_is_501(coding: bytes) -> None:
    raw = request(b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: " + coding)
    assert broken(raw) == Broken(501, "Unsupported transfer encoding")


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/3.0"])
def test_another_version_is_505(version: bytes) -> None:
    assert broken(request(b"GET / " + version, b"Host: a")) == Broken(505, "unsupported protocol version")


def test_a_head_may_have_so_many_bytes_and_no_more() -> None:
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "

    def head(size: int) -> bytes:
        return start + b"x" * (size - len(start)) + b"\r\n\r\n"

    for feed in ([], [1000] * 70):
        assert len(parse(head(64_000), feed)) == 2
        assert parse(head(64_001), feed) == [Broken(431, "")]


def test_a_head_without_end_is_refused_when_it_is_too_long_not_when_it_ends() -> None:
    parser = RequestParser(headers_bytes=1000)
    assert parser.feed(b"GET /" + b"a" * 900) == []
    assert parser.feed(b"a" * 200) == [Broken(431, "")]


def test_a_head_may_have_so_many_fields_and_no_more() -> None:
    fields = [b"X%d: 1" % n for n in range(127)]
    assert len(parse(request(b"GET / HTTP/1.1", b"Host: a", *fields))) == 2
    assert broken(request(b"GET / HTTP/1.1", b"Host: a", b"Y: 1", *fields)) == Broken(431, "")


def test_good_requests_before_a_malformed_one_are_still_there() -> None:
    events = parse(GET + b"garbage\r\n\r\n" + GET)
    assert len(events) == 3
    assert events[2] == Broken(400, "")


def test_the_end_between_requests_is_no_error_and_inside_one_it_is() -> None:
    assert len(parse(GET, eof=True)) == 2
    assert parse(GET[:-1], eof=True) == [Broken(400, "")]
    assert parse(POST[:-1], eof=True)[1:] == [b"hell", Broken(400, "unexpected EOF", is_in_body=True)]
    assert parse(CHUNKED[:-1], eof=True)[1:] == [b"hello", Broken(400, "unexpected EOF", is_in_body=True)]


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20))
def test_no_bytes_make_it_raise(junk: bytes, sizes: list[int]) -> None:
    parse(junk, sizes, eof=True)
    parse(GET[:-2] + junk + b"\r\n\r\n", sizes, eof=True)
    parse(CHUNKED[:70] + junk, sizes, eof=True)
