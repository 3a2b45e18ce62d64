"""The recorded matrix of model names and routes, and the recorded calls of administration, asked of the double again."""

from __future__ import annotations

import pytest
import trio

from tests.fakes.ollama_double import Double, running

from .double_bench import exchange, recorded_double
from .golden import Answer, Line, listed, matrix, parse_answers, without_times
from .golden.requests import http, said

MATRIX, LISTED = matrix(), listed()

NOT_REPLAYED = {
    "GET /api/experimental/model-recommendations null": "a list of products that changes from week to week",
}


async def _answer(double: Double, line: Line, request: object) -> Answer:
    assert request is None or isinstance(request, dict)
    (answer,) = parse_answers(await exchange(double, http(line.method, line.path, request)))
    return answer


def _check(line: Line, answer: Answer) -> None:
    headers = dict(answer.headers)
    assert (answer.status.split()[1], headers["content-type"]) == (str(line.status), line.content_type)
    got, wanted = without_times(answer.body.decode().rstrip("\n")), without_times(line.beginning)
    if line.is_cut:
        assert got.startswith(wanted[: wanted.rindex(",")])  # the cut may be inside a time or a number
    else:
        assert got == wanted
    if line.is_chunked:
        assert answer.chunks is not None
    if line.length is not None and "created_at" not in line.beginning:  # a time has as many digits as it needs
        assert headers["content-length"] == str(line.length)


def test_the_transcript_was_read_whole() -> None:
    assert len(MATRIX) == 55
    assert len(LISTED) == 23
    assert {line.name for line in LISTED} >= NOT_REPLAYED.keys()


@pytest.mark.parametrize("line", MATRIX, ids=lambda line: f"{line.path} {line.request['model']!r}")
async def test_a_model_name_is_answered_as_the_real_server_did(line: Line, autojump_clock: trio.abc.Clock) -> None:
    prompt = "[[n=1]]"
    request = {"model": line.request["model"], "prompt": prompt, "messages": said(prompt), "input": prompt, "stream": False}
    async with running(recorded_double()) as double:
        _check(line, await _answer(double, line, request))


@pytest.mark.parametrize("line", [line for line in LISTED if line.name not in NOT_REPLAYED], ids=lambda line: line.name)
async def test_a_listed_call_is_answered_as_the_real_server_did(line: Line, autojump_clock: trio.abc.Clock) -> None:
    async with running(recorded_double()) as double:
        _check(line, await _answer(double, line, line.request))
