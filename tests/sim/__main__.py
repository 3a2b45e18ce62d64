"""`python -m tests.sim SEED DAYS` or `--year SEED`: run it, print its figures or its story."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from tests.sim import year
from tests.sim.plan import DAY_S, Fault, Span, draw, smaller
from tests.sim.run import Figures, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/sim", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("days", type=float, nargs="?", help="simulated days at full load, as 14 or 0.05")
    parser.add_argument("--idle", type=float, default=0.0, metavar="DAYS", help="and so many mostly idle after them")
    parser.add_argument("--year", action="store_true", help="14 days at full load and 351 mostly idle, in parts side by side")
    parser.add_argument("--parts", type=int, default=year.PARTS, help=f"of a year (default: {year.PARTS})")
    parser.add_argument("--part", type=int, help="only this part of the year: replays it")
    parser.add_argument("--jobs", type=int, default=2, help="parts of a year at once (default: 2)")
    parser.add_argument("--out", type=Path, help="a folder for the figures of each part; parts that are there are not run again")
    parser.add_argument("--every", type=float, default=121.0, help="seconds between two faults, on average (default: 121)")
    parser.add_argument("--opus", type=int, default=36)
    parser.add_argument("--sonnet", type=int, default=95)
    parser.add_argument("--only", help="only these faults of the plan: their numbers, with commas")
    parser.add_argument("--shrink", action="store_true", help="leave out every fault that is not needed to break the promise")
    parser.add_argument("--story", type=int, default=40, help="so many lines of the story of a broken promise")
    parser.add_argument("--tell", action="store_true", help="the whole story, also of a run that went well")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.year and args.part is None:
        return year.live(args.seed, parts=args.parts, jobs=args.jobs, out=args.out)
    if args.days is None and not args.year:
        parser.error("how many DAYS?")
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a replay
        os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    if args.year:
        seed, span = year.seed_of(args.seed, args.part), year.span_of(args.parts)
    else:
        seed, span = args.seed, Span(args.days * DAY_S, args.idle * DAY_S, args.every)
    return one_run(args, seed, span)


def one_run(args: argparse.Namespace, seed: int, span: Span) -> int:
    """Run it once, or as often as it takes to find the faults that are needed."""
    faults = draw(seed, span)
    if args.only is not None:
        wanted = {int(number) for number in args.only.split(",") if number}
        faults = tuple(fault for fault in faults if fault.number in wanted)

    def once(faults: tuple[Fault, ...]) -> Figures:
        return run(seed, faults, span, opus=args.opus, sonnet=args.sonnet)

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
        print(json.dumps(year.as_json(figures)))
    else:
        tell(figures, args.story)
        if args.tell:
            print("\n".join(figures.story))
    if figures.broken is not None and args.shrink:
        again = " ".join(arg for arg in sys.argv[1:] if arg != "--shrink")
        print(f"replay: scripts/sim {again} --only {','.join(str(fault.number) for fault in faults)}")
    return figures.broken is not None


def tell(figures: Figures, lines: int) -> None:
    """Print what a run came to."""
    told = year.as_json(figures)
    print(f"seed {figures.seed}: " + year.told_span(told))
    for line in year.told(told):
        print(f"  {line}")
    for bug in figures.bugs[:3]:
        print(bug)
    if figures.broken is not None:
        print(f"BROKEN {figures.broken.promise}: {figures.broken.what}")
        for line in figures.broken.story[-lines:]:
            print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
