"""What an agent may rely on while others ask too: checks 40 to 59, before an Ollama that leaks as the real one does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisord_ai.serve.connection import MemoryClient
from tests.fakes.ollama_double import Double, DoubleOptions, Leaks, ModelSpec

from .double_bench import RECORDED_MODELS, read_all, recorded_double
from .gateway_bench import Bench, agent, bench_roster, error_of, gateway_before, head_of, lines_of, status_of
from .golden import parse_answers
from .golden.requests import generate, http, said

Clock = trio.abc.Clock
LEAKY = Leaks(on_slow_disconnect=True, on_pending_cancel=True, mid_stream_cancel=0.9)


@asynccontextmanager
async def leaky_bench(folder: Path, *, room_bytes: int = 65536, **changes: Any) -> AsyncIterator[Bench]:
    double = Double(RECORDED_MODELS, DoubleOptions(leaks=LEAKY, token_delay_s=0.1), room_bytes=room_bytes)
    async with gateway_before(double, folder, roster=bench_roster(**changes)) as bench:
        yield bench


async def asking(bench: Bench, request: bytes, number: int = 1, **more: Any) -> MemoryClient:
    client = bench.connect(agent(number), **more)
    await client.send_all(request)
    await trio.testing.wait_all_tasks_blocked()
    return client


async def is_whole(bench: Bench) -> bool:
    """Whether two callers of one second each are served at once, which takes both slots; a load may come before."""
    began = trio.current_time()
    request = http("POST", "/api/generate", {"model": "chat", "prompt": "[[n=11 delay=0.1]]"}, ("Connection", "close"))
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for number in (1, 2):
                nursery.start_soon(bench.exchange, request, agent(number))
    return trio.current_time() - began < 1.9 and bench.double.statistics().lost_slots == 0


async def test_40_three_agents_at_once_are_never_more_than_the_slots_at_ollama(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path) as bench, trio.open_nursery() as nursery:
        answers: list[bytes] = []

        async def one(number: int, model: str) -> None:
            body = {"model": model, "prompt": "[[n=3]]", "stream": False}
            answers.append((await bench.ask("POST", "/api/generate", body, caller=agent(number))).body)

        async with trio.open_nursery() as callers:
            for number in range(30):
                callers.start_soon(one, number % 3 + 1, "chat")
        counts = bench.double.statistics()
        assert len(answers) == 30
        assert all(json.loads(answer)["done"] for answer in answers)
        assert (counts.peak_in_flight, counts.peak_running) == (2, 2)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions", "/v1/messages"])
async def test_41_a_full_queue_is_refused_in_the_callers_face_with_a_time_to_come_back(
    path: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    async with leaky_bench(tmp_path, max_queued=1) as bench:
        clients = [await asking(bench, generate("[[n=50]]"), number=1) for _ in range(3)]
        body = {"model": "chat", "prompt": "x", "messages": said("x"), "max_tokens": 9}
        answer = await bench.ask("POST", path, body, caller=agent(1))
        assert status_of(answer) in {429, 503}
        assert 1 <= int(head_of(answer, "retry-after") or "0") <= 60
        error = json.loads(answer.body)["error"]
        assert isinstance(error["message"] if path.startswith("/v1") else error, str)
        for client in clients:
            client.close()


async def test_42_a_caller_that_leaves_the_queue_never_reaches_ollama(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path) as bench:
        held = [await asking(bench, generate("[[n=50]]"), number) for number in (1, 2)]
        await trio.sleep(1)
        waiting = [await asking(bench, generate("[[n=1]]"), number) for number in (1, 2, 3)]
        calls = bench.double.statistics().calls["chat:latest"]
        for client in waiting:
            client.close()
        await trio.sleep(0.25)
        assert bench.gateway.statistics().queued == 0
        await trio.sleep(60)
        assert bench.double.statistics().calls["chat:latest"] == calls
        for client in held:
            client.close()
        await trio.sleep(10)
        assert bench.double.statistics().leaked_handlers == 0
        assert await is_whole(bench)


async def test_43_callers_that_leave_at_any_moment_of_a_stream_cost_no_slot(tmp_path: Path, autojump_clock: Clock) -> None:
    """A close at a random moment loses one of this Ollama's slots nine times out of ten."""
    async with leaky_bench(tmp_path) as bench:
        await bench.ask("POST", "/api/generate", {"model": "chat"})
        for number in range(100):
            client = await asking(bench, generate("[[n=50]]"), number % 3 + 1)
            await trio.sleep(0.05 + 0.0137 * number)
            client.close()
            await trio.sleep(0.3)
        assert bench.double.statistics().calls["chat:latest"] == 100
        assert bench.double.statistics().lost_slots == 0
        assert await is_whole(bench)


