"""What a crash leaves: every accepted request comes back, once, and its caller finds it by key or by body."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.core.request_state import RowState
from tests.fakes.ollama_double import Double, DoubleOptions, running
from tests.shell.gateway_bench import MODEL, OWNER, Answered, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock

LONG = "[[n=100 delay=0.1]]"
PROBES = 2  # calls were cut off when the last life ended: its model's two slots are counted before anything else


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


Asked = dict[str, tuple[str, dict[str, str]]]  # agent -> prompt, headers


async def crash_with(folder: Path, double: Double, asked: Asked, slots: int = 2) -> None:
    """One life in which these are asked, the first of them run, and then a crash takes everybody's answer."""
    async with life(folder, double, roster=roster_of(60, 10), slots=slots) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        for name, (prompt, headers) in asked.items():
            bench.nursery.start_soon(partial(bench.ask, agent(name), prompt, headers=headers))
            await wait_until(partial(has, bench, name))
        await wait_until(lambda: bench.gateway.statistics().running == min(slots, len(asked)))
    await wait_until(lambda: double.statistics().running == 0)


def has(bench: Bench, name: str) -> bool:
    view = bench.gateway.statistics()
    return name in {q.agent for q in view.queue} | {r.agent for b in view.backends for r in b.running}


async def test_52_callers_that_come_back_with_their_keys_get_52_answers(tmp_path: Path, autojump_clock: Clock) -> None:
    names = [f"opus-{n:02}" for n in range(1, 53)]
    async with running(Double()) as double:
        await crash_with(tmp_path, double, {name: (f"[[n=3 delay=0.5]] {name}", key(name)) for name in names})
        calls = double.statistics().calls[MODEL]
        answers: dict[str, Answered] = {}
        async with life(tmp_path, double, roster=roster_of(60, 10)) as bench:
            assert bench.gateway.statistics().totals.recovered == 52
            async with trio.open_nursery() as nursery:

                async def come_back(name: str) -> None:
                    bench.started(name, generation=2)
                    answers[name] = await bench.ask(
                        agent(name, generation=2), f"[[n=3 delay=0.5]] {name}", headers=key(name)
                    )

                for name in names:
                    nursery.start_soon(come_back, name)
            assert bench.gateway.statistics().totals.rejoined == 52
        assert len(answers) == 52
        assert all(answer.status == 200 and answer.text() == "w0 w1 w2 " for answer in answers.values())
        assert sorted(n for n, a in answers.items() if a.headers.get("X-AI-Attempt") == "2") == names[:2]
        assert double.statistics().calls[MODEL] == calls + 52 + PROBES
        assert double.statistics().peak_running == 2


