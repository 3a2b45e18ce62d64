"""An answer's way through the gateway when it goes wrong: cut at any byte, failed in the middle, too large, malformed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.core.policies import BreakerPolicy, LimitsPolicy
from supervisord_ai.errors import UpstreamCut
from supervisord_ai.ollama.client import OllamaClient
from tests.fakes.ollama_double import Ask, Double, DoubleOptions, Script, running
from tests.shell.gateway_bench import MODEL, OWNER, Answered, Bench, agent, life, prompt_field, wait_until
from tests.shell.test_gateway_order import Crowd

Clock = trio.abc.Clock

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "generate, stream": ("/api/generate", {}),
    "chat, stream": ("/api/chat", {}),
    "chat, one body": ("/api/chat", {"stream": False}),
    "openai, stream": ("/v1/chat/completions", {"stream": True}),
    "openai, one body": ("/v1/chat/completions", {}),
    "anthropic, stream": ("/v1/messages", {"stream": True}),
    "anthropic, one body": ("/v1/messages", {}),
}


def is_clean_success(path: str, answer: Answered, *, is_stream: bool) -> bool:
    """Whether a client library would take this for a whole good answer."""
    if answer.status != 200:
        return False
    if not is_stream:
        return "error" not in answer.json()
    if path.startswith("/api/"):
        lines = answer.lines()
        return lines[-1].get("done") is True and not any("error" in line for line in lines)
    end = b"event: message_stop" if path == "/v1/messages" else b"data: [DONE]"
    return end in answer.body and b'"error"' not in answer.body


@pytest.mark.parametrize("form", FORMS)
async def test_an_answer_cut_at_any_byte_is_never_a_clean_success(tmp_path: Path, autojump_clock: Clock, form: str) -> None:
    path, fields = FORMS[form]
    is_stream = fields.get("stream", path.startswith("/api/"))
    double = Double(options=DoubleOptions(first_token_s=0.0, token_delay_s=0.001))
    never = BreakerPolicy(failures=1_000_000)  # or it would open after each fifth of a thousand faults
    async with running(double), life(tmp_path, double, breaker=never) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        whole = 0
        cut_at = 1
        while True:
            double.script = cut_after(cut_at)
            try:
                answer = await bench.ask(agent("opus-01"), f"at {cut_at}", path=path, **fields)
            except UpstreamCut:
                pytest.fail(f"cut at {cut_at}: the caller's own framing was cut, instead of an error it can read")
            if is_clean_success(path, answer, is_stream=is_stream):
                whole += 1
                assert whole == 1, f"cut at {cut_at}"
                break
            assert_is_an_error(path, answer, is_stream=is_stream)
            cut_at += 1 if cut_at < 1200 else 7
            assert cut_at < 6000
        assert cut_at > 200
        assert bench.gateway.statistics().cache.stored <= 1


def cut_after(count: int) -> Callable[[Ask], Script]:
    return lambda _ask: Script(tokens=("a ", "b "), cut_at_byte=count)


def assert_is_an_error(path: str, answer: Answered, *, is_stream: bool) -> None:
    """The error is in the caller's dialect, whole and last."""
    if answer.status != 200:
        error = answer.json()["error"]
    elif path.startswith("/api/"):
        error = answer.lines()[-1]["error"]
    else:
        events = [event for event in answer.body.split(b"\n\n") if event]
        error = json.loads(events[-1].partition(b"data: ")[2])["error"]
        if path == "/v1/messages":
            assert events[-1].startswith(b"event: error\n")
    assert error if isinstance(error, str) else error["message"]


