"""Who is served when: priorities, limits, deadlines, loads, and an Ollama that is away for a while."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import trio

from supervisord_ai.core.events import AgentAsked
from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import LimitsPolicy, QueuePolicy
from tests.fakes.ollama_double import Double, DoubleOptions, ModelSpec, running
from tests.shell.gateway_bench import GUEST, MODEL, OWNER, Answered, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock


class Crowd:
    """Callers who ask and wait, and in which order they were answered."""

    def __init__(self, bench: Bench, nursery: trio.Nursery) -> None:
        self.bench = bench
        self.nursery = nursery
        self.answered: list[tuple[str, Answered]] = []

    async def asks(self, caller: Caller, prompt: str = "[[n=3 delay=0.1]]", **more: object) -> None:
        """Ask, and return when the request waits or runs."""
        before = self.bench.gateway.statistics().totals.asked
        self.nursery.start_soon(partial(self._ask, caller, prompt, **more))
        await wait_until(lambda: self.bench.gateway.statistics().totals.asked > before)
        await trio.testing.wait_all_tasks_blocked()

    async def _ask(self, caller: Caller, prompt: str, **more: object) -> None:
        self.answered.append((caller.name, await self.bench.ask(caller, prompt, **more)))  # type: ignore[arg-type]

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.answered]


def priority(level: int) -> dict[str, str]:
    return {"X-AI-Priority": str(level)}


async def test_a_better_priority_is_served_first_but_not_above_the_ceiling(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("sonnet-03"), "[[n=3 delay=1]]")
            await crowd.asks(agent("sonnet-01"))
            await crowd.asks(agent("sonnet-02"), headers=priority(1))  # 4 is the best a sonnet may have
            await crowd.asks(agent("opus-01"))
            await crowd.asks(agent("opus-02"), headers=priority(1))  # 2
            await crowd.asks(OWNER, headers=priority(1))
            view = bench.gateway.statistics()
            assert {(q.agent, q.priority) for q in view.queue} == {
                ("sonnet-01", 5), ("sonnet-02", 4), ("opus-01", 3), ("opus-02", 2), ("owner", 1)
            }  # fmt: skip
            assert [(level.priority, level.queued) for level in view.by_priority] == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]
        assert crowd.order == ["sonnet-03", "owner", "opus-02", "opus-01", "sonnet-02", "sonnet-01"]


async def test_a_flooder_costs_another_agent_at_most_one_turn(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number in range(40):
                await crowd.asks(agent("opus-01"), f"[[n=2 delay=1]] {number}")
            await trio.sleep(30)
            served = len(crowd.answered)
            await crowd.asks(agent("opus-02"))
            await wait_until(lambda: "opus-02" in crowd.order)
            assert crowd.order[served:].index("opus-02") <= 1


async def test_a_caller_over_its_limit_is_refused_in_its_own_face(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(max_queued=2), slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number in range(3):
                await crowd.asks(agent("opus-01"), f"[[n=3 delay=1]] {number}")
            native = await bench.ask(agent("opus-01"), "x")
            assert (native.status, list(native.json())) == (429, ["error"])
            assert 1 <= int(native.headers.get("Retry-After") or 0) <= 60
            openai = await bench.ask(agent("opus-01"), "x", path="/v1/chat/completions")
            assert openai.status == 429
            assert openai.json()["error"]["type"] == "api_error"
            anthropic = await bench.ask(agent("opus-01"), "x", path="/v1/messages")
            assert anthropic.json()["error"]["type"] == "rate_limit_error"
            other = await bench.ask(agent("opus-02"), "[[n=1]]")
            assert other.status == 200
        assert bench.gateway.statistics().totals.refused == 3


async def test_over_its_rate_an_agent_waits_and_others_do_not(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(rate_per_min=10)) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        began_at = trio.current_time()
        for number in range(10):
            await bench.ask(agent("opus-01"), f"[[n=1]] {number}")
        assert trio.current_time() - began_at < 5
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"))
            assert "not before" in bench.gateway.statistics().queue[0].reason
            await bench.ask(agent("opus-02"), "[[n=1]]")
            assert crowd.answered == []
        assert 5 <= trio.current_time() - began_at <= 8


async def test_a_request_that_finds_no_slot_before_its_deadline_is_refused_then_and_never_starts(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), "[[n=100 delay=1]]")
            calls = double.statistics().calls[MODEL]
            asked_at = trio.current_time()
            late = await bench.ask(agent("opus-02"), "x", headers={"X-AI-Deadline": "7.5"})
            assert late.status == 503
            assert abs(late.at - asked_at - 7.5) < 0.1
            assert "all slots are busy" in late.json()["error"]
            assert late.headers.get("Retry-After")
            assert double.statistics().calls[MODEL] == calls
            await wait_until(lambda: bench.state.statistics().requests.cancelled == 1)
            nursery.cancel_scope.cancel()


async def test_requests_wait_for_an_ollama_that_is_down_and_not_one_is_lost(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        double.is_refusing = True
        async with life(tmp_path, double, is_ready=False) as bench:
            assert bench.gateway.statistics().backends[0].state == "waiting"
            async with trio.open_nursery() as nursery:
                crowd = Crowd(bench, nursery)
                for name in ("opus-01", "opus-02", "sonnet-01"):
                    await crowd.asks(agent(name))
                await trio.sleep(100)
                assert bench.gateway.statistics().queue[0].reason == "no backend answers"
                double.is_refusing = False
                came_back_at = trio.current_time()
                await wait_until(lambda: bench.gateway.statistics().running > 0, within_s=6)
            assert trio.current_time() - came_back_at < 10
            assert [answer.status for _, answer in crowd.answered] == [200, 200, 200]


async def test_an_idle_ollama_that_ends_is_noticed_within_a_glance_and_not_with_the_next_refresh(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        await trio.sleep(1)  # nobody asks anything: it has been asked a moment ago, and is asked again in 15 s
        double.is_refusing = True
        double.restart()
        ended_at = trio.current_time()
        await wait_until(lambda: bench.gateway.statistics().backends[0].state == "unreachable")
        assert trio.current_time() - ended_at <= 1.1
        double.is_refusing = False
        await wait_until(lambda: bench.gateway.statistics().backends[0].state == "ready")
        asked = double.statistics().requests
        await trio.sleep(10)
        assert double.statistics().requests == asked  # a look costs no call


async def test_a_restart_of_ollama_fails_what_had_begun_and_keeps_what_had_not(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), "[[n=100 delay=0.1]]")
            await crowd.asks(agent("opus-02"), "[[n=3 first=10]]")
            for number in range(1, 4):
                await crowd.asks(agent(f"sonnet-{number:02}"))
            await trio.sleep(3)
            double.is_refusing = True
            double.restart()
            await trio.sleep(20)
            assert bench.gateway.statistics().backends[0].state == "unreachable"
            assert bench.gateway.statistics().queued == 4
            double.is_refusing = False
        answers = dict(crowd.answered)
        assert "error" in answers.pop("opus-01").lines()[-1]
        assert {name: answer.status for name, answer in answers.items()} == {
            "opus-02": 200, "sonnet-01": 200, "sonnet-02": 200, "sonnet-03": 200
        }  # fmt: skip
        assert double.statistics().peak_running == 2


async def test_a_request_that_takes_ollama_down_is_tried_twice(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), "[[n=3 first=1000]] poison")
            drops = 0
            while not crowd.answered:
                await trio.sleep(3)
                if double.statistics().running:
                    double.drop_connections()
                    drops += 1
                assert drops <= 2
        assert crowd.answered[0][1].status == 502
        assert drops == 2


async def test_a_model_is_loaded_by_us_before_its_callers_are_handed_over(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double(options=DoubleOptions(load_s=5.0))) as double, life(tmp_path, double) as bench:
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for name in ("opus-01", "opus-02", "opus-03"):
                await crowd.asks(agent(name))
            await wait_until(lambda: double.statistics().loading is not None)
            view = bench.gateway.statistics()
            assert view.backends[0].loading == MODEL
            assert (view.running, view.queued) == (0, 3)
            assert view.queue[0].reason == f"{MODEL} is being loaded"
        assert double.statistics().loads[MODEL] == 1
        assert double.statistics().peak_in_flight <= 2
        assert bench.gateway.statistics().backends[0].resident == (MODEL,)


async def test_two_models_that_do_not_fit_together_are_swapped_few_times(tmp_path: Path, autojump_clock: Clock) -> None:
    models = [ModelSpec("first"), ModelSpec("second")]
    options = DoubleOptions(load_s=3.0, max_loaded=1)
    async with running(Double(models, options)) as double, life(tmp_path, double, roster=roster_of(50, 50)) as bench:
        statuses: list[int] = []

        async def ask(name: str, model: str) -> None:
            statuses.append((await bench.ask(agent(name), "[[n=3 delay=0.1]]", model=model)).status)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                name = f"{'opus' if number < 50 else 'sonnet'}-{number % 50 + 1:02}"
                nursery.start_soon(ask, name, models[number % 2].name)
        assert statuses == [200] * 100
        assert sum(double.statistics().loads.values()) <= 6 + 1


async def test_agents_with_twenty_num_ctx_reload_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, roster=roster_of(20)) as bench:
        for number in range(1, 21):
            answer = await bench.ask(
                agent(f"opus-{number:02}"), "[[n=1]]", options={"num_ctx": 1000 + number}, keep_alive=0 if number % 2 else "1s"
            )
            assert answer.status == 200
            assert "num_ctx" in (answer.headers.get("X-AI-Options") or "")
            await trio.sleep(5)
        assert double.statistics().loads == {MODEL: 1}
        assert double.statistics().unloads == 0


async def test_an_agents_unload_is_answered_and_does_nothing_and_the_owners_does(tmp_path: Path, autojump_clock: Clock) -> None:
    body = json.dumps({"model": MODEL, "keep_alive": 0}).encode()
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        answer = await bench.call(agent("opus-01"), "POST", "/api/generate", body)
        assert (answer.status, answer.json()["done_reason"]) == (200, "unload")
        assert double.statistics().loaded == (MODEL,)
        answer = await bench.call(OWNER, "POST", "/api/generate", body)
        assert (answer.status, answer.json()["done_reason"]) == (200, "unload")
        await wait_until(lambda: double.statistics().loaded == ())
        assert (await bench.ask(agent("opus-01"), "[[n=1]]")).status == 200


async def test_a_callers_own_load_call_is_answered_when_the_model_is_there(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double(options=DoubleOptions(load_s=4.0))) as double, life(tmp_path, double) as bench:
        answer = await bench.call(agent("opus-01"), "POST", "/api/generate", json.dumps({"model": MODEL}).encode())
        assert (answer.status, answer.json()["done_reason"]) == (200, "load")
        assert double.statistics().loads == {MODEL: 1}
        await bench.ask(agent("opus-01"), "[[n=1]]")
        assert double.statistics().loads == {MODEL: 1}


async def test_an_embedding_model_gets_one_call_at_a_time_once_it_is_known_for_one(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double(options=DoubleOptions(embed_s=1.0))) as double, life(tmp_path, double) as bench:
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number in range(1, 4):
                await crowd.asks(agent(f"opus-{number:02}"), f"text {number}", path="/api/embed", model="nomic-embed-text")
            await crowd.asks(agent("sonnet-01"), "[[n=3 delay=0.1]]")
        assert double.statistics().peak_by_model["nomic-embed-text:latest"] == 1


async def test_the_backlog_has_an_end(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, queue=QueuePolicy(memory_max=2), slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for name in ("opus-01", "opus-02", "opus-03"):
                await crowd.asks(agent(name), "[[n=3 delay=1]]")
            answer = await bench.ask(agent("sonnet-01"), "x")
            assert answer.status == 503
            assert answer.headers.get("Retry-After")


async def test_a_guest_is_told_apart_from_agents_and_all_guests_share_one_limit(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), "[[n=5 delay=1]]")
            for number in range(8):
                await crowd.asks(GUEST, f"[[n=1]] {number}", headers=priority(1))
            assert {queued.priority for queued in bench.gateway.statistics().queue} == {8}
            assert (await bench.ask(GUEST, "x")).status == 429
        assert [event for event in bench.events if isinstance(event, AgentAsked)] == [AgentAsked("opus-01", 1)]


async def test_bodies_of_all_callers_together_are_bounded(tmp_path: Path, autojump_clock: Clock) -> None:
    limits = LimitsPolicy(body_bytes=8_000, ingest_bytes=10_000)
    async with running(Double()) as double, life(tmp_path, double, limits=limits, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), "[[n=5 delay=1]]" + "x" * 6_000)
            refused = await bench.ask(agent("opus-02"), "x" * 6_000)
            assert refused.status == 503
            assert refused.headers.get("Retry-After")
            too_large = await bench.ask(agent("opus-03"), "x" * 9_000)
            assert too_large.status in {413, 503}
            await crowd.asks(agent("opus-03"), "[[n=1]]")
        assert [answer.status for _, answer in crowd.answered] == [200, 200]
        assert (await bench.ask(agent("opus-02"), "x" * 6_000)).status == 200
