"""`ai-supervisor bench`: what is measured of an Ollama with a known crossover, and what is recommended."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from supervisord_ai.cli import bench
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.clock import SystemClock
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.core.slot_advice import SlotAdvice, Speed
from supervisord_ai.errors import Denied, UpstreamCut, UsageError
from supervisord_ai.ollama.client import OllamaClient
from tests.fakes.ollama_double import Ask, Double, DoubleOptions, ModelSpec, Script, embedding_model, running
from tests.fakes.owner_views import gateway_view
from tests.shell.gateway_bench import MODEL
from tests.shell.test_cli import Daemon, err
from tests.shell.test_control_verbs import House

Clock = trio.abc.Clock
Caps = pytest.CaptureFixture[str]
TOKENS = 20


def machine_with(most_per_s: float, alone_per_s: float) -> Double:
    """An Ollama of eight slots whose machine makes so many tokens a second at most, and so many for one call alone."""
    double = Double(options=DoubleOptions(parallel=8))

    def script(ask: Ask) -> Script:
        found = re.search(r"of (\d+) at once", ask.prompt)
        at_once = int(found[1]) if found else 1
        each_per_s = min(alone_per_s, most_per_s / at_once)
        return Script(tokens=("x",) * TOKENS, first_s=1 / each_per_s, delay_s=1 / each_per_s)

    double.script = script
    return double


async def measured(double: Double, *models: str, at_once: tuple[int, ...] = (1, 2, 4)) -> list[bench.Measured]:
    async with running(double) as served:
        client = OllamaClient("http://double", dial=served.dial)
        try:
            return await bench.measure_all(client, models, bench.Plan(at_once, TOKENS, lambda _model: 4096))
        finally:
            await client.aclose()


@pytest.mark.parametrize(
    ("most_per_s", "slots", "together"),
    [
        (20.0, 1, [20.0, 20.0, 20.0]),  # one call has the whole machine
        (40.0, 2, [20.0, 40.0, 40.0]),  # two fill it
        (80.0, 4, [20.0, 40.0, 80.0]),
    ],
)
async def test_as_many_slots_are_recommended_as_fill_the_machine(
    autojump_clock: Clock, most_per_s: float, slots: int, together: list[float]
) -> None:
    (found,) = await measured(machine_with(most_per_s, alone_per_s=20.0), MODEL)
    assert [speed.together_per_s for speed in found.speeds] == pytest.approx(together, rel=0.02)
    assert [speed.at_once for speed in found.speeds] == [1, 2, 4]
    assert found.speeds[0].ttft_s == pytest.approx(0.05, rel=0.02)
    assert found.advice.slots == slots


async def test_where_ollama_has_one_slot_a_second_call_waits_and_brings_nothing(autojump_clock: Clock) -> None:
    double = Double(options=DoubleOptions(parallel=1, default_tokens=TOKENS, token_delay_s=0.05, first_token_s=0.05))
    (found,) = await measured(double, MODEL, at_once=(1, 2))
    assert found.advice.slots == 1
    one, two = found.speeds
    assert two.ttft_s > 5 * one.ttft_s, "it shows that the second call stood in a queue"
    assert double.statistics().peak_running == 1


async def test_what_is_loaded_is_measured_and_models_that_only_embed_are_passed_over(autojump_clock: Clock) -> None:
    double = Double([ModelSpec(MODEL), embedding_model("nomic-embed-text")])
    async with running(double) as served:
        client = OllamaClient("http://double", dial=served.dial)
        plan = bench.Plan((1, 2), TOKENS, lambda _model: 4096)
        with pytest.raises(UsageError, match=f"no model is loaded: name one .*{re.escape(MODEL)}"):
            await bench.measure_all(client, (), plan)
        await client.request_json("POST", "/api/embed", {"model": "nomic-embed-text", "input": "x"}, timeout_s=60)
        with pytest.raises(UsageError, match="only embed"):
            await bench.measure_all(client, (), plan)
        with pytest.raises(UsageError, match="only embeds: it has one slot"):
            await bench.measure_all(client, ("nomic-embed-text",), plan)
        await client.request_json("POST", "/api/generate", {"model": MODEL, "prompt": "x", "stream": False}, timeout_s=60)
        assert [one.model for one in await bench.measure_all(client, (), plan)] == [MODEL]
        with pytest.raises(UsageError, match="has no model nothing"):
            await bench.measure_all(client, ("nothing",), plan)
        await client.aclose()


async def test_an_answer_that_fails_or_ends_too_early_is_no_figure(autojump_clock: Clock) -> None:
    async with running(Double()) as double:
        client = OllamaClient("http://double", dial=double.dial)
        for script, words in (
            (Script(fail_after=3, fail_text="out of memory"), "out of memory"),
            (Script(no_final=True), "ended an answer before its end"),
            (Script(fail_status=500, fail_text="no runner"), "no runner"),
        ):
            double.script = partial(lambda script, ask: script if "at once" in ask.prompt else None, script)
            with pytest.raises(Denied, match=words):
                await bench.measure_all(client, (MODEL,), bench.Plan((1, 2), TOKENS, lambda _model: 4096))
        await client.aclose()


async def test_a_model_is_asked_with_the_context_of_the_gateway_so_that_nothing_is_loaded_twice(autojump_clock: Clock) -> None:
    double = Double()
    async with running(double) as served:
        client = OllamaClient("http://double", dial=served.dial)
        await bench.measure_all(client, (MODEL,), bench.Plan((1,), TOKENS, lambda _model: 2048))
        (loaded,) = await client.ps()
        assert loaded["context_length"] == 2048
        assert double.statistics().loads == {MODEL: 1}
        await client.aclose()


# --- what is said ---------------------------------------------------------------------------------------------------------


def told(slots: dict[str, int], config: object = None) -> str:
    speeds = (Speed(1, 20.0, 20.0, 0.05), Speed(2, 39.0, 19.5, 0.06))
    found = [bench.Measured(model, 4096, speeds, SlotAdvice(count, "because")) for model, count in slots.items()]
    return bench.report("http://127.0.0.1:11434", found, config)  # type: ignore[arg-type]


class Config:
    def __init__(self, slots: int) -> None:
        self.backends = (BackendSpec(name="gpu", url="http://127.0.0.1:11434", slots=slots),)


def test_the_table_ends_in_the_lines_for_the_config() -> None:
    assert told({"llama3.2:3b": 2, "phi3": 1}).splitlines() == [
        "Ollama at http://127.0.0.1:11434",
        "",
        "MODEL        AT ONCE  TOKENS/S  OF ONE CALL  FIRST TOKEN",
        "llama3.2:3b        1      20.0         20.0       0.05 s",
        "llama3.2:3b        2      39.0         19.5       0.06 s",
        "phi3               1      20.0         20.0       0.05 s",
        "phi3               2      39.0         19.5       0.06 s",
        "",
        "llama3.2:3b: 2 slots. because.",
        "phi3: 1 slot. because.",
        "",
        "In your config:",
        "",
        "    [[ollama]]",
        '    name = "main"',
        "    slots = 2",
        "",
        '    [models."phi3"]',
        "    slots = 1",
        "",
        "Ollama itself has to allow them: OLLAMA_NUM_PARALLEL=2 in its environment.",
    ]


def test_a_config_that_says_so_already_is_left_alone() -> None:
    assert told({"phi3": 2}, Config(2)).endswith("Your config says so already: slots = 2.")
    assert 'name = "gpu"\n    slots = 1' in told({"phi3": 1}, Config(2))


# --- as typed ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, house: House) -> Iterator[Daemon]:
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    running_daemon = Daemon(tmp_path, house.verbs)
    try:
        yield running_daemon
    finally:
        running_daemon.end()


def test_while_agents_ask_it_is_refused_unless_it_is_meant(daemon: Daemon, capsys: Caps) -> None:
    daemon.gateway = replace(gateway_view(), running=2, queued=5)
    words = err(capsys, "bench", MODEL, code=Exit.REFUSED)
    assert words.startswith("ai-supervisor: agents are asking: 2 run, 5 wait.")
    assert "--anyway" in words
    daemon.gateway = replace(gateway_view(), running=0, queued=5, mode="paused")
    somewhere = ("--ollama", "http://127.0.0.1:9")
    assert "no Ollama answers" in err(capsys, "bench", MODEL, *somewhere, code=Exit.USAGE), "who waits in a pause is in no way"
    daemon.gateway = replace(gateway_view(), running=2, queued=5)
    assert "no Ollama answers" in err(capsys, "bench", MODEL, "--anyway", *somewhere, code=Exit.USAGE)


def test_numbers_that_are_none_are_refused(capsys: Caps) -> None:
    for word in ("1,x", "0", "65", ""):
        with pytest.raises(SystemExit) as exit_:
            main(["bench", "--at-once", word])
        assert exit_.value.code == Exit.USAGE
        assert "is not a list of numbers from 1 to 64, such as 1,2,4" in capsys.readouterr().err


# --- as typed ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ollama() -> Iterator[str]:
    """An Ollama on the loopback, which answers at once; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    up = threading.Event()
    ends: list[Callable[[], None]] = []

    async def serve() -> None:
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            double = Double([ModelSpec(MODEL)], DoubleOptions(load_s=0.0), clock=SystemClock())
            await nursery.start(double.run)
            nursery.start_soon(double.serve_on, listener)
            ends.append(lambda: token.run_sync_soon(nursery.cancel_scope.cancel))
            up.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert up.wait(10)
    try:
        yield "http://127.0.0.1:{}".format(*listener.getsockname()[1:])
    finally:
        ends[0]()
        thread.join(10)
        listener.close()


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which no daemon runs and no config is but the one that a test writes; returns its path."""
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("AI_SUPERVISOR_CONFIG", f"{tmp_path}/config.toml")
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    return tmp_path / "config.toml"


def test_as_typed_an_ollama_is_measured_and_programs_get_every_figure(ollama: str, at_home: Path, capsys: Caps) -> None:
    words = ["bench", "--ollama", ollama, "--at-once", "1,2", "--tokens", "3", MODEL]
    assert main([*words, "--json"]) == Exit.GOOD
    told = json.loads(capsys.readouterr().out)
    assert (told["ollama"], told["tokens"], [one["model"] for one in told["models"]]) == (ollama, 3, [MODEL])
    assert [one["at_once"] for one in told["models"][0]["speeds"]] == [1, 2]
    assert main(words) == Exit.GOOD
    assert ollama in capsys.readouterr().out


def test_without_a_word_the_ollama_of_the_config_is_measured_with_its_own_context(
    ollama: str, at_home: Path, capsys: Caps, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_home.write_text(f'[[ollama]]\nurl = "{ollama}"\n[models]\nnum_ctx = 2048\n[models."{MODEL}"]\nnum_ctx = 8192\n')
    contexts: list[int] = []

    async def measure(client: OllamaClient, models: tuple[str, ...], plan: bench.Plan) -> list[bench.Measured]:
        await trio.lowlevel.checkpoint()
        contexts.extend(plan.num_ctx_of(name) for name in (MODEL, "another"))
        return []

    monkeypatch.setattr(bench, "measure_all", measure)
    assert main(["bench", "--json"]) == Exit.GOOD
    assert json.loads(capsys.readouterr().out)["ollama"] == ollama
    assert contexts == [8192, 2048]


def test_a_config_that_is_named_must_be_there(at_home: Path, capsys: Caps) -> None:
    assert "there is no" in err(capsys, "bench", "--config", f"{at_home}.other", code=Exit.USAGE)


def test_an_ollama_that_ends_an_answer_is_one_line(
    ollama: str, at_home: Path, capsys: Caps, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(client: OllamaClient, models: tuple[str, ...], plan: bench.Plan) -> list[bench.Measured]:
        await trio.lowlevel.checkpoint()
        raise UpstreamCut(7)

    monkeypatch.setattr(bench, "measure_all", measure)
    assert main(["bench", "--ollama", ollama]) == Exit.REFUSED
    assert capsys.readouterr().err.splitlines()[-1] == f"ai-supervisor: {ollama}: upstream cut after 7 bytes"
