"""What agents ask and models answer is theirs: not in the log, at any level, and not in the journal of events."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from supervisord_ai.clock import VirtualClock
from supervisord_ai.control.chronicle import Chronicle
from tests.fakes.event_journal import FakeEventJournal
from tests.fakes.ollama_double import Double, DoubleOptions, Script, running
from tests.shell.gateway_bench import agent, life, wait_until

PROMPT, ANSWER = "my-secret-prompt-17", "my-secret-answer-18"


async def test_neither_a_prompt_nor_an_answer_is_logged_or_noted_however_a_request_ends(
    tmp_path: Path, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    journal = FakeEventJournal()
    double = Double(options=DoubleOptions(first_token_s=0.0, token_delay_s=0.001))
    double.script = lambda _ask: Script(tokens=(ANSWER,))
    async with running(double), life(tmp_path, double) as bench:
        chronicle = Chronicle(journal, VirtualClock())
        told = await bench.ask(agent("opus-01"), PROMPT)
        assert ANSWER.encode() in told.body
        double.script = lambda _ask: Script(tokens=(ANSWER, ANSWER), cut_at_byte=150)
        await bench.ask(agent("opus-02"), PROMPT)
        await bench.call(agent("opus-01"), "POST", "/api/generate", f'{{"model": 1, "prompt": "{PROMPT}"'.encode())
        await bench.call(agent("opus-01"), "POST", "/api/delete", f'{{"model": "{PROMPT}"}}'.encode())
        await wait_until(lambda: len(bench.events) > 2)
        for event in bench.events:
            chronicle.tell(event)
    said = caplog.text + repr(journal.rows)
    assert "opus-01" in said
    assert PROMPT not in said
    assert ANSWER not in said
    assert trio.current_time() > 0