async def test_44_a_reader_of_one_byte_a_second_holds_no_slot_and_gets_every_byte(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with leaky_bench(tmp_path) as bench:
        client = await asking(bench, generate("[[n=40]]"), room_bytes=100)
        received = b""
        while b"0\r\n\r\n" not in received[-5:]:
            received += await client.receive_some(1)
            await trio.sleep(1)
            if len(received) == 10:
                assert bench.double.statistics().running == 0  # 4 s of tokens are read, whoever reads them
        (answer,) = parse_answers(received)
        assert "".join(line["response"] for line in lines_of(answer)) == "".join(f"w{n} " for n in range(40))
        assert await is_whole(bench)


async def test_45_two_slow_readers_that_leave_cost_no_slot(tmp_path: Path, autojump_clock: Clock) -> None:
    """Real Ollama alone has no slot left after this."""
    async with leaky_bench(tmp_path, room_bytes=1000) as bench:
        slow = [await asking(bench, generate("[[n=200 delay=0.01]]"), number, room_bytes=100) for number in (1, 2)]
        for client in slow:
            await client.receive_some(1)
        await trio.sleep(30)
        for client in slow:
            client.close()
        await trio.sleep(1)
        assert await is_whole(bench)


async def test_46_a_caller_that_leaves_during_a_load_does_not_stop_it(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path) as bench:
        client = await asking(bench, generate("[[n=1]]"))
        await trio.sleep(0.2)
        assert bench.double.statistics().loading == "chat"
        client.close()
        body = {"model": "chat", "prompt": "[[n=1]]", "stream": False}
        answer = await bench.ask("POST", "/api/generate", body, caller=agent(2))
        assert status_of(answer) == 200
        counts = bench.double.statistics()
        assert (counts.loads, counts.aborted_loads, counts.leaked_handlers) == ({"chat:latest": 1}, 0, 0)


@pytest.mark.parametrize(("kind", "is_answered"), [("memory-unix", True), ("memory-tcp", False)])
async def test_47_a_half_close_is_a_waiting_caller_on_a_unix_socket_and_a_leaver_on_tcp(
    kind: str, is_answered: bool, tmp_path: Path, autojump_clock: Clock
) -> None:
    async with leaky_bench(tmp_path) as bench:
        client = await asking(bench, generate("[[n=3]]", stream=False), kind=kind)
        client.half_close()
        received, _ = await read_all(client)
        assert (b'"done":true' in received) == is_answered
        assert bench.double.statistics().running == 0
        assert await is_whole(bench)


async def test_48_another_num_ctx_of_an_agent_reloads_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path) as bench:
        for number, num_ctx in enumerate((None, 2048, 8192, 512)):
            options = {} if num_ctx is None else {"options": {"num_ctx": num_ctx}}
            body = {"model": "chat", "prompt": "[[n=1]]", "stream": False, **options}
            assert status_of(await bench.ask("POST", "/api/generate", body, caller=agent(number % 3 + 1))) == 200
        assert bench.double.statistics().loads == {"chat:latest": 1}


@pytest.mark.parametrize("keep_alive", [0, -1, "0s"])
async def test_49_an_agents_keep_alive_neither_unloads_nor_pins(
    keep_alive: object, tmp_path: Path, autojump_clock: Clock
) -> None:
    async with leaky_bench(tmp_path) as bench:
        await bench.ask("POST", "/api/generate", {"model": "chat"})
        unload = await bench.ask("POST", "/api/generate", {"model": "chat", "keep_alive": keep_alive}, caller=agent(1))
        assert json.loads(unload.body)["done_reason"] == ("load" if keep_alive == -1 else "unload")
        body = {"model": "chat", "prompt": "[[n=1]]", "stream": False, "keep_alive": keep_alive}
        await bench.ask("POST", "/api/generate", body, caller=agent(1))
        (runner,) = bench.double.machine.scheduler.loaded.values()
        assert runner.session_s == 1800
        assert bench.double.statistics().unloads == 0
        granted = await bench.ask("POST", "/api/generate", {"model": "chat", "keep_alive": 0})
        assert json.loads(granted.body)["done_reason"] == "unload"
        assert bench.double.statistics().unloads == 1


async def test_52_callers_wait_while_ollama_restarts_and_only_the_unanswered_are_asked_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with leaky_bench(tmp_path) as bench:
        await bench.ask("POST", "/api/generate", {"model": "chat"})
        begun = await asking(bench, generate("[[n=50]]"), 1)
        unanswered = await asking(bench, generate("[[n=1 first=5]]", stream=False), 2)
        queued = await asking(bench, generate("[[n=1]]", stream=False), 3)
        await trio.sleep(1)
        bench.double.is_refusing = True
        bench.double.restart()
        await trio.sleep(20)
        bench.double.is_refusing = False
        (broken,) = parse_answers((await read_all(begun, quiet_s=100))[0])
        assert "error" in lines_of(broken)[-1]
        for client in (unanswered, queued):
            (answer,) = parse_answers((await read_all(client, quiet_s=100))[0])
            assert status_of(answer) == 200


