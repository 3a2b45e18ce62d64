"""A process that keeps large and small answers in a cache until it is killed, and says when it has begun each.

Run as `python -m tests.system.cache_putter FOLDER ROUND`. Each line of stdout is the number of an answer whose put has begun.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from pathlib import Path

import trio

from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.rows import Answer, CacheMeta

L2_CAP, L3_CAP = 4_000_000, 6_000_000
META = CacheMeta("m", "/api/embed", "shared", expires_wall=9e9)


def body_of(name: str) -> bytes:
    """The one body that belongs to a name: it does not pack, and is large for two names of three."""
    dice = random.Random(name)
    return dice.randbytes(dice.choice([2_000, 70_000, 400_000]))


def key_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


async def main(folder: Path, round_name: str) -> None:
    cache = CacheFile(folder / "cache.db", L2_CAP, large_bytes=L3_CAP, boot="one")
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        for number in range(1_000_000):
            name = f"{round_name}-{number}"
            cache.put(key_of(name), Answer(200, "text/plain", body_of(name), "raw", cut=False, finished_wall=0.0), META)
            cache.get(key_of(f"{round_name}-{number // 2}"))
            os.write(1, f"{name}\n".encode())
            await trio.sleep(0.001)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
