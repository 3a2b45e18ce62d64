"""What does a hit cost in each tier, beside diskcache and Redis?

    .venv/bin/python -m bench.cache_tiers [--rounds 3] [--gets 5000] [--json]

One get of a kept answer: from memory (L1), from the cache file (L2) and from a file of its own (L3), with what a hit does to it:
unpacking and checking it, and noting that it was read. Beside them diskcache (its default, and evicting by last use) and Redis on
a Unix socket through redis-py, with the same bytes under the same keys, drawn with the same seed, in turn, round by round. They
live in an environment of their own, made once from requirements/bench-cache.lock; redis-server is installed by apt where we are
root. Not compared: what each does beside a get. Ours runs in the gateway's process, and so does diskcache.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio
import trio.lowlevel

from bench.peers import program, venv_of
from bench.report import Figures, arguments, show
from bench.rig import wait_until_accepts
from supervisord_ai.core.cache_policy import Freshness, usable
from supervisord_ai.gateway.memory import Held, Memory
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.rows import Answer, Cached, CacheMeta

SEED = 20261127
ROOT = Path(__file__).parent.parent
SMALL, LARGE = (2_000, 20_000), (100_000, 500)  # bytes, how many
META = CacheMeta("m", "/api/embed", "shared", expires_wall=9e9)
PEERS = ("diskcache", "diskcache-lru", "redis")


def answer_of(key: bytes, body: bytes) -> Answer:
    return Answer(200, "text/plain", key + body, "raw", cut=False, finished_wall=0.0)


def timed(get: Callable[[bytes], object], keys: Sequence[bytes], gets: int) -> Figures:
    dice = random.Random(SEED)
    for key in keys[:200]:
        get(key)
    times = []
    began_cpu = time.process_time()
    for _ in range(gets):
        key = dice.choice(keys)
        began = time.perf_counter()
        found = get(key)
        times.append(time.perf_counter() - began)
        assert found is not None
    cpu_s = time.process_time() - began_cpu
    return {"get_us_p50": sorted(times)[len(times) // 2] * 1e6, "cpu_us": cpu_s / gets * 1e6}


class Ours:
    """The three tiers, filled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.memory = Memory(10**9, 10**9)
        self.keys = {size: [number.to_bytes(32, "big") for number in range(count)] for size, count in (SMALL, LARGE)}
        self._large_keys = [key[::-1] for key in self.keys[LARGE[0]]]

    async def fill(self) -> None:
        dice = random.Random(SEED)
        file = CacheFile(self._folder / "cache.db", 10**9, large_bytes=10**9, boot="bench")
        async with trio.open_nursery() as nursery:
            await nursery.start(file.run)
            small, large = dice.randbytes(SMALL[0]), dice.randbytes(LARGE[0])
            for number, key in enumerate(self.keys[SMALL[0]]):
                self.memory.put("opus-01", key, Held(answer_of(key, small), 9e9, 1.0))
                file.put(key, answer_of(key, small), META)
                if number % 100 == 0:
                    await trio.lowlevel.checkpoint()
            for key in self._large_keys:
                file.put(key, answer_of(key, large), META)
                while file.waiting_bytes > 20_000_000:  # noqa: ASYNC110 - the store has no event for a bench
                    await trio.sleep(0.001)
            while file.waiting_bytes:  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    def measure(self, gets: int) -> dict[str, Figures]:
        rule = Freshness()

        def from_memory(key: bytes) -> object:
            held = self.memory.get("opus-01", key)
            return held and usable(held.answer.finished_wall, held.expires_wall, 1.0, rule)

        file = CacheFile(self._folder / "cache.db", 10**9, large_bytes=10**9, boot="bench")
        try:
            def from_file(key: bytes) -> Cached | None:
                return file.get(key)

            return {
                "ours: L1, 2 KB": timed(from_memory, self.keys[SMALL[0]], gets),
                "ours: L2, 2 KB": timed(from_file, self.keys[SMALL[0]], gets),
                "ours: L3, 100 KB": timed(from_file, self._large_keys, gets),
            }
        finally:
            file.close()


def figures(rounds: int, gets: int) -> Figures:
    seen: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="ai-bench-tiers-") as name:
        folder = Path(name)
        python = str(venv_of("cache") / "bin" / "python")
        ours = Ours(folder)
        trio.run(ours.fill)
        where = folder / "redis.sock"
        binary = program("redis-server", "redis-server")
        command = [binary, "--port", "0", "--unixsocket", str(where), "--save", "", "--dir", name, "--daemonize", "no"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until_accepts(str(where))
            for number in range(rounds):
                for what, each in ours.measure(gets).items():
                    seen.setdefault(what, []).append(each)
                for peer in PEERS:
                    for size, count in (SMALL, LARGE):
                        room = folder / f"{peer}-{size}-{number}"
                        plan: dict[str, Any] = {"peer": peer, "folder": str(room), "socket": str(where), "size": size}
                        plan |= {"count": count, "gets": gets, "seed": SEED}
                        done = subprocess.run(
                            [python, str(ROOT / "bench" / "cache_peers.py"), json.dumps(plan)], check=True, stdout=subprocess.PIPE
                        )
                        seen.setdefault(f"{peer}, {size // 1000} KB", []).append(json.loads(done.stdout))
                        shutil.rmtree(room, ignore_errors=True)
        finally:
            server.terminate()
            server.wait(10)
    return {what: {key: round(statistics.median(one[key] for one in each), 2) for key in each[0]} for what, each in seen.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gets", type=int, default=5000)
    args = parser.parse_args(argv)
    found = figures(args.rounds, args.gets)
    rows = [(what, f"{one['get_us_p50']:.1f}", f"{one['cpu_us']:.1f}") for what, one in found.items()]
    show(found, args.json, f"one get, the median of {args.rounds} rounds of {args.gets}", ("", "us p50", "CPU us"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
