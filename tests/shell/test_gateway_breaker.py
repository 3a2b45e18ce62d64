"""An Ollama that fails: what counts against it, what waits meanwhile, and what comes through."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import trio

from supervisord_ai.core.breaker import CallEnd
from tests.fakes.ollama_double import Ask, Double, DoubleOptions, ModelSpec, Script, embedding_model, running
from tests.shell.gateway_bench import MODEL, OWNER, agent, life, roster_of, wait_until
from tests.shell.test_gateway_order import Crowd

Clock = trio.abc.Clock


async def test_five_faults_open_the_breaker_who_waits_goes_on_waiting_and_a_few_tokens_for_nobody_close_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        for number in range(5):
            answer = await bench.ask(agent("opus-01"), f"[[n=3 cut=400]] {number}")
            assert "broke off" in answer.lines()[-1]["error"]
        assert bench.gateway.statistics().backends[0].breaker == "open"
        calls = double.statistics().calls[MODEL]
        opened_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for name in ("opus-01", "opus-02", "sonnet-01", "sonnet-02"):
                await crowd.asks(agent(name), "[[n=3 delay=1]]")
            await trio.sleep(10)
            assert "breaker" in bench.gateway.statistics().queue[0].reason
            assert double.statistics().calls[MODEL] == calls
            await wait_until(lambda: bench.gateway.statistics().backends[0].breaker == "half-open")
            assert 14.9 < trio.current_time() - opened_at < 16
            await wait_until(lambda: double.statistics().calls[MODEL] == calls + 1)
            assert (bench.gateway.statistics().running, bench.gateway.statistics().queued) == (0, 4)
            await wait_until(lambda: bench.gateway.statistics().backends[0].breaker == "closed")
        assert [answer.status for _, answer in crowd.answered] == [200] * 4
        assert double.statistics().calls[MODEL] == calls + 1 + 4


async def test_while_it_stays_ill_only_trials_are_lost_and_no_call_of_anybodys(tmp_path: Path, autojump_clock: Clock) -> None:
    double = Double()
    usual = double.script

    def ill(_ask: Ask) -> Script:
        return Script(tokens=("a ", "b "), cut_at_byte=60)

    async with running(double), life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        double.script = ill
        for number in range(5):
            await bench.ask(agent("opus-01"), f"{number}")
        assert bench.gateway.statistics().backends[0].breaker == "open"
        calls, failed = double.statistics().calls[MODEL], bench.gateway.statistics().totals.failed
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            await crowd.asks(agent("opus-01"), "[[n=3]]")
            await trio.sleep(100)
            assert crowd.answered == []
            assert 4 <= double.statistics().calls[MODEL] - calls <= 7  # one every 15 s
            double.script = usual
        assert [answer.status for _, answer in crowd.answered] == [200]
        assert bench.gateway.statistics().totals.failed == failed
        assert bench.gateway.statistics().backends[0].breaker == "closed"


async def test_where_no_model_is_loaded_the_load_is_the_trial(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        for number in range(5):
            await bench.ask(agent("opus-01"), f"[[n=3 cut=400]] {number}")
        assert bench.gateway.statistics().backends[0].breaker == "open"
        loads = double.statistics().loads[MODEL]
        double.restart()
        answer = await bench.ask(agent("opus-01"), "[[n=1]]")
        assert answer.status == 200
        assert double.statistics().loads[MODEL] == loads + 1
        assert bench.gateway.statistics().backends[0].breaker == "closed"


async def test_a_trial_keeps_to_the_slots_and_waits_for_calls_of_before(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask, agent("opus-01"), "[[n=30 delay=1]]")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            for _ in range(5):
                bench.gateway._backends[0].judge(CallEnd.BADLY)
            await trio.sleep(20)
            assert bench.gateway.statistics().backends[0].breaker == "half-open"
            assert double.statistics().peak_running == 1
        await wait_until(lambda: bench.gateway.statistics().backends[0].breaker == "closed")
        assert double.statistics().peak_running == 1


async def test_fifty_leavers_and_fifty_callers_who_are_wrong_never_open_it(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        for number in range(50):
            with trio.move_on_after(0.1):
                await bench.ask(agent("opus-01"), f"[[n=100 delay=0.05]] {number}")
            wrong = await bench.ask(agent("opus-02"), f"x {number}", options={"temperature": "hot"})
            assert wrong.status == 500
        assert bench.gateway.statistics().backends[0].breaker == "closed"
        assert (await bench.ask(agent("opus-01"), "[[n=1]]")).status == 200


async def test_two_calls_stall_and_the_twenty_behind_them_are_answered(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            stalled, innocent = Crowd(bench, nursery), Crowd(bench, nursery)
            await stalled.asks(agent("opus-01"), "[[n=3 hang=0]] 1")
            await stalled.asks(agent("opus-02"), "[[n=3 hang=1]] 2")
            for number in range(20):
                await innocent.asks(agent("sonnet-01"), f"[[n=3]] {number}")
        assert [answer.status for _, answer in innocent.answered] == [200] * 20
        answers = dict(stalled.answered)
        assert answers["opus-01"].status == 504
        assert "silent for 120 s" in answers["opus-02"].lines()[-1]["error"]
        assert bench.gateway.statistics().backends[0].breaker == "closed"
        assert bench.gateway.statistics().backends[0].healed == 0


async def test_ollama_is_away_for_ten_minutes_and_nobody_who_has_the_time_is_lost(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            patient = {"X-AI-Deadline": "3600"}
            for name in ("opus-01", "opus-02", "opus-03", "sonnet-01", "sonnet-02", "sonnet-03"):
                await crowd.asks(agent(name), "[[n=3 first=10]]", headers=patient)
            await trio.sleep(3)
            double.is_refusing = True
            double.restart()
            await trio.sleep(600)
            assert crowd.answered == []
            double.is_refusing = False
        assert [answer.status for _, answer in crowd.answered] == [200] * 6
        assert double.statistics().calls[MODEL] == 1 + 6 + 2  # those without a byte were asked once more


async def test_a_hung_engine_is_noticed_restarted_once_and_the_queue_survives(tmp_path: Path, autojump_clock: Clock) -> None:
    restarts: list[float] = []
    async with running(Double()) as double:

        async def restart() -> None:
            restarts.append(trio.current_time())
            double.restart()
            double.speak()

        async with life(tmp_path, double, restart=restart) as bench:
            await bench.ask(OWNER, "[[n=1]]")
            hung_at = trio.current_time()
            double.hush()
            async with trio.open_nursery() as nursery:
                crowd = Crowd(bench, nursery)
                for name in ("opus-01", "opus-02", "sonnet-01"):
                    nursery.start_soon(partial(crowd._ask, agent(name), "[[n=3]]"))
                await wait_until(lambda: bench.gateway.statistics().backends[0].state == "unreachable")
                assert trio.current_time() - hung_at < 30
            assert [answer.status for _, answer in crowd.answered] == [200] * 3
            assert len(restarts) == 1
            assert bench.gateway.statistics().backends[0].restarted == 1


async def test_two_backends_serve_together_and_one_serves_alone(tmp_path: Path, autojump_clock: Clock) -> None:
    async with (
        running(Double()) as first,
        running(Double()) as second,
        life(tmp_path, first, beside={"second": second}) as bench,
    ):
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number in range(1, 4):
                await crowd.asks(agent(f"opus-{number:02}"), "[[n=5 delay=1]]")
                await crowd.asks(agent(f"sonnet-{number:02}"), "[[n=5 delay=1]]")
        assert (first.statistics().peak_running, second.statistics().peak_running) == (2, 2)
        first.is_refusing = True
        first.restart()
        for number in range(3):
            assert (await bench.ask(agent("opus-01"), f"[[n=1]] {number}")).status == 200


async def test_a_model_is_asked_for_where_it_is(tmp_path: Path, autojump_clock: Clock) -> None:
    async with (
        running(Double([ModelSpec("here")])) as first,
        running(Double([ModelSpec("there")])) as second,
        life(tmp_path, first, beside={"second": second}) as bench,
    ):
        assert (await bench.ask(agent("opus-01"), "[[n=1]]", model="there")).status == 200
        assert (await bench.ask(agent("opus-01"), "[[n=1]]", model="here")).status == 200
        shown = await bench.call(agent("opus-01"), "POST", "/api/show", json.dumps({"model": "there"}).encode())
        assert shown.status == 200
        assert (await bench.ask(agent("opus-01"), "[[n=1]]", model="nowhere")).status == 404


async def test_131_embeds_at_once_never_ask_an_embedding_model_for_more_than_one(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    options = DoubleOptions(embed_s=0.1)
    async with running(Double(options=options)) as double, life(tmp_path, double, roster=roster_of(36, 95)) as bench:
        statuses: list[int] = []

        async def embed(name: str) -> None:
            answer = await bench.ask(agent(name), f"text of {name}", path="/api/embed", model="nomic-embed-text")
            statuses.append(answer.status)

        async with trio.open_nursery() as nursery:
            for number in range(131):
                name = f"opus-{number + 1:02}" if number < 36 else f"sonnet-{number - 35:02}"
                nursery.start_soon(embed, name)
        assert statuses == [200] * 131
        assert double.statistics().peak_by_model["nomic-embed-text:latest"] == 1


async def test_who_hangs_on_a_doubted_slot_of_one_model_holds_up_nobody_who_asks_another(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """The simulator's seed 104: after a crash two models were doubted, and the second proof held everything for minutes."""

    def embeds(text: str) -> bytes:
        return json.dumps({"model": "z", "input": text}).encode()

    double = Double([ModelSpec(MODEL), embedding_model("z")])
    async with running(double), life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        assert (await bench.call(agent("opus-01"), "POST", "/api/embed", embeds("warm"))).status == 200
        runner = next(each for each in double.machine.scheduler.loaded.values() if each.spec.name.startswith("z"))
        runner._slots.acquire_nowait()
        runner.lost += 1
        (backend,) = bench.gateway._backends
        backend.suspect({MODEL, "z:latest"})
        backend.ask_now()
        waits = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.call, agent("sonnet-01"), "POST", "/api/embed", embeds("hangs"))
            for number in range(30):
                asked_at = trio.current_time()
                assert (await bench.ask(agent("opus-02"), f"[[n=2]] {number}")).status == 200
                waits.append(trio.current_time() - asked_at)
                await trio.sleep(10)
        assert max(waits) < 70, waits  # a proof may take 30 s, and waits 60 s for calls that go on
        await wait_until(lambda: bench.gateway.statistics().backends[0].healed == 1)
        assert (await bench.call(agent("opus-01"), "POST", "/api/embed", embeds("well"))).status == 200


