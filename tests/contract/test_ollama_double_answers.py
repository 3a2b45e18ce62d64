"""Answers the transcripts tell on a line, the faults a test can order, and what changed between releases."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from supervisord_ai.errors import PeerGone, UpstreamUnreachable
from supervisord_ai.ollama.transport import ByteStream
from tests.fakes.ollama_double import Ask, Double, DoubleOptions, ModelSpec, Script, running
from tests.fakes.ollama_double.gojson import BadBody, decode

from .double_bench import RECORDED_MODELS, ask, exchange, read_all, recorded_double
from .golden import parse_answers, without_times
from .golden.requests import chat, generate, http, openai, said

Clock = trio.abc.Clock


# --- embeddings (transcript k) -------------------------------------------------------------------------------------------

EMBEDS: list[tuple[object, int, str]] = [
    (
        ["a", "b c", ""],
        200,
        '{"model":"embed","embeddings":[[0.5306686,0.75809807,0.22742942,0.30323923],[0.47286624,0.78811044,0.23643312,'
        '0.31524417],[0.34815532,0.34815532,0.522233,0.69631064]],"total_duration":,"load_duration":,"prompt_eval_count":3}',
    ),
    ("", 200, '{"model":"embed","embeddings":[]}'),
    ([], 200, '{"model":"embed","embeddings":[]}'),
    (["ok", 5], 400, '{"error":"invalid input type"}'),
    (5, 400, '{"error":"invalid input type"}'),
    (None, 200, '{"model":"embed","embeddings":[]}'),
    (
        [""],
        200,
        '{"model":"embed","embeddings":[[0.34815532,0.34815532,0.522233,0.69631064]],"total_duration":,"load_duration":}',
    ),
    (
        "a" * 29,
        200,
        '{"model":"embed","embeddings":[[0.5962848,0.2981424,0.4472136,0.5962848]],"total_duration":,"load_duration":,'
        '"prompt_eval_count":1}',
    ),
]


@pytest.mark.parametrize(("given", "status", "text"), EMBEDS, ids=lambda value: str(value)[:20])
async def test_an_input_is_embedded_as_recorded(given: object, status: int, text: str, autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        raw = await exchange(double, http("POST", "/api/embed", {"model": "embed", "input": given}))
    (answer,) = parse_answers(raw)
    assert answer.status.split()[1] == str(status)
    assert without_times(answer.body.decode()) == text


@pytest.mark.parametrize(
    ("dimensions", "wanted"), [(2, [0.19611613, 0.9805807]), (0, [0.14002801, 0.70014006, 0.42008406, 0.56011206])]
)
async def test_dimensions_cut_the_vector_before_its_length_is_made_one(
    dimensions: int, wanted: list[float], autojump_clock: Clock
) -> None:
    async with running(recorded_double()) as double:
        body = {"model": "embed", "input": "d", "dimensions": dimensions}
        _, answer = await ask(double, "POST", "/api/embed", body)
    assert answer["embeddings"] == [wanted]


async def test_a_long_input_is_refused_only_when_it_may_not_be_cut(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        double.machine.vector = lambda _: [1.0]
        body = {"model": "embed", "input": "a " * 5000}
        assert (await ask(double, "POST", "/api/embed", {**body, "truncate": False})) == (
            400,
            {"error": "the input length exceeds the context length"},
        )
        assert (await ask(double, "POST", "/api/embed", body))[0] == 200


async def test_one_bad_input_fails_the_whole_list(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        body = {"model": "embed", "input": ["a", "[[status=500]]"]}
        assert (await ask(double, "POST", "/api/embed", body)) == (500, {"error": "fake embedding error"})


# --- images, formats, roles (transcripts k, l) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("_-8=", "illegal base64 data at input byte 0"),
        ("data:image/png;base64,AAAA", "illegal base64 data at input byte 4"),
        ("QQ", "illegal base64 data at input byte 0"),
        ("AA\nAA", None),
    ],
)
async def test_images_are_standard_base64(image: str, error: str | None, autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        body = {"model": "chat", "prompt": "[[n=1]]", "stream": False, "images": [image]}
        status, answer = await ask(double, "POST", "/api/generate", body)
    assert (status, answer.get("error")) == ((400, error) if error else (200, None))


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ("json", None),
        ("", None),
        (None, None),
        ({"type": "object"}, None),
        ("xml", 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
        (5, 'invalid format: "5"; expected "json" or a valid JSON Schema object'),
        ([], 'invalid format: "[]"; expected "json" or a valid JSON Schema object'),
    ],
)
async def test_a_format_is_json_or_a_schema(form: object, error: str | None, autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        body = {"model": "chat", "messages": said("[[n=1]]"), "stream": False, "format": form}
        status, answer = await ask(double, "POST", "/api/chat", body)
    assert (status, answer.get("error")) == ((500, error) if error else (200, None))


@pytest.mark.parametrize(("stream", "lines"), [(True, 2), (False, 0), (None, 2)])
async def test_an_absent_or_null_stream_is_a_stream(stream: bool | None, lines: int, autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        (answer,) = parse_answers(await exchange(double, chat("[[n=1]]", stream=stream)))
    assert answer.body.count(b"\n") == lines


@pytest.mark.parametrize(
    ("message", "status"), [({"role": "oracle", "content": "x"}, 200), ({"role": "user", "content": None}, 200)]
)
async def test_any_role_and_a_null_content_are_taken(message: dict[str, Any], status: int, autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        assert (await ask(double, "POST", "/api/chat", {"model": "chat", "messages": [message], "stream": False}))[0] == status


async def test_a_list_content_is_refused_with_the_path_of_the_field(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        body = {"model": "chat", "messages": [{"role": "user", "content": ["x"]}]}
        assert (await ask(double, "POST", "/api/chat", body)) == (
            400,
            {"error": "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"},
        )


async def test_get_with_a_body_leaves_the_connection_usable(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        raw = await exchange(double, http("GET", "/api/tags", {"x": 1}) + http("GET", "/api/version"))
    tags, version = parse_answers(raw)
    names = [model["name"] for model in json.loads(tags.body)["models"]]
    assert names == ["chat-alias:latest", "chat-sys:latest", "second:latest", "chat:latest", "embed:latest"]
    assert version.body == b'{"version":"0.0.0"}'


async def test_a_token_repeated_thirty_times_ends_a_stream_without_a_last_line(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        (answer,) = parse_answers(await exchange(double, generate("[[n=99 repeat=1]]")))
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["done"] for line in lines] == [False] * 31


async def test_thinking_tools_and_logprobs_come_where_the_model_has_them(autojump_clock: Clock) -> None:
    model = ModelSpec("thinker", capabilities=("completion", "thinking", "tools"))
    async with running(Double([model])) as double:
        body = {"model": "thinker", "messages": said("[[n=1 think=2 tool=1 logp=1]]"), "stream": False, "logprobs": True,
                "tools": [{"type": "function", "function": {"name": "get_weather"}}]}  # fmt: skip
        _, answer = await ask(double, "POST", "/api/chat", body)
        _, quiet = await ask(double, "POST", "/api/chat", {**body, "think": False})
    message = answer["message"]
    assert (message["thinking"], message["content"]) == ("t0 t1 ", "w0 ")
    assert message["tool_calls"][0]["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}
    assert [one["token"] for one in answer["logprobs"]] == ["w0 "]
    assert "thinking" not in quiet["message"]


async def receive_to_the_end(stream: ByteStream) -> None:
    while await stream.receive_some():
        pass


# --- faults a test can order ---------------------------------------------------------------------------------------------


async def test_a_dead_runner_fails_its_call_and_the_next_call_loads_it_again(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        body = {"model": "chat", "prompt": "[[n=9 fail=2 die=1]]", "stream": False}
        died = {"error": "an error was encountered while running the model: unexpected EOF"}
        assert (await ask(double, "POST", "/api/generate", body)) == (500, died)
        assert (await ask(double, "POST", "/api/generate", {**body, "prompt": "[[n=1]]"}))[0] == 200
        assert double.statistics().loads == {"chat:latest": 2}


async def test_an_answer_can_be_cut_at_every_byte(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        whole = await exchange(double, generate("[[n=2]]"))
        for at in (1, 15, 120, len(whole) // 2, len(whole) - 1):
            stream = await double.dial()
            await stream.send_all(generate(f"[[n=2 cut={at}]]"))
            received, is_closed = await read_all(stream)
            assert (len(received), is_closed) == (at, True)
        assert double.statistics().running == 0


async def test_an_answer_can_end_in_a_reset(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        stream = await double.dial()
        await stream.send_all(generate("[[n=2 reset=100]]"))
        with pytest.raises(PeerGone):
            await receive_to_the_end(stream)


async def test_a_hanging_model_says_nothing_more_and_holds_its_slot_until_its_caller_leaves(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        stream = await double.dial()
        await stream.send_all(openai("[[n=9 hang=2]]", stream=True))
        await read_all(stream)
        assert double.statistics().running == 1
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert double.statistics().running == 0


async def test_a_silent_start_accepts_and_answers_later(autojump_clock: Clock) -> None:
    async with running(recorded_double(silent_s=30.0)) as double:
        assert (await ask(double, "GET", "/"))[1] == "Ollama is running"
        assert trio.current_time() == pytest.approx(30)


async def test_a_hushed_server_answers_what_was_asked_when_it_speaks_again(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double:
        double.hush()
        stream = await double.dial()
        await stream.send_all(http("GET", "/"))
        assert (await read_all(stream))[0] == b""
        double.speak()
        assert b"Ollama is running" in (await read_all(stream))[0]


async def test_a_restart_drops_connections_and_what_was_loaded(autojump_clock: Clock) -> None:
    async with running(recorded_double()) as double, trio.open_nursery() as nursery:
        stream = await double.dial()
        await stream.send_all(generate("[[n=9 delay=1]]"))
        await stream.receive_some()
        double.restart()
        with pytest.raises(PeerGone):
            await receive_to_the_end(stream)
        assert double.statistics().loaded == ()
        double.is_refusing = True
        with pytest.raises(UpstreamUnreachable):
            await double.dial()
        nursery.cancel_scope.cancel()


async def test_a_test_can_say_what_each_caller_is_told(autojump_clock: Clock) -> None:
    def script(asked: Ask) -> Script | None:
        return Script(tokens=("one", "two"), first_s=3.0) if "please" in asked.prompt else None

    async with running(Double()) as double:
        double.script = script
        body = {"model": "tinyllama", "prompt": "please", "stream": False}
        assert (await ask(double, "POST", "/api/generate", body))[1]["response"] == "onetwo"
        other = {**body, "prompt": "else"}
        assert (await ask(double, "POST", "/api/generate", other))[1]["response"] == "w0 w1 w2 w3 w4 "


# --- releases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "status", "kind"),
    [("0.12.5", "200", "application/x-ndjson"), ("0.12.6", "500", "application/json")],
)
async def test_an_error_before_the_first_line_has_a_status_since_0_12_6(
    version: str, status: str, kind: str, autojump_clock: Clock
) -> None:
    async with running(Double(RECORDED_MODELS, DoubleOptions(version=version))) as double:
        (answer,) = parse_answers(await exchange(double, generate("[[status=500]]")))
    assert (answer.status.split()[1], dict(answer.headers)["content-type"]) == (status, kind)
    assert "error" in json.loads(answer.body)


@pytest.mark.parametrize(
    ("path", "last_without", "first_with"),
    [
        ("/v1/responses", "0.13.2", "0.13.3"),
        ("/v1/messages", "0.13.9", "0.14.0"),
        ("/v1/audio/transcriptions", "0.19.9", "0.20.0"),
    ],
)
async def test_a_route_is_there_since_its_release(
    path: str, last_without: str, first_with: str, autojump_clock: Clock
) -> None:
    for version, is_there in ((last_without, False), (first_with, True)):
        async with running(Double(RECORDED_MODELS, DoubleOptions(version=version))) as double:
            status, _ = await ask(double, "POST", path, {})
            assert (status != 404) == is_there


@pytest.mark.parametrize(("version", "loads"), [("0.29.0", 1), ("0.30.0", 2)])
async def test_shift_is_a_choice_of_the_load_since_0_30(version: str, loads: int, autojump_clock: Clock) -> None:
    async with running(Double(RECORDED_MODELS, DoubleOptions(version=version))) as double:
        for shift in (True, False):
            await ask(double, "POST", "/api/generate", {"model": "chat", "prompt": "x", "stream": False, "shift": shift})
        assert double.statistics().loads == {"chat:latest": loads}


# --- Go's reader ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"  \n", "missing request body"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b'"a\nb"', r"invalid character '\n' in string literal"),
        (b'"\\x"', "invalid character 'x' in string escape code"),
        (b'"\\u12g4"', r"invalid character 'g' in \u hexadecimal character escape"),
        (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
        (b"-x", "invalid character 'x' in numeric literal"),
        (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
        (b"1ex", "invalid character 'x' in exponent of numeric literal"),
        (b"'a'", r"invalid character '\'' looking for beginning of value"),
        (b"[", "unexpected EOF"),
        (b"[" * 10_002, "exceeded max depth"),
    ],
)
def test_a_syntax_error_has_the_words_of_go(body: bytes, text: str) -> None:
    with pytest.raises(BadBody) as caught:
        decode(body)
    assert str(caught.value) == text


def test_a_lone_surrogate_and_bad_utf8_become_the_replacement_character() -> None:
    assert decode(b'["\\ud800", "\\ud83d\\ude00", "\xff"]') == ["\ufffd", "\U0001f600", "\ufffd"]
