"""Decides whether a request may wait at all, with which priority and until when. Knows nothing of HTTP but its header words.

A refusal happens before anything is written: nothing was promised, nothing is queued. What was asked is clamped, never
refused, where a smaller wish can be granted (a priority better than the class's ceiling); it is refused where granting less
would be a lie (a deadline that cannot be read).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisord_ai.core.estimate import retry_after
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.core.rate_limit import Rate
from supervisord_ai.core.roster import ClassPolicy, OverRate
from supervisord_ai.errors import Refused

KEY_MAX_CHARS = 255
DEADLINE_MAX_S = 86_400.0
PRIORITIES = range(1, 11)


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What `Cache-Control` of a request asks of us (RFC 9111 section 5.2.1); other directives mean nothing here."""

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks for beside its request."""

    key: str | None = None
    priority: int | None = None
    deadline_s: float | None = None
    cache: CacheWish = CacheWish()


def read_asked(header: Callable[[str], str | None]) -> Asked:
    """Read the request headers that are ours.

    Raises:
        Refused: 400, one of them cannot be read; the text names it.
    """
    return Asked(
        key=_key(header("Idempotency-Key")),
        priority=_priority(header("X-AI-Priority")),
        deadline_s=_deadline(header("X-AI-Deadline")),
        cache=_cache_wish(header("Cache-Control") or ""),
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may wait. Times are monotonic seconds."""

    priority: int
    start_by: float
    not_before: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """It may not. 429: the caller asks too much; 503: all callers together do."""

    status: int
    message: str
    retry_after_s: float


def admit(
    asked: Asked,
    policy: ClassPolicy,
    queue: QueuePolicy,
    rate: Rate | None,
    *,
    queued_of_agent: int,
    queued: int,
    wait_s: float,
    now: float,
) -> Admitted | Rejected:
    """Decide, and take the caller's place in its rate if it is admitted. `wait_s`: the estimated wait behind everybody."""
    if queued_of_agent >= policy.max_queued:
        own_wait_s = wait_s * queued_of_agent / max(queued, 1)
        what = f"{queued_of_agent} requests of this caller wait already, and its class {policy.name} may have {policy.max_queued}"
        return Rejected(429, what, retry_after(own_wait_s))
    if queued >= queue.memory_max:
        return Rejected(503, f"{queued} requests wait already, the backlog is full", retry_after(wait_s))
    start_by = now + (queue.deadline_s if asked.deadline_s is None else asked.deadline_s)
    not_before = now
    if rate is not None:
        not_before = rate.next_at(now)
        if not_before > now and (policy.over_rate is OverRate.REJECT or not_before >= start_by):
            what = f"over the rate of class {policy.name}, {policy.rate_per_min:g} a minute"
            return Rejected(429, what, retry_after(not_before - now))
        rate.take(now)
    return Admitted(priority_for(asked.priority, policy), start_by, not_before)


def priority_for(asked: int | None, policy: ClassPolicy) -> int:
    """Return the priority a request gets: 1 is first; nobody gets a better one than its class's ceiling."""
    return max(policy.priority if asked is None else asked, policy.ceiling)


def _key(text: str | None) -> str | None:
    if text is None:
        return None
    if not 0 < len(text) <= KEY_MAX_CHARS or not text.isprintable():
        raise Refused(400, f"Idempotency-Key must be 1 to {KEY_MAX_CHARS} printable characters")
    return text


def _priority(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 2 or int(text) not in PRIORITIES:
        raise Refused(400, "X-AI-Priority must be a whole number from 1 (first) to 10")
    return int(text)


def _deadline(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= DEADLINE_MAX_S:  # also refuses nan
        raise Refused(400, f"X-AI-Deadline must be seconds, more than 0 and at most {DEADLINE_MAX_S:.0f}")
    return seconds


def _cache_wish(text: str) -> CacheWish:
    directives = [part.strip().lower() for part in text.split(",")]
    ages = [part.removeprefix("max-age=").strip('"') for part in directives if part.startswith("max-age=")]
    return CacheWish(
        no_store="no-store" in directives,
        no_cache="no-cache" in directives,
        only_if_cached="only-if-cached" in directives,
        # RFC 9111 4.2.1: an age that cannot be read counts as stale
        max_age_s=(float(ages[0]) if ages[0].isascii() and ages[0].isdigit() else 0.0) if ages else None,
    )
