"""Embeds that wait for a slot together become one call, and nobody can tell by their vectors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import QueuePolicy
from tests.fakes.ollama_double import Double, DoubleOptions, embedding_model, running
from tests.shell.gateway_bench import MODEL, Answered, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock

EMBEDDER = "nomic-embed-text:latest"
PRIVATE = {"Cache-Control": "no-store"}


class Waiters:
    """Embeds asked while every slot is busy, and what became of them."""

    def __init__(self, bench: Bench, nursery: trio.Nursery) -> None:
        self.bench = bench
        self.nursery = nursery
        self.answers: dict[str, Answered] = {}
        self.scopes: dict[str, trio.CancelScope] = {}

    async def asks(self, caller: Caller, text: str | list[str], **more: Any) -> None:
        before = self.bench.gateway.statistics().totals.asked
        self.nursery.start_soon(partial(self._ask, caller, text, **more))
        await wait_until(lambda: self.bench.gateway.statistics().totals.asked > before, every_s=0.0001)
        await trio.testing.wait_all_tasks_blocked()

    async def _ask(self, caller: Caller, text: str | list[str], **more: Any) -> None:
        with trio.CancelScope() as self.scopes[caller.name]:
            self.answers[caller.name] = await embed(self.bench, caller, text, **more)


async def embed(bench: Bench, caller: Caller, text: str | list[str], **more: Any) -> Answered:
    return await bench.ask(caller, "", path="/api/embed", **({"input": text} | more))


def embeds(double: Double) -> int:
    return double.statistics().requests.get("POST /api/embed", 0)


async def test_three_embeds_behind_a_busy_slot_are_one_call_with_the_vectors_of_single_ones(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    texts = {"opus-01": ["one", "two"], "opus-02": ["two", "three"], "sonnet-01": ["a longer text of some words"]}
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        single = {name: await embed(bench, agent(name), text, headers=PRIVATE) for name, text in texts.items()}
        before = embeds(double)
        async with trio.open_nursery() as nursery:
            waiters = Waiters(bench, nursery)
            nursery.start_soon(partial(bench.ask, agent("opus-03"), "[[n=10 delay=1]]"))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            for name, text in texts.items():
                await waiters.asks(agent(name), text)
        assert embeds(double) == before + 1
        for name, answer in waiters.answers.items():
            assert answer.status == 200
            assert answer.json()["embeddings"] == single[name].json()["embeddings"]
            assert answer.json().keys() == single[name].json().keys()
        counts = [answer.json()["prompt_eval_count"] for answer in waiters.answers.values()]
        assert sum(counts) == 1 + 1 + 1 + 6  # each text once, a word is a token
        said = [answer.headers.get("Cache-Status") or "" for answer in waiters.answers.values()]
        assert sum(one.endswith("collapsed") for one in said) == 2
        assert bench.gateway.statistics().totals.answered == 7
        assert bench.state.statistics().requests.done == 7


async def test_a_merged_answer_is_kept_for_each_of_them(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        async with trio.open_nursery() as nursery:
            waiters = Waiters(bench, nursery)
            nursery.start_soon(partial(bench.ask, agent("opus-03"), "[[n=10 delay=1]]"))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            await waiters.asks(agent("opus-01"), "one")
            await waiters.asks(agent("opus-02"), "two")
        before = embeds(double)
        again = await embed(bench, agent("sonnet-01"), "two")
        assert again.json()["embeddings"] == waiters.answers["opus-02"].json()["embeddings"]
        assert "hit" in (again.headers.get("Cache-Status") or "")
        assert embeds(double) == before


async def test_nobody_waits_for_a_batch_while_there_is_room(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=2) as bench:
        await embed(bench, agent("opus-01"), "warm")
        before, began_at = embeds(double), trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(embed, bench, agent("opus-01"), "one")
            nursery.start_soon(embed, bench, agent("opus-02"), "two")
        assert embeds(double) == before + 2
        assert trio.current_time() - began_at < 0.1


@pytest.mark.parametrize(
    ("queue", "more_calls"),
    [
        (QueuePolicy(batch_max=3), 2),
        (QueuePolicy(batch_max=1), 4),
        (QueuePolicy(batch_max=10), 1),
        (QueuePolicy(batch_max=10, batch_window_s=0.0), 4),
    ],
)
async def test_how_many_merge_is_the_owners_word(
    tmp_path: Path, autojump_clock: Clock, queue: QueuePolicy, more_calls: int
) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1, queue=queue) as bench:
        await embed(bench, agent("opus-01"), "warm")
        before = embeds(double)
        async with trio.open_nursery() as nursery:
            waiters = Waiters(bench, nursery)
            nursery.start_soon(partial(bench.ask, agent("opus-03"), "[[n=10 delay=1]]"))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            for number, name in enumerate(("opus-01", "opus-02", "sonnet-01", "sonnet-02")):
                await waiters.asks(agent(name), f"text {number}")
                await trio.sleep(0.01)
        assert embeds(double) == before + more_calls
        assert {answer.status for answer in waiters.answers.values()} == {200}


@pytest.mark.parametrize("odd", [{"options": {"num_thread": 3, "seed": 1}}, {"truncate": False}, {"dimensions": 4}])
async def test_what_is_asked_otherwise_is_not_merged(tmp_path: Path, autojump_clock: Clock, odd: dict[str, Any]) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await embed(bench, agent("opus-01"), "warm")
        before = embeds(double)
        async with trio.open_nursery() as nursery:
            waiters = Waiters(bench, nursery)
            nursery.start_soon(partial(bench.ask, agent("opus-03"), "[[n=10 delay=1]]"))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            await waiters.asks(agent("opus-01"), "one")
            await waiters.asks(agent("opus-02"), "two", **odd)
        assert embeds(double) == before + 2


async def test_one_that_is_too_long_fails_alone(tmp_path: Path, autojump_clock: Clock) -> None:
    long = "word " * 5000
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        before = embeds(double)
        async with trio.open_nursery() as nursery:
            waiters = Waiters(bench, nursery)
            nursery.start_soon(partial(bench.ask, agent("opus-03"), "[[n=10 delay=1]]"))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            await waiters.asks(agent("opus-01"), "one", truncate=False)
            await waiters.asks(agent("opus-02"), long, truncate=False)
            await waiters.asks(agent("sonnet-01"), "three", truncate=False)
        assert embeds(double) == before + 4  # the list, then each
        assert {name: answer.status for name, answer in waiters.answers.items()} == {
            "opus-01": 200,
            "opus-02": 400,
            "sonnet-01": 200,
        }


async def test_one_that_leaves_in_the_middle_costs_the_others_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    options = DoubleOptions(embed_s=1.0)
    async with running(Double(options=options)) as double, life(tmp_path, double, slots=1) as bench:
        await embed(bench, agent("opus-01"), "warm")
        before = embeds(double)
        async with trio.open_nursery() as nursery:
            waiters = Waiters(bench, nursery)
            nursery.start_soon(partial(bench.ask, agent("opus-03"), "[[n=10 delay=1]]"))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            for name in ("opus-01", "opus-02", "sonnet-01"):
                await waiters.asks(agent(name), f"of {name}")
            await wait_until(lambda: embeds(double) > before)
            holder = bench.gateway.statistics().backends[0].running[0].agent
            waiters.scopes[holder].cancel()
            await trio.sleep(0.25)
            assert bench.gateway.statistics().totals.cancelled == 1
            assert bench.gateway.statistics().running == 1
        assert len(waiters.answers) == 2
        assert {answer.status for answer in waiters.answers.values()} == {200}
        assert embeds(double) == before + 1
        assert bench.gateway.statistics().running == 0


async def test_when_all_of_a_batch_leave_its_call_is_closed(tmp_path: Path, autojump_clock: Clock) -> None:
    options = DoubleOptions(embed_s=30.0)
    async with running(Double(options=options)) as double, life(tmp_path, double, slots=1) as bench:
        async with trio.open_nursery() as nursery:
            waiters = Waiters(bench, nursery)
            nursery.start_soon(partial(bench.ask, agent("opus-03"), "[[n=10 delay=1]]"))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            for name in ("opus-01", "opus-02"):
                await waiters.asks(agent(name), f"of {name}")
            await wait_until(lambda: embeds(double) == 1)
            for scope in waiters.scopes.values():
                scope.cancel()
            left_at = trio.current_time()
            await wait_until(lambda: bench.gateway.statistics().running == 0)
            assert trio.current_time() - left_at <= 2.1
        assert bench.gateway.statistics().totals.cancelled == 2


async def test_a_batch_that_is_cut_is_asked_for_again_one_by_one(tmp_path: Path, autojump_clock: Clock) -> None:
    options = DoubleOptions(embed_s=5.0)
    async with running(Double(options=options)) as double, life(tmp_path, double, slots=1) as bench:
        async with trio.open_nursery() as nursery:
            waiters = Waiters(bench, nursery)
            nursery.start_soon(partial(bench.ask, agent("opus-03"), "[[n=10 delay=1]]"))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            for name in ("opus-01", "opus-02"):
                await waiters.asks(agent(name), f"of {name}")
            await wait_until(lambda: embeds(double) == 1)
            double.drop_connections()
        assert embeds(double) == 3
        assert {answer.status for answer in waiters.answers.values()} == {200}


async def test_embeds_of_131_agents_on_one_slot_are_a_third_of_the_calls(tmp_path: Path, autojump_clock: Clock) -> None:
    models = [embedding_model(EMBEDDER)]
    roster = roster_of(36, 95)
    async with running(Double(models)) as double, life(tmp_path, double, roster=roster) as bench:
        answers: list[Answered] = []

        async def ask(name: str) -> None:
            answers.append(await embed(bench, agent(name), f"of {name}", model=EMBEDDER))

        async with trio.open_nursery() as nursery:
            for name in roster.agents:
                nursery.start_soon(ask, name)
        assert {answer.status for answer in answers} == {200}
        assert len({str(answer.json()["embeddings"]) for answer in answers}) == 131
        assert embeds(double) <= 131 / 3 + 3
        assert double.statistics().peak_by_model[EMBEDDER] <= 1
        assert MODEL not in double.statistics().calls
