"""Feeds systemd's watchdog for as long as the supervisor makes progress, and says in the log which part does not.

A loop that hangs cannot get here, a journal or a dispatcher that hangs is seen here; either way nothing is fed, and systemd
ends the process with SIGABRT, at which faulthandler writes the stack.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from supervisord_ai.core.progress import Progress, Signs

log = logging.getLogger(__name__)

LOOKS_A_PERIOD = 4  # one that comes late, or finds the journal in a slow sync, does not end us


async def stay_alive(
    feed: Callable[[], None], within_s: float, *, look: Callable[[], Signs], nudge: Callable[[], None]
) -> None:
    """Look and feed until cancelled, several times within the period. `nudge` gives the dispatcher a turn to take."""
    progress = Progress()
    while True:
        stuck = progress.stuck(look())
        if stuck:
            log.error("no progress: %s; systemd ends us if that lasts %.0f s", " and ".join(stuck), within_s)
        else:
            feed()
        nudge()
        await trio.sleep(within_s / LOOKS_A_PERIOD)
