"""What an agent may rely on, check by check, in the numbers of the project's list of checks against Ollama: 1 to 26.

Malformed requests have a file of their own, so have streams (28 to 39), slots, leavers and the cache (40 to 59), unload and CPU
(50, 51), and what several callers share (55, 57). The whole list, and what has no test, is in `test_conformance_list.py`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import LimitsPolicy
from tests.fakes.ollama_double import Double

from .double_bench import read_all, recorded_double
from .gateway_bench import JSON, OWNER, TEXT, Bench, agent, error_of, gateway_before, head_of, lines_of, status_of
from .golden import Line, matrix, parse_answers, without_times
from .golden.requests import NOPE, http, in_chunks, said

Clock = trio.abc.Clock


# --- identity and metadata -----------------------------------------------------------------------------------------------


async def test_01_the_root_says_that_ollama_is_running(bench: Bench, autojump_clock: Clock) -> None:
    answer = await bench.ask("GET", "/")
    assert (status_of(answer), answer.body) == (200, b"Ollama is running")
    assert (head_of(answer, "content-type"), head_of(answer, "content-length")) == ("text/plain; charset=utf-8", "17")


async def test_02_head_gives_the_headers_of_get_and_keeps_the_connection(bench: Bench, autojump_clock: Clock) -> None:
    client = bench.connect()
    for path in ("/", "/api/tags", "/api/version"):
        seen = await bench.ask("GET", path)
        await client.send_all(http("HEAD", path))
        (head,) = parse_answers((await read_all(client, quiet_s=1))[0])
        assert (status_of(head), head.headers, head.body) == (200, seen.headers, b"")


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("HEAD /api/ps", (405, b"", "GET")),
        ("HEAD /v1/models", (405, b"", "GET")),
        ("GET /api/generate", (405, b"405 method not allowed", "POST")),
        ("GET /nope", (404, b"404 page not found", None)),
    ],
)
async def test_03_04_a_wrong_method_or_path_is_answered_by_the_router(
    bench: Bench, autojump_clock: Clock, asked: str, wanted: tuple[int, bytes, str | None]
) -> None:
    method, path = asked.split()
    answer = await bench.ask(method, path)
    assert (status_of(answer), answer.body, head_of(answer, "allow")) == wanted
    assert head_of(answer, "content-type") == TEXT


async def test_05_a_trailing_slash_is_redirected_so_that_a_post_keeps_its_body(bench: Bench, autojump_clock: Clock) -> None:
    get, post = await bench.ask("GET", "/api/tags/"), await bench.ask("POST", "/api/chat/", {"model": "chat"})
    assert (status_of(get), head_of(get, "location")) == (301, "/api/tags")
    assert (status_of(post), head_of(post, "location")) == (307, "/api/chat")


async def test_06_without_models_the_list_is_empty_and_not_null(tmp_path: Path, autojump_clock: Clock) -> None:
    async with gateway_before(Double([]), tmp_path) as bench:
        assert (await bench.ask("GET", "/api/tags")).body == b'{"models":[]}'
        assert json.loads((await bench.ask("GET", "/v1/models")).body)["data"] in (None, [])


# --- requests, well and ill formed ---------------------------------------------------------------------------------------


async def test_07_a_body_in_chunks_of_one_byte_is_a_body(bench: Bench, autojump_clock: Clock) -> None:
    body = {"model": "chat", "prompt": "[[n=2]]", "stream": False}
    (answer,) = parse_answers(await bench.exchange(in_chunks("/api/generate", body)))
    assert json.loads(answer.body)["response"] == "w0 w1 "


async def test_08_expect_continue_is_answered_before_the_body_and_not_for_an_unknown_route(
    bench: Bench, autojump_clock: Clock
) -> None:
    client = bench.connect()
    request = http("POST", "/api/show", {"model": "chat"}, ("Expect", "100-continue"))
    head, _, body = request.partition(b"\r\n\r\n")
    await client.send_all(head + b"\r\n\r\n")
    assert (await read_all(client, quiet_s=1))[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send_all(body)
    assert (await read_all(client, quiet_s=1))[0].startswith(b"HTTP/1.1 200 OK\r\n")

    stranger = bench.connect()
    await stranger.send_all(b"POST /nope HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    answer, is_closed = await read_all(stranger, quiet_s=1)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert is_closed

    assert status_of(await bench.ask("POST", "/api/show", NOPE, ("Expect", "tea"))) == 417


@pytest.mark.parametrize("headers", [(("Content-Type", "text/plain"),), ()])
async def test_11_the_content_type_is_not_looked_at(
    bench: Bench, autojump_clock: Clock, headers: tuple[tuple[str, str], ...]
) -> None:
    answer = await bench.ask("POST", "/api/show", {"model": "chat"}, *headers)
    assert status_of(answer) == 200


async def test_14_policy_applies_to_every_spelling(bench: Bench, autojump_clock: Clock) -> None:
    body = {"Model": "chat", "PROMPT": "[[n=1]]", "Stream": False, "Keep_Alive": 0, "OPTIONS": {"num_gpu": 0, "num_ctx": 99}}
    answer = await bench.ask("POST", "/api/generate", body, caller=agent(1))
    assert json.loads(answer.body)["response"] == "w0 "
    (runner,) = bench.double.machine.scheduler.loaded.values()  # still loaded: its keep_alive was not the agent's
    assert (runner.settings.num_gpu, runner.settings.num_ctx, runner.session_s) == (-1, 4096, 1800)
    told = head_of(answer, "x-ai-options") or ""
    assert all(name in told for name in ("keep_alive", "num_gpu", "num_ctx"))


async def test_15_a_lone_surrogate_is_a_character_like_any_other(bench: Bench, autojump_clock: Clock) -> None:
    request = b'{"model":"chat","prompt":"\\ud800 [[n=1]]","stream":false}'
    answer = await bench.ask("POST", "/api/generate", request)
    assert status_of(answer) == 200
    assert json.loads(answer.body)["context"][6] == 0xFFFD % 1000


async def test_16_unknown_fields_are_ignored(bench: Bench, autojump_clock: Clock) -> None:
    body = {"model": "chat", "prompt": "[[n=1]]", "stream": False, "x-unknown": [1], "options": {"nope": 1}}
    assert status_of(await bench.ask("POST", "/api/generate", body)) == 200


async def test_17_an_image_of_forty_megabytes_passes_and_one_beyond_the_limit_does_not(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with gateway_before(recorded_double(), tmp_path, limits=LimitsPolicy(body_bytes=42_000_000)) as bench:
        image = base64.b64encode(bytes(30_000_000)).decode()
        body = json.dumps({"model": "chat", "prompt": "[[n=1]]", "images": [image], "stream": False}).encode()
        assert len(body) > 40_000_000
        assert status_of(await bench.ask("POST", "/api/generate", body)) == 200
        assert status_of(await bench.ask("POST", "/api/generate", body + b" " * 3_000_000)) == 413
        assert await bench.is_well()


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("_-8=", "illegal base64 data at input byte 0"),
        ("data:image/png;base64,AAAA", "illegal base64 data at input byte 4"),
        ("QQ", "illegal base64 data at input byte 0"),
        ("AA\nAA", None),
    ],
)
async def test_18_images_are_standard_base64(bench: Bench, autojump_clock: Clock, image: str, error: str | None) -> None:
    body = {"model": "chat", "prompt": "[[n=1]]", "stream": False, "images": [image]}
    answer = await bench.ask("POST", "/api/generate", body)
    assert (status_of(answer), json.loads(answer.body).get("error")) == ((400, error) if error else (200, None))


async def test_19_http_1_0_gets_a_stream_that_ends_with_the_connection(bench: Bench, autojump_clock: Clock) -> None:
    body = {"model": "chat", "prompt": "[[n=2]]"}
    client = bench.connect()
    await client.send_all(http("POST", "/api/generate", body, version="1.0"))
    received, is_closed = await read_all(client)
    (answer,) = parse_answers(received)
    assert (answer.status, head_of(answer, "transfer-encoding"), is_closed) == ("HTTP/1.0 200 OK", None, True)
    assert lines_of(answer)[-1]["done"] is True

    kept = bench.connect()
    await kept.send_all(http("POST", "/api/generate", {**body, "stream": False}, ("Connection", "keep-alive"), version="1.0"))
    received, is_closed = await read_all(kept, quiet_s=10)
    (answer,) = parse_answers(received)
    assert head_of(answer, "content-length") == str(len(answer.body))
    assert not is_closed


async def test_20_pipelined_requests_are_answered_in_order(bench: Bench, autojump_clock: Clock) -> None:
    stream = http("POST", "/api/generate", {"model": "chat", "prompt": "[[n=1]]"})
    requests = http("GET", "/api/version") + http("GET", "/") + stream + http("GET", "/api/tags")
    version, root, generated, tags = parse_answers(await bench.exchange(requests))
    assert json.loads(version.body) == {"version": "0.0.0"}
    assert root.body == b"Ollama is running"
    assert lines_of(generated)[-1]["done"] is True
    assert "models" in json.loads(tags.body)


async def test_21_a_connection_serves_a_thousand_requests_and_survives_nearly_ten_minutes_of_quiet(
    bench: Bench, autojump_clock: Clock
) -> None:
    client = bench.connect()
    for _ in range(1000):
        await client.send_all(http("GET", "/"))
        received = b""
        while not received.endswith(b"Ollama is running"):
            received += await client.receive_some()
    await trio.sleep(599)
    await client.send_all(http("GET", "/"))
    assert (await client.receive_some()).endswith(b"Ollama is running")


async def test_22_any_host_is_accepted_and_nothing_of_the_caller_reaches_ollama(bench: Bench, autojump_clock: Clock) -> None:
    body = {"model": "chat", "prompt": "[[n=1]]", "stream": False}
    private = [("Host", "evil.example"), ("Origin", "http://evil.example"), ("Authorization", "Bearer mine"), ("Cookie", "c=1")]
    assert status_of(await bench.ask("POST", "/api/generate", body, *private)) == 200
    assert status_of(await bench.ask("GET", "/api/tags", None, *private)) == 200
    assert {head.headers.get("Host") for head in bench.double.heads} == {"127.0.0.1:11434"}
    for head in bench.double.heads:
        assert not {"origin", "authorization", "cookie"} & {name.lower() for name, _ in head.headers.items()}


ADMINISTRATION = [
    ("DELETE", "/api/delete", {"model": "second"}),
    ("POST", "/api/copy", {"source": "chat", "destination": "mine"}),
    ("POST", "/api/pull", {"model": "new", "stream": False}),
    ("POST", "/api/create", {"model": "mine", "from": "chat", "stream": False}),
]


@pytest.mark.parametrize(("method", "path", "body"), ADMINISTRATION, ids=[path for _, path, _ in ADMINISTRATION])
async def test_23_administration_is_the_owners(
    bench: Bench, autojump_clock: Clock, method: str, path: str, body: dict[str, Any]
) -> None:
    refused = await bench.ask(method, path, body, caller=agent(1))
    assert (status_of(refused), head_of(refused, "content-type")) == (403, JSON)
    assert error_of(refused)
    assert f"{method} {path}" not in bench.double.statistics().requests
    granted = await bench.ask(method, path, body)
    assert status_of(granted) == 200
    assert bench.double.statistics().requests[f"{method} {path}"] == 1


# --- models and errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", matrix(), ids=lambda line: f"{line.path} {line.request['model']!r}")
async def test_24_the_matrix_of_names_is_answered_as_by_ollama(bench: Bench, autojump_clock: Clock, line: Line) -> None:
    prompt = "[[n=1]]"
    body = {"model": line.request["model"], "prompt": prompt, "messages": said(prompt), "input": prompt, "stream": False}
    answer = await bench.ask("POST", line.path, body, caller=agent(1))
    assert (status_of(answer), head_of(answer, "content-type")) == (line.status, line.content_type)
    got, wanted = without_times(answer.body.decode()), without_times(line.beginning)
    if line.is_cut:
        assert got.startswith(wanted[: wanted.rindex(",")])
    else:
        assert json.loads(answer.body).keys() == json.loads(line.beginning).keys()
        assert got == wanted


@pytest.mark.parametrize("name", ["CHAT:LATEST", "registry.ollama.ai/library/chat:latest", "chat:local", "chat"])
async def test_25_a_model_is_served_under_each_of_its_names_and_echoed_as_asked(
    bench: Bench, autojump_clock: Clock, name: str
) -> None:
    answer = await bench.ask("POST", "/api/chat", {"model": name, "messages": said("[[n=1]]"), "stream": False})
    assert (status_of(answer), json.loads(answer.body)["model"]) == (200, name)
    assert bench.double.statistics().loads == {"chat:latest": 1}


CLOUDY: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", {"model": "x:cloud", "prompt": "x"}),
    ("/api/chat", {"model": "x:8b-cloud", "messages": said("x")}),
    ("/api/embed", {"model": "x:cloud", "input": "x"}),
    ("/v1/chat/completions", {"model": "x:cloud", "messages": said("x")}),
    ("/v1/responses", {"model": "chat", "input": "x", "tools": [{"type": "web_search"}]}),
    ("/v1/messages", {"model": "chat", "max_tokens": 9, "messages": said("x"),
                      "tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    ("/api/experimental/web_search", {"query": "x"}),
    ("/api/me", {}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), CLOUDY, ids=[f"{path} {body.get('model', '')}" for path, body in CLOUDY])
@pytest.mark.parametrize("caller", [OWNER, agent(1)], ids=["owner", "agent"])
async def test_26_what_would_leave_the_machine_is_refused(
    bench: Bench, autojump_clock: Clock, path: str, body: dict[str, Any], caller: Caller
) -> None:
    answer = await bench.ask("POST", path, body, caller=caller)
    assert status_of(answer) == 403
    assert f"POST {path}" not in bench.double.statistics().requests
