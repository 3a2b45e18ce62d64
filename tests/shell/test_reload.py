"""A reload under load: the fleet and the gateway become others, and whoever asks notices nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from supervisord_ai.config import Config, DaemonPolicy
from supervisord_ai.control.reload import Reload
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.events import AgentStarted
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.core.queue_mode import QueueVerb
from supervisord_ai.core.roster import CLASS_DEFAULTS, AgentSpec, ClassPolicy, Roster
from supervisord_ai.errors import PeerGone, UpstreamFault
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import GUEST, Bench, agent, life, roster_of, wait_until
from tests.shell.test_fleet import World, states

FAST = replace(CLASS_DEFAULTS["sonnet"], rate_per_min=None, start_s=0.1, grace_s=1.0, max_queued=500)


def config_of(agents: dict[str, str], policy: ClassPolicy = FAST, **tables: object) -> Config:
    specs = {name: AgentSpec(name, policy, (program,)) for name, program in agents.items()}
    roster = Roster(specs, CLASS_DEFAULTS | {policy.name: policy})
    return Config(DaemonPolicy("/r", "/s", "/l"), roster=roster, **tables)  # type: ignore[arg-type]


async def at_once(read: Callable[[], Config]) -> Config:
    await trio.lowlevel.checkpoint()
    return read()


class Callers:
    """Agents that ask and ask. `lost` is what did not end with a whole answer."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.answered = 0
        self.lost: list[tuple[str, object]] = []

    async def ask(self, name: str, generation: int, number: int) -> None:
        try:
            found = await self.bench.ask(agent(name, generation), f"[[n=2]] {name} {number}")
        except (UpstreamFault, PeerGone) as exc:
            self.lost.append((name, exc))
            return
        if found.status != 200 or not found.lines()[-1].get("done"):
            self.lost.append((name, found))
        else:
            self.answered += 1

    async def keep_asking(self, name: str, rng: random.Random, until: Callable[[], bool]) -> None:
        number = 0
        while not until():
            number += 1
            await self.ask(name, 1, number)
            await trio.sleep(rng.uniform(0, 2))


