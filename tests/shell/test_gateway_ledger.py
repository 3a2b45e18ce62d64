"""What each agent asked and what it cost: the ledger, and what was asked and not granted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import MODEL, OWNER, Bench, agent, life

Clock = trio.abc.Clock
TEN_SECONDS = "[[n=11 delay=1 first=0]]"
SAME: dict[str, Any] = {"options": {"temperature": 0}}


async def test_a_call_a_hit_and_a_shared_call_stand_in_the_lines_of_those_who_asked(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, TEN_SECONDS)
        await bench.ask(agent("opus-01"), TEN_SECONDS, **SAME)
        await bench.ask(agent("opus-02"), TEN_SECONDS, **SAME)
        async with trio.open_nursery() as nursery:
            for name in ("sonnet-01", "sonnet-02"):
                nursery.start_soon(partial(bench.ask, agent(name), TEN_SECONDS, system="another", **SAME))
        ledger = bench.gateway.ledger()
        asker, hit = ledger["opus-01"], ledger["opus-02"]
        assert (asker.asked, asker.answered, asker.cached, asker.tokens) == (1, 1, 0, 11)
        assert asker.slot_s == pytest.approx(10, abs=0.1)
        assert (hit.asked, hit.answered, hit.cached, hit.tokens, hit.slot_s) == (1, 1, 1, 0, 0)
        assert hit.cached_saved_s == pytest.approx(10, abs=0.5)  # by what such calls took so far
        first, second = ledger["sonnet-01"], ledger["sonnet-02"]
        assert {first.coalesced, second.coalesced} == {0, 1}
        assert first.slot_s == second.slot_s == pytest.approx(5, abs=0.1)
        assert first.tokens + second.tokens == 11
        assert first.coalesced_saved_s + second.coalesced_saved_s == pytest.approx(10, abs=0.5)
        assert sum(line.asked for line in ledger.values()) == bench.gateway.statistics().totals.asked == 5


async def test_time_in_the_queue_is_in_the_line_of_who_waited(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.ask, agent("opus-01"), TEN_SECONDS)
            await trio.sleep(1)
            nursery.start_soon(bench.ask, agent("opus-02"), TEN_SECONDS)
        assert bench.gateway.ledger()["opus-02"].waited_s == pytest.approx(9, abs=0.1)


async def used_by(bench: Bench, caller: str) -> dict[str, object]:
    """Whose figures an agent sees."""
    who = OWNER if caller == "owner" else agent(caller)
    listed = (await bench.call(who, "GET", "/supervisor/v1/agents")).json()["agents"]
    return {entry["name"]: entry["used"] for entry in listed if "used" in entry}


async def test_an_agent_sees_its_own_line_and_the_owner_sees_all(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), "[[n=3]]")
        (own,) = (await used_by(bench, "opus-01")).values()
        assert isinstance(own, dict)
        assert (own["asked"], own["tokens"]) == (1, 3)
        assert len(await used_by(bench, "owner")) == 6


async def test_what_is_not_granted_is_told_and_counted(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        options = {"num_ctx": 512, "num_gpu": 0, "num_batch": 8, "num_thread": 2, "use_mmap": False, "main_gpu": 1}
        answer = await bench.ask(agent("opus-01"), "[[n=1]]", options=options, keep_alive=5, shift=False)
        told = answer.headers.get("X-AI-Options") or ""
        assert all(f"{name}=" in told for name in (*options, "keep_alive", "shift"))
        await bench.ask(agent("opus-01"), "[[n=1]]", options={"num_ctx": 4096}, keep_alive="30m")
        assert bench.gateway.statistics().totals.not_granted == 1


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_beyond_the_pinned_context_is_a_400_and_no_silent_cut(
    tmp_path: Path, autojump_clock: Clock, path: str, stream: bool
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        long = "[[n=1 prompt=4097]]"
        refused = await bench.ask(agent("opus-01"), long, path=path, stream=stream, options={"num_ctx": 8192})
        assert (refused.status, refused.json()["error"]) == (400, "the input length exceeds the context length")
        assert "num_ctx=8192" in (refused.headers.get("X-AI-Options") or "")
        fits = await bench.ask(agent("opus-01"), "[[n=1 prompt=4096]]", path=path, stream=stream)
        assert fits.status == 200
        cut = await bench.ask(agent("opus-01"), long, path=path, stream=stream, truncate=True)
        assert cut.lines()[-1]["prompt_eval_count"] == 4096  # he asked for it
        assert double.statistics().calls[MODEL] == 3