async def test_53_one_call_answers_a_stream_and_a_body(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path) as bench:
        body = {"prompt": "[[n=3]]", "options": {"temperature": 0}}
        streamed = await bench.ask("POST", "/api/generate", {"model": "chat", **body}, caller=agent(1))
        single = await bench.ask("POST", "/api/generate", {"model": "CHAT", "stream": False, **body}, caller=agent(2))
        assert bench.double.statistics().calls == {"chat:latest": 1}
        assert [line["response"] for line in lines_of(streamed)] == ["w0 ", "w1 ", "w2 ", ""]
        kept = json.loads(single.body)
        assert (kept["response"], kept["model"], kept["eval_count"], kept["done"]) == ("w0 w1 w2 ", "CHAT", 3, True)
        assert "hit" in (head_of(single, "cache-status") or "")


DIFFERENT: list[dict[str, Any]] = [
    {"prompt": "y"},
    {"options": {"temperature": 0, "num_predict": 3}},
    {"options": {"temperature": 0, "stop": ["w2"]}},
    {"format": {"type": "object", "properties": {"b": {}, "a": {}}}},
    {"images": ["AAAA"]},
    {"system": "s"},
    {"raw": True},
    {"options": {}},
]


@pytest.mark.parametrize("changed", DIFFERENT, ids=str)
async def test_54_a_changed_field_is_another_answer(
    changed: dict[str, Any], tmp_path: Path, autojump_clock: Clock
) -> None:
    first = {"model": "chat", "prompt": "x", "options": {"temperature": 0}, "stream": False}
    if "format" in changed:
        first["format"] = {"type": "object", "properties": {"a": {}, "b": {}}}
    async with leaky_bench(tmp_path) as bench:
        for body in (first, {**first, **changed}):
            assert status_of(await bench.ask("POST", "/api/generate", body)) == 200
        assert bench.double.statistics().calls == {"chat:latest": 2}


async def test_54_without_a_temperature_nothing_is_kept(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path) as bench:
        for _ in range(2):
            await bench.ask("POST", "/api/generate", {"model": "chat", "prompt": "x", "stream": False})
        assert bench.double.statistics().calls == {"chat:latest": 2}


async def test_56_a_new_model_under_an_old_name_gives_new_answers(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path) as bench:
        body = {"model": "chat", "prompt": "x", "options": {"temperature": 0}, "stream": False}
        await bench.ask("POST", "/api/generate", body)
        await trio.sleep(120)
        bench.double.machine.catalogue.add(ModelSpec("chat", blob="another"))
        await trio.sleep(120)
        await bench.ask("POST", "/api/generate", body)
        assert sum(bench.double.statistics().calls.values()) == 2


async def test_58_v1_embeddings_in_base64_and_float_are_equal(tmp_path: Path, autojump_clock: Clock) -> None:
    async with gateway_before(recorded_double(), tmp_path) as bench:
        vectors = []
        for form in ("float", "base64"):
            body = {"model": "embed", "input": "a", "encoding_format": form}
            answer = await bench.ask("POST", "/v1/embeddings", body, caller=agent(1))
            vectors.append(json.loads(answer.body)["data"][0]["embedding"])
        assert vectors == [[0.5306686, 0.75809807, 0.22742942, 0.30323923], "5tkHP7cSQj9C42g+LEKbPg=="]
        empty = await bench.ask("POST", "/v1/embeddings", {"model": "embed", "input": ""})
        assert len(json.loads(empty.body)["data"]) == 1
        nothings: tuple[list[str] | None, ...] = ([], None)
        for nothing in nothings:
            refused = await bench.ask("POST", "/v1/embeddings", {"model": "embed", "input": nothing})
            assert (status_of(refused), json.loads(refused.body)["error"]["message"]) == (400, "invalid input")


async def test_59_a_kept_answer_has_the_callers_own_model_name_ids_and_time(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path) as bench:
        native = {"prompt": "x", "options": {"temperature": 0}, "stream": False}
        openai = {"messages": said("x"), "temperature": 0, "stream": False}
        seen: list[list[dict[str, Any]]] = []
        for path, body, face_time in (("/api/generate", native, "created_at"), ("/v1/chat/completions", openai, "created")):
            pair = []
            for number, model in ((1, "chat"), (2, "CHAT")):
                answer = await bench.ask("POST", path, {"model": model, **body}, caller=agent(number))
                pair.append(json.loads(answer.body))
                assert pair[-1]["model"] == model
                assert ("hit" in (head_of(answer, "cache-status") or "")) == (number == 2)
                await trio.sleep(60)
            assert pair[0][face_time] < pair[1][face_time]
            seen.append(pair)
        assert seen[1][0]["id"] != seen[1][1]["id"]
        assert bench.double.statistics().calls == {"chat:latest": 2}


async def test_39_a_refusal_of_the_queue_is_prose(tmp_path: Path, autojump_clock: Clock) -> None:
    async with leaky_bench(tmp_path, max_queued=1) as bench:
        clients = [await asking(bench, http("POST", "/api/generate", {"model": "chat", "prompt": "[[n=50]]"})) for _ in range(3)]
        answer = await bench.ask("POST", "/api/generate", {"model": "chat", "prompt": "x"}, caller=agent(1))
        assert len(error_of(answer).split()) > 3
        for client in clients:
            client.close()
