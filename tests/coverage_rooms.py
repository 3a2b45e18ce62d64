"""Prints a coverage report room by room: `python -m tests.coverage_rooms REPORT.json`; scripts/coverage calls it.

Exits with 1 where a room that must be complete is not, and says which lines are missing there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COMPLETE = frozenset({"core", "wire"})


def main(report: str) -> int:
    """Print the table; return the exit code."""
    files: dict[str, Any] = json.loads(Path(report).read_text())["files"]
    rooms: dict[str, list[int]] = {}
    wanting: list[str] = []
    for path, told in sorted(files.items()):
        parts = Path(path).parts[1:]
        room = parts[0] if len(parts) > 1 else "(the top)"
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
    for line in wanting:
        print(line, file=sys.stderr)
    return 1 if wanting else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
