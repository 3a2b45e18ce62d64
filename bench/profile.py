"""What does each path through the daemon spend its time on?

    .venv/bin/python -m bench.profile [--seconds 8] [--top 12] [--json]

A cached hit, a forwarded call and a streamed answer, each before a daemon of its own under `bench/sampled.py`: the functions in
which most samples were (`own`), and those below which most were (`whole`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.report import Figures, arguments, show
from bench.rig import call, generate, rig

PATHS: dict[str, bytes] = {
    "cached hit": generate("what is the capital of France?", stream=False, options={"temperature": 0}),
    "forward": generate("what is the capital of France?", stream=False),
    "stream": generate("[[n=200 gap=0.005]]"),
}


def profile(name: str, request: bytes, seconds: float) -> Figures:
    """One path's samples."""
    with rig() as running:
        out = Path(running.folder / "profile.json")
        candidate = running.start_daemon(name, running.start_upstream(), durability="process", slots=16, sampled=out)
        call(candidate, request, connections=16, seconds=0.5)
        os.kill(candidate.pids[0], signal.SIGUSR2)
        window = call(candidate, request, connections=16, seconds=seconds)
        running.end()
        found: Figures = json.loads(out.read_text())
        return found | {"cpu_us_per_request": window["cpu_us_per_request"], "requests": window["requests"]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--top", type=int, default=12)
    args = parser.parse_args(argv)
    found = {name: profile(name, request, args.seconds) for name, request in PATHS.items()}
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for name, each in found.items():
        for kind in ("own", "whole"):
            places = list(each[kind].items())[: args.top if kind == "own" else 4 * args.top]
            rows = [(place, f"{share * 100:.1f}") for place, share in places]
            show(each, False, f"{name}: {each['samples']} samples, {kind} time", ("function", "%"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
