"""What callers may ask about themselves and their requests, and what is passed on without a slot."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import trio

from supervisord_ai.core.events import AgentReady
from supervisord_ai.core.identity import Caller
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import GUEST, MODEL, OWNER, Answered, Bench, agent, life, wait_until

Clock = trio.abc.Clock


async def get(bench: Bench, caller: Caller, path: str, method: str = "GET") -> Answered:
    return await bench.call(caller, method, path)


async def waiting_request(bench: Bench, nursery: trio.Nursery, name: str = "opus-02") -> str:
    """The id of a request that waits behind a long one."""
    nursery.start_soon(bench.ask, agent("opus-01"), "[[n=100 delay=0.1]]")
    await wait_until(lambda: bench.gateway.statistics().running == 1)
    nursery.start_soon(partial(ignore_end, bench, name))
    await wait_until(lambda: bench.gateway.statistics().queued == 1)
    return bench.gateway.statistics().queue[0].id


async def ignore_end(bench: Bench, name: str) -> None:
    answer = await bench.ask(agent(name), "[[n=3]]", headers={"Idempotency-Key": "k"})
    assert answer.status in {200, 499}


async def test_a_caller_is_told_who_it_is(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        told = (await get(bench, agent("opus-01", 3), "/supervisor/v1/whoami")).json()
        assert told == {"name": "opus-01", "class": "opus", "kind": "agent", "generation": 3, "identity": "proved"}
        assert (await get(bench, GUEST, "/supervisor/v1/whoami")).json()["kind"] == "guest"


async def test_agents_are_listed_with_class_and_state(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        bench.started("opus-01")
        bench.gateway.tell(AgentReady("opus-01", 1))
        bench.started("opus-02")
        bench.ended("opus-02")
        listed = (await get(bench, agent("sonnet-01"), "/supervisor/v1/agents")).json()["agents"]
        assert {entry["name"]: entry["state"] for entry in listed if entry["class"] == "opus"} == {
            "opus-01": "ready", "opus-02": "ended: exit:0", "opus-03": "not started"
        }  # fmt: skip


async def test_a_request_is_told_of_from_its_place_to_its_answer(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            request_id = await waiting_request(bench, nursery)
            path = f"/supervisor/v1/requests/{request_id}"
            told = (await get(bench, agent("opus-02"), path)).json()
            assert (told["state"], told["position"], told["ahead"], told["reason"]) == ("queued", 1, 0, "all slots are busy")
            asked_at = trio.current_time()
            told = (await get(bench, agent("opus-02"), path + "?wait=2")).json()
            assert told["state"] == "queued"
            assert 1.9 <= trio.current_time() - asked_at <= 2.1
            told = (await get(bench, agent("opus-02"), path + "?wait=60")).json()
            assert (told["state"], told["attempt"], told["answer"]["status"]) == ("done", 1, 200)
            assert '"done":true' in told["answer"]["body"]


async def test_another_agents_request_does_not_exist(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            request_id = await waiting_request(bench, nursery)
            for caller, method in ((agent("opus-03"), "GET"), (agent("opus-03"), "DELETE"), (GUEST, "GET")):
                answer = await get(bench, caller, f"/supervisor/v1/requests/{request_id}", method)
                assert answer.status == 404
            unknown = await get(bench, agent("opus-02"), "/supervisor/v1/requests/nope")
            assert (unknown.status, list(unknown.json())) == (404, ["error"])
            assert (await get(bench, OWNER, f"/supervisor/v1/requests/{request_id}")).status == 200
            assert bench.gateway.statistics().queued == 1


@pytest.mark.parametrize("is_running", [False, True])
async def test_a_request_that_is_deleted_is_answered_as_cancelled(
    tmp_path: Path, autojump_clock: Clock, is_running: bool
) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=2 if is_running else 1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        answers: list[Answered] = []

        async def ask() -> None:
            answers.append(await bench.ask(agent("opus-02"), "[[n=100 first=5]]", stream=False))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask, agent("opus-01"), "[[n=100 delay=0.1]]")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            nursery.start_soon(ask)
            view = bench.gateway.statistics
            await wait_until(lambda: view().running + view().queued == 2)
            ids = [q.id for q in view().queue] + [r.id for r in view().backends[0].running if r.agent == "opus-02"]
            await get(bench, agent("opus-02"), f"/supervisor/v1/requests/{ids[0]}", "DELETE")
            await wait_until(lambda: bool(answers), within_s=3)
            assert answers[0].status == 499
            assert bench.gateway.statistics().totals.cancelled == 1
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/api/ps", "/v1/models", f"/v1/models/{MODEL}"])
async def test_metadata_is_passed_on_while_every_slot_is_busy(tmp_path: Path, autojump_clock: Clock, path: str) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            await waiting_request(bench, nursery)
            answer = await get(bench, agent("sonnet-01"), path)
            assert answer.status == 200
            head = await get(bench, agent("sonnet-01"), path, "HEAD")
            if path in {"/", "/api/version", "/api/tags"}:
                assert (head.status, head.headers.get("Content-Length")) == (200, str(len(answer.body)))
            else:
                assert (head.status, head.headers.get("Allow")) == (405, "GET")
            nursery.cancel_scope.cancel()


async def test_administration_is_the_owners_only(tmp_path: Path, autojump_clock: Clock) -> None:
    body = json.dumps({"model": "tinyllama"}).encode()
    async with running(Double()) as double, life(tmp_path, double) as bench:
        for caller in (agent("opus-01"), GUEST):
            answer = await bench.call(caller, "DELETE", "/api/delete", body)
            assert (answer.status, list(answer.json())) == (403, ["error"])
        assert (await bench.call(OWNER, "DELETE", "/api/delete", body)).status == 200
        gone = await bench.ask(agent("opus-01"), "x", model="tinyllama")
        assert gone.status == 404
        pulled = await bench.call(OWNER, "POST", "/api/pull", body)
        assert pulled.lines()[-1] == {"status": "success"}


async def test_metadata_of_an_ollama_that_is_down_is_a_clear_error(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        double.is_refusing = True
        double.drop_connections()
        answer = await get(bench, agent("opus-01"), "/api/tags")
        assert answer.status == 502
        assert "cannot be reached" in answer.json()["error"]
