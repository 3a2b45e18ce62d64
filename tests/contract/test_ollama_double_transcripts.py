"""Every recorded answer of a real Ollama, asked of the double again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
import trio.testing

from tests.fakes.ollama_double import running

from .double_bench import exchange, read_all, recorded_double
from .golden import Answer, Recorded, is_fixed, parse_answers, recorded, values_of
from .golden.requests import EXCLUDED, HALF_CLOSED, QUEUE_IS_FULL, REQUESTS, generate

RECORDED = recorded()


@dataclass(frozen=True, slots=True)
class Comparable:
    """An answer with everything out of it that two runs of one server differ in."""

    status: str
    headers: frozenset[tuple[str, str]]
    chunks: list[object]


def comparable(answer: Answer) -> Comparable:
    headers = answer.headers
    if not is_fixed(answer):
        headers = frozenset((name, "<length>" if name == "content-length" else value) for name, value in headers)
    pieces = answer.chunks if answer.chunks is not None else (answer.body,)
    return Comparable(answer.status, headers, [values_of(piece) for piece in pieces])


def test_every_recorded_answer_is_replayed_or_excluded_by_name() -> None:
    names = {each.name for each in RECORDED}
    assert names == REQUESTS.keys() | EXCLUDED.keys()
    assert not REQUESTS.keys() & EXCLUDED.keys()
    assert len(RECORDED) == 124
    assert len(EXCLUDED) == 10


@pytest.mark.parametrize("was", [each for each in RECORDED if each.name in REQUESTS], ids=lambda each: each.name)
async def test_the_double_answers_as_the_real_server_did(was: Recorded, autojump_clock: trio.abc.Clock) -> None:
    async with running(recorded_double(max_queue=2)) as double, trio.open_nursery() as nursery:
        if was.name in QUEUE_IS_FULL:
            for model in ("chat", "second", "second"):
                nursery.start_soon(exchange, double, generate(model=model))
                await trio.testing.wait_all_tasks_blocked()
        stream = await double.dial()
        await stream.send_all(REQUESTS[was.name])
        if was.name in HALF_CLOSED:
            stream.half_close()  # type: ignore[attr-defined]
        if was.name in QUEUE_IS_FULL:
            await trio.testing.wait_all_tasks_blocked()
            answer, is_closed = await read_all(stream, quiet_s=0.1)  # the load takes longer than that
        else:
            answer, is_closed = await read_all(stream)
        await stream.aclose()
        nursery.cancel_scope.cancel()

    got, wanted = parse_answers(answer), parse_answers(was.answer)
    assert [comparable(each) for each in got] == [comparable(each) for each in wanted]
    assert is_closed == was.is_closed
