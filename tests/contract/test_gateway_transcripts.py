"""Every recorded answer of a real Ollama, asked through the gateway: what an agent gets is what Ollama would have said.

The answer may have headers of ours beside Ollama's; JSON values, lines, status and Ollama's headers are equal. Every other
difference is listed below with its reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from .double_bench import read_all, recorded_double
from .gateway_bench import gateway_before
from .golden import Answer, Recorded, is_fixed, parse_answers, recorded, values_of
from .golden.requests import HALF_CLOSED, QUEUE_IS_FULL, REQUESTS

OURS = {"x-request-id", "x-ai-attempt", "x-ai-options", "cache-status", "server-timing"}

_NO_ORIGINS = "on a Unix socket there is no browser: Host and Origin are not looked at, and nothing is told to a browser"
_SAYS_SO = "an error in the middle of a stream is told, where Ollama stops and lets the client take it for success"
_OUR_QUEUE = "callers wait in our queue: Ollama's is never full"

DIFFERENT = {
    "a: OPTIONS preflight ok": _NO_ORIGINS,
    "a: evil origin": _NO_ORIGINS,
    "a: good origin": _NO_ORIGINS,
    "a: evil host": _NO_ORIGINS,
    "a: Host api": _NO_ORIGINS,
    "c: v1 chat mid err": _SAYS_SO,
    "c: messages mid err": _SAYS_SO,
    "n: responses mid error": _SAYS_SO,
    **dict.fromkeys(QUEUE_IS_FULL, _OUR_QUEUE),
}

RECORDED = [each for each in recorded() if each.name in REQUESTS]


def comparable(answer: Answer) -> tuple[object, ...]:
    """Status, Ollama's headers and the body's values; how events are cut into chunks is free."""
    values = values_of(answer.body)
    headers = {each for each in answer.headers if each[0] not in OURS and each != ("connection", "keep-alive")}
    if not is_fixed(answer) or not str(values).isascii():  # we write JSON in ASCII, so the length may differ
        headers = {(name, "<length>" if name == "content-length" else value) for name, value in headers}
    return answer.status, headers, values


async def ask_through_gateway(was: Recorded, folder: Path) -> tuple[list[Answer], bool]:
    async with gateway_before(recorded_double(), folder) as bench:
        client = bench.connect()
        await client.send_all(REQUESTS[was.name])
        if was.name in HALF_CLOSED:
            client.half_close()
        answer, is_closed = await read_all(client, quiet_s=300)  # idle connections are closed after 600 s
        assert bench.counts.failed == 0
    return parse_answers(answer), is_closed


@pytest.mark.parametrize("was", [each for each in RECORDED if each.name not in DIFFERENT], ids=lambda each: each.name)
async def test_the_gateway_answers_as_ollama_did(was: Recorded, tmp_path: Path, autojump_clock: trio.abc.Clock) -> None:
    got, is_closed = await ask_through_gateway(was, tmp_path)
    assert [comparable(each) for each in got] == [comparable(each) for each in parse_answers(was.answer)]
    assert is_closed == was.is_closed


@pytest.mark.parametrize("name", [name for name, why in DIFFERENT.items() if why is _SAYS_SO])
async def test_an_error_in_the_middle_of_a_v1_stream_is_the_last_thing_said(
    name: str, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    (was,) = [each for each in RECORDED if each.name == name]
    (got,), _ = await ask_through_gateway(was, tmp_path)
    (wanted,) = parse_answers(was.answer)
    last = got.body.strip().split(b"\n\n")[-1]
    assert b'"error"' in last
    assert got.body != wanted.body


def test_the_list_of_differences_is_short() -> None:
    assert len(RECORDED) == 114
    assert len(DIFFERENT) == 11
