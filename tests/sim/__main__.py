"""`python -m tests.sim SEED DAYS`: run it, print its figures or its story."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from tests.sim.plan import DAY_S, Fault, draw, smaller
from tests.sim.run import Figures, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("days", type=float, help="simulated days, as 14 or 0.05")
    parser.add_argument("--every", type=float, default=121.0, help="seconds between two faults, on average (default: 121)")
    parser.add_argument("--opus", type=int, default=36)
    parser.add_argument("--sonnet", type=int, default=95)
    parser.add_argument("--only", help="only these faults of the plan: their numbers, with commas")
    parser.add_argument("--shrink", action="store_true", help="leave out every fault that is not needed to break the promise")
    parser.add_argument("--story", type=int, default=40, help="so many lines of the story of a broken promise")
    parser.add_argument("--tell", action="store_true", help="the whole story, also of a run that went well")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a replay
        os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    span_s = args.days * DAY_S
    faults = draw(args.seed, span_s, args.every)
    if args.only is not None:
        wanted = {int(number) for number in args.only.split(",") if number}
        faults = tuple(fault for fault in faults if fault.number in wanted)

    def once(faults: tuple[Fault, ...]) -> Figures:
        return run(args.seed, faults, span_s, opus=args.opus, sonnet=args.sonnet)

    figures = once(faults)
    if figures.broken is not None and args.shrink:
        promise, parts = figures.broken.promise, 2
        while faults and parts <= 2 * len(faults):
            for fewer in smaller(faults, parts):
                tried = once(fewer)
                if tried.broken is not None and tried.broken.promise == promise:
                    figures, faults, parts = tried, fewer, max(parts - 1, 2)
                    print(f"{len(faults)} faults are enough", file=sys.stderr)
                    break
            else:
                parts *= 2
    if args.json:
        told = asdict(figures) | {"broken": None if figures.broken is None else str(figures.broken)}
        print(json.dumps(told))
    else:
        tell(figures, args.story)
        if args.tell:
            print("\n".join(figures.story))
    if figures.broken is not None and args.shrink:
        print(f"replay: scripts/sim {args.seed} {args.days:g} --only {','.join(str(fault.number) for fault in faults)}")
    return figures.broken is not None


def tell(figures: Figures, lines: int) -> None:
    """Print what a run came to."""
    counts = figures.counts
    days = figures.virtual_s / DAY_S
    print(f"seed {figures.seed}: {days:g} days in {figures.real_s:.0f} s, {figures.lives} lives of the daemon")
    print(
        f"  {counts.get('asked', 0)} asked, {counts.get('answered', 0)} answered, {counts.get('refused', 0)} refused,"
        f" {counts.get('failed', 0)} failed ({counts.get('harmed', 0)} of them by a fault put into their own answer),"
        f" {counts.get('cut off', 0)} cut off without a key, {counts.get('left', 0)} left"
    )
    print(f"  {counts.get('faults', 0)} faults, {counts.get('kills', 0)} of them kills")
    print(f"  {figures.calls} calls at the engine, never more than {figures.peak} at once")
    answered, failed = counts.get("answered", 0), counts.get("failed", 0) + counts.get("cut off", 0)
    ours = max(failed - counts.get("harmed", 0), 0)
    print(
        f"  of what was taken in {answered / max(answered + failed, 1):.3%} was answered,"
        f" {answered / max(answered + ours, 1):.3%} where no fault was put into the answer itself"
    )
    print(f"  answered after {figures.p50_s:.1f} s (p50), {figures.p95_s:.1f} s (p95)")
    for reason, times in figures.reasons.items():
        print(f"  {times:6} x {reason}")
    for bug in figures.bugs[:3]:
        print(bug)
    if figures.broken is not None:
        print(f"BROKEN {figures.broken.promise}: {figures.broken.what}")
        for line in figures.broken.story[-lines:]:
            print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
