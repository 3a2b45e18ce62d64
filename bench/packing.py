"""Does zstd pay for kept answers?

    .venv/bin/python -m bench.packing [--json]

What Ollama says, streamed and as vectors, packed at levels 1 to 3 and unpacked again: bytes, and CPU an entry. The words are
those of a text, drawn; the vectors are drawn on the unit sphere, in float32 as Ollama prints them. `stored` is what
store/packing.py makes of it: packed, where that is worth it.
"""

from __future__ import annotations

import json
import math
import random
import struct
import sys
import time
from collections.abc import Callable, Sequence

import zstandard

from bench.report import Figures, arguments, show
from supervisord_ai.store.packing import pack

SEED = 20261127
LEVELS = (1, 2, 3)
WORDS = __doc__.split() if __doc__ else []


def streamed(dice: random.Random, tokens: int) -> bytes:
    """A chat as it is kept: a line for each token, and the last with its counts."""
    lines = []
    for number in range(tokens):
        at = f"2026-11-27T18:20:{number * 0.02 % 60:09.6f}Z"
        message = {"role": "assistant", "content": " " + dice.choice(WORDS)}
        lines.append({"model": "llama3.2:3b", "created_at": at, "message": message, "done": False})
    end = {"model": "llama3.2:3b", "created_at": "2026-11-27T18:21:00Z", "message": {"role": "assistant", "content": ""}}
    lines.append({**end, "done": True, "done_reason": "stop", "total_duration": 2_000_000_000, "eval_count": tokens})
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def embedded(dice: random.Random, count: int, dimensions: int) -> bytes:
    """An embed as it is kept."""
    vectors = [vector(dice, dimensions) for _ in range(count)]
    made = {"model": "nomic-embed-text", "embeddings": vectors, "total_duration": 12_345_678}
    return json.dumps(made, separators=(",", ":")).encode() + b"\n"


def vector(dice: random.Random, dimensions: int) -> list[float]:
    drawn = [dice.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in drawn))
    return [_shortest(value / length) for value in drawn]


def _shortest(value: float) -> float:
    """The float with the fewest digits that is the same float32: what Go prints."""
    held = struct.unpack("f", struct.pack("f", value))[0]
    for digits in range(6, 10):
        short = float(f"{held:.{digits}g}")
        if struct.unpack("f", struct.pack("f", short))[0] == held:
            return short
    return float(held)


def cost_us(deed: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        deed()
    return (time.process_time() - began) / times * 1e6


def figures() -> Figures:
    dice = random.Random(SEED)
    answers = {f"chat of {tokens} tokens": streamed(dice, tokens) for tokens in (1, 5, 20, 100, 500, 4000)}
    sizes = ((1, 384), (1, 768), (1, 4096), (64, 768))
    answers |= {f"{count} x {size} numbers": embedded(dice, count, size) for count, size in sizes}
    found: Figures = {}
    for name, body in answers.items():
        times = max(5, 2_000_000 // len(body))
        one: Figures = {"bytes": len(body), "stored": len(pack(body)[1])}
        for level in LEVELS:
            packer, unpacker = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
            packed = packer.compress(body)
            one[f"level_{level}"] = {
                "bytes": len(packed),
                "pack_us": round(cost_us(lambda: packer.compress(body), times), 1),  # noqa: B023
                "unpack_us": round(cost_us(lambda: unpacker.decompress(packed), times), 1),  # noqa: B023
            }
        found[name] = one
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(__doc__).parse_args(argv)
    found = figures()
    rows = []
    for name, one in found.items():
        at = [one[f"level_{level}"] for level in LEVELS]
        cells = [f"{one['bytes'] / each['bytes']:.1f}x {each['pack_us']:.0f} us" for each in at]
        rows.append((name, str(one["bytes"]), str(one["stored"]), *cells, f"{one['level_1']['unpack_us']:.0f}"))
    heads = ("", "bytes", "stored", *(f"level {level}" for level in LEVELS), "unpack us")
    show(found, args.json, "zstd of kept answers: how many times smaller, and CPU to pack", heads, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