async def test_the_time_of_who_comes_to_an_engine_that_hangs_runs_since_it_came(tmp_path: Path, autojump_clock: Clock) -> None:
    """The model is asked about first, for ten seconds in vain: they are of the time that the caller gave."""
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        await trio.sleep(5)
        double.hush()
        asked_at = trio.current_time()
        answer = await bench.ask(agent("opus-01"), "[[n=1]]", headers={"X-AI-Deadline": "30"})
        assert answer.status == 503
        assert 29 < trio.current_time() - asked_at < 31


def lose_slots(double: Double, model: str, count: int) -> None:
    runner = next(each for each in double.machine.scheduler.loaded.values() if each.spec.name == model)
    for _ in range(count):
        runner._slots.acquire_nowait()
        runner.lost += 1


WHOLE: dict[str, Any] = {"path": "/v1/chat/completions", "stream": False}
PATIENT = {"X-AI-Deadline": "900"}


async def test_a_model_that_has_lost_all_its_slots_is_back_within_minutes_and_who_waits_is_answered(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        lose_slots(double, MODEL, 2)
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            lost, behind = Crowd(bench, nursery), Crowd(bench, nursery)
            for name in ("opus-01", "opus-02"):
                await lost.asks(agent(name), f"[[n=3]] {name}", **WHOLE)
            for name in ("sonnet-01", "sonnet-02", "sonnet-03"):
                await behind.asks(agent(name), f"[[n=3]] {name}", headers=PATIENT)
        assert [answer.status for _, answer in lost.answered] == [503] * 2  # too late for them to start again
        assert [answer.status for _, answer in behind.answered] == [200] * 3
        assert trio.current_time() - began_at < 350  # five minutes, and the probes' half
        (backend,) = bench.gateway.statistics().backends
        assert (backend.healed, backend.breaker) == (1, "closed")


async def test_streams_without_a_slot_are_given_up_and_whoever_came_after_them_does_not_wait_as_long_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        lose_slots(double, MODEL, 2)
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number in range(5):
                await crowd.asks(agent(f"opus-{number % 3 + 1:02}"), f"[[n=3]] {number}", headers=PATIENT)
        assert sorted(answer.status for _, answer in crowd.answered) == [200, 200, 200, 504, 504]
        assert trio.current_time() - began_at < 290  # three minutes of the first, one of the next, and the probes' half
        assert bench.gateway.statistics().backends[0].healed == 1


async def test_a_breaker_does_not_stay_open_over_a_loaded_model_that_has_lost_all_its_slots(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """A trial asks what is loaded, and nothing else is loaded before one went well: found by the simulator, with an embedder."""
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        for number in range(5):
            await bench.ask(agent("opus-01"), f"[[n=3 cut=400]] {number}")
        assert bench.gateway.statistics().backends[0].breaker == "open"
        lose_slots(double, MODEL, 2)
        asked_at = trio.current_time()
        answer = await bench.ask(agent("sonnet-01"), "[[n=3]]", headers=PATIENT)
        assert answer.status == 200
        assert trio.current_time() - asked_at < 80  # cooled, tried, unloaded; cooled and loaded
        (backend,) = bench.gateway.statistics().backends
        assert (backend.healed, backend.breaker) == (1, "closed")


async def test_long_answers_that_nobody_waits_behind_are_let_be(tmp_path: Path, autojump_clock: Clock) -> None:
    def is_long(ask: Ask) -> Script | None:
        return Script(tokens=("at last ",), first_s=400.0) if "long" in ask.prompt else None

    double = Double()
    double.script = is_long
    async with running(double), life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            crowd = Crowd(bench, nursery)
            for number in (1, 2):
                await crowd.asks(agent(f"opus-0{number}"), f"a long one {number}", **WHOLE)
        assert [answer.status for _, answer in crowd.answered] == [200] * 2
        assert double.statistics().calls[MODEL] == 1 + 2


async def test_who_waits_behind_an_answer_in_one_piece_that_never_comes_waits_five_minutes(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            silent, behind = Crowd(bench, nursery), Crowd(bench, nursery)
            began_at = trio.current_time()
            await silent.asks(agent("opus-01"), "[[n=5 hang=2]]", **WHOLE)
            await behind.asks(agent("sonnet-01"), "[[n=1]]", headers=PATIENT)
        (_, given_up), (_, served) = silent.answered[0], behind.answered[0]
        assert given_up.status == 503  # by now it is too late for it to start again
        assert served.status == 200
        assert 300 <= given_up.at - began_at <= served.at - began_at < 310
