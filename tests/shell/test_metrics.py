"""The metrics against known delays of the double in virtual time, and what a scrape of a small house shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from supervisord_ai.control.lives import Lives, kind_of
from supervisord_ai.control.metrics import exposed
from supervisord_ai.control.routes import PROMETHEUS
from supervisord_ai.control.scrape import Counted
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.events import AgentEnded, AgentStarted
from supervisord_ai.core.histogram import HistogramView
from supervisord_ai.gateway.measures import OTHER, Measures, Part
from supervisord_ai.gateway.request import Times
from supervisord_ai.gateway.tally import Ending
from tests.fakes.ollama_double import Double, running
from tests.fakes.ollama_double.catalogue import ModelSpec
from tests.fakes.owner_views import agent_view, backend_view, fleet_view, gateway_view
from tests.shell.gateway_bench import MODEL, Bench, agent, life, roster_of
from tests.shell.test_control import House, connected


def metrics_of(house: House, counted: Counted | None = None) -> dict[str, Metric]:
    text = exposed(house.control.moment(), counted or Counted()).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    for family in families.values():
        for sample in family.samples:
            if sample.name == f"ai_supervisor_{name}" and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"{name}{labels} is not scraped")


LOAD_S = 8.0
TAKES_S = 2.0  # each call, from its slot to its end
MODELS = (ModelSpec(MODEL, load_s=LOAD_S),)


def histogram(bench: Bench, part: Part, of_class: str = "opus", model: str = MODEL) -> HistogramView:
    return bench.gateway.measures().times[part, of_class, model]


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- known delays --------------------------------------------------------------------------------------------------------


async def test_waits_and_loads_are_told_within_five_percent(tmp_path: Path, autojump_clock: trio.abc.Clock) -> None:
    async with running(Double(MODELS)) as double, life(tmp_path, double, roster=roster_of(50, 0), slots=1) as bench:
        async with trio.open_nursery() as nursery:
            for number in range(1, 51):
                nursery.start_soon(bench.ask, agent(f"opus-{number:02}"), f"[[n=11 first=1 delay=0.1]] {number}")
        waits = [TAKES_S * place for place in range(50)]
        seen = histogram(bench, Part.WAIT)
        assert seen.count == 50
        assert seen.mean == pytest.approx(sum(waits) / 50, rel=0.05)
        for share in (0.5, 0.95):
            assert seen.quantile(share) == pytest.approx(quantile(waits, share), rel=0.05)
        loads = histogram(bench, Part.LOAD)
        assert loads.count == 50, "each of them came before the load was done"
        assert loads.mean == pytest.approx(LOAD_S, rel=0.05)
        assert bench.gateway.measures().loads[MODEL].mean == pytest.approx(LOAD_S, rel=0.05)
        assert bench.gateway.measures().slot_s["opus"] == pytest.approx(50 * TAKES_S, rel=0.05)


async def test_first_tokens_and_generations_are_told_within_five_percent(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    # Spread up to a bound of the buckets: of how they lie within one a histogram knows nothing.
    firsts = [2.0 * number / 40 for number in range(1, 41)]
    delays = [0.35 * number / 40 for number in range(1, 41)]
    async with running(Double(MODELS)) as double, life(tmp_path, double) as bench:
        for number, (first_s, delay_s) in enumerate(zip(firsts, delays, strict=True)):
            await bench.ask(agent("opus-01"), f"[[n=11 first={first_s} delay={delay_s}]] {number}")
        for part, known in ((Part.FIRST_TOKEN, firsts), (Part.GENERATION, [10 * delay_s for delay_s in delays])):
            seen = histogram(bench, part)
            assert seen.count == 40
            assert seen.mean == pytest.approx(sum(known) / 40, rel=0.05)
            for share in (0.5, 0.95):
                assert seen.quantile(share) == pytest.approx(quantile(known, share), rel=0.05)
        exact = [one.first_token_s for one in bench.gateway.took(since=0.0)]
        assert exact[::-1] == pytest.approx(firsts, rel=0.05), "each one is known for the page"
        assert bench.gateway.measures().tokens["opus", MODEL] == 40 * 11


async def test_every_end_is_counted_by_class_and_outcome(tmp_path: Path, autojump_clock: trio.abc.Clock) -> None:
    async with running(Double(MODELS)) as double, life(tmp_path, double, slots=1) as bench:
        for _ in range(2):
            await bench.ask(agent("opus-01"), "[[n=3]] again", options={"temperature": 0})
        assert "error" in (await bench.ask(agent("sonnet-01"), "[[n=3 cut=300]]")).lines()[-1]
        with trio.move_on_after(1.0):
            await bench.ask(agent("sonnet-02"), "[[n=100 delay=1]]")
        await trio.sleep(10)
        assert bench.gateway.ended() == {
            ("opus", Ending.ANSWERED): 1,
            ("opus", Ending.CACHED): 1,
            ("sonnet", Ending.FAILED): 1,
            ("sonnet", Ending.CANCELLED): 1,
        }
        totals = bench.gateway.statistics().totals
        assert (totals.answered, totals.cached, totals.failed, totals.cancelled) == (1, 1, 1, 1)


def test_the_parts_of_a_request_add_up_to_its_whole_time() -> None:
    measures = Measures(lambda model: model == MODEL)
    measures.took("opus", MODEL, Times(10.0, started_at=17.0, first_byte_at=17.5, load_s=3.0), 20.0)
    (took,) = measures.recent
    assert (took.wait_s, took.load_s, took.first_token_s, took.generation_s) == (4.0, 3.0, 0.5, 2.5)
    assert took.total_s == 10.0


def test_a_model_that_nobody_knows_makes_no_series_of_its_own() -> None:
    measures = Measures(lambda model: model == MODEL)
    for number in range(1000):
        measures.took("opus", f"made-up:{number}", Times(0.0, started_at=1.0), 2.0)
        measures.generated("opus", f"made-up:{number}", 1)
        measures.loaded(f"made-up:{number}", 1.0)
    view = measures.view()
    assert {key[1:] for key in view.times} == {("opus", OTHER)}
    assert view.tokens == {("opus", OTHER): 1000}
    assert [*view.loads] == [OTHER]


# --- a scrape ------------------------------------------------------------------------------------------------------------


async def test_a_scrape_over_the_socket_is_in_the_format_it_says(autojump_clock: trio.abc.Clock) -> None:
    async with connected(House()) as client:
        await client.send_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data = b""
        while more := await client.receive_some():
            data += more
    head, _, body = data.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert f"Content-Type: {PROMETHEUS}" in head
    assert PROMETHEUS == CONTENT_TYPE_LATEST
    assert "ai_supervisor_slots_busy{backend=\"main\"} 1.0\n" in body


async def test_every_family_has_help_and_nothing_is_scraped_twice(autojump_clock: trio.abc.Clock) -> None:
    families = metrics_of(House())
    assert len(families) > 50
    for name, family in families.items():
        assert name.startswith("ai_supervisor_")
        assert family.documentation[0].isupper() or family.documentation.startswith("1"), name
        lines = [(sample.name, *sorted(sample.labels.items())) for sample in family.samples]
        assert len(lines) == len(set(lines)), name


async def test_the_views_are_told_in_figures(autojump_clock: trio.abc.Clock) -> None:
    house = House()
    quarantined = agent_view("sonnet-07", state=AgentState.QUARANTINED)
    house.fleet = fleet_view(agent_view(), quarantined)
    house.gateway = gateway_view(backend_view(breaker="open", healed=2))
    families = metrics_of(house)
    assert value(families, "queue_requests", priority="3") == 5
    assert value(families, "queue_oldest_seconds", priority="5") == 40.0
    assert value(families, "queue_estimate_seconds", priority="5") == 12.5
    assert value(families, "queue_requests", priority="1") == 0, "what is empty is told, so that a rate has a beginning"
    assert value(families, "breaker_state", backend="main", state="open") == 1
    assert value(families, "slots_healed_total", backend="main") == 2
    assert value(families, "agents", **{"class": "sonnet", "state": "quarantined"}) == 1
    assert value(families, "agent_memory_bytes", agent="opus-01") == 12_000_000
    assert value(families, "cache_hits_total", tier="l1") == 10
    assert value(families, "healthy") == 0
    assert value(families, "requests_total", **{"class": "opus", "outcome": "failed"}) == 0


async def test_ends_and_restarts_are_counted_by_class(autojump_clock: trio.abc.Clock) -> None:
    lives = Lives()
    started = AgentStarted("opus-01", "opus", 1, 100, 1, None, "tag", 0, False)
    for event in (started, AgentEnded("opus-01", 1, "exit:3"), replace(started, generation=2)):
        lives.tell(event)
    lives.tell(replace(started, agent="opus-02", is_adopted=True))
    families = metrics_of(House(), Counted(lives=lives.view()))
    assert value(families, "agent_starts_total", **{"class": "opus"}) == 2, "one that was adopted was not started"
    assert value(families, "agent_restarts_total", **{"class": "opus"}) == 1
    assert value(families, "agent_ends_total", **{"class": "opus", "verdict": "exit"}) == 1


def test_verdicts_with_a_number_or_a_reason_are_one_series() -> None:
    assert kind_of("exit:3") == "exit"
    assert kind_of("stopped:reload") == "stopped"
    assert kind_of("oom:own-cap") == "oom:own-cap"
    assert kind_of("crash:SIGSEGV") == "crash:SIGSEGV"