async def test_a_hundred_reloads_under_load_lose_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Those who stay are never started again and get every answer, whatever comes and goes around them (D4)."""
    stay = {f"stay-{n}": "serve" for n in range(12)}
    rng = random.Random(4)
    current = config_of(stay)
    world = World(tmp_path, {})
    world.specs = dict(current.roster.agents)
    async with running(Double()) as double, life(tmp_path, double, roster=current.roster) as bench, world.running() as fleet:
        world.on_event = bench.gateway.tell

        def follow(roster: Roster, _: MemoryPolicy) -> None:
            fleet.follow(roster.agents)
            bench.gateway.follow(roster)

        reload = Reload(current, read=lambda: current, follow=follow, run_sync=at_once)
        callers = Callers(bench)
        is_over = False
        await trio.sleep(5)
        async with trio.open_nursery() as nursery:
            for name in stay:
                nursery.start_soon(callers.keep_asking, name, rng, lambda: is_over)
            for number in range(100):
                policy = replace(FAST, weight=1.0 + number % 5, priority=5 + number % 4, rate_per_min=(None, 600.0)[number % 2])
                coming = {f"guest-{n}": rng.choice(("serve", "slow")) for n in range(8) if rng.random() < 0.5}
                current = config_of(stay | coming, policy, queue=QueuePolicy(deadline_s=100.0 + number))
                plan = await reload.carry_out()
                assert [one.key for one in plan.refused] == ["queue.deadline"]
                await trio.sleep(rng.uniform(0, 1))
            is_over = True
        await trio.sleep(30)
        assert callers.lost == []
        assert callers.answered > 200
        totals = bench.gateway.statistics().totals
        assert (totals.cancelled, totals.failed, totals.refused) == (0, 0, 0)
        assert totals.answered + totals.cached == totals.asked == callers.answered
        assert double.statistics().peak_running <= 2
        started = [event.agent for event in world.events if isinstance(event, AgentStarted)]
        assert all(started.count(name) == 1 for name in stay)
        assert states(fleet) == dict.fromkeys(current.roster.agents, AgentState.RUNNING)
        await fleet.stop_all()


async def test_a_removed_agent_is_served_until_it_has_ended_and_then_what_it_asked_is_left(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(opus=2, sonnet=0), slots=1) as bench:
        bench.started("opus-02")
        bench.gateway.follow(roster_of(opus=1, sonnet=0))
        assert (await bench.ask(agent("opus-02"))).status == 200  # it has its grace, and may use it
        async with trio.open_nursery() as nursery:
            callers = Callers(bench)
            nursery.start_soon(callers.ask, "opus-01", 1, 1)
            nursery.start_soon(callers.ask, "opus-02", 1, 1)
            await wait_until(lambda: bench.gateway.statistics().queued == 1)
            bench.ended("opus-02")
        assert [name for name, _ in callers.lost] == ["opus-02"]
        assert callers.answered == 1
        assert (await bench.ask(agent("opus-02", 2))).status == 200  # its class is known: who it is was not for us to decide
        assert bench.gateway.statistics().totals.cancelled == 1


async def test_a_removed_class_serves_its_agents_to_their_end_and_takes_nobody_in(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(opus=1, sonnet=0)) as bench:
        bench.started("opus-01")
        bench.gateway.follow(Roster({}, {name: CLASS_DEFAULTS[name] for name in ("owner", "guest")}))
        assert (await bench.ask(agent("opus-01"))).status == 200
        bench.ended("opus-01")
        answer = await bench.ask(agent("opus-01"))
        assert (answer.status, answer.json()) == (403, {"error": "opus-01 is not in the roster any more"})
        assert (await bench.ask(GUEST)).status == 200


async def test_a_changed_rate_holds_from_the_next_request_on_and_is_no_fresh_burst(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with (
        running(Double()) as double,
        life(tmp_path, double, roster=roster_of(1, 0, rate_per_min=2.0)) as bench,
    ):
        for prompt in ("one", "two"):
            await bench.ask(agent("opus-01"), prompt)
        began = trio.current_time()
        bench.gateway.follow(roster_of(1, 0, rate_per_min=3.0))
        done = await bench.ask(agent("opus-01"), "three")
        assert done.at - began < 1.0  # a third place is there now
        done = await bench.ask(agent("opus-01"), "four")
        assert 15.0 < done.at - began < 25.0  # and the fourth is the first of the new rate: three a minute
        bench.gateway.follow(roster_of(1, 0, rate_per_min=None))
        began = trio.current_time()
        for prompt in ("five", "six", "seven", "eight"):
            done = await bench.ask(agent("opus-01"), prompt)
        assert done.at - began < 5.0


# --- the owner's words about the queue ----------------------------------------------------------------------------------


async def test_a_paused_queue_takes_in_and_starts_nothing_and_says_why(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench, trio.open_nursery() as nursery:
        bench.gateway.tell_queue(QueueVerb.PAUSE)
        callers = Callers(bench)
        for number in range(5):
            nursery.start_soon(callers.ask, "opus-01", 1, number)
        await trio.sleep(100)
        view = bench.gateway.statistics()
        assert (view.mode, view.queued, view.running) == ("paused", 5, 0)
        assert {one.reason for one in view.queue} == {"its owner paused the queue"}
        bench.gateway.tell_queue(QueueVerb.RESUME)
        await wait_until(lambda: callers.answered == 5)
        assert callers.lost == []


async def test_a_pause_lets_what_runs_end_and_deadlines_pass(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench, trio.open_nursery() as nursery:
        callers = Callers(bench)
        nursery.start_soon(callers.ask, "opus-01", 1, 1)
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        bench.gateway.tell_queue(QueueVerb.PAUSE)
        late = await bench.ask(agent("opus-02"), headers={"X-AI-Deadline": "10"})
        assert callers.answered == 1
        assert late.status == 503
        assert "its owner paused the queue" in late.json()["error"]


async def test_a_draining_queue_works_off_what_waits_and_takes_nothing_in(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench, trio.open_nursery() as nursery:
        callers = Callers(bench)
        for number in range(4):
            nursery.start_soon(callers.ask, "opus-01", 1, number)
        await wait_until(lambda: bench.gateway.statistics().queued == 3)
        bench.gateway.tell_queue(QueueVerb.DRAIN)
        refused = await bench.ask(agent("opus-02"))
        assert (refused.status, refused.headers.get("Retry-After")) == (503, "30")
        await wait_until(lambda: callers.answered == 4)
        bench.gateway.tell_queue(QueueVerb.RESUME)
        assert (await bench.ask(agent("opus-02"))).status == 200
        assert callers.lost == []


async def test_the_owner_cancels_who_waits_and_who_runs(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench, trio.open_nursery() as nursery:
        callers = Callers(bench)
        for number in range(3):
            nursery.start_soon(callers.ask, f"opus-0{number + 1}", 1, number)
        await wait_until(lambda: bench.gateway.statistics().queued == 2)
        view = bench.gateway.statistics()
        assert bench.gateway.cancel(view.queue[0].id)
        assert bench.gateway.cancel(view.backends[0].running[0].id)
        assert not bench.gateway.cancel("nobody")
        await wait_until(lambda: callers.answered + len(callers.lost) >= 3)
        assert bench.gateway.statistics().totals.cancelled == 2
        assert bench.gateway.statistics().running == 0


async def test_a_cleared_cache_asks_ollama_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        fixed: dict[str, Any] = {"options": {"temperature": 0}}
        for _ in range(2):
            await bench.ask(agent("opus-01"), "x", **fixed)
        assert bench.gateway.statistics().totals.cached == 1
        assert await bench.gateway.clear_cache(l2=False) == 1
        await bench.ask(agent("opus-01"), "x", **fixed)
        assert bench.gateway.statistics().totals.cached == 2  # L2 has it still
        assert await bench.gateway.clear_cache() == 2
        await bench.ask(agent("opus-01"), "x", **fixed)
        assert bench.gateway.statistics().totals.cached == 2
