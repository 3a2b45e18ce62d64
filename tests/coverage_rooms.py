"""Prints a coverage report room by room: `python -m tests.coverage_rooms REPORT.json [--all]`; scripts/coverage calls it.

Exits with 1 where a room is below its bar: core and wire must be complete, and say which lines are missing. With `--all`, when
the tests of a real daemon ran too, nine in ten of the statements and branches of any other room must be reached.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COMPLETE = frozenset({"core", "wire"})
OTHERS = 0.9


def main(report: str, *, with_others: bool = False) -> int:
    """Print the table; return the exit code."""
    files: dict[str, Any] = json.loads(Path(report).read_text())["files"]
    rooms: dict[str, list[int]] = {}
    wanting: list[str] = []
    for path, told in sorted(files.items()):
        room = room_of(path)
        summary = told["summary"]
        sums = rooms.setdefault(room, [0, 0, 0, 0])
        for index, key in enumerate(("num_statements", "missing_lines", "num_branches", "missing_branches")):
            sums[index] += summary[key]
        if room in COMPLETE and (summary["missing_lines"] or summary["missing_branches"]):
            branches = ", ".join(f"{a}->{b}" for a, b in told["missing_branches"])
            wanting.append(f"{path}: lines {told['missing_lines']}, branches {branches}")
    print("| room | statements | branches | covered |\n| --- | ---: | ---: | ---: |")
    for room, (statements, missed, forks, missed_forks) in rooms.items():
        share = 1 - (missed + missed_forks) / max(1, statements + forks)
        print(f"| {room} | {statements} | {forks} | {share:.1%} |")
        if with_others and room not in COMPLETE and share < OTHERS:
            wanting.append(f"{room}: {share:.1%} is below {OTHERS:.0%}; the most is missing in {', '.join(worst(files, room))}")
    for line in wanting:
        print(line, file=sys.stderr)
    return 1 if wanting else 0


def room_of(path: str) -> str:
    parts = Path(path).parts[1:]
    return parts[0] if len(parts) > 1 else "(the top)"


def worst(files: dict[str, Any], room: str, count: int = 5) -> list[str]:
    """The files of a room in which most lines and branches were not reached."""
    missing = {
        path: told["summary"]["missing_lines"] + told["summary"]["missing_branches"]
        for path, told in files.items()
        if room_of(path) == room
    }
    return sorted(missing, key=lambda path: -missing[path])[:count]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], with_others="--all" in sys.argv[2:]))
