"""The other side of `bench.cache_tiers`: one cache that is not ours, filled and read in a process of its own.

    PYTHON bench/cache_peers.py '{"peer": "diskcache", "folder": "...", "size": 2000, "count": 1000, "gets": 5000, "seed": 1}'

PYTHON is that of the environment with requirements/bench-cache.lock. Alone it needs nothing of this project.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any


def opened(plan: dict[str, Any]) -> tuple[Callable[[bytes], Any], Callable[[bytes, bytes], Any]]:
    """Return how that cache is read and written."""
    if plan["peer"] == "redis":
        import redis  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

        client = redis.Redis(unix_socket_path=plan["socket"])
        return client.get, client.set
    import diskcache  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    policy = "least-recently-used" if plan["peer"] == "diskcache-lru" else "least-recently-stored"
    cache = diskcache.Cache(plan["folder"], eviction_policy=policy, size_limit=2**34)
    return cache.get, cache.set


def main(plan: dict[str, Any]) -> dict[str, float]:
    dice = random.Random(plan["seed"])
    get, put = opened(plan)
    keys = [number.to_bytes(32, "big") for number in range(plan["count"])]
    body = dice.randbytes(plan["size"])
    for key in keys:
        put(key, key + body)
    for key in keys[:200]:
        get(key)
    times = []
    began_cpu = time.process_time()
    for _ in range(plan["gets"]):
        key = dice.choice(keys)
        began = time.perf_counter()
        found = get(key)
        times.append(time.perf_counter() - began)
        assert len(found) == plan["size"] + 32
    cpu_s = time.process_time() - began_cpu
    return {"get_us_p50": sorted(times)[len(times) // 2] * 1e6, "cpu_us": cpu_s / plan["gets"] * 1e6}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
