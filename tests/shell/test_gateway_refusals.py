"""What the fleet is told of refusals and cuts: an agent that ends of one is not to blame."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from supervisord_ai.core.events import GatewayRefused
from supervisord_ai.core.roster import OverRate
from tests.fakes.ollama_double import Double, DoubleOptions, Script, running
from tests.shell.gateway_bench import GUEST, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock


def refused(bench: Bench) -> list[GatewayRefused]:
    return [event for event in bench.events if isinstance(event, GatewayRefused)]


async def test_an_agent_whose_answer_was_cut_is_told_of_and_one_that_was_answered_is_not(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    double = Double(options=DoubleOptions(first_token_s=0.0, token_delay_s=0.001))
    async with running(double), life(tmp_path, double) as bench:
        assert (await bench.ask(agent("opus-01"), "good")).status == 200
        assert refused(bench) == []
        double.script = lambda _ask: Script(tokens=("a ", "b "), cut_at_byte=150)
        await bench.ask(agent("opus-01", generation=3), "bad")
        await wait_until(lambda: refused(bench) == [GatewayRefused("opus-01", 3)])


async def test_an_agent_over_its_rate_is_told_of_and_a_bad_request_is_its_own_fault(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    roster = roster_of(opus=1, rate_per_min=1.0, over_rate=OverRate.REJECT)
    async with running(Double()) as double, life(tmp_path, double, roster=roster) as bench:
        assert (await bench.ask(agent("opus-01"))).status == 200
        assert (await bench.ask(agent("opus-01"), "another")).status == 429
        assert refused(bench) == [GatewayRefused("opus-01", 1)]
        assert (await bench.call(agent("opus-01"), "POST", "/api/generate", b"{")).status == 400
        assert len(refused(bench)) == 1


async def test_guests_are_nobodys_agents(tmp_path: Path, autojump_clock: Clock) -> None:
    double = Double(options=DoubleOptions(first_token_s=0.0, token_delay_s=0.001))
    double.script = lambda _ask: Script(tokens=("a ", "b "), cut_at_byte=150)
    async with running(double), life(tmp_path, double) as bench:
        await bench.ask(GUEST, "bad")
        await wait_all_tasks_blocked()
        assert refused(bench) == []
