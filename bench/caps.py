"""Do the files of the cache stay within their caps at full size?

    .venv/bin/python -m bench.caps [--l2 1GB] [--l3 10GB] [--over 1.2] [--folder DIR] [--json]

Fills the real store with answers that do not pack until `--over` times both caps have been put, and looks at the disk all the
time: `cache.db` by its length, the large files by the blocks they take. Then opens it again and compares with the disk what it
says it holds, without a scan. Needs twice the caps' bytes of free disk before it starts; takes everything away again.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio
import trio.lowlevel

from bench.report import Figures, arguments, show
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.rows import Answer, CacheMeta

SEED = 20261127
META = CacheMeta("m", "/api/embed", "shared", expires_wall=9e9)
UNITS = {"GB": 10**9, "MB": 10**6}
SMALL, LARGE = (500, 20_000), (66_000, 4_000_000)
LOOK_EVERY = 200


def size_of(text: str) -> int:
    return int(float(text[:-2]) * UNITS[text[-2:]])


def on_disk(folder: Path) -> int:
    held = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # it went while we looked
            held += entry.stat().st_blocks * 512
    return held


async def fill(folder: Path, l2: int, l3: int, over: float) -> Figures:
    dice = random.Random(SEED)
    block = dice.randbytes(4_000_000)  # pieces of it do not pack, and cost no time to make
    worst = {"l2": 0, "l3": 0, "log": 0}
    put = {"l2": 0, "l3": 0}
    counts = {"l2": 0, "l3": 0}
    began = time.monotonic()
    cache = CacheFile(folder / "cache.db", l2, large_bytes=l3, boot="bench")
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        number = 0
        while put["l2"] < over * l2 or put["l3"] < over * l3:
            number += 1
            tier = "l2" if put["l2"] / l2 <= put["l3"] / l3 else "l3"
            size = dice.randrange(*(SMALL if tier == "l2" else LARGE))
            at = dice.randrange(len(block) - size)
            body = number.to_bytes(8, "big") + block[at : at + size]
            cache.put(number.to_bytes(32, "big"), Answer(200, "text/plain", body, "raw", cut=False, finished_wall=0.0), META)
            put[tier] += len(body)
            counts[tier] += 1
            while cache.waiting_bytes > 20_000_000:  # noqa: ASYNC110 - the store has no event for a bench
                await trio.sleep(0.001)
            if number % 20 == 0:
                await trio.lowlevel.checkpoint()
            if number % LOOK_EVERY == 0:
                worst["l2"] = max(worst["l2"], (folder / "cache.db").stat().st_size)
                worst["log"] = max(worst["log"], (folder / "cache.db-wal").stat().st_size)
                if number % (20 * LOOK_EVERY) == 0:
                    worst["l3"] = max(worst["l3"], await trio.to_thread.run_sync(on_disk, folder / "cache"))
        while cache.waiting_bytes:  # noqa: ASYNC110
            await trio.sleep(0.01)
        await trio.sleep(1)
        seen = cache.statistics()
        nursery.cancel_scope.cancel()
    spent_s = time.monotonic() - began
    worst["l2"] = max(worst["l2"], (folder / "cache.db").stat().st_size)
    files = on_disk(folder / "cache")
    worst["l3"] = max(worst["l3"], files)
    began = time.monotonic()
    again = CacheFile(folder / "cache.db", l2, large_bytes=l3, boot="bench")
    opened_ms = (time.monotonic() - began) * 1000
    told = again.statistics()
    again.close()
    return {
        "put": counts,
        "put_bytes": put,
        "most_on_disk": worst,
        "cap": {"l2": l2, "l3": l3},
        "l2_over_cap": round(worst["l2"] / l2 - 1, 4),
        "l3_over_cap": round(worst["l3"] / l3 - 1, 4),
        "l2_fill": round(told.bytes / l2, 4),
        "l3_fill": round(told.large.bytes / l3, 4),
        "evicted": {"l2": seen.evicted, "l3": seen.large.evicted},
        "faults": seen.faults + seen.large.faults,
        "l3_told_minus_disk_bytes": told.large.bytes - files,
        "opened_ms": round(opened_ms, 1),
        "seconds": round(spent_s, 1),
        "within_limit": worst["l2"] <= 1.01 * l2 and worst["l3"] <= 1.01 * l3 and told.large.bytes == files,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--l2", type=size_of, default=10**9)
    parser.add_argument("--l3", type=size_of, default=10**10)
    parser.add_argument("--over", type=float, default=1.2)
    parser.add_argument("--folder", type=Path, default=None, help="where the disk is (default: the usual temporary folder)")
    args = parser.parse_args(argv)
    free = shutil.disk_usage(args.folder or tempfile.gettempdir()).free
    if free < 2 * (args.l2 + args.l3):
        raise SystemExit(f"{free / 1e9:.0f} GB are free, and {2 * (args.l2 + args.l3) / 1e9:.0f} GB are wanted")
    with tempfile.TemporaryDirectory(prefix="ai-bench-caps-", dir=args.folder) as name:
        found = trio.run(fill, Path(name), args.l2, args.l3, args.over)
    rows = [
        (tier, f"{found['cap'][tier] / 1e6:,.0f}", f"{found['most_on_disk'][tier] / 1e6:,.1f}",
         f"{found[f'{tier}_over_cap']:+.2%}", f"{found[f'{tier}_fill']:.1%}", str(found["put"][tier]),
         str(found["evicted"][tier]))
        for tier in ("l2", "l3")
    ]  # fmt: skip
    title = f"caps of the cache, {args.over} times their bytes put; opened again in {found['opened_ms']} ms"
    show(found, args.json, title, ("", "cap MB", "most MB", "over", "filled", "put", "evicted"), rows)
    return 0 if found["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(main())