async def test_an_error_before_the_first_token_has_its_real_status(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        for stream in (True, False):
            answer = await bench.ask(agent("opus-01"), "[[status=400 fail=0]]", stream=stream)
            direct = await ask_directly(double, {"model": MODEL, "prompt": "[[status=400 fail=0]]", "stream": stream})
            assert answer.status == direct.status
            assert answer.json() == direct.json()
            assert answer.headers.get("Content-Type") == direct.headers.get("Content-Type")
        missing = await bench.ask(agent("opus-01"), "x", model="nope")
        assert (missing.status, missing.json()) == (404, {"error": "model 'nope' not found"})


async def test_an_error_in_the_middle_is_the_last_line_of_a_stream_and_500_for_one_body(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        streamed = await bench.ask(agent("opus-01"), "[[n=5 fail=3]]")
        assert streamed.status == 200
        assert [line.get("response") for line in streamed.lines()] == ["w0 ", "w1 ", "w2 ", None]
        assert "error" in streamed.lines()[-1]
        single = await bench.ask(agent("opus-01"), "[[n=5 fail=3]]", stream=False)
        assert single.status == 500
        assert single.json() == {"error": streamed.lines()[-1]["error"]}
        totals = bench.gateway.statistics().totals
        assert (totals.answered, totals.failed) == (2, 0)


async def test_a_stream_that_ollama_ends_without_a_final_line_is_passed_as_it_is(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        fields: dict[str, Any] = {"options": {"temperature": 0}}
        streamed = await bench.ask(agent("opus-01"), "[[n=3 nofinal=1]]", **fields)
        assert [line["done"] for line in streamed.lines()] == [False, False, False]
        single = await bench.ask(agent("opus-01"), "[[n=3 nofinal=1]]", stream=False, **fields)
        assert single.json()["done"] is False
        assert single.json()["response"] == "w0 w1 w2 "
        assert bench.gateway.statistics().cache.stored == 0


async def test_characters_that_break_line_readers_arrive_escaped(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.ask(agent("opus-01"), "[[n=3 uni=1]]")
        assert answer.body.isascii()
        assert answer.text() == "é漢😀\u2028\u0085<&>" * 3


async def test_an_answer_larger_than_the_spool_goes_to_disk_and_then_to_an_error(tmp_path: Path, autojump_clock: Clock) -> None:
    limits = LimitsPolicy(spool_bytes=10_000, spool_disk_bytes=50_000)
    async with running(Double()) as double, life(tmp_path, double, limits=limits) as bench:
        on_disk = await bench.ask(agent("opus-01"), "[[n=300 delay=0.001]]")
        assert on_disk.text().count("w") == 300
        too_large = await bench.ask(agent("opus-01"), "[[n=3000 delay=0.001]]")
        assert "larger than" in too_large.lines()[-1]["error"]
        single = await bench.ask(agent("opus-01"), "[[n=3000 delay=0.001]]", stream=False)
        assert single.status == 507
        await wait_until(lambda: bench.gateway.statistics().spool.disk_bytes == 0)
        assert bench.gateway.statistics().spool.memory_bytes == 0
        assert double.statistics().lost_slots == 0


@pytest.mark.parametrize(
    ("path", "fields", "prompt", "allowed_s"),
    [
        ("/api/generate", {}, "[[n=5 hang=2]]", 120),
        ("/api/generate", {"stream": False}, "[[n=5 hang=2]]", 120),
        ("/v1/chat/completions", {"stream": True}, "[[n=5 hang=2]]", 120),
        ("/api/generate", {}, "[[n=5 hang=0]]", 180),
    ],
    ids=["between chunks", "between chunks, one body", "between events", "before the first byte"],
)
async def test_a_call_that_falls_silent_is_given_up_and_its_slot_is_the_next_ones(  # noqa: PLR0917
    tmp_path: Path, autojump_clock: Clock, path: str, fields: dict[str, Any], prompt: str, allowed_s: float
) -> None:
    """Ollama itself is well: a stream has the shorter patience, since who waits behind it has a deadline of 240 s."""
    async with running(Double()) as double, life(tmp_path, double, slots=1) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        async with trio.open_nursery() as nursery:
            silent, behind = Crowd(bench, nursery), Crowd(bench, nursery)
            began_at = trio.current_time()
            await silent.asks(agent("opus-01"), prompt, path=path, **fields)
            await behind.asks(agent("sonnet-01"), "[[n=1]]", headers={"X-AI-Deadline": "900"})
        (_, given_up), (_, served) = silent.answered[0], behind.answered[0]
        assert allowed_s <= given_up.at - began_at < allowed_s + 2
        assert f"silent for {allowed_s} s" in given_up.body.decode()
        assert not is_clean_success(path, given_up, is_stream=fields.get("stream", path == "/api/generate"))
        assert served.status == 200
        assert given_up.at - 1 < served.at < given_up.at + 3


async def test_headers_tell_id_attempt_cache_and_where_the_time_went(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double(options=DoubleOptions(load_s=3.0))) as double, life(tmp_path, double) as bench:
        answer = await bench.ask(
            agent("opus-01"), "[[n=3 first=1 delay=0.5]]", stream=False, options={"num_ctx": 512, "num_gpu": 0}, keep_alive=0
        )
        headers = answer.headers
        assert headers.get("X-Request-Id")
        assert headers.get("X-AI-Attempt") == "1"
        assert headers.get("Cache-Status") == "ai-supervisor; fwd=bypass"
        assert "num_ctx=512" in (headers.get("X-AI-Options") or "")
        timing = {
            name: float(rest.removeprefix("dur=")) / 1000
            for name, _, rest in (part.strip().partition(";") for part in (headers.get("Server-Timing") or "").split(","))
        }
        assert timing["queue"] == pytest.approx(0, abs=0.1)
        assert timing["load"] == pytest.approx(3, abs=0.1)
        assert timing["ttft"] == pytest.approx(1, abs=0.1)
        assert timing["total"] == pytest.approx(5, abs=0.6)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/generate", {"stream": True}),
        ("/api/generate", {"stream": False}),
        ("/api/chat", {"stream": True}),
        ("/api/chat", {"stream": False}),
        ("/api/embed", {}),
        ("/api/embeddings", {}),
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {"stream": True}),
        ("/v1/embeddings", {}),
        ("/v1/messages", {"max_tokens": 10}),
        ("/v1/messages", {"max_tokens": 10, "stream": True}),
    ],
)
async def test_answers_equal_those_of_ollama_itself(
    tmp_path: Path, autojump_clock: Clock, path: str, fields: dict[str, Any]
) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        ours = await bench.ask(agent("opus-01"), "[[n=3]]", path=path, **fields)
        body = json.loads(double_body(path, fields))
        direct = await ask_directly(double, body, path)
        assert ours.status == direct.status == 200
        assert ours.headers.get("Content-Type") == direct.headers.get("Content-Type")
        assert frames(path, ours, plain) == frames(path, direct, plain)


def double_body(path: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({"model": MODEL, **prompt_field(path, "[[n=3]]"), **fields}).encode()


def frames(path: str, answer: Answered, normal: Callable[[Any], Any]) -> list[Any]:
    """The answer as JSON values, a line or an event each, without what differs from call to call."""
    if (answer.headers.get("Content-Type") or "").startswith("text/event-stream"):
        events = []
        for event in answer.body.decode().split("\n\n"):
            name, _, data = event.rpartition("data: ")
            events.append((name, normal(json.loads(data)) if data.startswith("{") else data))
        return events
    if (answer.headers.get("Content-Type") or "").startswith("application/x-ndjson"):
        return [normal(line) for line in answer.lines()]
    return [normal(answer.json())]


def plain(value: Any) -> Any:
    varying = {"created_at", "created", "id", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items() if name not in varying}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


async def ask_directly(double: Double, body: dict[str, Any], path: str = "/api/generate") -> Answered:
    """The same question to the double itself."""
    client = OllamaClient("http://double", dial=double.dial)
    received = b""
    async with client.open("POST", path, body=json.dumps(body).encode()) as reply:
        while (chunk := await reply.next_chunk()) is not None:
            received += chunk
    await client.aclose()
    return Answered(reply.status, reply.headers, received, (), trio.current_time())


async def test_a_bug_in_a_slot_job_costs_its_request_and_nothing_else(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(OWNER, "[[n=1]]")
        with monkeypatch.context() as patched:
            patched.setattr("supervisord_ai.gateway.dispatch.pull", broken)
            answer = await bench.ask(agent("opus-01"), "[[n=1]]")
        assert answer.status == 500
        assert "internal error" in answer.json()["error"]
        assert "ZeroDivisionError" in caplog.text
        await served(bench)


async def served(bench: Bench) -> None:
    answers = [await bench.ask(agent("opus-01"), "[[n=1]]") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert bench.gateway.statistics().backends[0].busy == 0
