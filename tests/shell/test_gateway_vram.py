"""Graphics memory that runs full, models that fall to the processor, and a second Ollama that has only that; in virtual time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.errors import UpstreamFault
from tests.fakes.ollama_double import Double, DoubleOptions, ModelSpec, running
from tests.shell.gateway_bench import Bench, agent, life, wait_until

GB = 10**9
MODELS = (ModelSpec("big", size_bytes=2 * GB), ModelSpec("small", size_bytes=GB), ModelSpec("third", size_bytes=GB // 2))
OPTIONS = DoubleOptions(vram_bytes=4 * GB, load_s=1.0, token_delay_s=0.05)


def double_of(**changes: object) -> Double:
    return Double(MODELS, replace(OPTIONS, **changes))  # type: ignore[arg-type]


class Traffic:
    """Callers that ask and ask until told to stop; every answer is looked at."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.statuses: list[int] = []
        self.is_over = False

    async def ask(self, name: str, model: str) -> None:
        while not self.is_over:
            found = await self.bench.ask(agent(name), f"[[n=10]] {trio.current_time()}", model=model)
            self.statuses.append(found.status if found.lines()[-1].get("done") else 0)

    async def until(self, at: float) -> None:
        await trio.sleep_until(at)
        self.is_over = True


def loaded(double: Double) -> set[str]:
    return {name.removesuffix(":latest") for name in double.statistics().loaded}


def used(double: Double) -> float:
    return double.machine.scheduler.vram_used / (4 * GB)


async def settled(bench: Bench, *models: str) -> None:
    """Have these loaded, long enough ago."""
    for model in models:
        await bench.ask(agent("opus-01"), "[[n=1]]", model=model)
    await trio.sleep(40)


async def test_below_the_limit_nothing_is_unloaded(tmp_path: Path, autojump_clock: MockClock) -> None:
    double = double_of()
    async with running(double), life(tmp_path, double, vram=lambda: used(double)) as bench:
        await settled(bench, "big", "small", "third")
        assert used(double) == 0.875
        await trio.sleep(3600 / 20)
        assert loaded(double) == {"big", "small", "third"}


async def test_the_idle_model_is_gone_within_five_seconds_under_traffic_and_no_request_is_lost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    double = double_of()
    notes: list[tuple[str, dict[str, object]]] = []
    async with running(double), life(tmp_path, double, vram=lambda: used(double), notes=notes) as bench:
        await settled(bench, "big", "small")
        traffic = Traffic(bench)
        async with trio.open_nursery() as nursery:
            for number in range(1, 4):
                nursery.start_soon(traffic.ask, f"opus-0{number}", "big")
            await trio.sleep(5)
            double.machine.scheduler.vram_of_others = int(0.8 * GB)  # 3.8 of 4 GB: 95 %
            began = trio.current_time()
            await wait_until(lambda: loaded(double) == {"big"}, within_s=5.0, every_s=0.05)
            took_s = trio.current_time() - began
            await traffic.until(began + 20)
        assert took_s <= 5.0
        assert set(traffic.statuses) == {200}
        assert len(traffic.statuses) > 40
        assert loaded(double) == {"big"}
        assert [kind for kind, _ in notes] == ["model.unloaded"]
        assert notes[0][1]["model"] == "small:latest"


async def test_where_both_are_in_use_the_least_used_is_drained_once_a_minute_and_no_request_is_lost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    double = double_of()
    async with running(double), life(tmp_path, double, vram=lambda: used(double)) as bench:
        await settled(bench, "big", "small")
        traffic = Traffic(bench)
        before = double.statistics()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(traffic.ask, "opus-01", "big")
            nursery.start_soon(traffic.ask, "opus-02", "big")
            nursery.start_soon(traffic.ask, "opus-03", "small")
            await trio.sleep(5)
            double.machine.scheduler.vram_of_others = int(0.8 * GB)
            began = trio.current_time()
            await wait_until(lambda: "small" not in loaded(double), within_s=5.0, every_s=0.01)
            await traffic.until(began + 55)
        assert set(traffic.statuses) == {200}
        after = double.statistics()
        assert after.unloads - before.unloads == 1
        assert after.lost_slots == 0


async def test_nothing_is_unloaded_while_something_is_loaded(tmp_path: Path, autojump_clock: MockClock) -> None:
    double = double_of(load_s=15.0)
    async with running(double), life(tmp_path, double, vram=lambda: used(double)) as bench:
        await settled(bench, "big", "small")
        double.machine.scheduler.vram_of_others = GB // 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: bench.ask(agent("opus-02"), "[[n=1]]", model="third"))
            await trio.sleep(0.5)
            assert double.statistics().loading is not None
            double.machine.scheduler.vram_of_others = GB
            unloads = double.statistics().unloads
            while double.statistics().loading is not None:
                assert double.statistics().unloads == unloads
                await trio.sleep(0.1)
        await wait_until(lambda: double.statistics().unloads > unloads, within_s=5.0, every_s=0.1)
        assert "third" in loaded(double), "it has only just been loaded"


