"""The demo from end to end, killed in the middle: 131 agents, a real model, every promise of its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from supervisord_ai.engine.location import find

from .harness import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.patient,
    pytest.mark.skipif(find().model_file is None, reason="needs `ai-supervisor engine install`"),
]


def test_262_questions_are_answered_although_the_daemon_is_killed() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"ENGINE", "MODEL", "KILL"}}
    told = subprocess.run(
        [sys.executable, "-m", "supervisord_ai", "demo", "--kill", "--json"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    result = json.loads(told.stdout[told.stdout.index("\n{") :])
    assert (result["answered"], result["twice"], result["problems"]) == (262, 0, [])
    assert result["ledger"]["peak_in_flight"] == 2
    assert result["ledger"]["calls"] + result["hits"] == 262 + result["reruns"]
    assert result["hits"] > 0
