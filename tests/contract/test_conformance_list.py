"""The 61 checks of what an agent may rely on in front of Ollama, and where each one is tested.

U: real Ollama behaves so too. G: a rule of the gateway. A check is found by its number: a test named `test_07_...`
(`test_03_04_...` is two), or a malformed request named `"09 ..."`. What has no test of that name says here why, or where it is.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from . import test_conformance_malformed as malformed

HERE = Path(__file__).parent

CHECKS: dict[int, str] = {
    1: "U  GET / is 200, exactly `Ollama is running`, text/plain; charset=utf-8, Content-Length 17",
    2: "U  HEAD of /, /api/tags, /api/version: the same headers, no body, the connection can be used again",
    3: "U  HEAD of /api/ps and /v1/models: 405 and Allow: GET",
    4: "U  GET /api/generate: 405 and Allow: POST; GET /nope: 404 `404 page not found`, text/plain",
    5: "U  GET /api/tags/: 301 to /api/tags; POST /api/chat/: 307 to /api/chat",
    6: "U  no models: /api/tags has `[]`, not null; /v1/models null or []",
    7: "U  a body in chunks of one byte: the answer of one with a Content-Length",
    8: "U  Expect: 100-continue: 100 before the body, then 200; unknown route: 404 without 100, close; `tea`: 417",
    9: "UG bad chunk size: 400 and close; Content-Length and Transfer-Encoding: never both forwarded",
    10: "U  two Content-Lengths: 400; TE gzip: 501; no Host: 400; a megabyte of headers: 431; each closes",
    11: "U  Content-Type text/plain or absent: parsed all the same",
    12: "U  empty body: 400 `missing request body`; truncated: 400 `unexpected EOF`",
    13: "U  junk after the JSON is ignored; `MODEL` is `model`; of duplicate keys the last wins",
    14: "G  policy applies to `Keep_Alive` and `OPTIONS` exactly as to lower case",
    15: "UG BOM, NaN, gzip: 400 `invalid character`; a lone surrogate is no 500",
    16: "U  stream as a string: 400 with the type error; unknown fields are ignored",
    17: "UG a 40 MB image: 200, memory bounded, others not slowed down",
    18: "U  images url-safe, unpadded or as data URI: 400 `illegal base64 data`; a newline inside is well",
    19: "U  HTTP/1.0: no chunks, ends with the connection; keep-alive with one body: Content-Length and stays open",
    20: "U  GET, GET, POST (stream), GET pipelined: four answers in order",
    21: "U  1000 requests on one connection; ten minutes of quiet, then another",
    22: "G  any Host on the agents' socket; Ollama sees an allowed Host, no Origin, no Authorization",
    23: "G  DELETE with a body: carried for the owner, 403 JSON for an agent",
    24: "U  the matrix of model names and errors, texts equal, for each endpoint",
    25: "UG each spelling of a model's name is served, echoed as asked, and is one cache key",
    26: "G  cloud models and web search are refused, nothing leaves the machine",
    27: "G  substitution says so in a header, is never cached, never where it lacks a capability",
    28: "U  generate and chat stream by default, /v1 does not",
    29: "UG one JSON object a line, each passed on within 50 ms, no blank line, done:true at the end",
    30: "G  characters split across segments and chunks arrive whole",
    31: "G  `<>&`, U+2028, U+0085, CR, NUL: every line reader can read them",
    32: "U  no header byte before the first byte of Ollama; its 500 before a token is a 500 in stream mode",
    33: "U  Ollama's error line in the middle is the last line, and the chunks end cleanly",
    34: "G  a reset in the middle ends as an error in the caller's face",
    35: "UG an end without done is passed on as it is, and not cached",
    36: "U  one body with an error in the middle: 500, no partial text",
    37: "U  OpenAI's stream ends finish, usage, [DONE]; Anthropic's ends message_stop",
    38: "U  load and unload are one JSON object, stream or not",
    39: "G  errors of the gateway are prose: not `123`, `null` or JSON",
    40: "G  131 agents on two slots: never more than two in flight, none lost, by priority then age",
    41: "G  a full queue: 503 or 429 in the caller's face, with Retry-After",
    42: "G  who leaves the queue is never seen by Ollama",
    43: "G  who leaves a stream: upstream closed within one chunk; 500 of them cost no slot",
    44: "G  a reader of one byte a second: Ollama finishes at full speed, the spool is bounded, every byte arrives",
    45: "G  two slow readers that leave: both slots there (real Ollama alone: none)",
    46: "G  who leaves during a load does not stop it; one load serves the others",
    47: "G  half-close: waits on a Unix socket, leaves on TCP; never hangs",
    48: "G  another num_ctx: pinned; no reload",
    49: "G  keep_alive of an agent neither pins nor evicts; its unload is answered and does nothing",
    50: "G  an unload under traffic: drain, unload, /api/ps empty of it, then load; in bounded time",
    51: "G  after CPU fallback and recovery size_vram is above 0 again, which needs an unload",
    52: "G  Ollama restarts: who waits, waits; who got no byte is retried once, who got one is not",
    53: "G  one temperature-0 request as stream and as one body: one call, both well formed",
    54: "G  no temperature: not cached; another format, think, image or num_ctx: another key",
    55: "G  ten identical in flight: one call; the leader leaves: nine complete; all leave: Ollama's call is closed",
    56: "G  a new model under an old name: no stale hit",
    57: "G  embeds of three agents in the window: one call, equal vectors, counts that add up; one too long: only that 400",
    58: "U  /v1/embeddings in base64 and float are equal; \"\" is one vector; [] is 400 `invalid input`",
    59: "G  a kept answer has no other agent's model string, id or time; a header says that it is kept",
    60: "G  the official clients over the agents' socket: as with Ollama itself, but for 31 and 34",
    61: "G  ollama-python's own tests against a recorded server pass through the gateway",
}

ELSEWHERE: dict[int, str] = {
    27: "tests/shell/test_gateway_stand_in.py",  # ours names the model that answered: nothing is substituted silently
    60: "tests/system/test_clients.py",
}
"""Tested in files of their own kind: levels, real sockets."""

NOT_HERE: dict[int, str] = {
    61: "not done: it holds the exact JSON that reaches Ollama; ours pins num_ctx and keep_alive and always asks for a stream",
}
"""Counted: a check that can be tested here leaves this list."""


def numbers_with_a_test() -> set[int]:
    """The numbers that are in the name of a test, or of a malformed request."""
    found = {int(case.name.partition(" ")[0]) for case in malformed.MALFORMED}
    for file in HERE.glob("test_conformance*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for part in node.name.split("_")[1:]:
                    if not part.isdecimal() or len(part) != 2:
                        break
                    found.add(int(part))
    return found


def test_there_are_sixty_one_checks() -> None:
    assert list(CHECKS) == list(range(1, 62))


@pytest.mark.parametrize("number", CHECKS, ids=lambda number: f"{number:02}")
def test_a_check_has_a_test_or_a_reason(number: int) -> None:
    places = [number in numbers_with_a_test(), number in ELSEWHERE, number in NOT_HERE]
    assert places.count(True) == 1, CHECKS[number]
    if number in ELSEWHERE:
        assert (HERE.parents[1] / ELSEWHERE[number]).exists()


def test_the_checks_without_a_test_are_counted() -> None:
    assert len(NOT_HERE) == 1
