"""Answers that need no slot: kept for those who ask the same, and never when another answer could be meant."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervisord_ai.core.cache_policy import Freshness
from supervisord_ai.core.policies import CachePolicy
from tests.fakes.ollama_double import Double, ModelSpec, running
from tests.shell.gateway_bench import GUEST, MODEL, OWNER, Answered, Bench, agent, life

Clock = trio.abc.Clock
COLD: dict[str, Any] = {"options": {"temperature": 0}}


def calls(bench: Bench) -> int:
    return sum(bench.double.statistics().calls.values())


async def test_a_hit_is_a_stream_or_one_body_as_asked(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        first = await bench.ask(agent("opus-01"), "[[n=3 delay=1]]", **COLD)
        assert first.headers.get("Cache-Status") == "ai-supervisor; fwd=uri-miss"
        seen = calls(bench)
        began_at = trio.current_time()
        stream = await bench.ask(agent("opus-02"), "[[n=3 delay=1]]", **COLD)
        single = await bench.ask(agent("opus-02"), "[[n=3 delay=1]]", stream=False, **COLD)
        assert trio.current_time() - began_at < 0.1
        assert stream.headers.get("Cache-Status") == single.headers.get("Cache-Status") == "ai-supervisor; hit"
        assert stream.text() == first.text() == single.json()["response"]
        assert stream.lines()[-1]["eval_count"] == first.lines()[-1]["eval_count"]
        assert calls(bench) == seen
        totals = bench.gateway.statistics().totals
        assert (totals.asked, totals.cached, totals.answered) == (3, 2, 1)


async def test_one_body_says_that_it_was_stored(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.ask(agent("opus-01"), "[[n=3]]", stream=False, **COLD)
        assert answer.headers.get("Cache-Status") == "ai-supervisor; fwd=uri-miss; stored"


async def test_a_warm_answer_is_nobody_elses(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]")
        seen = calls(bench)
        again = await bench.ask(agent("opus-01"), "[[n=3]]")
        assert again.headers.get("Cache-Status") == "ai-supervisor; fwd=bypass"
        assert calls(bench) == seen + 1


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings", "/v1/embeddings"])
async def test_an_embedding_is_kept_with_the_callers_own_name_for_the_model(
    tmp_path: Path, autojump_clock: Clock, path: str
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        first = await bench.ask(agent("opus-01"), "some text", path=path, model="nomic-embed-text")
        seen = calls(bench)
        second = await bench.ask(agent("opus-02"), "some text", path=path, model="nomic-embed-text:latest")
        assert second.headers.get("Cache-Status") == "ai-supervisor; hit"
        assert calls(bench) == seen
        vectors = [answer.json().get("embeddings") or answer.json().get("embedding") or answer.json().get("data")
                   for answer in (first, second)]  # fmt: skip
        assert vectors[0] == vectors[1]
        if "model" in first.json():
            assert second.json()["model"] == "nomic-embed-text:latest"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_v1_answer_is_kept_and_given_with_a_new_id(tmp_path: Path, autojump_clock: Clock, stream: bool) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        more: dict[str, Any] = {"path": "/v1/chat/completions", "temperature": 0, "stream": stream}
        first = await bench.ask(agent("opus-01"), "[[n=3]]", **more)
        seen = calls(bench)
        second = await bench.ask(agent("opus-02"), "[[n=3]]", **more)
        assert second.headers.get("Cache-Status") == "ai-supervisor; hit"
        assert second.headers.get("Content-Type") == first.headers.get("Content-Type")
        assert second.body.count(b"data: ") == first.body.count(b"data: ")
        assert calls(bench) == seen


async def test_a_changed_option_is_a_miss(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)
        changes: tuple[dict[str, Any], ...]
        changes = ({"options": {"temperature": 0, "num_predict": 7}}, {**COLD, "system": "x"}, {**COLD, "format": "json"})
        for changed in changes:
            answer = await bench.ask(agent("opus-01"), "[[n=3]]", **changed)
            assert "hit" not in (answer.headers.get("Cache-Status") or "")


async def test_the_caller_decides_with_cache_control(tmp_path: Path, autojump_clock: Clock) -> None:
    async def ask(bench: Bench, wish: str, prompt: str = "[[n=3]]") -> tuple[int, str]:
        answer = await bench.ask(agent("opus-01"), prompt, headers={"Cache-Control": wish}, **COLD)
        return answer.status, (answer.headers.get("Cache-Status") or "").removeprefix("ai-supervisor; ")

    async with running(Double()) as double, life(tmp_path, double) as bench:
        assert await ask(bench, "only-if-cached") == (504, "")
        assert await ask(bench, "no-store") == (200, "fwd=bypass")
        assert await ask(bench, "only-if-cached") == (504, "")
        assert await ask(bench, "") == (200, "fwd=uri-miss")
        assert await ask(bench, "only-if-cached") == (200, "hit")
        assert await ask(bench, "no-cache") == (200, "fwd=request")
        await trio.sleep(100)
        assert await ask(bench, "max-age=50") == (200, "fwd=uri-miss")
        assert await ask(bench, "max-age=50") == (200, "hit")


async def test_an_answer_expires(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, cache=CachePolicy(ttl_s=100)) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)
        await trio.sleep(99)
        assert "hit" in ((await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)).headers.get("Cache-Status") or "")
        await trio.sleep(2)
        assert "hit" not in ((await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)).headers.get("Cache-Status") or "")


@pytest.mark.parametrize(
    ("scope", "sharers"),
    [("shared", ["opus-02", "sonnet-01", "owner"]), ("class", ["opus-02"]), ("agent", [])],
)
async def test_the_scope_says_who_shares_and_guests_have_their_own(
    tmp_path: Path, autojump_clock: Clock, scope: str, sharers: list[str]
) -> None:
    async with running(Double()) as double, life(tmp_path, double, cache=CachePolicy(scope=scope)) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)
        found = []
        for caller in (agent("opus-02"), agent("sonnet-01"), OWNER, GUEST):
            wish = {"Cache-Control": "only-if-cached"}
            if (await bench.ask(caller, "[[n=3]]", headers=wish, **COLD)).status == 200:
                found.append(caller.name)
        assert found == sharers


async def test_a_model_made_anew_under_the_same_name_is_another_model(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)
        assert "hit" in ((await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)).headers.get("Cache-Status") or "")
        body = json.dumps({"model": MODEL, "from": "tinyllama"}).encode()
        made = await bench.call(OWNER, "POST", "/api/create", body)
        assert made.status == 200
        answer = await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)
        assert "hit" not in (answer.headers.get("Cache-Status") or "")


async def test_the_modelfiles_temperature_counts_where_the_request_has_none(tmp_path: Path, autojump_clock: Clock) -> None:
    cold = Double([ModelSpec(MODEL, parameters={"temperature": 0.0})])
    async with running(cold) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]")
        assert "hit" in ((await bench.ask(agent("opus-01"), "[[n=3]]")).headers.get("Cache-Status") or "")


async def test_what_was_kept_outlives_the_supervisor(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        async with life(tmp_path, double) as bench:
            await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)
        async with life(tmp_path, double) as bench:
            answer = await bench.ask(agent("opus-02"), "[[n=3]]", **COLD)
            assert answer.headers.get("Cache-Status") == "ai-supervisor; hit"
            view = bench.gateway.statistics().cache
            assert (view.hits, view.l2.hits, view.l1.hits, view.l1.entries) == (1, 1, 0, 1)
            await bench.ask(agent("opus-02"), "[[n=3]]", **COLD)
            assert bench.gateway.statistics().cache.l1.hits == 1


@pytest.mark.parametrize(
    "prompt", ["[[n=3 fail=2]]", "[[n=3 cut=400]]", "[[n=3 nofinal=1]]", "[[status=500]]", "[[n=2 tool=lookup]]"]
)
async def test_what_is_not_a_whole_plain_answer_is_not_kept(tmp_path: Path, autojump_clock: Clock, prompt: str) -> None:
    tools: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "lookup"}}]} if "tool" in prompt else {}
    async with running(Double()) as double, life(tmp_path, double) as bench:
        for _ in range(2):
            await bench.ask(agent("opus-01"), prompt, path="/api/chat", **COLD, **tools)
        view = bench.gateway.statistics().cache
        assert (view.hits, view.stored) == (0, 0)


async def test_l1_stays_within_its_bytes(tmp_path: Path, autojump_clock: Clock) -> None:
    policy = CachePolicy(l1_per_agent_bytes=3000, l1_total_bytes=5000)
    async with running(Double()) as double, life(tmp_path, double, cache=policy) as bench:
        for number in range(5):
            for name in ("opus-01", "opus-02", "opus-03"):
                await bench.ask(agent(name), f"[[n=3]] {number} {name}", **COLD)
                assert bench.gateway.statistics().cache.l1.bytes <= 5000
        assert bench.gateway.statistics().cache.l1.entries > 2
        assert bench.gateway.statistics().cache.l2.entries == 15


# --- how old an answer may be -------------------------------------------------------------------------------------------


def status_of(answer: Answered) -> str:
    return (answer.headers.get("Cache-Status") or "").removeprefix("ai-supervisor; ")


async def test_a_level_stretches_what_is_fresh_allows_what_is_not_and_takes_both_back(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double, cache=CachePolicy(ttl_s=100)) as bench:
        async def ask(**headers: str) -> str:
            wish = {"Cache-Control": headers.get("wish", "only-if-cached")}
            answer = await bench.ask(agent("opus-01"), "[[n=3]]", headers=wish, **COLD)
            return status_of(answer) if answer.status == 200 else str(answer.status)

        await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)
        await trio.sleep(150)
        assert await ask() == "504"
        bench.gateway.follow_cache(Freshness(ttl_factor=2.0))
        assert await ask() == "hit"
        await trio.sleep(100)
        assert await ask() == "504"
        bench.gateway.follow_cache(Freshness(ttl_factor=2.0, allow_stale=True))
        told = await ask()
        assert re.fullmatch(r"hit; ttl=-5[0-9]; detail=stale", told), told
        assert await ask(wish="only-if-cached, max-age=200") == "504"  # the caller's own bound holds at every level
        view = bench.gateway.statistics().cache
        assert (view.stale, view.hits) == (1, 2)
        bench.gateway.follow_cache(Freshness())
        assert await ask() == "504"


# --- large answers ------------------------------------------------------------------------------------------------------


async def test_a_large_answer_is_given_from_its_file_after_a_restart(tmp_path: Path, autojump_clock: Clock) -> None:
    texts = [f"text {n}" for n in range(2500)]  # vectors do not pack to nothing
    async with running(Double()) as double:
        async with life(tmp_path, double, large_bytes=50_000_000) as bench:
            first = await bench.ask(agent("opus-01"), path="/api/embed", model="nomic-embed-text", input=texts)
            await wait_all_tasks_blocked()
            assert bench.gateway.statistics().cache.l3.entries == 1, len(first.body)
        async with life(tmp_path, double, large_bytes=50_000_000) as bench:
            seen = calls(bench)
            second = await bench.ask(agent("opus-02"), path="/api/embed", model="nomic-embed-text", input=texts)
            assert status_of(second) == "hit"
            assert second.json()["embeddings"] == first.json()["embeddings"]
            assert calls(bench) == seen
            assert bench.gateway.statistics().cache.l3.hits == 1
            assert await bench.gateway.clear_cache(l1=False, l2=False) == 1


# --- what it was good for -----------------------------------------------------------------------------------------------


async def test_the_report_says_whom_it_served_with_what_and_what_it_saved(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        for name in ("opus-01", "opus-02", "sonnet-01", "opus-01"):
            await bench.ask(agent(name), "[[n=3 delay=1]] how are  you?", **COLD)
        await bench.ask(agent("sonnet-01"), "[[n=3]]")
        told = bench.gateway.cache_report(with_prompts=True)
        assert [(one.name, one.hits, one.misses) for one in told.by_class] == [("opus", 2, 1), ("sonnet", 1, 0)]
        assert [(one.name, one.hits, one.misses) for one in told.by_model] == [(MODEL, 3, 1)]
        (asked,) = told.repeated
        assert (asked.hits, asked.prompt) == (3, "[[n=3 delay=1]] how are you?")
        assert told.cache.saved_s == sum(one.saved_s for one in told.by_class) == pytest.approx(3 * 2.0, abs=0.1)
        assert told.not_shared == {"no fixed seed, and the temperature is above 0": 1}
        assert told.advice.startswith("Too early to tell: 5 requests so far.")
        hashed = bench.gateway.cache_report()
        assert hashed.repeated[0].prompt is None
        assert "how are you" not in repr(hashed)


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions"])
async def test_an_answer_cut_at_a_length_nobody_asked_for_is_not_kept(
    tmp_path: Path, autojump_clock: Clock, path: str
) -> None:
    cold: dict[str, Any] = COLD if path == "/api/generate" else {"temperature": 0}
    bounded: dict[str, Any] = (
        {"options": {"temperature": 0, "num_predict": 2}} if path == "/api/generate" else {"temperature": 0, "max_tokens": 2}
    )
    short = Double([ModelSpec(MODEL, parameters={"num_predict": 2})])
    async with running(short) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]", path=path, **cold)
        assert bench.gateway.statistics().cache.stored == 0
        await bench.ask(agent("opus-01"), "[[n=3]]", path=path, **bounded)
        assert bench.gateway.statistics().cache.stored == 1
