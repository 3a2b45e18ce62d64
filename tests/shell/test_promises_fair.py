"""Promises G1, G2 and G7: never more than the true slots, nobody idle for nothing, and justice between agents and classes."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio

from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import QueuePolicy
from tests.fakes.ollama_double import Ask, Double, DoubleOptions, Script, running
from tests.shell.gateway_bench import GUEST, MODEL, OWNER, Answered, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock

AGENTS = 131
LONG = QueuePolicy(deadline_s=3000.0, memory_max=10_000)


class Order:
    """Writes down who is started when, by what a prompt has between brackets; every call takes `each_s`."""

    def __init__(self, double: Double, each_s: float) -> None:
        self.started: list[tuple[float, str]] = []
        self._each_s = each_s
        double.script = self._script

    def _script(self, ask: Ask) -> Script:
        self.started.append((trio.current_time(), ask.prompt.partition("<")[2].partition(">")[0]))
        return Script(tokens=("x", "y"), first_s=self._each_s / 2, delay_s=self._each_s / 2)

    def names(self) -> list[str]:
        return [name for _, name in self.started]


async def warm(bench: Bench) -> None:
    """Have the model loaded: what is measured begins after that."""
    await bench.ask(OWNER, "[[n=1]]")


@pytest.mark.parametrize("slots", [1, 2, 4])
async def test_g1_131_at_once_use_every_slot_to_the_end_and_not_one_more(
    tmp_path: Path, autojump_clock: Clock, slots: int
) -> None:
    double, roster = Double(options=DoubleOptions(parallel=slots)), roster_of(36, 95)
    async with running(double), life(tmp_path, double, roster=roster, slots=slots) as bench:
        await warm(bench)
        order = Order(double, each_s=1.0)
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for name in roster.agents:
                nursery.start_soon(partial(bench.ask, agent(name), f"<{name}>", stream=False))
        counts = double.statistics()
        assert len(order.started) == AGENTS
        assert (counts.peak_in_flight, counts.peak_running) == (slots, slots)
        rounds = -(-AGENTS // slots)
        assert trio.current_time() - began_at <= 1.05 * rounds
        assert bench.gateway.statistics().totals.answered == AGENTS + 1


async def test_g2_of_131_agents_with_20_requests_each_one_is_served_within_131_turns(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    roster = roster_of(36, 95, priority=5, weight=1.0)
    async with running(Double()) as double, life(tmp_path, double, roster=roster, queue=LONG) as bench:
        await warm(bench)
        order = Order(double, each_s=0.1)
        async with trio.open_nursery() as nursery:
            for name in roster.agents:  # one agent's 20 stand before the next agent's first
                for _ in range(20):
                    nursery.start_soon(partial(bench.ask, agent(name), f"<{name}>", stream=False))
        turns = order.names()
        assert len(turns) == AGENTS * 20
        first_after_all_came = 2  # two slots were free when the first asked twice
        assert len(set(turns[: AGENTS + first_after_all_came])) == AGENTS
        assert set(Counter(turns).values()) == {20}
        last_turn = [len(turns) - 1 - turns[::-1].index(name) for name in roster.agents]
        assert min(last_turn) >= len(turns) - 2 * AGENTS, "nobody was through with its twenty long before the others"


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    folders = (tmp_path / "one", tmp_path / "two")
    for folder in folders:
        folder.mkdir()
    return folders


async def test_g2_a_flooder_costs_every_other_agent_at_most_one_turn_for_as_long_as_it_floods(
    two_folders: tuple[Path, Path], autojump_clock: Clock
) -> None:
    """Ten agents ask one thing after another for five minutes, with and without an eleventh that has 500 waiting."""

    async def waits(folder: Path, *, is_flooded: bool) -> list[float]:
        roster = roster_of(11, 0, max_queued=500)
        async with running(Double()) as double, life(folder, double, roster=roster, slots=1, queue=LONG) as bench:
            await warm(bench)
            Order(double, each_s=1.0)
            waited: list[float] = []

            async def ask_for_ever(name: str) -> None:
                while True:
                    asked_at = trio.current_time()
                    answer = await bench.ask(agent(name), name, stream=False)
                    waited.append(answer.at - asked_at)

            async with trio.open_nursery() as nursery:
                if is_flooded:
                    for number in range(500):
                        nursery.start_soon(partial(bench.ask, agent("opus-11"), f"flood {number}", stream=False))
                    await wait_until(lambda: bench.gateway.statistics().queued > 400)
                for number in range(1, 11):
                    nursery.start_soon(ask_for_ever, f"opus-{number:02}")
                await trio.sleep(300)
                nursery.cancel_scope.cancel()
            return waited

    alone, flooded = await waits(two_folders[0], is_flooded=False), await waits(two_folders[1], is_flooded=True)
    one_turn_s = 1.0
    assert max(flooded) <= max(alone) + one_turn_s + 0.1
    assert len(flooded) >= len(alone) * 10 / 11 - 11


async def test_g2_across_the_shipped_classes_no_wait_is_longer_than_the_gap_of_priorities_and_one_round(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """All 131 ask again as soon as they are answered, for a quarter of an hour: 1 s a call, two slots.

    A sonnet's request is passed by opus requests that come less than 2 levels (30 s) and the band (5 s) after it; from then
    on whoever is before it goes once: 130 turns on two slots.
    """
    each_s, slots = 1.0, 2
    bound_s = 2 * 15.0 + 5.0 + (AGENTS - 1) * each_s / slots + each_s
    roster = roster_of(36, 95)
    async with running(Double()) as double, life(tmp_path, double, roster=roster, queue=LONG, slots=slots) as bench:
        await warm(bench)
        Order(double, each_s)
        waited: dict[str, list[float]] = {"opus": [], "sonnet": []}

        async def ask_for_ever(caller: Caller) -> None:
            while True:
                asked_at = trio.current_time()
                answer = await bench.ask(caller, caller.name, stream=False)
                assert answer.status == 200
                waited[caller.agent_class].append(answer.at - asked_at)

        async with trio.open_nursery() as nursery:
            for name in roster.agents:
                nursery.start_soon(ask_for_ever, agent(name))
            await trio.sleep(900)
            nursery.cancel_scope.cancel()
        assert max(waited["sonnet"]) <= bound_s
        assert max(waited["opus"]) <= bound_s
        assert sum(waited["opus"]) / len(waited["opus"]) < sum(waited["sonnet"]) / len(waited["sonnet"])


async def test_g7_every_class_with_work_keeps_a_tenth_of_the_slots(tmp_path: Path, autojump_clock: Clock) -> None:
    """The best priority each may ask for, against guests who may ask for none, for ten minutes after the first."""
    urgent = {"X-AI-Priority": "1"}
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(20, 20), queue=LONG) as bench:
        await warm(bench)
        order = Order(double, each_s=2.0)

        async def ask_for_ever(caller: Caller, number: int) -> None:
            while True:
                await bench.ask(caller, f"<{caller.agent_class}> {number}", stream=False, headers=urgent)

        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(1, 21):
                nursery.start_soon(ask_for_ever, agent(f"opus-{number:02}"), number)
                nursery.start_soon(ask_for_ever, agent(f"sonnet-{number:02}"), number)
            for number in range(4):
                nursery.start_soon(ask_for_ever, OWNER, number)
                nursery.start_soon(ask_for_ever, GUEST, number)
            await trio.sleep(660)
            nursery.cancel_scope.cancel()
        turns = Counter(name for at, name in order.started if at >= began_at + 60)
        for agent_class in ("opus", "sonnet", "owner", "guest"):
            assert turns[agent_class] >= 0.095 * turns.total(), turns


async def test_g7_nobody_is_served_above_the_ceiling_of_its_class(tmp_path: Path, autojump_clock: Clock) -> None:
    """Priority 1 is asked by all; what they get is their class's best, and a refusal says what is wrong with 0 and 11."""
    best = {"opus-01": 2, "sonnet-01": 4, "owner": 1, "guest": 8}
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await warm(bench)
        Order(double, each_s=10.0)
        async with trio.open_nursery() as nursery:
            answers: list[Answered] = []

            async def ask(caller: Caller) -> None:
                answers.append(await bench.ask(caller, "x", headers={"X-AI-Priority": "1"}))

            nursery.start_soon(bench.ask, agent("opus-02"), "first")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            for caller in (agent("opus-01"), agent("sonnet-01"), OWNER, GUEST):
                nursery.start_soon(ask, caller)
            await wait_until(lambda: bench.gateway.statistics().queued == len(best))
            assert {waiting.agent: waiting.priority for waiting in bench.gateway.statistics().queue} == best
        for wrong in ("0", "11", "high"):
            refused = await bench.ask(agent("opus-01"), "x", headers={"X-AI-Priority": wrong})
            assert refused.status == 400
        assert double.statistics().calls[MODEL] == 1 + 1 + len(best)
