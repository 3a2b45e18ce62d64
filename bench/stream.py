"""What does one line of a streamed answer cost on its way through us, beside nginx?

    .venv/bin/python -m bench.stream [--connections 8] [--lines 200] [--gap 0.005] [--seconds 4] [--rounds 5] [--json]

Answers of 200 lines, 5 ms apart (a small model on a GPU), on as many slots as there are callers, so that nobody waits. nginx
hands on bytes with proxy_buffering off. We check each line, write it anew in ASCII (U+0085 breaks clients' line readers), keep it
for who reads slowly, and know at each moment whether its reader is still there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.report import Figures, arguments, show
from bench.rig import Candidate, generate, proxy_to, rig

LIMIT_RATIO = 40.0
"""Twice what was measured (docs/performance.md): beyond it something has gone wrong."""


def figures(connections: int, lines: int, gap_s: float, seconds: float, rounds: int) -> Figures:
    request = generate(f"[[n={lines} gap={gap_s}]]")
    with rig() as running:
        upstream = running.start_upstream()
        running.candidates.append(Candidate("direct", upstream, ()))
        location, http = proxy_to(upstream)
        running.start_nginx("nginx", location, http=http)
        running.start_daemon("ours", upstream, slots=connections)
        requests = {candidate.name: request for candidate in running.candidates}
        found = running.compare(requests, connections=connections, seconds=seconds, rounds=rounds)
    ratio = found["ours"]["cpu_us_per_line"] / found["nginx"]["cpu_us_per_line"]
    return {
        "connections": connections,
        "lines": lines,
        "gap_s": gap_s,
        "candidates": found,
        "cpu_ratio_to_nginx": round(ratio, 1),
        "within_limit": ratio <= LIMIT_RATIO,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--gap", type=float, default=0.005)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    found = figures(args.connections, args.lines, args.gap, args.seconds, args.rounds)
    rows = [
        (name, f"{each['cpu_us_per_line']:.1f}", f"{each['first_byte_ms_p50']:.2f}", f"{each['whole_ms_p50']:.0f}",
         f"{each['server_utilisation']:.2f}", f"{each['own_utilisation']:.2f}", str(each["requests"]))
        for name, each in found["candidates"].items()
    ]  # fmt: skip
    heads = ("", "CPU us a line", "first byte ms", "whole ms", "its CPU", "callers' CPU", "of requests")
    title = f"{args.connections} streams of {args.lines} lines; CPU ratio to nginx {found['cpu_ratio_to_nginx']}"
    show(found, args.json, title, heads, rows)
    return 0 if found["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(main())
