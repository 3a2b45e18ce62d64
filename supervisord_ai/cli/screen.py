"""Text for people: plain where it is piped, coloured on a terminal, never with a control character that an agent chose."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

MB = 1_000_000
WIDTH = 80
NARROWEST = 8  # of a column that is cut
NARROW = 40  # below this nothing can be laid out

# ECMA-48's numbers for the words that styles are made of.
SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}

Span = str | tuple[str, str]  # text, or text and style: words of SGR, which rich knows too


class Screen:
    """Lines of spans, at most as wide as the terminal; 80 columns where there is none."""

    def __init__(self, width: int | None = None) -> None:
        self.width = width or columns() or WIDTH
        self._lines: list[tuple[tuple[str, str], ...]] = []

    def line(self, *spans: Span) -> None:
        """Add a line. What would go past the last column is cut, and the cut is shown."""
        left = self.width
        cut: list[tuple[str, str]] = []
        for span in spans:
            text, style = span if isinstance(span, tuple) else (span, "")
            text = printable(text)
            if len(text) > left:
                text = text[: max(0, left - 1)] + "…" if left > 0 else ""
            left -= len(text)
            cut.append((text, style))
        self._lines.append(tuple(cut))

    def wrapped(self, head: Span, text: str, indent: int, style: str = "") -> None:
        """Add a text that goes on in further lines below itself, behind its head."""
        first = True
        for piece in _wrap(printable(text), self.width - indent):
            start: Span = head if first else ""
            words, head_style = start if isinstance(start, tuple) else (start, "")
            self.line((f"{words:<{indent}}", head_style), (piece, style))
            first = False

    def whole(self, text: str, style: str = "") -> None:
        """Add a line that is to be copied: never cut, however wide."""
        self._lines.append(((printable(text), style),))

    def title(self, word: str, *spans: Span) -> None:
        """Add a line that begins a section."""
        self.line((f"{word:<11}", "bold"), *spans)

    def text(self) -> str:
        """Return it without colours."""
        return "\n".join("".join(text for text, _ in line).rstrip() for line in self._lines) + "\n"

    def coloured(self) -> str:
        """Return it with the terminal's colours. Not by rich, whose import takes longer than all the rest of `status`."""
        return "\n".join("".join(_coloured(text, style) for text, style in line) for line in self._lines) + "\n"

    def show(self) -> None:
        """Print it: with colours on a terminal that has them, and where NO_COLOR does not say otherwise."""
        sys.stdout.write(self.coloured() if has_colours() else self.text())

    def rich(self) -> object:
        """Return it as rich's text, for a live view."""
        from rich.text import Text  # noqa: PLC0415

        return Text("\n").join(Text.assemble(*line) for line in self._lines)


def _coloured(text: str, style: str) -> str:
    return f"\x1b[{';'.join(SGR[word] for word in style.split())}m{text}\x1b[0m" if style and text else text


def columns() -> int | None:
    """Return how wide the terminal is (COLUMNS, else what it says); None where there is none, as in a pipe."""
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said) > 0:
        return max(NARROW, int(said))
    try:
        found = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return None
    return max(NARROW, found) if found else None


def rows() -> int:
    """Return how many lines the terminal has, 24 where it does not say."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24
    except (OSError, ValueError):
        return 24


def has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Return text without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[int] = (),
    drop: Sequence[int] = (),
    width: int | None = None,
) -> list[str]:
    """Return rows below their heads, each column as wide as its widest cell, the last one as it comes.

    Where that is wider than `width` (None: no bound), columns of `drop` are left out in that order, then the widest that is not a
    figure is cut, and each cut is shown.
    """
    lines = [list(heads), *([printable(str(cell)) if cell is not None else "-" for cell in row] for row in rows)]
    kept = list(range(len(heads)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    if width is not None:
        for column in drop:
            if _total(widths, kept) <= width:
                break
            kept.remove(column)
        while (over := _total(widths, kept) - width) > 0:
            widest = max((i for i in kept if i not in right), key=lambda i: widths[i], default=None)
            if widest is None or widths[widest] <= NARROWEST:
                break
            widths[widest] = max(NARROWEST, widths[widest] - over)
    cut = [[_cut(line[i], widths[i]) for i in kept] for line in lines]
    return [
        "  ".join(
            cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in zip(kept, line, strict=True)
        ).rstrip()
        for line in cut
    ]


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[i] for i in kept) + 2 * (len(kept) - 1)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def span_of(seconds: float | None) -> str:
    """Return a duration as people say it."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 120:
        return f"{minutes} m {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} m"
    return f"{hours // 24} d {hours % 24:02} h"


def size_of(size_bytes: float | None) -> str:
    """Return a size in MB, or KB where that would be nothing."""
    if size_bytes is None:
        return "-"
    if size_bytes < 10 * MB:
        return f"{size_bytes / MB:.1f} MB"
    return f"{size_bytes / MB:,.0f} MB"


def _wrap(text: str, width: int) -> list[str]:
    lines, line = [], ""
    words = [word[i : i + width] for word in text.split(" ") for i in range(0, max(1, len(word)), width)]
    for word in words:
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]
