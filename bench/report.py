"""How every script of this folder says what it found: one table for people, one JSON object for programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser that all scripts share: `--json`, and the script's own docstring as its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent of the values lie; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def show(figures: Figures, as_json: bool, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the figures: the first column to the left, numbers to the right."""
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    table = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    print(title)
    for row in table:
        first, *others = row
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  " + "  ".join([first.ljust(widths[0]), *cells]))
