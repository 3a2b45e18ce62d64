"""Periodic duties: one of the four places where exceptions are caught broadly, since one bad answer of somebody else's must not
end what looks after the rest."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger(__name__)

RESTART_PAUSE_S = 1.0


async def kept_up(name: str, duty: Callable[[], Awaitable[None]]) -> None:
    """Run a duty for ever: one that ends or fails is begun again after a pause."""
    while True:
        try:
            await duty()
        except Exception:
            log.exception("%s failed and is begun again", name)
        await trio.sleep(RESTART_PAUSE_S)
