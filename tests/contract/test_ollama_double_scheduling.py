"""The recorded stories of loading, keeping and sharing: the double lives them again in virtual time."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio
import trio.testing

from tests.fakes.ollama_double import Double, Leaks, embedding_model, running

from .double_bench import ask, exchange, loaded, read_all, recorded_double, say
from .golden import transcript
from .golden.requests import generate

Clock = trio.abc.Clock
EMPTY: dict[str, Any] = {}
YEAR_S = 365.25 * 86400


# --- reload and keep_alive (transcript f) --------------------------------------------------------------------------------

STEPS: list[tuple[str, dict[str, Any]]] = [
    ("temperature", {"options": {"temperature": 0.1}}),
    ("num_keep", {"options": {"num_keep": 2}}),
    ("num_ctx 2048", {"options": {"num_ctx": 2048}}),
    ("default again", EMPTY),
    ("num_ctx 4096 explicit", {"options": {"num_ctx": 4096}}),
    ("default after explicit", EMPTY),
    ("num_batch 128", {"options": {"num_batch": 128}}),
    ("default", EMPTY),
    ("num_thread 2", {"options": {"num_thread": 2}}),
    ("default", EMPTY),
    ("num_gpu 0", {"options": {"num_gpu": 0}}),
    ("default after num_gpu 0", EMPTY),
    ("num_gpu -1", {"options": {"num_gpu": -1}}),
    ("num_gpu 99", {"options": {"num_gpu": 99}}),
    ("default after 99", EMPTY),
    ("use_mmap true", {"options": {"use_mmap": True}}),
    ("default", EMPTY),
    ("shift false", {"shift": False}),
    ("default", EMPTY),
    ("draft_num_predict", {"options": {"draft_num_predict": 4}}),
    ("num_ctx 999999", {"options": {"num_ctx": 999999}}),
    ("default", EMPTY),
    ("num_ctx 1", {"options": {"num_ctx": 1}}),
    ("default", EMPTY),
]


async def test_the_runner_is_loaded_again_where_the_recorded_one_was(autojump_clock: Clock) -> None:
    rows = re.findall(r"^(\S.*?)\s+status 200 reload=(\d)", transcript("f_reload_keepalive_parallel"), re.MULTILINE)
    wanted = [(name, int(count)) for name, count in rows]
    assert len(wanted) == 24
    async with running(recorded_double()) as double:
        await say(double)
        got = []
        for name, more in STEPS:
            before = double.statistics().loads["chat:latest"]
            assert (await say(double, **more))[0] == 200
            got.append((name, double.statistics().loads["chat:latest"] - before))
    assert got == wanted


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [("10m", 600), (-1, 292 * YEAR_S), ("-1m", 292 * YEAR_S), (30, 30), ("1h30m", 5400), (0.5, 0.5), (None, 300)],
)
async def test_keep_alive_sets_the_expiry(keep_alive: object, seconds: float, autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        await say(double, keep_alive=keep_alive)
        (runner,) = double.machine.scheduler.loaded.values()
        assert runner.expires_at is not None
        assert runner.expires_at - double.machine.clock.wall() == pytest.approx(seconds, rel=0.01)
        _, ps = await ask(double, "GET", "/api/ps")
        year = ps["models"][0]["expires_at"][:4]
        assert (year == "2319") == (seconds > YEAR_S)


async def test_a_model_is_unloaded_when_its_keep_alive_ends(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        await say(double, keep_alive=0.5)
        assert await loaded(double) == ["chat:latest"]
        await trio.sleep(0.6)
        assert await loaded(double) == []


async def test_a_call_without_keep_alive_keeps_what_the_last_one_set(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        await say(double, keep_alive=-1)
        await say(double)
        await trio.sleep(86_000)
        assert await loaded(double) == ["chat:latest"]


async def test_an_unload_of_a_busy_model_waits_for_its_last_call_and_says_it_is_done(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double, trio.open_nursery() as nursery:
        await say(double)
        nursery.start_soon(exchange, double, generate("[[n=10 delay=0.1]]"))
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        _, answer = await ask(double, "POST", "/api/generate", {"model": "chat", "keep_alive": 0})
        assert answer["done_reason"] == "unload"
        assert trio.current_time() == began
        _, ps = await ask(double, "GET", "/api/ps")
        assert double.machine.clock.wall() >= double.machine.scheduler.loaded["chat"].expires_at  # type: ignore[operator]
        assert [model["name"] for model in ps["models"]] == ["chat:latest"]
        await trio.sleep(2)
        assert await loaded(double) == []
        nursery.cancel_scope.cancel()


async def test_an_unload_of_a_model_that_is_not_loaded_says_it_is_done(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        assert (await ask(double, "POST", "/api/generate", {"model": "chat", "keep_alive": 0}))[1]["done_reason"] == "unload"
        assert double.statistics().loads == {}


async def test_an_embedder_is_unloaded_like_any_other_model(autojump_clock: Clock) -> None:
    """Read: the runner is expired before anybody asks what the model can do (server/routes.go, GenerateHandler)."""
    async with running(Double([embedding_model("e")])) as double:
        await ask(double, "POST", "/api/embed", {"model": "e", "input": "one"})
        assert double.statistics().loaded
        answer = await ask(double, "POST", "/api/generate", {"model": "e", "keep_alive": 0})
        assert (answer[0], answer[1]["done_reason"]) == (200, "unload")
        assert not double.statistics().loaded


async def test_keep_alive_zero_with_a_prompt_unloads_after_the_answer(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        assert (await say(double, keep_alive=0))[0] == 200
        assert await loaded(double) == []


async def test_an_unload_during_the_load_is_lost(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double, trio.open_nursery() as nursery:
        nursery.start_soon(exchange, double, generate())
        await trio.sleep(0.1)
        assert (await ask(double, "POST", "/api/generate", {"model": "chat", "keep_alive": 0}))[1]["done_reason"] == "unload"
        await trio.sleep(10)
        assert await loaded(double) == ["chat:latest"]
        nursery.cancel_scope.cancel()


# --- slots (f, k) --------------------------------------------------------------------------------------------------------


async def _finish_times(double: Double, requests: list[bytes]) -> list[float]:
    began = trio.current_time()
    times: list[float] = []

    async def one(request: bytes) -> None:
        await exchange_until_done(double, request)
        times.append(round(trio.current_time() - began, 2))

    async with trio.open_nursery() as nursery:
        for request in requests:
            nursery.start_soon(one, request)
    return sorted(times)


async def exchange_until_done(double: Double, request: bytes) -> bytes:
    """The answer of a connection that the server closes after it."""
    stream = await double.dial()
    await stream.send_all(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    answer, is_closed = await read_all(stream)
    assert is_closed
    return answer


async def test_six_calls_on_two_slots_end_in_pairs_as_recorded(autojump_clock: Clock) -> None:
    story = transcript("f_reload_keepalive_parallel").split("## parallel cap")[1]
    (row,) = re.findall(r"^\[\((.*)\)\]$", story, re.MULTILINE)
    recorded = [float(each.split(",")[0]) for each in row.split("), (")]
    async with running(recorded_double()) as double:
        await say(double)
        times = await _finish_times(double, [generate("[[n=6 delay=0.1]]", stream=False)] * 6)
        assert times == pytest.approx(recorded, abs=0.05)
        assert double.statistics().peak_running == 2
        assert double.statistics().peak_in_flight == 6


async def test_an_embedding_model_has_one_slot_and_another_has_two(autojump_clock: Clock) -> None:
    """Recorded: 1.22 s for six inputs of 0.2 s on an embedding model, 0.61 s on a chat model."""
    async with running(recorded_double(embed_s=0.2)) as double:
        for model, seconds in (("embed", 1.2), ("chat", 0.6)):
            body = {"model": model, "input": ["a"] * 6}
            await ask(double, "POST", "/api/embed", {"model": model})
            began = trio.current_time()
            assert (await ask(double, "POST", "/api/embed", body))[0] == 200
            assert trio.current_time() - began == pytest.approx(seconds)


# --- the queue for loads (g) ---------------------------------------------------------------------------------------------


async def test_two_waiters_for_one_model_share_its_load_and_ps_hides_it_meanwhile(autojump_clock: Clock) -> None:
    async with running(recorded_double(load_s=3.0)) as double, trio.open_nursery() as nursery:
        nursery.start_soon(exchange, double, generate())
        await trio.sleep(0.1)
        for _ in range(2):
            nursery.start_soon(exchange, double, generate(model="second"))
        await trio.sleep(1)
        began = trio.current_time()
        assert await loaded(double) == []
        assert trio.current_time() == began
        assert double.statistics().loading == "chat"
        await trio.sleep(10)
        assert double.statistics().loads == {"chat:latest": 1, "second:latest": 1}
        assert sorted(await loaded(double)) == ["chat:latest", "second:latest"]
        nursery.cancel_scope.cancel()


async def test_a_loaded_model_answers_while_another_loads(autojump_clock: Clock) -> None:
    async with running(recorded_double(load_s=3.0)) as double, trio.open_nursery() as nursery:
        await say(double)
        nursery.start_soon(exchange, double, generate(model="second"))
        await trio.sleep(0.1)
        began = trio.current_time()
        await say(double)
        assert trio.current_time() - began < 0.1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_leaking", [False, True])
async def test_a_caller_that_leaves_the_load_queue_is_forgotten_or_kept_for_ever(
    is_leaking: bool, autojump_clock: Clock
) -> None:
    double = recorded_double(load_s=3.0, leaks=Leaks(on_pending_cancel=is_leaking))
    async with running(double), trio.open_nursery() as nursery:
        nursery.start_soon(exchange, double, generate())
        await trio.testing.wait_all_tasks_blocked()
        leavers = [await double.dial() for _ in range(2)]
        for leaver in leavers:
            await leaver.send_all(generate(model="second"))
        await trio.testing.wait_all_tasks_blocked()
        assert double.statistics().pending == 2
        for leaver in leavers:
            await leaver.aclose()
        await trio.sleep(100)
        counts = double.statistics()
        assert counts.loads == {"chat:latest": 1}
        assert counts.leaked_handlers == (2 if is_leaking else 0)
        assert counts.connections == counts.leaked_handlers + 1  # the first caller keeps its own
        nursery.cancel_scope.cancel()


async def test_a_caller_that_leaves_during_its_load_aborts_it_and_the_next_begins_again(autojump_clock: Clock) -> None:
    async with running(recorded_double(load_s=3.0)) as double, trio.open_nursery() as nursery:
        first = await double.dial()
        await first.send_all(generate())
        await trio.sleep(1)
        nursery.start_soon(exchange, double, generate())
        await trio.sleep(1)
        await first.aclose()
        await trio.sleep(2.9)
        assert await loaded(double) == []
        await trio.sleep(0.2)
        assert await loaded(double) == ["chat:latest"]
        assert (double.statistics().loads, double.statistics().aborted_loads) == ({"chat:latest": 2}, 1)
        nursery.cancel_scope.cancel()


# --- starvation (k, l) ---------------------------------------------------------------------------------------------------


class Traffic:
    """Overlapping calls on one model until told to stop, so that it is never idle."""

    def __init__(self, double: Double, model: str = "chat") -> None:
        self.double = double
        self.model = model
        self.stopped = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(self._client, number * 0.05)

    async def _client(self, offset_s: float) -> None:
        await trio.sleep(offset_s)
        while not self.stopped.is_set():
            await say(self.double, "[[n=4 delay=0.05]]", self.model)


async def test_a_reload_starves_under_traffic_and_blocks_every_load_behind_it(autojump_clock: Clock) -> None:
    """Recorded: the odd request took 9.2 s of 8 s of traffic, the load behind it 10.4 s, a loaded model 0.3 s."""
    async with running(recorded_double()) as double, trio.open_nursery() as nursery:
        await say(double)
        await say(double, model="second")
        traffic = Traffic(double)
        nursery.start_soon(traffic.run)
        await trio.sleep(0.5)
        began = trio.current_time()
        ended: dict[str, float] = {}

        async def timed(name: str, model: str, **more: Any) -> None:
            if model == "embed":
                await ask(double, "POST", "/api/embed", {"model": "embed", "input": "a"})
            else:
                await say(double, model=model, **more)
            ended[name] = trio.current_time() - began

        nursery.start_soon(lambda: timed("odd", "chat", options={"num_ctx": 2048}))
        await trio.sleep(0.1)
        nursery.start_soon(lambda: timed("behind", "embed"))
        nursery.start_soon(lambda: timed("loaded", "second"))
        await trio.sleep(7.9)
        assert list(ended) == ["loaded"]
        traffic.stopped.set()
        await trio.sleep(5)
        assert ended["loaded"] < 0.5
        assert 8 < ended["odd"] < ended["behind"] < 10


async def test_an_unload_under_traffic_happens_when_the_traffic_ends(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double, trio.open_nursery() as nursery:
        await say(double)
        traffic = Traffic(double)
        nursery.start_soon(traffic.run)
        await trio.sleep(0.5)
        await ask(double, "POST", "/api/generate", {"model": "chat", "keep_alive": 0})
        for _ in range(4):
            await trio.sleep(1)
            assert await loaded(double) == ["chat:latest"]
        traffic.stopped.set()
        await trio.sleep(1)
        assert await loaded(double) == []


async def test_two_tags_of_one_blob_share_a_runner_and_a_derived_num_ctx_reloads_it(autojump_clock: Clock) -> None:
    """Recorded: loads of chat 0, alias 0, chat-sys(num_ctx) 1, chat again."""
    async with running(recorded_double()) as double:
        for model, loads in (("chat", 1), ("chat-alias", 1), ("chat-sys", 2), ("chat", 3)):
            await say(double, model=model)
            assert sum(double.statistics().loads.values()) == loads
        assert await loaded(double) == ["chat:latest"]


async def test_the_least_kept_idle_model_is_evicted_when_there_are_too_many(autojump_clock: Clock) -> None:
    async with running(recorded_double(max_loaded=2)) as double:
        await say(double, keep_alive="10m")
        await say(double, model="second", keep_alive="5m")
        await ask(double, "POST", "/api/embed", {"model": "embed", "input": "a"})
        assert sorted(await loaded(double)) == ["chat:latest", "embed:latest"]
