"""Where does the daemon's time go? Runs it as it is, and looks at its stack a few hundred times a second of CPU.

    python -m bench.sampled OUT.json run --config ...      the words after OUT.json are the daemon's

It begins to look at SIGUSR2, so that the start is not in the picture. A sampler, not a tracer: what is called often is not made
slower than what is called seldom. The kernel's timer counts CPU, so waiting is not in it. Written when the daemon ends: for each
function the share of samples in it (`own`) and below it (`whole`).
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

EVERY_S = 0.002


class Sampler:
    """Counts where the main thread is."""

    def __init__(self) -> None:
        self.samples = 0
        self.own: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()

    def arm(self) -> None:
        signal.signal(signal.SIGPROF, self._look)
        signal.signal(signal.SIGUSR2, self._start)

    def _start(self, _signal: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        self.samples += 1
        seen = set()
        is_leaf = True
        while frame is not None:
            code = frame.f_code
            path = code.co_filename
            place = "/".join(Path(path).parts[-2:]) if "/" in path else path
            name = f"{place}:{code.co_qualname}"
            if is_leaf:
                self.own[name] += 1
                is_leaf = False
            seen.add(name)
            frame = frame.f_back
        self.whole.update(seen)

    def write(self, file: Path) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        counted = {
            "samples": self.samples,
            "own": {name: count / self.samples for name, count in self.own.most_common(60)},
            "whole": {name: count / self.samples for name, count in self.whole.most_common(150)},
        }
        file.write_text(json.dumps(counted, indent=1))


def main() -> int:
    out = Path(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    from supervisord_ai.cli.main import main as run  # noqa: PLC0415 - what its import costs is not asked

    sampler = Sampler()
    sampler.arm()
    try:
        return int(run() or 0)
    finally:
        if sampler.samples:
            sampler.write(out)


if __name__ == "__main__":
    sys.exit(main())
