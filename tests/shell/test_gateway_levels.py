"""What the levels do to requests, each undone by level 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.effects import Level
from supervisord_ai.core.policies import CachePolicy, LevelsPolicy, QueuePolicy
from supervisord_ai.duty import every
from supervisord_ai.health.ladder import Ladder
from supervisord_ai.health.sampler import EVERY_S, Sampler
from supervisord_ai.store.disk import inline
from tests.fakes.machine import FakeMachine
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import OWNER, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock
COLD: dict[str, Any] = {"options": {"temperature": 0}}
SHORT = LevelsPolicy(num_predict=10)


def spoken(answer: Any) -> int:
    return int(answer.lines()[-1]["eval_count"])


# --- level 1 ------------------------------------------------------------------------------------------------------------


async def test_at_level_1_an_answer_that_nobody_bounded_is_cut_and_says_so(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, levels=SHORT) as bench:
        before = await bench.ask(agent("opus-01"), "[[n=40]]")
        bench.level(1)
        cut = await bench.ask(agent("opus-01"), "[[n=40]]")
        own = await bench.ask(agent("opus-01"), "[[n=40]]", options={"num_predict": 25})
        bench.level(0)
        after = await bench.ask(agent("opus-01"), "[[n=40]]")
        assert [spoken(answer) for answer in (before, cut, own, after)] == [40, 10, 25, 40]
        told = [answer.headers.get("X-AI-Degraded") for answer in (before, cut, own, after)]
        assert told == [None, "level=1; num_predict=10", None, None]
        assert cut.lines()[-1]["done_reason"] == "length"


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_one_body_and_the_other_faces_are_cut_alike(tmp_path: Path, autojump_clock: Clock, path: str) -> None:
    async with running(Double()) as double, life(tmp_path, double, levels=SHORT) as bench:
        bench.level(1)
        answer = await bench.ask(agent("opus-01"), "[[n=40]]", path=path, stream=False)
        told = answer.json()
        counted = told["eval_count"] if path.startswith("/api") else told["usage"]["completion_tokens"]
        assert counted == 10
        assert answer.headers.get("X-AI-Degraded") == "level=1; num_predict=10"


async def test_what_was_cut_is_never_kept_nor_given_to_who_comes_at_level_0(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, levels=SHORT) as bench:
        bench.level(1)
        assert spoken(await bench.ask(agent("opus-01"), "[[n=40]]", **COLD)) == 10
        again = await bench.ask(agent("opus-01"), "[[n=40]]", **COLD)
        assert again.headers.get("Cache-Status") == "ai-supervisor; fwd=uri-miss"
        await bench.ask(agent("opus-01"), "[[n=4]]", **COLD)  # it ended by itself: the bound changed nothing
        kept = await bench.ask(agent("opus-02"), "[[n=4]]", **COLD)
        assert "hit" in (kept.headers.get("Cache-Status") or "")
        lengths: list[int] = []

        async def ask(name: str) -> None:
            lengths.append(spoken(await bench.ask(agent(name), "[[n=40 first=5]]", **COLD)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "opus-01")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            bench.level(0)
            await trio.sleep(1)
            nursery.start_soon(ask, "opus-02")  # the same question, while the short answer is on its way
        assert sorted(lengths) == [10, 40]


async def test_whoever_starts_at_level_0_gets_all_of_it_though_it_came_before(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1, levels=SHORT) as bench:
        lengths: list[int] = []

        async def ask(name: str) -> None:
            lengths.append(spoken(await bench.ask(agent(name), "[[n=40 first=5]]")))

        bench.level(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "opus-01")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            nursery.start_soon(ask, "opus-02")
            await wait_until(lambda: bench.gateway.statistics().queued == 1)
            bench.level(0)
        assert lengths == [10, 40]


async def test_twins_share_one_short_answer(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, levels=SHORT) as bench:
        bench.level(1)
        answers: list[Any] = []

        async def ask(name: str) -> None:
            answers.append(await bench.ask(agent(name), "[[n=40 first=1]]", **COLD))

        seen = sum(double.statistics().calls.values())
        async with trio.open_nursery() as nursery:
            for name in ("opus-01", "opus-02", "opus-03"):
                nursery.start_soon(ask, name)
        assert sum(double.statistics().calls.values()) == seen + 1
        assert {answer.headers.get("X-AI-Degraded") for answer in answers} == {"level=1; num_predict=10"}


async def test_kept_answers_live_longer_at_level_1_and_stale_ones_are_given_at_level_2(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async def status(bench: Bench) -> str:
        return ((await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)).headers.get("Cache-Status") or "").partition("; ")[2]

    policy = LevelsPolicy(ttl_factor=(1.0, 2.0, 2.0, 2.0))
    async with running(Double()) as double, life(tmp_path, double, cache=CachePolicy(ttl_s=100), levels=policy) as bench:
        await status(bench)
        await trio.sleep(150)
        bench.level(1)
        assert (await status(bench)).startswith("hit")
        await trio.sleep(100)
        assert not (await status(bench)).startswith("hit")  # kept anew, for 200 s from now
        await trio.sleep(250)
        bench.level(2)
        stale = await status(bench)
        assert stale.startswith("hit")
        assert "ttl=-" in stale
        bench.level(0)
        assert not (await status(bench)).startswith("hit")


# --- level 3 ------------------------------------------------------------------------------------------------------------


async def test_at_level_3_urgent_requests_reach_the_engine_and_others_get_a_kept_answer_or_503(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("sonnet-01"), "[[n=3]]", **COLD)
        bench.level(3)
        opus = await bench.ask(agent("opus-01"), "[[n=4]]")
        owner = await bench.ask(OWNER, "[[n=4]]")
        assert (opus.status, owner.status) == (200, 200)
        seen = sum(double.statistics().calls.values())
        kept = await bench.ask(agent("sonnet-02"), "[[n=3]]", **COLD)
        assert kept.status == 200
        assert "hit" in (kept.headers.get("Cache-Status") or "")
        refused = await bench.ask(agent("sonnet-01"), "[[n=4]]")
        modest = await bench.ask(agent("opus-01"), "[[n=4]]", headers={"X-AI-Priority": "7"})
        assert (refused.status, modest.status) == (503, 503)
        assert refused.headers.get("Retry-After") == "60"
        assert refused.json()["error"].startswith("level 3 (critical): only priorities up to 3 are let in")
        assert sum(double.statistics().calls.values()) == seen
        bench.level(0)
        assert (await bench.ask(agent("sonnet-01"), "[[n=4]]")).status == 200


async def test_who_waited_already_keeps_its_place_at_level_3(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await bench.ask(agent("sonnet-01"), "[[n=3 first=5]]")).status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await wait_until(lambda: bench.gateway.statistics().queued == 1)
            bench.level(3)
        assert statuses == [200, 200]


async def test_the_retry_after_of_level_3_proves_right(tmp_path: Path, autojump_clock: Clock) -> None:
    """A flood fills the backlog beyond its deadline; each one who is turned away is told when level 3 will be left."""
    clock = VirtualClock()
    roster, queue = roster_of(opus=1, sonnet=40), QueuePolicy(deadline_s=60.0)
    async with running(Double()) as double, life(tmp_path, double, roster=roster, queue=queue) as bench:
        ladder = Ladder(LevelsPolicy(), reserve_bytes=1, tell=bench.gateway.tell, clock=clock)
        sampler = Sampler(FakeMachine(), load=bench.gateway.load, tell=ladder.take, clock=clock, run_sync=inline)
        told: list[tuple[float, float]] = []  # when it was refused at level 3, and for how long

        async def flood(name: str) -> None:
            while True:
                answer = await bench.ask(agent(name), "[[n=2 first=4 delay=0.01]]")
                if answer.status == 503 and "level 3" in answer.json()["error"]:
                    told.append((trio.current_time(), float(answer.headers.get("Retry-After") or 0)))
                await trio.sleep(1 if answer.status == 200 else 10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(every, EVERY_S, "sampling", sampler.sample)
            for number in range(1, 41):
                nursery.start_soon(flood, f"sonnet-{number:02}")
            await wait_until(lambda: ladder.level is Level.CRITICAL, within_s=300, every_s=1.0)
            await wait_until(lambda: ladder.level is not Level.CRITICAL, within_s=300, every_s=0.5)
            lifted_at = trio.current_time()
            nursery.cancel_scope.cancel()
        assert len(told) > 20
        for refused_at, for_s in told:
            after_s = lifted_at - refused_at
            assert abs(after_s - for_s) <= max(0.5 * max(after_s, for_s), 2.0), f"{after_s:.0f} s, told {for_s:.0f} s"
