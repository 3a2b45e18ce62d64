"""What an agent may rely on of streams and their errors: checks 28 to 39."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.fakes.ollama_double import Double, DoubleOptions, Script

from .double_bench import RECORDED_MODELS, read_all
from .gateway_bench import JSON, Bench, agent, error_of, gateway_before, head_of, lines_of, status_of
from .golden import parse_answers
from .golden.requests import http, said

Clock = trio.abc.Clock

FACES: list[tuple[str, dict[str, Any], str]] = [
    ("/api/generate", {"model": "chat", "prompt": "[[n=2]]"}, "application/x-ndjson"),
    ("/api/chat", {"model": "chat", "messages": said("[[n=2]]")}, "application/x-ndjson"),
    ("/v1/chat/completions", {"model": "chat", "messages": said("[[n=2]]")}, "application/json"),
    ("/v1/completions", {"model": "chat", "prompt": "[[n=2]]"}, "application/json"),
    ("/v1/messages", {"model": "chat", "max_tokens": 99, "messages": said("[[n=2]]")}, "application/json"),
]


@pytest.mark.parametrize(("path", "body", "kind"), FACES, ids=[path for path, _, _ in FACES])
async def test_28_the_native_faces_stream_by_default_and_the_others_do_not(
    bench: Bench, autojump_clock: Clock, path: str, body: dict[str, Any], kind: str
) -> None:
    assert head_of(await bench.ask("POST", path, body), "content-type") == kind


async def test_29_each_line_is_one_object_and_is_passed_on_at_once(bench: Bench, autojump_clock: Clock) -> None:
    await bench.ask("POST", "/api/generate", {"model": "chat"})
    client = bench.connect()
    await client.send_all(http("POST", "/api/generate", {"model": "chat", "prompt": "[[n=4 delay=1]]"}))
    pieces: list[tuple[float, bytes]] = []
    while not any(b'"done":true' in piece for _, piece in pieces):
        piece = await client.receive_some()
        pieces.append((trio.current_time(), piece))
    came = [at for at, _ in pieces]
    assert [round(after - before, 3) for before, after in itertools.pairwise(came)][:3] == [1, 1, 1]
    (answer,) = parse_answers(b"".join(piece for _, piece in pieces) + (await read_all(client, quiet_s=1))[0])
    assert answer.chunks is not None
    for chunk in answer.chunks:
        assert chunk.endswith(b"\n")
        assert b"\n" not in chunk[:-1]
        assert isinstance(json.loads(chunk), dict)


async def test_30_characters_split_anywhere_arrive_whole(tmp_path: Path, autojump_clock: Clock) -> None:
    text = ("é漢", "😀", "👩‍👩‍👧", "ß")
    double = Double(RECORDED_MODELS, fragment_bytes=1)
    double.script = lambda _: Script(tokens=text, delay_s=0.0)
    async with gateway_before(double, tmp_path) as bench:
        for stream in (True, False):
            answer = await bench.ask("POST", "/api/generate", {"model": "chat", "prompt": "x", "stream": stream})
            assert "".join(line["response"] for line in lines_of(answer)) == "".join(text)
        body = {"model": "chat", "messages": said("x"), "stream": True}
        answer = await bench.ask("POST", "/v1/chat/completions", body)
        events = [json.loads(event[6:]) for event in answer.body.split(b"\n\n") if event.startswith(b"data: {")]
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "".join(text)


async def test_31_no_character_of_the_model_breaks_a_line_reader(tmp_path: Path, autojump_clock: Clock) -> None:
    """httpx's and Python's line readers split at U+0085, U+2028, VT, FF and the file separators; Ollama sends U+0085 raw."""
    said = "<>&\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r\n\x00é"
    double = Double(RECORDED_MODELS)
    double.script = lambda _: Script(tokens=(said,))
    async with gateway_before(double, tmp_path) as bench:
        answer = await bench.ask("POST", "/api/generate", {"model": "chat", "prompt": "x"})
    lines = [json.loads(line) for line in answer.body.decode().splitlines()]
    assert [line["response"] for line in lines] == [said, ""]


@pytest.mark.parametrize("stream", [True, False])
async def test_32_an_error_before_the_first_token_keeps_its_status(bench: Bench, autojump_clock: Clock, stream: bool) -> None:
    answer = await bench.ask("POST", "/api/generate", {"model": "chat", "prompt": "[[status=500]]", "stream": stream})
    assert status_of(answer) == 500
    assert (head_of(answer, "content-type") or "").startswith("application/json")
    assert "fake upstream error" in error_of(answer)


async def test_32_no_byte_is_sent_before_the_first_of_ollama(bench: Bench, autojump_clock: Clock) -> None:
    await bench.ask("POST", "/api/generate", {"model": "chat"})
    client = bench.connect()
    await client.send_all(http("POST", "/api/generate", {"model": "chat", "prompt": "[[n=1 first=5]]"}))
    began = trio.current_time()
    await client.receive_some()
    assert trio.current_time() - began == pytest.approx(5)


async def test_33_an_error_in_the_middle_is_the_last_line_of_a_clean_end(bench: Bench, autojump_clock: Clock) -> None:
    answer = await bench.ask("POST", "/api/chat", {"model": "chat", "messages": said("[[n=9 fail=3]]")})
    *tokens, last = lines_of(answer)
    assert [line["message"]["content"] for line in tokens] == ["w0 ", "w1 ", "w2 "]
    assert last == {"error": "llama-server chat error: map[message:fake mid error]"}


@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize(("path", "body"), [(path, body) for path, body, _ in FACES], ids=[path for path, _, _ in FACES])
async def test_34_a_cut_in_the_middle_ends_as_an_error_of_the_face(
    bench: Bench, autojump_clock: Clock, path: str, body: dict[str, Any], how: str
) -> None:
    text = json.dumps(body).replace("[[n=2]]", f"[[n=9 {how}=700]]")
    answer = await bench.ask("POST", path, {**json.loads(text), "stream": True})
    last = answer.body.strip().split(b"\n\n" if path.startswith("/v1") else b"\n")[-1]
    if path == "/v1/messages":
        event, _, last = last.partition(b"\n")
        assert event == b"event: error"
    told = json.loads(last.removeprefix(b"data: "))
    assert isinstance(told["error"]["message"] if path.startswith("/v1") else told["error"], str)
    assert b"[DONE]" not in answer.body
    assert b'"done":true' not in answer.body


async def test_34_a_cut_at_any_byte_is_never_a_clean_success(bench: Bench, autojump_clock: Clock) -> None:
    body = {"model": "chat", "prompt": "[[n=3]]"}
    whole = len(await _direct(bench, body))
    succeeded = []
    for at in range(1, whole):
        for stream in (True, False) if at % 5 == 0 else (True,):
            cut = {**body, "prompt": f"[[n=3 cut={at}]]", "stream": stream}
            answer = await bench.ask("POST", "/api/generate", cut)
            if status_of(answer) == 200 and b'"error"' not in answer.body:
                succeeded.append((at, stream))
    assert succeeded == []
    assert await bench.is_well()


async def _direct(bench: Bench, body: dict[str, Any]) -> bytes:
    stream = await bench.double.dial()
    await stream.send_all(http("POST", "/api/generate", body))
    answer, _ = await read_all(stream, quiet_s=1)
    await stream.aclose()
    return answer


@pytest.mark.parametrize("stream", [True, False])
async def test_35_a_stream_that_ends_without_its_last_line_is_passed_as_it_is(
    bench: Bench, autojump_clock: Clock, stream: bool
) -> None:
    body = {"model": "chat", "prompt": "[[n=3 nofinal=1]]", "stream": stream, "options": {"temperature": 0}}
    for _ in range(2):
        answer = await bench.ask("POST", "/api/generate", body)
        assert status_of(answer) == 200
        assert [line["done"] for line in lines_of(answer)] == ([False] * 3 if stream else [False])
    assert bench.double.statistics().calls["chat:latest"] == 2  # it was not kept


async def test_36_one_body_with_an_error_in_the_middle_is_an_error_without_text(bench: Bench, autojump_clock: Clock) -> None:
    body = {"model": "chat", "prompt": "[[n=9 fail=3]]", "stream": False}
    answer = await bench.ask("POST", "/api/generate", body)
    assert (status_of(answer), json.loads(answer.body).keys()) == (500, {"error"})


async def test_37_v1_streams_end_with_their_last_events(bench: Bench, autojump_clock: Clock) -> None:
    openai = {"model": "chat", "messages": said("[[n=2]]"), "stream": True, "stream_options": {"include_usage": True}}
    events = (await bench.ask("POST", "/v1/chat/completions", openai)).body.strip().split(b"\n\n")
    assert json.loads(events[-3][6:])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(events[-2][6:])["usage"]["completion_tokens"] == 2
    assert events[-1] == b"data: [DONE]"

    anthropic = {"model": "chat", "messages": said("[[n=2]]"), "stream": True, "max_tokens": 99}
    events = (await bench.ask("POST", "/v1/messages", anthropic)).body.strip().split(b"\n\n")
    assert [event.partition(b"\n")[0][7:].decode() for event in events] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip


@pytest.mark.parametrize("stream", [True, False, None])
async def test_38_a_load_and_an_unload_are_one_object(bench: Bench, autojump_clock: Clock, stream: bool | None) -> None:
    for more, reason in (({}, "load"), ({"keep_alive": 0}, "unload")):
        answer = await bench.ask("POST", "/api/generate", {"model": "chat", "stream": stream, **more})
        assert head_of(answer, "content-type") == JSON
        assert json.loads(answer.body)["done_reason"] == reason


async def test_39_an_error_of_the_gateway_is_prose_that_clients_can_read(tmp_path: Path, autojump_clock: Clock) -> None:
    """ollama-python reads an error's text as JSON if it is JSON, and fails on `123`, `null`, `"x"` and `[1]`."""
    double = Double(RECORDED_MODELS, DoubleOptions())
    async with gateway_before(double, tmp_path) as bench:
        texts = [
            error_of(await bench.ask("POST", "/api/pull", {"model": "x"}, caller=agent(1))),
            error_of(await bench.ask("POST", "/api/generate", {"model": "x:cloud"})),
            error_of(await bench.ask("POST", "/api/generate", {"model": "chat", "prompt": "[[cut=200]]", "stream": False})),
            error_of(await bench.ask("POST", "/api/generate", {"model": "nope", "prompt": "x"})),
        ]
    for text in texts:
        assert isinstance(text, str)
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(text)
