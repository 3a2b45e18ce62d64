"""`--watch`: the same answer anew every second, until ^C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NoReturn

from supervisord_ai.cli.screen import has_colours
from supervisord_ai.errors import NotRunning

EVERY_S = 1.0
_HOME_AND_CLEAR = "\x1b[H\x1b[2J"


def watched(look: Callable[[], str], *, as_json: bool) -> NoReturn:
    """Show what `look` returns: in place on a terminal, one after the other into a pipe.

    On a terminal a daemon that is gone is waited for: it may be restarted. Raises: what `look` raises otherwise.
    """
    is_in_place = has_colours() and not as_json
    while True:
        try:
            page = look()
        except NotRunning as exc:
            if not is_in_place:
                raise
            page = f"ai-supervisor: {exc}\n"
        sys.stdout.write(_HOME_AND_CLEAR + page if is_in_place else page)
        sys.stdout.flush()
        time.sleep(EVERY_S)
