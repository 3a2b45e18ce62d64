"""The rehearsal, as anybody runs it: all levels and back, with real processes; the double stands in for the engine.

How busy this machine is does not matter: the rehearsal's level goes by its own queue alone, and its patience is minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.patient
def test_a_storm_climbs_all_levels_and_comes_back_with_every_promise_kept() -> None:
    words = ["--model", "llama3.2:3b", "--token-delay", "50ms", "--tokens", "12"]
    double = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.ollama_double", *words], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert double.stdout is not None
        url = double.stdout.readline().split()[-1]
        played = subprocess.run(
            [sys.executable, "-m", "supervisord_ai", "demo", "--storm", "--json", "--engine", url, "--model", "llama3.2:3b"],
            capture_output=True, text=True, timeout=420, cwd=ROOT, check=False,
        )  # fmt: skip
        told = json.loads(played.stdout)
        assert told["problems"] == [], told
        assert played.returncode == 0
        levels = [level for _, level in told["levels"]]
        assert [level for number, level in enumerate(levels) if level not in levels[:number]] == [1, 2, 3, 0]
        assert levels[-1] == 0
        assert told["turned_away"] > 0
    finally:
        double.terminate()
        double.wait(10)
        if double.stdout is not None:
            double.stdout.close()
