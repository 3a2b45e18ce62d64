"""`Prefer: respond-async`: accepted now, answered later under an id, whoever is there or not."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import trio

from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.core.request_state import RowState
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import GUEST, MODEL, OWNER, Answered, Bench, agent, life, wait_until

Clock = trio.abc.Clock
ASYNC = {"Prefer": "respond-async"}
LONG = "[[n=100 delay=0.1]]"
OPUS = agent("opus-01")


async def accepted(bench: Bench, caller: Caller = OPUS, prompt: str = "[[n=3]]", key: str = "", **more: object) -> str:
    """Ask, be told 202, return the id."""
    headers = ASYNC | ({"Idempotency-Key": key} if key else {})
    answer = await bench.ask(caller, prompt, headers=headers, **more)  # type: ignore[arg-type]
    assert answer.status == 202, answer.body
    assert answer.headers.get("Preference-Applied") == "respond-async"
    told = answer.json()
    assert answer.headers.get("Location") == f"/supervisor/v1/requests/{told['id']}" == told["location"]
    assert answer.headers.get("X-Request-Id") == told["id"]
    return str(told["id"])


async def told_of(bench: Bench, request_id: str, caller: Caller = OPUS, wait_s: float = 0, method: str = "GET") -> Answered:
    return await bench.call(caller, method, f"/supervisor/v1/requests/{request_id}?wait={wait_s}")


async def told(bench: Bench, request_id: str, caller: Caller = OPUS, wait_s: float = 0) -> dict[str, object]:
    return (await told_of(bench, request_id, caller, wait_s)).json()


async def answer_of(bench: Bench, request_id: str, caller: Caller = OPUS) -> dict[str, object]:
    said = await told(bench, request_id, caller, 60)
    assert said["state"] == "done", said
    answer = said["answer"]
    assert isinstance(answer, dict)
    return answer


async def both_slots_busy(bench: Bench) -> None:
    await bench.ask(OWNER, "[[n=1]]")
    for name in ("sonnet-01", "sonnet-02"):
        bench.nursery.start_soon(bench.ask, agent(name), LONG)
    await wait_until(lambda: bench.gateway.statistics().running == 2)


async def test_an_asynchronous_request_is_acknowledged_at_once_and_answered_under_its_id(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await both_slots_busy(bench)
        asked_at = trio.current_time()
        request_id = await accepted(bench)
        assert trio.current_time() - asked_at < 0.1
        said = await told(bench, request_id)
        assert (said["state"], said["position"], said["waits_for"]) == ("queued", 1, "slot")
        answer = await answer_of(bench, request_id)
        assert answer["status"] == 200
        assert str(answer["body"]).count("\n") == 4


async def test_one_that_the_engine_refuses_is_told_in_the_engines_words(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        said = await told(bench, await accepted(bench, prompt="[[status=503]]"), wait_s=60)
        assert said["state"] == "cancelled"
        assert str(said["reason"]).startswith("Ollama answered 503: "), said
        assert "fake upstream error" in str(said["reason"])


async def test_an_answer_that_cannot_be_written_is_told_as_soon_as_it_can(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        writer = bench.state.database._writer
        request_id = await accepted(bench, prompt="[[n=20 delay=0.1]]")
        await wait_until(lambda: double.statistics().running == 1)
        writer.execute("PRAGMA query_only = 1")
        await wait_until(lambda: double.statistics().running == 0)
        said = await told(bench, request_id, wait_s=5)
        assert said["state"] == "running", said
        assert "reason" not in said
        writer.execute("PRAGMA query_only = 0")
        await trio.sleep(10)  # and nobody else writes
        assert (await answer_of(bench, request_id))["status"] == 200
        assert double.statistics().calls == {MODEL: 1}


async def test_the_answer_has_the_form_that_was_asked_for(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await answer_of(bench, await accepted(bench, stream=False))
        body = json.loads(str(answer["body"]))
        assert (body["response"], body["done"]) == ("w0 w1 w2 ", True)
        answer = await answer_of(bench, await accepted(bench, path="/v1/chat/completions"))
        assert json.loads(str(answer["body"]))["choices"][0]["message"]["content"] == "w0 w1 w2 "


async def test_it_outlives_its_connection_its_agent_and_the_supervisor(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        async with life(tmp_path, double) as bench:
            await both_slots_busy(bench)
            bench.started("opus-01")
            waiting = await accepted(bench)
            plain = bench.nursery.start_soon
            plain(partial(bench.ask, agent("opus-01"), "[[n=3]] sync"))
            await wait_until(lambda: bench.gateway.statistics().queued == 2)
            bench.ended("opus-01")
            await wait_until(lambda: bench.gateway.statistics().queued == 1)
            assert (await told(bench, waiting))["state"] == "queued"
        await wait_until(lambda: double.statistics().running == 0)
        async with life(tmp_path, double) as bench:
            answer = await answer_of(bench, waiting, agent("opus-01", 2))
            assert answer["status"] == 200
            # It did not wait for the grace of those whose callers must come back.
            assert bench.gateway.statistics().queued == 2
        async with life(tmp_path, double) as bench:
            assert (await answer_of(bench, waiting))["status"] == 200


async def test_one_that_ran_when_the_supervisor_died_is_answered_by_its_second_attempt(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double:
        async with life(tmp_path, double) as bench:
            request_id = await accepted(bench, prompt=LONG)
            await wait_until(lambda: bench.gateway.statistics().running == 1)
        async with life(tmp_path, double) as bench:
            await answer_of(bench, request_id)
            assert (await told(bench, request_id))["attempt"] == 2


async def test_its_owner_may_cancel_it_and_nobody_else_knows_it(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await both_slots_busy(bench)
        request_id = await accepted(bench)
        assert (await told_of(bench, request_id, agent("opus-02"))).status == 404
        assert (await told_of(bench, request_id, agent("opus-02"), method="DELETE")).status == 404
        assert (await told_of(bench, request_id, method="DELETE")).json()["state"] == "cancelled"
        assert bench.gateway.statistics().queued == 0
        await wait_until(lambda: bench.state.statistics().requests.cancelled == 1)
        said = await told(bench, request_id)
        assert (said["state"], said["reason"]) == ("cancelled", "it was cancelled")


async def test_one_that_was_not_started_in_time_says_so(tmp_path: Path, autojump_clock: Clock) -> None:
    queue = QueuePolicy(async_deadline_s=5.0)
    async with running(Double()) as double, life(tmp_path, double, queue=queue) as bench:
        for name in ("sonnet-01", "sonnet-02"):
            bench.nursery.start_soon(bench.ask, agent(name), LONG)
        await wait_until(lambda: bench.gateway.statistics().running == 2)
        request_id = await accepted(bench)
        said = await told(bench, request_id, wait_s=60)
        assert said["state"] == "cancelled"
        assert str(said["reason"]).startswith("no slot came free within 5 s")
        assert await told(bench, request_id) == said


async def test_what_is_kept_already_is_given_instead_of_a_promise(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OPUS, "[[n=3]]", options={"temperature": 0})
        answer = await bench.ask(OPUS, "[[n=3]]", headers=ASYNC, options={"temperature": 0})
        assert (answer.status, answer.text()) == (200, "w0 w1 w2 ")
        assert answer.headers.get("Preference-Applied") is None


async def test_one_key_is_one_asynchronous_request(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await both_slots_busy(bench)
        first = await accepted(bench, key="mine")
        assert await accepted(bench, key="mine") == first
        # Who asks for it on a connection waits for it there, and may leave without ending it.
        with trio.move_on_after(1):
            await bench.ask(OPUS, "[[n=3]]", headers={"Idempotency-Key": "mine"})
        assert (await told(bench, first))["state"] == "queued"
        answer = await bench.ask(OPUS, "[[n=3]]", headers={"Idempotency-Key": "mine"})
        assert (answer.headers.get("X-Request-Id"), answer.text()) == (first, "w0 w1 w2 ")
        assert (await bench.ask(OPUS, "[[n=4]]", headers=ASYNC | {"Idempotency-Key": "mine"})).status == 422


# --- on disk ------------------------------------------------------------------------------------------------------------


async def test_beyond_what_memory_holds_they_wait_on_disk_and_run_in_their_order(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    queue = QueuePolicy(memory_max=4, async_max=40)
    async with running(Double()) as double, life(tmp_path, double, queue=queue) as bench:
        await both_slots_busy(bench)
        ids = [await accepted(bench, prompt=f"[[n=2 delay=0.01]] {n}", key=f"k{n}") for n in range(40)]
        assert len(bench.gateway._backlog.asleep) == 38  # two run and two wait in memory
        assert bench.gateway.statistics().queued == 40
        assert {view.path for view in bench.gateway.statistics().queue} == {"/api/generate"}
        refused = await bench.ask(agent("opus-02"), "[[n=3]]", headers=ASYNC)
        assert (refused.status, refused.headers.get("Retry-After") is not None) == (503, True)
        said = await told(bench, ids[30])
        assert (said["state"], said["position"], said["attempt"]) == ("queued", 31, 1)
        assert await accepted(bench, prompt="[[n=2 delay=0.01]] 35", key="k35") == ids[35]  # its key finds it on disk
        assert (await told_of(bench, ids[39], method="DELETE")).json()["state"] == "cancelled"
        for request_id in ids[:39]:
            answer = await answer_of(bench, request_id)
            assert "w0 " in str(answer["body"])
        assert bench.state.statistics().requests.cancelled == 1
        assert len(bench.gateway._backlog.asleep) == 0
        assert double.statistics().peak_running == 2


async def test_a_caller_on_a_connection_is_not_refused_for_those_on_disk(tmp_path: Path, autojump_clock: Clock) -> None:
    queue = QueuePolicy(memory_max=2)
    async with running(Double()) as double, life(tmp_path, double, queue=queue) as bench:
        await both_slots_busy(bench)
        for n in range(10):
            await accepted(bench, prompt=f"[[n=2]] {n}")
        assert (await bench.ask(agent("opus-02"), "[[n=3]]")).status == 200


async def test_those_on_disk_survive_a_crash_on_disk(tmp_path: Path, autojump_clock: Clock) -> None:
    queue = QueuePolicy(memory_max=4)
    async with running(Double()) as double:
        async with life(tmp_path, double, queue=queue) as bench:
            await both_slots_busy(bench)
            ids = [await accepted(bench, prompt=f"[[n=2]] {n}") for n in range(20)]
        await wait_until(lambda: double.statistics().running == 0)
        async with life(tmp_path, double, queue=queue, is_ready=False) as bench:
            assert len(bench.gateway._backlog.asleep) >= 15
            for request_id in ids:
                assert (await answer_of(bench, request_id))["status"] == 200


async def test_one_that_sleeps_is_cancelled_while_it_is_read_back(tmp_path: Path, autojump_clock: Clock) -> None:
    queue = QueuePolicy(memory_max=1)
    async with running(Double()) as double, life(tmp_path, double, queue=queue, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        bench.nursery.start_soon(bench.ask, agent("sonnet-01"), "[[n=3 delay=0.5]]")
        await wait_until(lambda: bench.gateway.statistics().running == 1)
        request_id = await accepted(bench, prompt="[[n=2]] " + "x" * 1_500_000)
        held, go = trio.Event(), trio.Event()

        async def slowly(fn, *args):  # type: ignore[no-untyped-def]
            held.set()
            await go.wait()
            return fn(*args)

        bench.gateway._reading._run_sync = slowly  # type: ignore[assignment]
        await held.wait()
        assert (await told_of(bench, request_id, method="DELETE")).json()["state"] == "cancelled"
        go.set()
        await wait_until(lambda: bench.state.statistics().requests.cancelled == 1)
        assert (await bench.ask(agent("opus-02"), "[[n=3]]")).status == 200  # the slot is there


async def test_guests_have_no_more_asynchronous_requests_than_others(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await both_slots_busy(bench)
        ids = [await accepted(bench, GUEST, f"[[n=1]] {n}") for n in range(8)]
        assert len(set(ids)) == 8
        assert (await bench.ask(GUEST, "[[n=1]] 9", headers=ASYNC)).status == 429


async def test_what_ollama_could_not_do_is_told_under_the_id(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        failing = await accepted(bench, prompt="[[n=3 cut=300]]")
        said = await told(bench, failing, wait_s=60)
        assert said["state"] == "cancelled"
        assert "broke off" in str(said["reason"])
        unknown = await accepted(bench, model="nobody-has-this")
        answer = await answer_of(bench, unknown)
        assert answer["status"] == 404
        row = bench.state.requests.row(unknown)
        assert row is not None
        assert row.state is RowState.DONE
        assert MODEL not in str(answer["body"])
