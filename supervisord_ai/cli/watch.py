"""`--watch`: the same answer anew every second, until ^C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NoReturn

from supervisord_ai.cli.screen import has_colours, rows
from supervisord_ai.errors import NotRunning

EVERY_S = 1.0
# The other screen of a terminal, without a cursor: what was there before comes back at the end (xterm's control sequences).
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def watched(look: Callable[[], str], *, as_json: bool) -> NoReturn:
    """Show what `look` returns: in place on a terminal, one after the other into a pipe.

    On a terminal a daemon that is gone is waited for: it may be restarted. Raises: what `look` raises otherwise.
    """
    if as_json or not has_colours():
        while True:
            sys.stdout.write(look())
            sys.stdout.flush()
            time.sleep(EVERY_S)
    sys.stdout.write(_ENTER)
    try:
        while True:
            try:
                page = look()
            except NotRunning as exc:
                page = f"ai-supervisor: {exc}\n"
            sys.stdout.write(in_place(page, rows()))
            sys.stdout.flush()
            time.sleep(EVERY_S)
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def in_place(page: str, height: int) -> str:
    """Return what puts a page over the one before it. Each line is overwritten, none erased before: nothing flickers."""
    lines = page.rstrip("\n").split("\n")
    if len(lines) > height:
        lines = [*lines[: height - 1], f"... and {len(lines) - height + 1} more lines: make the window taller"]
    return _HOME + "\n".join(line + _REST_OF_LINE for line in lines) + _BELOW
