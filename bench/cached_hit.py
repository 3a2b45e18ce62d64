"""What does an answer from the cache cost, beside nginx?

    .venv/bin/python -m bench.cached_hit [--connections 131] [--seconds 3] [--rounds 5] [--json]

One deterministic question, asked again and again on Unix sockets. Ours is found in L1 under the key of everything that the
answer depends on, and replayed with the caller's own id, model name and time. nginx twice: as a cache of POST answers under the
key of the whole body, and saying one fixed text, which is the least an HTTP server can do. One nginx worker, one process of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.report import Figures, arguments, show
from bench.rig import BUFFERED, generate, proxy_to, rig

LIMIT_RATIO = 50.0
"""Twice what was measured (docs/performance.md): beyond it something has gone wrong. nginx compares bytes; we compare meaning."""


def figures(connections: int, seconds: float, rounds: int) -> Figures:
    request = generate("what is the capital of France?", stream=False, options={"temperature": 0})
    with rig() as running:
        upstream = running.start_upstream()
        proxy, http = proxy_to(upstream, buffering=BUFFERED)
        running.start_nginx("nginx fixed text", "default_type application/json; return 200 '{\"response\":\"Paris\"}';")
        cached = f"proxy_cache_path {running.folder}/cache keys_zone=answers:1m;"
        by_body = "proxy_cache answers; proxy_cache_methods POST; proxy_cache_key $request_body; proxy_cache_valid 200 1h;"
        running.start_nginx("nginx proxy_cache", f"{proxy} {by_body}", http=f"{http} {cached}")
        running.start_daemon("ai-supervisor", upstream)
        names = [candidate.name for candidate in running.candidates]
        found = running.compare(dict.fromkeys(names, request), connections=connections, seconds=seconds, rounds=rounds)
    ours, theirs = found["ai-supervisor"], found["nginx proxy_cache"]
    return {
        "connections": connections,
        "candidates": found,
        "cpu_ratio_to_nginx_cache": round(ours["cpu_us_per_request"] / theirs["cpu_us_per_request"], 2),
        "within_limit": ours["cpu_us_per_request"] <= LIMIT_RATIO * theirs["cpu_us_per_request"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--connections", type=int, default=131)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    found = figures(args.connections, args.seconds, args.rounds)
    rows = [
        (name, f"{each['cpu_us_per_request']:.1f}", f"{each['per_s']:.0f}", f"{each['whole_ms_p50']:.2f}",
         f"{each['own_utilisation']:.2f}", str(each["requests"]))
        for name, each in found["candidates"].items()
    ]  # fmt: skip
    title = f"one cached answer, {args.connections} connections; CPU ratio to nginx's cache {found['cpu_ratio_to_nginx_cache']}"
    show(found, args.json, title, ("", "CPU us", "answers/s", "p50 ms", "callers' CPU", "of requests"), rows)
    return 0 if found["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(main())
