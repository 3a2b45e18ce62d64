"""The other side of `bench.queues`: so many producers before one queue that is not ours, in a process of its own.

    PYTHON bench/queue_peers.py '{"peer": "redis", "folder": "...", "socket": "...", "producers": 131, "seconds": 3}'

PYTHON is that of the environment with requirements/bench-queue.lock. Alone it needs nothing of this project. Producers are
threads, each of which puts the next job when its last one is acknowledged; `redis-asyncio` has tasks instead.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BODY = b"x" * 1000


def opened(plan: dict[str, Any]) -> Callable[[], object]:
    """Return how one job is put; called once a producer where a connection is not shared between threads."""
    peer, folder = plan["peer"], Path(plan["folder"])
    if peer == "redis":
        import redis  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

        client = redis.Redis(unix_socket_path=plan["socket"], max_connections=plan["producers"])
        return lambda: client.xadd("jobs", {"body": BODY})
    if peer.startswith("huey"):
        from huey.storage import SqliteStorage  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

        storage = SqliteStorage(filename=str(folder / "huey.db"), fsync=peer == "huey-fsync", timeout=60)
        return lambda: storage.enqueue(BODY)
    from persistqueue import SQLiteAckQueue  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    queue = SQLiteAckQueue(str(folder / "persist"), multithreading=True, auto_commit=True)
    return lambda: queue.put(BODY)


def with_threads(plan: dict[str, Any]) -> list[float]:
    put = opened(plan)
    waits_s: list[float] = []
    ready = threading.Barrier(plan["producers"] + 1)
    until = 0.0

    def produce() -> None:
        put()
        ready.wait()
        while (began := time.perf_counter()) < until:
            put()
            waits_s.append(time.perf_counter() - began)

    threads = [threading.Thread(target=produce) for _ in range(plan["producers"])]
    failed: list[object] = []

    def fail(args: Any) -> None:
        failed.append(args.exc_value)
        ready.abort()

    threading.excepthook = fail
    for thread in threads:
        thread.start()
    until = time.perf_counter() + 3600
    ready.wait()
    until = time.perf_counter() + plan["seconds"]
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"not a measurement: {failed[0]!r}")
    return waits_s


def with_tasks(plan: dict[str, Any]) -> list[float]:
    import redis.asyncio  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    waits_s: list[float] = []

    async def produce(client: Any, until: float) -> None:
        while (began := time.perf_counter()) < until:
            await client.xadd("jobs", {"body": BODY})
            waits_s.append(time.perf_counter() - began)

    async def main() -> None:
        client = redis.asyncio.Redis(unix_socket_path=plan["socket"], max_connections=plan["producers"])
        await asyncio.gather(*(client.xadd("jobs", {"body": BODY}) for _ in range(plan["producers"])))
        until = time.perf_counter() + plan["seconds"]
        await asyncio.gather(*(produce(client, until) for _ in range(plan["producers"])))
        await client.aclose()

    asyncio.run(main())
    return waits_s


def main(plan: dict[str, Any]) -> dict[str, float]:
    cpu_s = time.process_time()
    waits_s = sorted(with_tasks(plan) if plan["peer"] == "redis-asyncio" else with_threads(plan))
    return {
        "jobs": len(waits_s),
        "per_s": len(waits_s) / plan["seconds"],
        "client_cpu_s": time.process_time() - cpu_s,
        "ms_p50": waits_s[len(waits_s) // 2] * 1000,
        "ms_p99": waits_s[int(len(waits_s) * 0.99)] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
