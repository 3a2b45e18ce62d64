"""The door to signals: their numbers for those who send them, and what people and systemd send to us."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from enum import StrEnum

import trio

TERM = int(signal.SIGTERM)
KILL = int(signal.SIGKILL)
ABRT = int(signal.SIGABRT)
CONT = int(signal.SIGCONT)


class Asked(StrEnum):
    """What a signal asks of the supervisor."""

    STOP = "stop"  # TERM, INT: everything ends
    RELOAD = "reload"  # HUP
    LEAVE = "leave"  # USR1: the supervisor goes, the agents stay


_MEANING = {
    signal.SIGTERM: Asked.STOP,
    signal.SIGINT: Asked.STOP,
    signal.SIGHUP: Asked.RELOAD,
    signal.SIGUSR1: Asked.LEAVE,
}


@contextmanager
def signals_asked() -> Iterator[AsyncIterator[Asked]]:
    """Catch TERM, INT, HUP and USR1 for as long as the block runs and yield what they ask, in their order. Main thread only."""
    with trio.open_signal_receiver(*_MEANING) as received:
        yield _meanings(received)


async def _meanings(received: AsyncIterator[int]) -> AsyncIterator[Asked]:
    async for number in received:
        yield _MEANING[signal.Signals(number)]
