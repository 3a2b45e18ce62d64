"""Periodic duties: what is done again and again, and must not end because it failed once.

One of the four places where exceptions are caught broadly: a bad answer of somebody else's, or a bug of ours, is logged and
the next round comes all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from supervisord_ai.errors import SupervisorError

log = logging.getLogger(__name__)

AGAIN_AFTER_S = 1.0


async def every(period_s: float, what: str, deed: Callable[[], Awaitable[object]]) -> None:
    """Do it, wait, do it again, until cancelled."""
    while True:
        try:
            await deed()
        except SupervisorError as exc:  # it says whose fault it is: where in our code is no news to anybody
            log.error("%s failed: %s; next try in %.0f s", what, exc, period_s)
        except Exception:
            log.exception("%s failed; next try in %.0f s", what, period_s)
        await trio.sleep(period_s)


async def kept_up(what: str, duty: Callable[[], Awaitable[object]]) -> None:
    """Run a duty that has its own loop; one that ends or fails is begun again after a pause."""
    await every(AGAIN_AFTER_S, what, duty)
