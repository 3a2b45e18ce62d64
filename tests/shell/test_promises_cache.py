"""G9, the answers: only a whole plain answer of the model that was asked is ever kept, whatever goes wrong, in any face."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from supervisord_ai.errors import UpstreamCut, UpstreamUnreachable
from tests.fakes.ollama_double import Double, ModelSpec, running
from tests.shell.gateway_bench import MODEL, agent, life

PATHS = ("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions", "/v1/messages")
# How an answer fails to be one. `n` tokens would come; each of these lets fewer, or others, be the end.
FAULTS = st.one_of(
    st.integers(0, 4).map(lambda at: f"[[n=4 fail={at}]]"),  # an error, before the first token or in the middle
    st.integers(0, 4).map(lambda at: f"[[n=4 fail={at} die=1]]"),
    st.integers(1, 600).map(lambda at: f"[[n=40 cut={at}]]"),  # the connection ends in the middle
    st.integers(1, 600).map(lambda at: f"[[n=40 reset={at}]]"),
    st.integers(0, 4).map(lambda n: f"[[n={n} nofinal=1]]"),  # a clean end without the final frame
    st.sampled_from([400, 404, 429, 499, 500, 503]).map(lambda status: f"[[n=4 status={status}]]"),
    st.just("[[n=40 repeat=1]]"),  # Ollama gives up on a token that repeats
    st.integers(0, 2).map(lambda n: f"[[n={n} tool=1]]"),  # a call with effects and a random id
)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


async def ask(path: str, prompt: str, is_stream: bool) -> tuple[int, int, int]:
    """Ask twice; return how many were stored, found, and whole."""
    cold: dict[str, Any] = {"options": {"temperature": 0}} if path.startswith("/api/") else {"temperature": 0}
    if "tool=" in prompt and path in {"/api/chat", "/v1/chat/completions"}:
        cold["tools"] = TOOLS
    whole = 0
    with tempfile.TemporaryDirectory() as folder:
        double = Double([ModelSpec(MODEL)])
        async with running(double) as served, life(Path(folder), served) as bench:
            for name in ("opus-01", "opus-02"):
                try:
                    answer = await bench.ask(agent(name), prompt, path=path, stream=is_stream, **cold)
                except (UpstreamCut, UpstreamUnreachable):
                    continue
                whole += answer.status == 200 and b"error" not in answer.body
            view = bench.gateway.statistics().cache
            return view.stored, view.hits, whole


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PATHS), FAULTS, st.booleans())
@example("/v1/messages", "[[n=0 nofinal=1]]", False)  # the double said `end_turn` of it, where Ollama says nothing
@example("/v1/messages", "[[n=1 nofinal=1]]", False)
def test_what_is_no_whole_plain_answer_is_never_kept(path: str, prompt: str, is_stream: bool) -> None:
    is_tool_face = path in {"/api/chat", "/v1/chat/completions"}
    stored, hits, whole = trio.run(ask, path, prompt, is_stream, clock=MockClock(autojump_threshold=0))
    if ("tool=" in prompt and not is_tool_face) or ("cut=" in prompt or "reset=" in prompt or "repeat=" in prompt):
        assert stored <= whole  # a model without tools, or an answer shorter than the cut, is a plain one
    else:
        assert (stored, hits) == (0, 0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_whole_plain_answer_is_kept_in_every_face(path: str, is_stream: bool) -> None:
    assert trio.run(ask, path, "[[n=4]]", is_stream, clock=MockClock(autojump_threshold=0)) == (1, 1, 2)
