"""A bug anywhere in a slot job costs its request and nothing else: the slot comes free, the gateway lives."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.fakes.ollama_double import Double, running
from tests.shell.gateway_bench import OWNER, agent, life

Clock = trio.abc.Clock


@pytest.mark.parametrize(
    "place",
    [
        "supervisord_ai.gateway.dispatch.pull",
        "supervisord_ai.gateway.dispatch.load_request",
        "supervisord_ai.gateway.settle.Settle._keep",
        "supervisord_ai.gateway.settle.Settle._finish_row",
        "supervisord_ai.gateway.settle.kept_form",
        "supervisord_ai.gateway.backlog.Backlog.ended",
    ],
)
async def test_a_bug_in_a_slot_job_ends_with_it(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    broken_calls = 0

    def broken(*_: object, **__: object) -> None:
        nonlocal broken_calls
        broken_calls += 1
        if broken_calls == 1:
            raise ZeroDivisionError

    async with running(Double()) as double, life(tmp_path, double) as bench:
        if "load_request" not in place:
            await bench.ask(OWNER, "[[n=1]]")
        with monkeypatch.context() as patched:
            patched.setattr(place, broken)
            with trio.fail_after(60):
                answer = await bench.ask(agent("opus-01"), "[[n=1]]", stream=False)
        assert broken_calls >= 1
        assert "ZeroDivisionError" in caplog.text
        assert answer.status in {200, 500}
        assert [(await bench.ask(agent("opus-01"), "[[n=1]]")).status for _ in range(3)] == [200, 200, 200]
        assert bench.gateway.statistics().backends[0].busy == 0
