"""A year in parts: 14 days at full load and 351 mostly idle, cut into parts that run side by side, each from a seed of its own.

A part begins with an empty state folder, as a machine does on which the product was installed that day: half a day at full
load, then twelve and a half mostly idle, then rest. So a part is replayed alone (`--year SEED --part N`), in minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from tests.sim import plan
from tests.sim.plan import DAY_S, Span
from tests.sim.run import Figures

PARTS = 28
ROOT = Path(__file__).parent.parent.parent
LOOK_S = 0.5
TOLD_REASONS = 10
SUMMED = ("virtual_s", "busy_s", "real_s", "cpu_s", "calls", "lives", "strides", "looks", "busy_looks")


def seed_of(seed: int, part: int) -> int:
    """Return the seed of a part, counted from 0."""
    return seed * 1000 + part


def span_of(parts: int) -> Span:
    return plan.year(parts)


def as_json(figures: Figures) -> dict[str, Any]:
    """Return figures as a program reads them."""
    broken = figures.broken
    return {each.name: getattr(figures, each.name) for each in fields(figures)} | {
        "broken": None if broken is None else str(broken),
        "story": [] if broken is None else list(broken.story[-200:]),
    }


def live(seed: int, *, parts: int, jobs: int, out: Path | None) -> int:
    """Live through a year, so many parts at once; print each part's line and the sum. Returns 1 when a promise was broken."""
    began_at = time.monotonic()
    waiting = list(range(parts))
    running: dict[int, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
    done: dict[int, Mapping[str, Any]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            part = waiting.pop(0)
            kept = _kept(out, part)
            if kept is not None:
                done[part] = kept
                continue
            command = [sys.executable, "-m", "tests.sim", str(seed), "--year", "--parts", str(parts), "--part", str(part)]
            # Not a pipe: one that nobody reads before the end holds up who has a long story to tell.
            story = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed when its part is over
            running[part] = subprocess.Popen([*command, "--json"], cwd=ROOT, stdout=story), story
        for part, (child, said) in list(running.items()):
            if child.poll() is None:
                continue
            del running[part]
            with said:
                said.seek(0)
                text = said.read()
            figures = json.loads(text) if text else {"broken": f"the simulator ended with {child.returncode}", "story": []}
            done[part] = figures
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                (out / f"part-{part:03}.json").write_text(json.dumps(figures))
            _tell_part(part, figures)
        time.sleep(LOOK_S)
    whole = _sum(done.values())
    print(f"a year of seed {seed} in {parts} parts, {jobs} at once, each from a fresh state: {told_span(whole)}")
    print(f"  it took {(time.monotonic() - began_at) / 60:.1f} minutes here, {whole['cpu_s'] / 60:.1f} minutes of processor")
    for line in told(whole):
        print(f"  {line}")
    broken = {part: figures["broken"] for part, figures in done.items() if figures["broken"] is not None}
    for part, what in sorted(broken.items()):
        print(f"BROKEN in part {part}: {what}")
        print(f"  replay: scripts/sim {seed} --year --parts {parts} --part {part}")
    if not broken:
        print("  no invariant was broken")
    return bool(broken)


def _kept(out: Path | None, part: int) -> dict[str, Any] | None:
    path = out / f"part-{part:03}.json" if out is not None else None
    if path is None or not path.exists():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept if kept["broken"] is None else None


def _tell_part(part: int, figures: Mapping[str, Any]) -> None:
    if "counts" not in figures:
        print(f"part {part}: {figures['broken']}", flush=True)
        return
    counts = figures["counts"]
    print(
        f"part {part}: {counts.get('asked', 0)} requests, {counts.get('faults', 0)} faults, {figures['cpu_s']:.0f} s of processor"
        + (f"; BROKEN {figures['broken']}" if figures["broken"] else ""),
        flush=True,
    )


def _sum(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    counts, reasons, levels = Counter[str](), Counter[str](), Counter[str]()
    whole: dict[str, Any] = dict.fromkeys(SUMMED, 0)
    peak, p50, p95 = 0, [], []
    for figures in parts:
        if "counts" not in figures:
            continue
        counts.update(figures["counts"])
        reasons.update(figures["reasons"])
        levels.update(figures["levels"])
        for name in whole:
            whole[name] += figures[name]
        peak = max(peak, figures["peak"])
        p50.append(figures["p50_s"])
        p95.append(figures["p95_s"])
    middle = len(p50) // 2
    return whole | {
        "counts": dict(counts),
        "reasons": dict(reasons.most_common(TOLD_REASONS)),
        "levels": dict(levels),
        "peak": peak,
        "p50_s": sorted(p50)[middle] if p50 else 0.0,
        "p95_s": sorted(p95)[middle] if p95 else 0.0,
    }


def told_span(figures: Mapping[str, Any]) -> str:
    """Return in words how long it was, and how busy."""
    days, busy = figures["virtual_s"] / DAY_S, figures["busy_s"] / DAY_S
    share = figures["busy_looks"] / max(1, figures["looks"])
    idle = f" and {days - busy:g} mostly idle" if days > busy else ""
    return f"{busy:g} days at full load{idle}, {figures['lives']} lives of the daemon, slots busy {share:.0%} of its watched time"


def told(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a run came to, in lines."""
    counts = Counter(figures["counts"])
    yield (
        f"{counts['asked']} asked, {counts['answered']} answered, {counts['refused']} refused, {counts['failed']} failed"
        f" ({counts['harmed']} of them by a fault put into their own answer), {counts['cut off']} cut off, {counts['left']} left,"
        f" {counts['lies']} lies"
    )
    kinds = sum(name.startswith("fault: ") for name in counts)
    yield f"{counts['faults']} faults of {kinds} kinds, {counts['kills']} of them kills"
    yield f"{figures['calls']} calls at the engine, never more than {figures['peak']} at once"
    admitted = counts["answered"] + counts["failed"] + counts["cut off"] + counts["expired"]
    ours = max(counts["failed"] - counts["harmed"], 0) + counts["cut off"]
    yield (
        f"availability for admitted requests: {1 - ours / max(1, admitted):.3%}"
        f" ({ours} of {admitted} failed or were cut off with the engine well)"
    )
    yield (
        f"  with the engine's own faults in their answers: {1 - (ours + counts['harmed']) / max(1, admitted):.3%};"
        f" with {counts['expired']} whose deadline passed in the queue: {counts['answered'] / max(1, admitted):.3%}"
    )
    ended = {name.removeprefix("acknowledged: "): n for name, n in counts.items() if name.startswith("acknowledged: ")}
    yield (
        f"acknowledged requests: {counts['acknowledged']}, lost: {counts['acknowledged'] - sum(ended.values())}"
        f" ({', '.join(f'{n} {name}' for name, n in sorted(ended.items()))})"
    )
    yield f"answered after {figures['p50_s']:.1f} s (p50), {figures['p95_s']:.1f} s (p95)"
    yield "seconds at each level: " + ", ".join(f"{level}: {n}" for level, n in sorted(figures["levels"].items()))
    yield f"{figures['real_s']:.0f} s here, {figures['cpu_s']:.0f} s of processor, {figures['strides']} strides of idle time"
    for reason, times in figures["reasons"].items():
        yield f"{times:6} x {reason}"
