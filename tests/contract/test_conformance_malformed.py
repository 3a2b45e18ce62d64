"""Malformed requests, checks 9 to 16: the listed answer, no traceback, and nobody else notices."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import pytest
import trio

from supervisord_ai.core.identity import Caller

from .double_bench import read_all
from .gateway_bench import JSON, OWNER, Bench, agent, head_of, status_of
from .golden import parse_answers
from .golden.requests import http, show

Clock = trio.abc.Clock


def raw(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


@dataclass(frozen=True, slots=True)
class Malformed:
    """A request and its answer: `error` is the text in a JSON body, `plain` a whole body; None where the words are free."""

    name: str
    request: bytes
    status: int
    error: str | None = None
    plain: str | None = None


def posted(path: str, **body: object) -> bytes:
    return http("POST", path, body)


BAD_REQUEST = "400 Bad Request"
NO_NOPE = "model 'nope:latest' not found"
NO_VALUE = "invalid character {} looking for beginning of value"
TWO_LENGTHS = http("POST", "/api/show", b"{}", ("Content-Length", "2"), ("Content-Length", "3"))
BOTH_FRAMINGS = http("POST", "/api/show", b"2\r\n{}\r\n0\r\n\r\n", ("Content-Length", "2"), ("Transfer-Encoding", "chunked"))
BAD_CHUNK = http("POST", "/api/show", b"zz\r\n{}\r\n0\r\n\r\n", ("Transfer-Encoding", "chunked"))
GZIPPED = http("POST", "/", b"", ("Transfer-Encoding", "gzip"))
HUGE_HEADER = http("GET", "/", None, ("X-Huge", "x" * 1_100_000))
MANY_HEADERS = http("GET", "/", None, *[(f"X-{n}", "x") for n in range(1000)])
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n"

MALFORMED = [
    Malformed("09 bad chunk size", BAD_CHUNK, 400, "invalid byte in chunk length"),
    Malformed("09 content-length and transfer-encoding", BOTH_FRAMINGS, 400),
    Malformed("10 two content-lengths", TWO_LENGTHS, 400, plain=BAD_REQUEST),
    Malformed("10 negative length", http("POST", "/api/show", b"{}", ("Content-Length", "-2")), 400, plain=BAD_REQUEST),
    Malformed("10 length that is no number", http("POST", "/api/show", b"{}", ("Content-Length", "2x")), 400, plain=BAD_REQUEST),
    Malformed("10 unknown transfer-encoding", GZIPPED, 501, plain="Unsupported transfer encoding"),
    Malformed("10 no host", raw("GET / HTTP/1.1\n\n"), 400, plain=f"{BAD_REQUEST}: missing required Host header"),
    Malformed("10 two hosts", raw("GET / HTTP/1.1\nHost: a\nHost: b\n\n"), 400),
    Malformed("10 huge header", HUGE_HEADER, 431, plain="431 Request Header Fields Too Large"),
    Malformed("10 a thousand headers", MANY_HEADERS, 431),
    Malformed("10 no http", b"GARBAGE\r\n\r\n", 400, plain=BAD_REQUEST),
    Malformed("10 tls to a plain port", TLS_HELLO, 400),
    Malformed("10 http/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Malformed("10 space in a header's name", raw("GET / HTTP/1.1\nHost: x\nX Y: z\n\n"), 400),
    Malformed("10 nul in a header", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
    Malformed("10 folded header", raw("GET / HTTP/1.1\nHost: x\nX: a\n  b\n\n"), 400),
    Malformed("12 empty body", show(b""), 400, "missing request body"),
    Malformed("12 only white space", show(b" \r\n\t"), 400, "missing request body"),
    Malformed("12 truncated body", show(b'{"model":"no'), 400, "unexpected EOF"),
    Malformed("13 junk after the value", show(b'{"model":"nope"} junk'), 404, NO_NOPE),
    Malformed("13 keys in another case", show(b'{"MODEL":"nope"}'), 404, NO_NOPE),
    Malformed("13 duplicate keys", show(b'{"model":"a","model":"nope"}'), 404, NO_NOPE),
    Malformed("15 bom", show(b'\xef\xbb\xbf{"model":"m"}'), 400, NO_VALUE.format("'\xef'")),
    Malformed("15 nan", show(b'{"model":NaN}'), 400, NO_VALUE.format("'N'")),
    Malformed("15 gzip", show(b"\x1f\x8b\x08\x00"), 400, NO_VALUE.format(r"'\x1f'")),
    Malformed("15 array", show(b"[]"), 400, "json: cannot unmarshal array into Go value of type api.ShowRequest"),
    Malformed("15 string", show(b'"x"'), 400, "json: cannot unmarshal string into Go value of type api.ShowRequest"),
    Malformed("15 null", show(b"null"), 400, "model is required"),
    Malformed("15 bare key", show(b"{model:1}"), 400, "invalid character 'm' looking for beginning of object key string"),
    Malformed("15 bad utf-8 in a name", show(b'{"model":"n\xff"}'), 400, "invalid model name"),
    Malformed("15 deep nesting", show(b'{"model":' + b"[" * 100_000), 400),
    Malformed("15 a million digits", show(b'{"model":' + b"9" * 1_000_000 + b"}"), 400),
    Malformed(
        "16 stream as a string",
        posted("/api/generate", model="chat", prompt="x", stream="false"),
        400,
        "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
    ),
    Malformed(
        "16 content as a list",
        posted("/api/chat", model="chat", messages=[{"role": "user", "content": ["x"]}]),
        400,
        "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
    ),
    Malformed(
        "16 keep_alive without a unit",
        posted("/api/generate", model="chat", keep_alive="5"),
        400,
        'time: missing unit in duration "5"',
    ),
    Malformed("16 keep_alive as a bool", posted("/api/generate", model="chat", keep_alive=True), 400, "Unsupported type: 'bool'"),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
@pytest.mark.parametrize("caller", [OWNER, agent(1)], ids=["owner", "agent"])
async def test_a_malformed_request_is_answered_and_harms_nobody(
    bench: Bench, autojump_clock: Clock, caplog: pytest.LogCaptureFixture, case: Malformed, caller: Caller
) -> None:
    caplog.set_level(logging.DEBUG)
    client = bench.connect(caller)
    await client.send_all(case.request)
    received, _ = await read_all(client, quiet_s=100)
    answer = parse_answers(received)[0]
    assert status_of(answer) == case.status
    if case.error is not None:
        assert (json.loads(answer.body), head_of(answer, "content-type")) == ({"error": case.error}, JSON)
    if case.plain is not None:
        assert answer.body.decode() == case.plain
    client.close()
    assert await bench.is_well()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


async def test_09_a_smuggled_second_request_is_never_served(bench: Bench, autojump_clock: Clock) -> None:
    hidden = http("DELETE", "/api/delete", {"model": "chat"})
    outer = b"0\r\n\r\n" + hidden
    framing = (("Content-Length", str(len(outer))), ("Transfer-Encoding", "chunked"))
    await bench.exchange(http("POST", "/api/show", outer, *framing))
    assert "DELETE /api/delete" not in bench.double.statistics().requests
    assert bench.double.machine.catalogue.find("chat") is not None
