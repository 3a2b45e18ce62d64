"""Callers who ask the same at the same time: one call, an answer for each, and nobody's leaving is another's loss."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import CachePolicy
from supervisord_ai.errors import UpstreamCut
from supervisord_ai.wire.sse import EventSplitter, read_event
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import GUEST, MODEL, OWNER, Answered, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock

SAME: dict[str, Any] = {"options": {"temperature": 0}}
SLOW = "[[n=10 delay=1 first=2]]"
TEXT = "".join(f"w{n} " for n in range(10))


class Crowd:
    """Callers who ask, and what each of them got."""

    def __init__(self, bench: Bench, nursery: trio.Nursery) -> None:
        self.bench = bench
        self.nursery = nursery
        self.answers: dict[str, Answered] = {}
        self.at: dict[str, float] = {}
        self.cut: list[str] = []
        self.scopes: dict[str, trio.CancelScope] = {}

    async def asks(self, caller: Caller, prompt: str = SLOW, **more: Any) -> None:
        """Ask, and return when the request is journalled, waits, runs or was answered."""
        totals = self.bench.gateway.statistics().totals
        self.nursery.start_soon(partial(self._ask, caller, prompt, **(SAME | more)))
        await wait_until(lambda: self.bench.gateway.statistics().totals.asked > totals.asked)
        await trio.testing.wait_all_tasks_blocked()

    async def _ask(self, caller: Caller, prompt: str, **more: Any) -> None:
        with trio.CancelScope() as self.scopes[caller.name]:
            try:
                self.answers[caller.name] = await self.bench.ask(caller, prompt, **more)
            except UpstreamCut:
                self.cut.append(caller.name)
            self.at[caller.name] = trio.current_time()

    def leaves(self, caller: Caller) -> None:
        self.scopes[caller.name].cancel()


async def warm(bench: Bench) -> int:
    """Have the model loaded; returns how many calls Ollama has seen for that."""
    await bench.ask(OWNER, "[[n=1]]")
    return calls(bench.double)


def calls(double: Double) -> int:
    return double.statistics().calls[MODEL]


def totals(bench: Bench) -> tuple[int, int]:
    found = bench.gateway.statistics().totals
    return found.answered, found.cancelled


async def test_ten_deterministic_calls_are_one_upstream_call_and_ten_complete_answers(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    answers: list[Answered] = []

    async def one(bench: Bench, number: int) -> None:
        await trio.sleep(number * 0.7)  # some wait with the first, some come in the middle of its answer
        model = MODEL if number % 3 else "LLAMA3.2:3b"
        answer = await bench.ask(agent(f"opus-{number + 1:02}"), SLOW, model=model, stream=number % 2 == 0, **SAME)
        assert {line["model"] for line in answer.lines()} == {model}
        answers.append(answer)

    roster = roster_of(opus=10)
    async with running(Double()) as double, life(tmp_path, double, roster=roster) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(one, bench, number)
        assert calls(double) == before + 1
        assert bench.state.statistics().requests.done == 11
    assert {answer.text() for answer in answers} == {TEXT}
    assert all(answer.status == 200 and answer.lines()[-1]["done"] for answer in answers)
    assert {len(answer.lines()) for answer in answers} == {1, 11}
    assert len({answer.headers.get("X-Request-Id") for answer in answers}) == 10
    said = [answer.headers.get("Cache-Status") or "" for answer in answers]
    assert sum(one.endswith("; collapsed") for one in said) == 9


async def test_ten_calls_at_temperature_0_8_stay_ten(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(opus=10)) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                ask = partial(bench.ask, agent(f"opus-{number + 1:02}"), "[[n=3 delay=1]]", options={"temperature": 0.8})
                nursery.start_soon(ask)
        assert calls(double) == before + 10


@pytest.mark.parametrize("at_s", [1.0, 5.5])
async def test_the_leaders_end_leaves_nine_complete_answers(tmp_path: Path, autojump_clock: Clock, at_s: float) -> None:
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(opus=10)) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number in range(1, 11):
                await crowd.asks(agent(f"opus-{number:02}"))
            await trio.sleep(at_s)
            crowd.leaves(agent("opus-01"))
            await trio.sleep(0.25)
            view = bench.gateway.statistics()
            assert view.totals.cancelled == 1
            assert [one.agent for one in view.backends[0].running] == ["opus-02"]  # the slot is somebody else's now
        assert calls(double) == before + 1
        assert {answer.text() for answer in crowd.answers.values()} == {TEXT}
        assert len(crowd.answers) == 9
        assert (bench.state.statistics().requests.done, bench.state.statistics().requests.cancelled) == (10, 1)
        await wait_until(lambda: bench.gateway.statistics().spool.memory_bytes == 0)


async def test_a_leader_that_leaves_while_it_waits_takes_nobody_along(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("sonnet-01"), "[[n=10 delay=1]] another")
            for name in ("opus-01", "opus-02", "opus-03"):
                await crowd.asks(agent(name))
            crowd.leaves(agent("opus-01"))
        assert crowd.answers.keys() == {"sonnet-01", "opus-02", "opus-03"}
        assert calls(double) == before + 2


async def test_the_call_is_closed_when_the_last_leaves(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for name in ("opus-01", "opus-02"):
                await crowd.asks(agent(name), "[[n=100 delay=1]]")
            await trio.sleep(5)
            crowd.leaves(agent("opus-02"))
            await trio.sleep(5)
            assert double.statistics().running == 1
            crowd.leaves(agent("opus-01"))
            left_at = trio.current_time()
            await wait_until(lambda: double.statistics().running == 0)
            assert trio.current_time() - left_at <= 1.1  # just after the next chunk
        await wait_until(lambda: bench.gateway.statistics().running == 0)
        assert bench.gateway.statistics().totals.cancelled == 2


async def test_who_comes_while_the_last_ones_call_is_being_closed_has_it_go_on(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), "[[n=10 first=30 delay=1]]")
            await trio.sleep(5)
            crowd.leaves(agent("opus-01"))
            await trio.sleep(1)
            await crowd.asks(agent("opus-02"), "[[n=10 first=30 delay=1]]")
        assert crowd.answers["opus-02"].text() == TEXT
        assert calls(double) == before + 1
        assert totals(bench) == (2, 1)  # the warming one and this


async def test_a_follower_with_a_better_priority_raises_its_leader(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(OWNER, "[[n=5 delay=1]] busy")
            await crowd.asks(agent("sonnet-01"), "[[n=5 delay=1]] first", options={"temperature": 0.8})
            await crowd.asks(agent("sonnet-02"), "[[n=5 delay=1]] shared")
            await crowd.asks(agent("opus-01"), "[[n=5 delay=1]] shared", headers={"X-AI-Priority": "2"})
        assert list(crowd.answers)[-1] == "sonnet-01"
        assert crowd.at["sonnet-02"] == pytest.approx(crowd.at["opus-01"], abs=0.1)


async def test_a_refusal_by_ollama_goes_to_all_with_its_status(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number, name in enumerate(("opus-01", "opus-02", "opus-03")):
                await crowd.asks(agent(name), "[[status=500 first=2]]", stream=number == 0)
        assert [(answer.status, "error" in answer.json()) for answer in crowd.answers.values()] == [(500, True)] * 3
        assert calls(double) == before + 1


async def test_an_error_in_the_middle_ends_every_stream_as_an_error(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number, name in enumerate(("opus-01", "opus-02", "opus-03")):
                await crowd.asks(agent(name), "[[n=5 delay=1 cut=900]]", stream=number != 1)
        for name in ("opus-01", "opus-03"):
            assert "error" in crowd.answers[name].lines()[-1]
        assert crowd.answers["opus-02"].status == 502


async def test_openai_followers_get_ids_of_their_own(tmp_path: Path, autojump_clock: Clock) -> None:
    def ids(answer: Answered) -> set[str]:
        events = [read_event(event).json for event in EventSplitter().feed(answer.body)]
        return {str(event["id"]) for event in events if event is not None}

    async with running(Double()) as double, life(tmp_path, double) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for name in ("opus-01", "opus-02", "opus-03"):
                await crowd.asks(agent(name), path="/v1/chat/completions", stream=True, temperature=0, options={})
                await trio.sleep(2)
        found = [ids(answer) for answer in crowd.answers.values()]
        assert [len(one) for one in found] == [1, 1, 1]
        assert len(set.union(*found)) == 3
        assert all(answer.body.rstrip().endswith(b"data: [DONE]") for answer in crowd.answers.values())
        assert calls(double) == before + 1


@pytest.mark.parametrize("scope", ["shared", "class", "agent"])
async def test_who_may_not_share_a_kept_answer_may_not_share_one_on_its_way(
    tmp_path: Path, autojump_clock: Clock, scope: str
) -> None:
    async with running(Double()) as double, life(tmp_path, double, cache=CachePolicy(scope=scope)) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for caller in (agent("opus-01"), agent("opus-02"), agent("sonnet-01"), GUEST):
                await crowd.asks(caller)
        assert calls(double) - before == {"shared": 2, "class": 3, "agent": 4}[scope]


@pytest.mark.parametrize("wish", ["no-cache", "no-store"])
async def test_who_wants_no_cache_neither_joins_nor_leads(tmp_path: Path, autojump_clock: Clock, wish: str) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), headers={"Cache-Control": wish})
            await crowd.asks(agent("opus-02"), headers={"Cache-Control": wish})
            await crowd.asks(agent("opus-03"), headers={"Cache-Control": wish})
        assert calls(double) == before + 3


async def test_what_was_stored_while_one_waited_needs_no_slot(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        before = await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), headers={"Cache-Control": "no-cache"})
            await crowd.asks(agent("opus-02"))
            await crowd.asks(agent("opus-03"), stream=False)
        assert calls(double) == before + 1
        assert {answer.text() for answer in crowd.answers.values()} == {TEXT}
        assert crowd.answers["opus-02"].headers.get("Cache-Status") == "ai-supervisor; hit; detail=waited"
        found = bench.gateway.statistics().totals
        assert (found.asked, found.answered, found.cached) == (4, 2, 2)
        assert bench.state.statistics().requests.done == 4


async def test_what_came_before_ollama_is_asked_of_it_once_too(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        double.is_refusing = True
        async with life(tmp_path, double, slots=1, is_ready=False) as bench, trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for name in ("opus-01", "opus-02", "opus-03"):
                await crowd.asks(agent(name), stream=name != "opus-02")
            await trio.sleep(5)
            double.is_refusing = False
        assert {answer.text() for answer in crowd.answers.values()} == {TEXT}
        assert calls(double) <= 2  # the load, and one call
        assert bench.gateway.statistics().totals.cached == 2


async def test_each_waits_no_longer_than_its_own_deadline(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("sonnet-01"), "[[n=30 delay=1]] busy")
            await crowd.asks(agent("opus-01"), headers={"X-AI-Deadline": "6"}, stream=True)
            await crowd.asks(agent("opus-02"), stream=True)
        assert crowd.answers["opus-01"].status == 503
        assert crowd.answers["opus-02"].text() == TEXT


async def test_one_of_those_who_read_can_be_cancelled_by_its_id(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for name in ("opus-01", "opus-02"):
                await crowd.asks(agent(name))
            await trio.sleep(5)
            (view,) = bench.gateway.statistics().backends[0].running
            assert view.agent == "opus-01"
            await bench.call(agent("opus-01"), "DELETE", f"/supervisor/v1/requests/{view.id}")
        assert crowd.answers["opus-01"].lines()[-1] == {"error": "request canceled"}
        assert crowd.answers["opus-02"].text() == TEXT


async def test_nothing_of_a_call_that_reached_nobody_is_lost_for_those_who_share_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await warm(bench)
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for name in ("opus-01", "opus-02", "opus-03"):
                await crowd.asks(agent(name), "[[n=10 first=5 delay=1]]")
            await trio.sleep(1)
            double.restart()
        assert {answer.text() for answer in crowd.answers.values()} == {TEXT}
        assert len(crowd.answers) == 3


async def test_after_a_crash_everybody_who_shared_a_call_gets_an_answer(tmp_path: Path, autojump_clock: Clock) -> None:
    names = [f"opus-{number:02}" for number in range(1, 6)]
    async with running(Double()) as double:
        async with life(tmp_path, double, roster=roster_of(opus=5)) as bench:
            await warm(bench)
            for name in names:
                ask = partial(bench.ask, agent(name), SLOW, headers={"Idempotency-Key": name}, **SAME)
                bench.nursery.start_soon(ask)
            await trio.sleep(5)
            assert bench.state.statistics().requests.running == 5
        await wait_until(lambda: double.statistics().running == 0)
        answers: dict[str, Answered] = {}
        async with life(tmp_path, double, roster=roster_of(opus=5)) as bench, trio.open_nursery() as nursery:

            async def come_back(name: str) -> None:
                answers[name] = await bench.ask(agent(name), SLOW, headers={"Idempotency-Key": name}, **SAME)

            for name in names:
                nursery.start_soon(come_back, name)
        assert {answer.text() for answer in answers.values()} == {TEXT}
        assert [answer.headers.get("X-AI-Attempt") for answer in answers.values()] == ["2"] * 5
