"""Something done again and again, that must not end because it failed once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

logger = logging.getLogger(__name__)


async def every(period_s: float, what: str, deed: Callable[[], Awaitable[None]]) -> None:
    """Do it, wait, do it again. Boundary: one periodic duty; a failure is logged and the next round comes all the same."""
    while True:
        try:
            await deed()
        except Exception:
            logger.exception("%s failed; next try in %.0f s", what, period_s)
        await trio.sleep(period_s)