async def test_while_a_model_is_drained_nothing_is_loaded_and_others_go_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    double = double_of()
    async with running(double), life(tmp_path, double, vram=lambda: used(double)) as bench:
        await settled(bench, "big", "small")
        loads = sum(double.statistics().loads.values())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: bench.ask(agent("opus-01"), "[[n=200]]", model="big"))  # ten seconds
            nursery.start_soon(lambda: bench.ask(agent("opus-02"), "[[n=100]]", model="small"))  # five
            await trio.sleep(0.5)
            double.machine.scheduler.vram_of_others = int(0.8 * GB)
            await trio.sleep(2.5)  # the small one is being drained
            nursery.start_soon(lambda: bench.ask(agent("opus-03"), "[[n=1]]", model="third"))
            await trio.sleep(1)
            assert sum(double.statistics().loads.values()) == loads
        assert sum(double.statistics().loads.values()) == loads + 1


async def test_a_model_that_fell_to_the_processor_is_told_with_what_to_type_and_is_back_when_ps_says_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    double = double_of()
    notes: list[tuple[str, dict[str, object]]] = []
    async with running(double), life(tmp_path, double, notes=notes) as bench:
        await settled(bench, "big")
        assert bench.gateway.pulse().models_on_cpu == ()
        double.machine.scheduler.vram_of_others = 4 * GB
        await bench.gateway.models.unload("big")
        await bench.ask(agent("opus-01"), "[[n=1]]", model="big")
        await trio.sleep(40)
        assert bench.gateway.pulse().models_on_cpu == ("big:latest",)
        assert notes == [
            (
                "model.fell-to-cpu",
                {
                    "model": "big:latest",
                    "backend": "main",
                    "on_gpu": 0.0,
                    "was": 1.0,
                    "do": "ai-supervisor models unload big:latest",
                },
            )
        ]
        double.machine.scheduler.vram_of_others = 0
        await bench.gateway.models.unload("big")
        await trio.sleep(40)
        assert bench.gateway.pulse().models_on_cpu == ("big:latest",), "an unload proves nothing"
        await bench.ask(agent("opus-01"), "[[n=1]]", model="big")
        await trio.sleep(40)
        assert bench.gateway.pulse().models_on_cpu == ()
        assert notes[-1][0] == "model.back-on-gpu"


async def test_a_model_that_answers_at_a_third_of_its_speed_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    double = double_of()
    notes: list[tuple[str, dict[str, object]]] = []
    async with running(double), life(tmp_path, double, notes=notes) as bench:
        for number in range(15):
            await bench.ask(agent("opus-01"), f"[[n=20]] {number}", model="big")
        for number in range(3):
            await bench.ask(agent("opus-01"), f"[[n=20 delay=0.5]] {number}", model="big")
        await trio.sleep(2)
        assert bench.gateway.pulse().models_slow == ("big:latest",)
        assert [kind for kind, _ in notes] == ["model.slow"]
        for number in range(3):
            await bench.ask(agent("opus-01"), f"[[n=20]] again {number}", model="big")
        await trio.sleep(2)
        assert bench.gateway.pulse().models_slow == ()


async def test_what_is_not_urgent_goes_to_the_processor_when_the_gpu_is_busy_and_what_is_waits(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    gpu, cpu = Double(MODELS, DoubleOptions(token_delay_s=0.1)), Double(MODELS, DoubleOptions(token_delay_s=0.5))
    async with running(gpu), running(cpu), life(tmp_path, gpu, slots=1, beside={"slow": cpu}, on_cpu={"slow"}) as bench:
        await bench.ask(agent("opus-01"), "[[n=1]]", model="big")
        before = sum(cpu.statistics().calls.values())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: bench.ask(agent("opus-01"), "[[n=50]] a", model="big"))
            await trio.sleep(0.1)
            nursery.start_soon(lambda: bench.ask(agent("opus-02"), "[[n=5]] b", model="big"))
            await trio.sleep(0.5)
            assert sum(cpu.statistics().calls.values()) == before, "it waits for the GPU"
            nursery.start_soon(lambda: bench.ask(agent("sonnet-01"), "[[n=5]] c", model="big"))
            await trio.sleep(1.5)
            assert sum(cpu.statistics().calls.values()) > before


async def test_with_the_gpu_gone_the_processor_serves_everybody(tmp_path: Path, autojump_clock: MockClock) -> None:
    gpu, cpu = Double(MODELS), Double(MODELS)
    async with running(gpu), running(cpu), life(tmp_path, gpu, beside={"slow": cpu}, on_cpu={"slow"}) as bench:
        gpu.is_refusing = True
        gpu.drop_connections()
        await wait_until(lambda: bench.gateway.pulse().backends[0].state != "ready", within_s=120, every_s=0.5)
        found = await bench.ask(agent("opus-01"), "[[n=3]]", model="big")
        assert found.status == 200
        assert sum(cpu.statistics().calls.values()) > 0


async def test_an_unload_that_the_backend_refuses_is_told_at_once_and_the_model_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    double = double_of()
    async with running(double), life(tmp_path, double) as bench:
        await settled(bench, "small")
        double.machine.catalogue.remove("small")  # its files, behind our back
        began = trio.current_time()
        with pytest.raises(UpstreamFault, match=r"main does not unload small:latest: model 'small:latest' not found \(404\)"):
            await bench.gateway.models.unload("small")
        assert trio.current_time() - began < 1.0
        assert loaded(double) == {"small"}
