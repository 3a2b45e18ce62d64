"""Events: whole, byte by byte, cut; and which one ends a stream properly."""

from __future__ import annotations

import pytest

from supervisord_ai.core.calls import Face
from supervisord_ai.wire.ndjson import LineTooLong
from supervisord_ai.wire.sse import Event, EventSplitter, is_final, read_event, reencode, write_event

OPENAI = b'data: {"id":"chatcmpl-1","choices":[]}\n\ndata: {"choices":[],"usage":{}}\n\ndata: [DONE]\n\n'
ANTHROPIC = b'event: message_start\ndata: {"type":"message_start"}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
WITH_CRLF = b": ping\r\n\r\ndata: {}\r\n\r\n"


@pytest.mark.parametrize("stream", [OPENAI, ANTHROPIC, WITH_CRLF])
def test_events_are_the_same_in_one_piece_and_byte_by_byte(stream: bytes) -> None:
    whole, by_byte = EventSplitter(), EventSplitter()
    events = whole.feed(stream)
    assert b"".join(events) == stream
    assert [event for byte in stream for event in by_byte.feed(bytes([byte]))] == events
    assert whole.tail == by_byte.tail == b""


def test_half_an_event_stays_in_the_tail() -> None:
    splitter = EventSplitter()
    assert splitter.feed(OPENAI[:-1]) == [e + b"\n\n" for e in OPENAI.split(b"\n\n")[:2]]
    assert splitter.tail == b"data: [DONE]\n"
    assert splitter.feed(b"\n") == [b"data: [DONE]\n\n"]


def test_an_event_past_the_bound_is_an_error() -> None:
    splitter = EventSplitter(max_event_bytes=50)
    with pytest.raises(LineTooLong):
        splitter.feed(b"data: " + b"x" * 50)


def test_an_event_is_read_and_written() -> None:
    event = read_event(b'event: x\ndata: {"a":1}\nid: 4\n\n')
    assert event == Event("x", b'{"a":1}')
    assert event.json == {"a": 1}
    assert write_event(event) == b'event: x\ndata: {"a":1}\n\n'
    assert read_event(b"data: a\ndata: b\n\n").data == b"a\nb"
    assert read_event(b"data: [DONE]\n\n").json is None


def test_an_event_written_again_is_ascii() -> None:
    assert reencode('data: {"a":"\u2028é"}\n\n'.encode()) == b'data: {"a":"\\u2028\\u00e9"}\n\n'
    assert reencode(OPENAI) == OPENAI


@pytest.mark.parametrize(
    ("face", "path", "event", "final"),
    [
        (Face.OPENAI, "/v1/chat/completions", b"data: [DONE]\n\n", True),
        (Face.OPENAI, "/v1/chat/completions", b'data: {"content":"[DONE]"}\n\n', False),
        (Face.OPENAI, "/v1/responses", b"event: response.completed\ndata: {}\n\n", True),
        (Face.OPENAI, "/v1/responses", b"event: response.failed\ndata: {}\n\n", True),
        (Face.OPENAI, "/v1/responses", b"event: response.output_text.done\ndata: {}\n\n", False),
        (Face.ANTHROPIC, "/v1/messages", b'event: message_stop\ndata: {"type":"message_stop"}\n\n', True),
        (Face.ANTHROPIC, "/v1/messages", b'event: content_block_delta\ndata: {"text":"message_stop"}\n\n', False),
        (Face.ANTHROPIC, "/v1/messages", b"data: [DONE]\n\n", False),
    ],
)
def test_a_stream_is_whole_only_with_the_final_event_of_its_dialect(face: Face, path: str, event: bytes, final: bool) -> None:
    assert is_final(face, event, path) is final


def test_an_event_that_is_too_long_is_too_long_although_its_end_is_there() -> None:
    """Found by fuzzing: in one piece it passed the bound."""
    with pytest.raises(LineTooLong):
        EventSplitter(100).feed(b"data: " + b"x" * 150 + b"\n\n")
