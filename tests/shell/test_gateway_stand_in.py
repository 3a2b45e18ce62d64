"""Level 2: the light model in the place of another, never silently, never kept, and over with the level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.core.policies import LevelsPolicy
from tests.fakes.ollama_double import Double, ModelSpec, running
from tests.shell.gateway_bench import MODEL, Bench, agent, life, roster_of, wait_until

Clock = trio.abc.Clock
COLD: dict[str, Any] = {"options": {"temperature": 0}}
LIGHT = ModelSpec("tinyllama:latest", train_ctx=2048, blob="light")
BIG = ModelSpec(MODEL, capabilities=("completion", "tools", "vision"), blob="big")
TOLD = f'level=2; asked="{MODEL}"; served="tinyllama"'


def double_of(light: ModelSpec = LIGHT) -> Double:
    return Double([BIG, light, ModelSpec("nomic-embed-text:latest", capabilities=("embedding",), blob="embed")])


async def asked_and_told(bench: Bench, name: str = "opus-01", **more: Any) -> tuple[str | None, str | None]:
    answer = await bench.ask(agent(name), more.pop("prompt", "[[n=3]]"), **more)
    assert answer.status == 200, answer.body
    lines = answer.json() if more.get("stream") is False else answer.lines()[-1]
    return lines.get("model"), answer.headers.get("X-AI-Degraded")


async def test_the_light_model_stands_in_says_so_and_is_over_with_the_level(tmp_path: Path, autojump_clock: Clock) -> None:
    policy = LevelsPolicy(num_predict=0)
    async with running(double_of()) as double, life(tmp_path, double, levels=policy) as bench:
        assert await asked_and_told(bench) == (MODEL, None)
        bench.level(1)
        assert await asked_and_told(bench) == (MODEL, None)
        bench.level(2)
        assert await asked_and_told(bench) == ("tinyllama", TOLD)
        assert await asked_and_told(bench, stream=False) == ("tinyllama", TOLD)
        assert await asked_and_told(bench, path="/api/chat") == ("tinyllama", TOLD)
        openai = await bench.ask(agent("opus-01"), "[[n=3]]", path="/v1/chat/completions")
        assert (openai.json()["model"], openai.headers.get("X-AI-Degraded")) == ("tinyllama", TOLD)
        bench.level(0)
        assert await asked_and_told(bench) == (MODEL, None)


@pytest.mark.parametrize(
    "more",
    [
        {"path": "/api/chat", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        {"images": ["iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="]},
        {"raw": True},
        {"prompt": "[[n=3]]" + "a long story " * 600},
        {"options": {"num_predict": 4000}},
    ],
    ids=["tools", "images", "its own form", "a long prompt", "a long answer"],
)
async def test_what_the_light_model_cannot_do_goes_to_the_one_that_was_asked_for(
    tmp_path: Path, autojump_clock: Clock, more: dict[str, Any]
) -> None:
    async with running(double_of()) as double, life(tmp_path, double, levels=LevelsPolicy(num_predict=0)) as bench:
        bench.level(2)
        assert await asked_and_told(bench, **more) == (MODEL, None)


async def test_a_light_model_with_tools_takes_tools(tmp_path: Path, autojump_clock: Clock) -> None:
    light = ModelSpec("tinyllama:latest", capabilities=("completion", "tools"), blob="light")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with running(double_of(light)) as double, life(tmp_path, double) as bench:
        bench.level(2)
        assert await asked_and_told(bench, path="/api/chat", tools=tools) == ("tinyllama", TOLD)


async def test_vectors_are_never_those_of_another_model(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(double_of()) as double, life(tmp_path, double) as bench:
        bench.level(2)
        answer = await bench.ask(agent("opus-01"), "text", path="/api/embed", model="nomic-embed-text")
        assert (answer.json()["model"], answer.headers.get("X-AI-Degraded")) == ("nomic-embed-text", None)


async def test_a_class_that_does_not_allow_it_and_a_light_model_that_is_not_there(tmp_path: Path, autojump_clock: Clock) -> None:
    levels = LevelsPolicy(num_predict=0)
    async with (
        running(double_of()) as double,
        life(tmp_path, double, levels=levels, roster=roster_of(substitute=False)) as bench,
    ):
        bench.level(2)
        assert await asked_and_told(bench) == (MODEL, None)
    async with running(Double([BIG])) as double, life(tmp_path, double, levels=levels) as bench:
        bench.level(2)
        assert await asked_and_told(bench) == (MODEL, None)


async def test_exactly_this_model_or_none_is_503_only_while_another_would_answer(tmp_path: Path, autojump_clock: Clock) -> None:
    exact = {"X-AI-Require-Model": "exact"}
    async with running(double_of()) as double, life(tmp_path, double, levels=LevelsPolicy(num_predict=0)) as bench:
        assert (await bench.ask(agent("opus-01"), headers=exact)).status == 200
        bench.level(2)
        refused = await bench.ask(agent("opus-01"), headers=exact)
        assert (refused.status, refused.headers.get("Retry-After")) == (503, "60")
        assert refused.json()["error"] == f"at level 2 tinyllama would answer, and exactly {MODEL} was asked for"
        assert (await bench.ask(agent("opus-01"), headers={"X-AI-Require-Model": "nearly"})).status == 400
        embedded = await bench.ask(agent("opus-01"), "x", path="/api/embed", model="nomic-embed-text", headers=exact)
        assert embedded.status == 200


async def test_what_the_light_model_said_is_kept_under_no_key(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(double_of()) as double, life(tmp_path, double, levels=LevelsPolicy(num_predict=0)) as bench:
        bench.level(2)
        for _ in range(2):
            answer = await bench.ask(agent("opus-01"), "[[n=3]]", stream=False, **COLD)
            assert answer.headers.get("Cache-Status") == "ai-supervisor; fwd=bypass"
        assert bench.gateway.statistics().cache.stored == 0
        bench.level(0)
        own = await bench.ask(agent("opus-01"), "[[n=3]]", stream=False, **COLD)
        assert own.json()["model"] == MODEL
        assert "hit" not in (own.headers.get("Cache-Status") or "")


async def test_a_kept_answer_of_the_right_model_is_better_than_a_new_one_of_the_light(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(double_of()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]", **COLD)
        bench.level(2)
        answer = await bench.ask(agent("opus-02"), "[[n=3]]", **COLD)
        assert "hit" in (answer.headers.get("Cache-Status") or "")
        assert answer.lines()[-1]["model"] == MODEL


async def test_who_still_waits_when_the_level_is_over_is_asked_for_as_it_asked(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(double_of()) as double, life(tmp_path, double, slots=1, levels=LevelsPolicy(num_predict=0)) as bench:
        found: list[tuple[str | None, str | None]] = []

        async def ask(name: str, **more: Any) -> None:
            found.append(await asked_and_told(bench, name, prompt="[[n=3 first=5]]", **more))

        bench.level(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "opus-01")
            await wait_until(lambda: bench.gateway.statistics().running == 1)
            nursery.start_soon(ask, "opus-02")
            for name in ("opus-03", "sonnet-01", "sonnet-02"):  # three twins, which wait for one answer

                async def twin(name: str = name) -> None:
                    await ask(name, **COLD)

                nursery.start_soon(twin)
            await wait_until(lambda: bench.gateway.statistics().queued == 4)
            bench.level(0)
        assert found[0] == ("tinyllama", TOLD)
        assert found[1:] == [(MODEL, None)] * 4
        totals = bench.gateway.statistics().totals
        assert (totals.answered, totals.coalesced) == (5, 2)  # the three twins still share one call
        await wait_until(lambda: bench.gateway.statistics().spool.memory_bytes == 0)


async def test_an_answer_that_is_fetched_again_by_its_key_names_who_gave_it(tmp_path: Path, autojump_clock: Clock) -> None:
    key = {"Idempotency-Key": "k"}
    async with running(double_of()) as double, life(tmp_path, double, levels=LevelsPolicy(num_predict=0)) as bench:
        bench.level(2)
        assert await asked_and_told(bench, headers=key) == ("tinyllama", TOLD)
        bench.level(0)
        again = await bench.ask(agent("opus-01"), "[[n=3]]", headers=key)
        assert again.lines()[-1]["model"] == "tinyllama"
        assert 'served="tinyllama"' in (again.headers.get("X-AI-Degraded") or "")
        seen = await bench.ask(agent("opus-01"), "[[n=3]]")
        assert seen.lines()[-1]["model"] == MODEL


async def test_who_asks_for_an_answer_later_is_left_alone(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(double_of()) as double, life(tmp_path, double) as bench:
        bench.level(2)
        accepted = await bench.ask(agent("opus-01"), "[[n=3]]", headers={"Prefer": "respond-async"})
        assert accepted.status == 202
        path = f"/supervisor/v1/requests/{accepted.json()['id']}?wait=30"
        told = await bench.call(agent("opus-01"), "GET", path)
        assert f'"model":"{MODEL}"' in told.json()["answer"]["body"].replace(" ", "")
