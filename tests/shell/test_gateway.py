"""The path of a request, whole: what callers of a gateway see, with the double of Ollama below it."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import Answered, agent, life, roster_of

Clock = trio.abc.Clock


async def test_a_generate_is_streamed_line_by_line(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.ask(agent("opus-01"), "[[n=3]]")
        assert answer.status == 200
        assert answer.headers.get("Content-Type") == "application/x-ndjson"
        assert answer.text() == "w0 w1 w2 "
        assert answer.lines()[-1]["done"] is True
        assert b"\n\n" not in answer.body
        totals = bench.gateway.statistics().totals
        assert (totals.asked, totals.answered) == (1, 1)


async def test_the_one_body_of_a_caller_who_wants_no_stream_is_assembled(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.ask(agent("opus-01"), "[[n=3]]", stream=False)
        assert answer.headers.get("Content-Type") == "application/json; charset=utf-8"
        assert answer.json()["response"] == "w0 w1 w2 "
        assert answer.json()["done"] is True


async def test_131_at_once_are_served_two_at_a_time(tmp_path: Path, autojump_clock: Clock) -> None:
    answers: list[Answered] = []
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(36, 95)) as bench:

        async def ask(name: str) -> None:
            answers.append(await bench.ask(agent(name), "[[n=10 delay=0.1]]"))

        await bench.ask(agent("opus-01"), "[[n=1]]")  # the load is behind us
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name in bench.gateway._callers.roster.agents:
                nursery.start_soon(ask, name)
        assert len(answers) == 131
        assert all(answer.text().count("w") == 10 for answer in answers)
        counts = double.statistics()
        assert counts.peak_in_flight == counts.peak_running == 2
        ideal_s = 131 * 10 * 0.1 / 2
        assert trio.current_time() - began_at <= 1.05 * ideal_s
