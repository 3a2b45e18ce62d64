"""Bodies in gzip: what was meant is what is asked, and a small bomb costs a small refusal."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from supervisord_ai.core.policies import LimitsPolicy
from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import MODEL, OWNER, agent, life

Clock = trio.abc.Clock
GZIP = {"Content-Encoding": "gzip"}
SMALL = replace(LimitsPolicy(), body_bytes=100_000)


def packed(path: str, prompt: str = "[[n=3]]", **fields: object) -> bytes:
    asked = {"messages": [{"role": "user", "content": prompt}]} if "chat" in path else {"prompt": prompt}
    return gzip.compress(json.dumps({"model": MODEL, **asked, **fields}).encode())


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/v1/chat/completions"])
async def test_a_body_in_gzip_is_asked_as_what_it_stands_for(path: str, tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.call(agent("opus-01"), "POST", path, packed(path, stream=False), GZIP)
        assert answer.status == 200
        assert b"w0 w1 w2" in answer.body
        assert answer.headers.get("Content-Encoding") is None


async def test_a_packed_and_a_plain_body_are_one_request_to_the_cache(tmp_path: Path, autojump_clock: Clock) -> None:
    options = {"temperature": 0}
    async with running(Double()) as double, life(tmp_path, double) as bench:
        await bench.ask(agent("opus-01"), options=options)
        path = "/api/generate"
        again = await bench.call(agent("opus-01"), "POST", path, packed(path, options=options), GZIP)
        assert again.headers.get("Cache-Status") == "ai-supervisor; hit"


async def test_a_bomb_is_refused_where_the_bound_is_reached(tmp_path: Path, autojump_clock: Clock) -> None:
    bomb = packed("/api/generate", "a" * 50_000_000)
    assert len(bomb) < SMALL.body_bytes
    async with running(Double()) as double, life(tmp_path, double, limits=SMALL) as bench:
        answer = await bench.call(agent("opus-01"), "POST", "/api/generate", bomb, GZIP)
        assert (answer.status, answer.json()["error"]) == (413, "http: request body too large")
        assert bench.gateway._ingest.held_bytes == 0
        assert double.statistics().peak_in_flight == 0


async def test_members_that_stand_for_nothing_are_bounded_too(tmp_path: Path, autojump_clock: Clock) -> None:
    nothing = gzip.compress(b"") * 10_000
    assert len(nothing) > SMALL.body_bytes
    async with running(Double()) as double, life(tmp_path, double, limits=SMALL) as bench:
        client = await bench.connect(agent("opus-01"))
        await client.send_all(
            b"POST /api/generate HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%b\r\n" % (len(nothing), nothing)
        )
        assert (await client.receive_some()).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("body", [b"", b'{"model": "m"}', packed("/api/generate")[:-3]], ids=["empty", "plain", "cut"])
async def test_what_is_no_gzip_although_it_says_so_is_a_400(body: bytes, tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.call(agent("opus-01"), "POST", "/api/generate", body, GZIP)
        assert answer.status == 400
        assert answer.json()["error"].startswith("gzip: ")


async def test_other_codings_are_read_as_ollama_reads_them(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.call(agent("opus-01"), "POST", "/api/generate", b"\x28\xb5\x2f\xfd", {"Content-Encoding": "zstd"})
        assert answer.status == 400
        assert answer.json()["error"].startswith("invalid character '('")


async def test_a_blob_of_the_owners_is_stored_as_it_comes(tmp_path: Path, autojump_clock: Clock) -> None:
    async with running(Double()) as double, life(tmp_path, double) as bench:
        answer = await bench.call(OWNER, "POST", "/api/blobs/sha256:00", b"\x1f\x8b not gzip", GZIP)
        assert "gzip" not in answer.body.decode()
