"""What does a call to Ollama cost that goes through us, beside nginx?

    .venv/bin/python -m bench.forward [--seconds 3] [--rounds 5] [--json]

The same small answer of a fixed upstream, on Unix sockets: direct, through nginx (proxy_pass, kept connections, one worker), and
through us with both durabilities. nginx hands on bytes. We journal the request, its claim and its answer, queue it, hand no more
than the slots to the upstream, always stream from it, and assemble the one body the caller asked for; "power" waits for the disk
before anything is acknowledged. With one connection: what is added to the time to the first byte. With 131: CPU a request.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.report import Figures, arguments, show
from bench.rig import Candidate, generate, proxy_to, rig

SLOTS = 2
LIMIT_RATIO = 130.0
"""Twice what was measured (docs/performance.md): beyond it something has gone wrong."""


def figures(seconds: float, rounds: int) -> Figures:
    request = generate("what is the capital of France?", stream=False)
    with rig() as running:
        upstream = running.start_upstream()
        running.candidates.append(Candidate("direct", upstream, ()))
        location, http = proxy_to(upstream)
        running.start_nginx("nginx", location, http=http)
        for durability in ("process", "power"):
            running.start_daemon(f"ours, {durability}", upstream, durability=durability, slots=SLOTS)
        requests = {candidate.name: request for candidate in running.candidates}
        crowd = running.compare(requests, connections=131, seconds=seconds, rounds=rounds)
        alone = running.compare(requests, connections=1, seconds=seconds, rounds=rounds)
    direct_ms = alone["direct"]["first_byte_ms_p50"]
    for name, each in alone.items():
        crowd[name]["one_connection_first_byte_ms"] = each["first_byte_ms_p50"]
        crowd[name]["added_first_byte_ms"] = round(each["first_byte_ms_p50"] - direct_ms, 3)
        crowd[name]["one_connection_cpu_us_per_request"] = each["cpu_us_per_request"]
    ratio = crowd["ours, process"]["cpu_us_per_request"] / crowd["nginx"]["cpu_us_per_request"]
    return {"slots": SLOTS, "candidates": crowd, "cpu_ratio_to_nginx": round(ratio, 1), "within_limit": ratio <= LIMIT_RATIO}


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    found = figures(args.seconds, args.rounds)
    rows = [
        (name, f"{each['cpu_us_per_request']:.1f}", f"{each['per_s']:.0f}", f"{each['own_utilisation']:.2f}",
         f"{each['one_connection_cpu_us_per_request']:.1f}", f"{each['added_first_byte_ms']:+.2f}", str(each["requests"]))
        for name, each in found["candidates"].items()
    ]  # fmt: skip
    heads = ("131 callers, 2 slots", "CPU us", "calls/s", "callers' CPU", "1 caller: CPU us", "added ms", "of requests")
    show(found, args.json, f"one forwarded call; CPU ratio to nginx {found['cpu_ratio_to_nginx']}", heads, rows)
    return 0 if found["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(main())
