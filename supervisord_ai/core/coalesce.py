"""Decides who may share one upstream call with whom, and what it means that one of them leaves. Knows nothing of answers.

Shared is what the cache rule calls deterministic, under the cache's own key, so that whoever may be given a kept answer may
also be given one that is on its way, and nobody else. Ten samples at temperature 0.8 have no key and stay ten calls.

While they wait, twins keep a ticket each: with its own deadline, rate and priority. Whichever would start first starts the
call and takes the others along. So a follower with a better priority brings the answer to its leader, a leader that leaves
hands on nothing, and an agent with a long queue does not make its twins wait behind it.
"""

from __future__ import annotations

from enum import StrEnum

from supervisord_ai.core.admission import CacheWish


def shares_as(key: bytes | None, wish: CacheWish) -> bytes | None:
    """Return the key under which a request joins, or is joined; None when it wants a call of its own."""
    return None if wish.no_store or wish.no_cache else key


class Leaving(StrEnum):
    """What it means that nobody waits for a request any more."""

    NOTHING = "nothing"  # a load is never cancelled: it serves whoever asks next
    OUT = "out"  # it is over at once; others, or nobody, go on
    CLOSE = "close"  # it was the last one for whom the upstream call went on


def leaving(*, is_running: bool, is_load: bool, others: int) -> Leaving:
    """Say what is to be done when a request is left; `others` wait for what the same slot brings."""
    if not is_running or others:
        return Leaving.OUT
    return Leaving.NOTHING if is_load else Leaving.CLOSE
