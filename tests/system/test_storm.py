"""The rehearsal, as anybody runs it: all levels and back, with real processes; the double stands in for the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def is_busy() -> bool:
    """Whether others keep every core busy: then the level is theirs, and does not come down with our storm."""
    return os.getloadavg()[0] > 2 * (os.cpu_count() or 1)


@pytest.mark.skipif(is_busy(), reason="this machine is busy with others, whose pressure a storm cannot end")
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
            capture_output=True, text=True, timeout=240, cwd=ROOT, check=False,
        )  # fmt: skip
        told = json.loads(played.stdout)
        if told["problems"] and is_busy():
            pytest.skip(f"this machine became busy with others: {told['problems']}")
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
