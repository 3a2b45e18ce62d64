"""What an agent may rely on when a model is unloaded, or runs on the CPU for a while: checks 50 and 51."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.fakes.ollama_double import Double, DoubleOptions

from .double_bench import RECORDED_MODELS, ask, recorded_double, say
from .gateway_bench import Bench, agent, gateway_before, status_of

Clock = trio.abc.Clock


async def vram_of(double: Double, model: str) -> int:
    """How much of a loaded model `/api/ps` says is on the GPU."""
    _, answer = await ask(double, "GET", "/api/ps")
    (size,) = (listed["size_vram"] for listed in answer["models"] if listed["name"] == f"{model}:latest")
    return int(size)


async def ask_for_ever(bench: Bench, number: int, statuses: list[int]) -> None:
    body = {"model": "chat", "prompt": "[[n=20 delay=0.1]]", "stream": False}
    while True:
        statuses.append(status_of(await bench.ask("POST", "/api/generate", body, caller=agent(number))))


async def test_50_an_unload_under_endless_traffic_comes_to_its_end_and_costs_nobody_an_answer(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Ollama alone says that it has unloaded, and never does while one call overlaps the next."""
    statuses: list[int] = []
    async with gateway_before(Double(RECORDED_MODELS), tmp_path) as bench, trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(ask_for_ever, bench, number, statuses)
        await trio.sleep(10)
        with trio.fail_after(2 + 1):  # what runs ends within 2 s
            await bench.gateway.models.unload("chat")
        _, running = await ask(bench.double, "GET", "/api/ps")
        assert running["models"] == []
        before = len(statuses)
        await trio.sleep(10)
        assert bench.double.statistics().loads == {"chat:latest": 2}
        assert len(statuses) >= before + 6
        assert set(statuses) == {200}
        nursery.cancel_scope.cancel()


async def test_50_an_unload_waits_for_a_load_to_end(tmp_path: Path, autojump_clock: Clock) -> None:
    """One sent meanwhile would be answered, and do nothing."""
    async with gateway_before(Double(RECORDED_MODELS, DoubleOptions(load_s=5.0)), tmp_path) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.gateway.models.load, "chat")
            await trio.sleep(1)
            assert bench.double.statistics().loading == "chat"
            await bench.gateway.models.unload("chat")
            assert bench.double.statistics().loaded == ()
        counts = bench.double.statistics()
        assert (counts.loads, counts.aborted_loads, counts.unloads) == ({"chat:latest": 1}, 0, 1)


async def test_51_an_agents_num_gpu_moves_nobody_to_the_cpu_where_only_an_unload_leads_back(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with gateway_before(recorded_double(), tmp_path) as bench:
        body = {"model": "chat", "prompt": "[[n=1]]", "stream": False, "options": {"num_gpu": 0}}
        assert status_of(await bench.ask("POST", "/api/generate", body, caller=agent(1))) == 200
        assert await vram_of(bench.double, "chat") > 0

        double = bench.double  # and this is what the gateway is there to prevent: the double alone, as the real one
        await say(double, options={"num_gpu": 0})
        assert await vram_of(double, "chat") == 0
        await say(double)
        assert await vram_of(double, "chat") == 0
        await ask(double, "POST", "/api/generate", {"model": "chat", "keep_alive": 0})
        await trio.sleep(1)
        await say(double)
        assert await vram_of(double, "chat") > 0
