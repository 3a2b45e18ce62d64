"""What does a look at 131 agents' groups cost, with descriptors that stay open and without?

    .venv/bin/python -m bench.groups [--groups 131] [--rounds 300] [--json]

Makes real groups (root, cgroup v1 or v2), reads memory and the OOM counter of each as the daemon does every second, and prints
the milliseconds of one look beside those of a look that opens every file anew, in one run. The groups are removed again.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.report import Figures, arguments, show
from supervisord_ai.host.cages import find_cages
from supervisord_ai.host.cgroup import Guarantee
from supervisord_ai.host.cgroup_v1 import V1Cage
from supervisord_ai.host.cgroup_v2 import V2Cage

MB = 1_000_000


def milliseconds(look: Callable[[], object], rounds: int) -> float:
    """The median of so many looks."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        look()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[rounds // 2] * 1000


def measure(groups: int, rounds: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        cages = find_cages(Path(folder))
        if cages.guarantee is Guarantee.SOFT_RLIMIT:
            sys.exit(f"no groups can be made here: {cages.detail}")
        made = [cages.cage(f"a{number:03}") for number in range(groups)]
        for cage in made:
            cage.prepare(64 * MB, "bench")

        def kept() -> None:
            for cage in made:
                assert isinstance(cage, V1Cage | V2Cage)
                cage.memory_bytes()
                cage.oom_kills()

        files = [
            (os.path.dirname(cage.join_files[0]) + "/" + name).encode()
            for cage in made
            for name in (("memory.current", "memory.events") if cages.guarantee is Guarantee.HARD else _V1)
        ]

        def anew() -> None:
            for file in files:
                fd = os.open(file, os.O_RDONLY)
                os.read(fd, 4096)
                os.close(fd)

        try:
            kept()
            return {
                "groups": groups,
                "form": str(cages.guarantee),
                "kept_ms": round(kept_ms := milliseconds(kept, rounds), 3),
                "anew_ms": round(anew_ms := milliseconds(anew, rounds), 3),
                "ratio": round(kept_ms / anew_ms, 2),
            }
        finally:
            cages.close()


_V1 = ("memory.usage_in_bytes", "memory.oom_control")


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--groups", type=int, default=131)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args(argv)
    found = measure(args.groups, args.rounds)
    rows = [("kept open", f"{found['kept_ms']:.3f}"), ("opened anew", f"{found['anew_ms']:.3f}")]
    show(found, args.json, f"one look at {args.groups} groups ({found['form']}), ms", ("", "ms"), rows)
    return 0 if found["kept_ms"] < 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