async def test_callers_without_keys_come_back_by_their_body_once(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        await crash_with(tmp_path, double, {"opus-01": (LONG, {}), "opus-02": (LONG, {}), "opus-03": ("[[n=3]] mine", {})})
        calls = double.statistics().calls[MODEL]
        async with life(tmp_path, double, roster=roster_of(60, 10)) as bench:
            first = await bench.ask(agent("opus-03"), "[[n=3]] mine")
            assert bench.gateway.statistics().totals.rejoined == 1
            second = await bench.ask(agent("opus-03"), "[[n=3]] mine")
            assert bench.gateway.statistics().totals.rejoined == 1
            assert first.headers.get("X-Request-Id") != second.headers.get("X-Request-Id")
        assert double.statistics().calls[MODEL] == calls + 2 + PROBES


async def test_those_who_came_back_go_before_orphans(tmp_path: Path, autojump_clock: Clock) -> None:
    queue = QueuePolicy(orphan_grace_s=60.0)
    async with running(Double()) as double:
        asked = {name: ("[[n=3 delay=0.1]]", key(name)) for name in ("opus-01", "opus-02", "opus-03", "opus-04")}
        await crash_with(tmp_path, double, asked, slots=1)
        async with life(tmp_path, double, roster=roster_of(60, 10), queue=queue, slots=1) as bench:
            began_at = trio.current_time()
            answer = await bench.ask(agent("opus-04"), "[[n=3 delay=0.1]]", headers=key("opus-04"))
            assert answer.at - began_at < 2
            assert bench.gateway.statistics().queued == 3
            await wait_until(lambda: bench.gateway.statistics().queued == 0, within_s=70)
            assert trio.current_time() - began_at >= 60
            await wait_until(lambda: bench.state.statistics().requests.done >= 4)
            kept = await bench.ask(agent("opus-01"), "[[n=3 delay=0.1]]", headers=key("opus-01"))
            assert kept.text() == "w0 w1 w2 "
            assert kept.headers.get("X-AI-Attempt") == "2"
            assert kept.headers.get("Cache-Status") == "ai-supervisor; hit; detail=rejoined"


async def test_rows_of_an_ended_generation_are_cancelled_unless_a_key_leads_back(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        asked = {"opus-01": (LONG, {}), "opus-02": ("[[n=3]]", {}), "opus-03": ("[[n=3]]", key("mine"))}
        await crash_with(tmp_path, double, asked, slots=1)
        async with life(tmp_path, double, roster=roster_of(60, 10), slots=1) as bench:
            assert {queued.agent for queued in bench.gateway.statistics().queue} == set(asked)
            for name in asked:
                bench.started(name, generation=2)
            assert [queued.agent for queued in bench.gateway.statistics().queue] == ["opus-03"]
            assert bench.gateway.statistics().totals.cancelled == 2


async def test_a_row_that_ran_in_two_lives_is_not_tried_a_third_time(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        await crash_with(tmp_path, double, {"opus-01": (LONG, key("mine"))})
        async with life(tmp_path, double) as bench:
            bench.nursery.start_soon(partial(bench.ask, agent("opus-01", 2), LONG, headers=key("mine")))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            assert bench.gateway.statistics().backends[0].running[0].attempt == 2
        calls = double.statistics().calls[MODEL]
        async with life(tmp_path, double) as bench:
            answer = await bench.ask(agent("opus-01", 3), LONG, headers=key("mine"))
            assert answer.status == 500
            assert "third" in answer.json()["error"]
            assert double.statistics().calls[MODEL] == calls + PROBES


async def test_a_finished_keyed_answer_is_kept_for_its_caller(tmp_path: Path, autojump_clock: Clock) -> None:
    queue = QueuePolicy(result_keep_s=600.0)
    async with running(Double()) as double, life(tmp_path, double, queue=queue) as bench:
        first = await bench.ask(agent("opus-01"), "[[n=3]]", headers=key("mine"))
        calls = double.statistics().calls[MODEL]
        again = await bench.ask(agent("opus-01"), "[[n=3]]", headers=key("mine"))
        assert again.headers.get("X-Request-Id") == first.headers.get("X-Request-Id")
        assert again.text() == first.text()
        single = await bench.ask(agent("opus-01"), "[[n=3]]", headers=key("mine"), stream=False)
        assert single.json()["response"] == first.text()
        assert double.statistics().calls[MODEL] == calls
        other_agent = await bench.ask(agent("opus-02"), "[[n=3]]", headers=key("mine"))
        assert other_agent.headers.get("X-Request-Id") != first.headers.get("X-Request-Id")
        await trio.sleep(700)
        fresh = await bench.ask(agent("opus-01"), "[[n=3]]", headers=key("mine"))
        assert fresh.headers.get("X-Request-Id") != first.headers.get("X-Request-Id")


async def test_the_same_key_with_another_body_is_refused(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]", headers=key("mine"))
        answer = await bench.ask(agent("opus-01"), "[[n=4]]", headers=key("mine"))
        assert answer.status == 422
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(bench.ask, agent("opus-01"), LONG, headers=key("other")))
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            answer = await bench.ask(agent("opus-01"), "[[n=4]]", headers=key("other"))
            assert answer.status == 422


async def test_two_at_once_with_one_key_are_one_request(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        calls = double.statistics().calls[MODEL]
        answers = []

        async def ask() -> None:
            answers.append(await bench.ask(agent("opus-01"), "[[n=5 delay=0.1]]", headers=key("mine")))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert [answer.text() for answer in answers] == ["w0 w1 w2 w3 w4 "] * 3
        assert len({answer.headers.get("X-Request-Id") for answer in answers}) == 1
        assert double.statistics().calls[MODEL] == calls + 1


async def test_a_failed_keyed_request_may_be_asked_again(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.ask(agent("opus-01"), "[[n=3 cut=300]]", headers=key("mine"))
        assert "error" in answer.lines()[-1]
        await wait_until(lambda: bench.state.statistics().requests.cancelled == 1)
        assert bench.state.statistics().requests.done == 0
        again = await bench.ask(agent("opus-01"), "[[n=3 cut=300]]", headers=key("mine"))
        assert again.headers.get("X-Request-Id") != answer.headers.get("X-Request-Id")


async def test_what_is_answered_is_in_the_journal_when_its_caller_sees_the_end(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        async with life(tmp_path, double) as bench:
            answer = await bench.ask(agent("opus-01"), "[[n=3]]", headers=key("mine"))
            request_id = answer.headers.get("X-Request-Id")
            assert request_id is not None
            row = bench.state.requests.row(request_id)
            assert row is not None
            assert row.state is RowState.DONE
        async with life(tmp_path, double) as bench:
            assert bench.gateway.statistics().totals.recovered == 0
            again = await bench.ask(agent("opus-01", 2), "[[n=3]]", headers=key("mine"))
            assert again.headers.get("X-Request-Id") == request_id


async def test_slots_that_died_with_the_last_life_are_healed_before_anybody_waits_for_them(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    # A runner that hangs keeps its slot when its caller is gone: only an unload brings it back.
    async with running(Double(options=DoubleOptions(first_token_s=0.1))) as double:
        await crash_with(tmp_path, double, {"opus-01": ("[[n=3 hang=1]]", key("mine"))})
        model = next(iter(double.machine.scheduler.loaded.values()))
        await model._slots.acquire()  # as after a leaver at the wrong moment: gone until the unload
        async with life(tmp_path, double, roster=roster_of(60, 10)) as bench:
            began_at = trio.current_time()
            answer = await bench.ask(agent("opus-02"), "[[n=3]]")
            assert answer.status == 200
            assert bench.gateway.statistics().backends[0].healed == 1
            assert trio.current_time() - began_at < 40


@pytest.mark.parametrize("step_s", [0.0, -2459.0, 2459.0])
async def test_a_deadline_after_a_crash_is_the_grace_and_what_was_asked_for(
    tmp_path: Path, autojump_clock: Clock, step_s: float
) -> None:
    """Also where the wall clock was set meanwhile: a deadline is written down in its time, and would be 40 minutes off."""
    stepped = VirtualClock(VirtualClock.epoch + step_s)
    async with running(Double()) as double:
        asked = {"opus-01": (LONG, key("one")), "opus-02": ("[[n=3]]", {**key("two"), "X-AI-Deadline": "30"})}
        await crash_with(tmp_path, double, asked, slots=1)
        double.is_refusing = True  # from now on nothing can start
        queue = QueuePolicy(orphan_grace_s=60.0)
        async with life(
            tmp_path, double, roster=roster_of(60, 10), queue=queue, slots=1, is_ready=False, clock=stepped
        ) as bench:
            began_at = trio.current_time()
            await wait_until(lambda: not has(bench, "opus-02"), within_s=200)
            assert trio.current_time() - began_at == pytest.approx(90, abs=2)


async def test_an_answer_without_its_end_is_kept_for_nobody_who_comes_back(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3 nofinal=1]]", headers=key("mine"))
        calls = double.statistics().calls[MODEL]
        again = await bench.ask(agent("opus-01"), "[[n=3 nofinal=1]]", headers=key("mine"))
        assert double.statistics().calls[MODEL] == calls + 1
        assert "rejoined" not in (again.headers.get("Cache-Status") or "")
