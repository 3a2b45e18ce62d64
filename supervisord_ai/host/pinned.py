"""Signals to processes that are pinned by a pidfd, so that no other gets them that took over a number."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

PINNED_AT_ONCE = 100


def send(pidfd: int, signum: int, pid: int) -> bool:
    """Signal a pinned process; False when it is gone, or not ours to signal."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        # It executed a set-user-id program and is somebody else now. The others must not escape with it.
        logger.warning("signal %d to %d: not permitted", signum, pid)
        return False
    return True


def signal_pinned(pids: Iterable[int], still: Callable[[], frozenset[int]], signum: int) -> int:
    """Signal processes that are known by number only; returns how many got it.

    Pinned first, then asked again who is meant (`still`): a number that got a new owner in between is not in that answer,
    or is meant as well. Some at a time: a fork bomb has more processes than we have descriptors.
    """
    waiting = list(pids)
    reached = 0
    while waiting:
        some, waiting = waiting[:PINNED_AT_ONCE], waiting[PINNED_AT_ONCE:]
        pinned: dict[int, int] = {}
        try:
            for pid in some:
                with contextlib.suppress(ProcessLookupError):
                    pinned[pid] = os.pidfd_open(pid)
            meant = still()
            reached += sum(send(pidfd, signum, pid) for pid, pidfd in pinned.items() if pid in meant)
        finally:
            for pidfd in pinned.values():
                os.close(pidfd)
    return reached
