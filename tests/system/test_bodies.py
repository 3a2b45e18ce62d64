"""The daemon's own memory under large bodies, as the kernel counted it: a small one of `python -m bench.bodies`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_six_bodies_of_40_mb_at_once_are_all_answered_within_the_bound_on_memory() -> None:
    words = ["--callers", "6", "--body-mb", "40", "--seconds", "240"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.bodies", *words], stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=300, check=False
    )
    told = json.loads(done.stdout)
    assert told["answered"] == 6, told
    assert told["peak_mb"] <= told["bound_mb"], told
    assert told["after_mb"] <= told["rest_mb"] + 30, told  # and it is given back to the system
    assert done.returncode == 0
