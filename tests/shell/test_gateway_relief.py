"""What the gateway gives up when memory is short: its answers in memory, and whoever is not urgent."""

from __future__ import annotations

from pathlib import Path

from trio.testing import MockClock

from supervisord_ai.core.events import ReliefDecided
from supervisord_ai.core.relief import AdmitAll, AdmitUrgent, Deed, DropCache
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import Bench, agent, life

OPTIONS = {"temperature": 0}


def decide(bench: Bench, deed: Deed) -> None:
    bench.gateway.tell(ReliefDecided(deed, "900 MB available", 900_000_000))


async def test_answers_in_memory_are_dropped_and_found_in_the_file(tmp_path: Path, autojump_clock: MockClock) -> None:
    double = Double()
    async with running(double), life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), options=OPTIONS)
        await bench.ask(agent("opus-01"), options=OPTIONS)
        assert bench.gateway.statistics().cache.l1.entries > 0
        decide(bench, DropCache())
        assert bench.gateway.statistics().cache.l1.entries == 0
        calls = sum(double.statistics().calls.values())
        assert "hit" in str((await bench.ask(agent("opus-01"), options=OPTIONS)).headers.get("Cache-Status"))
        assert sum(double.statistics().calls.values()) == calls


async def test_only_urgent_requests_are_let_in_until_memory_is_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    double = Double()
    async with running(double), life(tmp_path, double) as bench:
        decide(bench, AdmitUrgent())
        refused = await bench.ask(agent("sonnet-01"))
        assert (refused.status, refused.headers.get("Retry-After")) == (503, "60")
        assert "memory is short" in refused.json()["error"]
        assert (await bench.ask(agent("opus-01"))).status == 200
        decide(bench, AdmitAll())
        assert (await bench.ask(agent("sonnet-01"))).status == 200
