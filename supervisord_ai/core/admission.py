"""Decides whether a request may wait at all, with which priority and until when. Knows nothing of HTTP but its header words.

A refusal happens before anything is written: nothing was promised, nothing is queued. What was asked is clamped, never
refused, where a smaller wish can be granted (a priority better than the class's ceiling); it is refused where granting less
would be a lie (a deadline that cannot be read, or that the backlog cannot keep).

Who waits on a connection is bounded per caller (`max_queued`) and over all (`memory_max`). Who asked `Prefer: respond-async`
waits on disk and is bounded over all only (`async_max`), except guests: nobody vouches for what they would put there.
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
GUEST = "guest"  # the class of callers nobody vouches for
# Node's fetch gives up at 300 s without a byte: a caller that gets one body must have it by then, with some room for the way.
ONE_BODY_WITHIN_S = 290.0
# A generation that is expected to take longer than that is a patient caller's: it is given this long to start all the same.
ONE_BODY_START_S = 10.0


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
    is_async: bool = False
    is_exact: bool = False  # the model that was asked for, or none


NOTHING_ASKED = Asked()
_OURS = ("Idempotency-Key", "X-AI-Priority", "X-AI-Deadline", "Cache-Control", "Prefer", "X-AI-Require-Model")


def read_asked(header: Callable[[str], str | None]) -> Asked:
    """Read the request headers that are ours.

    Raises:
        Refused: 400, one of them cannot be read; the text names it.
    """
    told = [header(name) for name in _OURS]
    if told.count(None) == len(told):
        return NOTHING_ASKED
    key, priority, deadline, wish, prefer, model = told
    return Asked(
        key=_key(key),
        priority=_priority(priority),
        deadline_s=_deadline(deadline),
        cache=_cache_wish(wish or ""),
        is_async=_prefers_async(prefer or ""),
        is_exact=_requires_exact(model),
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may wait. Times are monotonic seconds."""

    priority: int
    start_by: float
    not_before: float
    is_async: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """It may not. 429: the caller asks too much; 503: all callers together do."""

    status: int
    message: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Counts:
    """How many wait already. `of_agent`: what of this caller counts against its `max_queued`; `asynchronous` are not in `whole`.

    `wait_s`: the estimated wait behind everybody.
    """

    of_agent: int = 0
    whole: int = 0
    asynchronous: int = 0
    wait_s: float = 0.0


StartsAt = Callable[[Admitted], float | None]


def admit(
    asked: Asked,
    policy: ClassPolicy,
    queue: QueuePolicy,
    rate: Rate | None,
    counts: Counts,
    *,
    now: float,
    came_at: float | None = None,
    one_body_s: float | None = None,
    starts_at: StartsAt | None = None,
) -> Admitted | Rejected:
    """Decide, and take the caller's place in its rate if it is admitted.

    `came_at`: when it came, where something was waited for since: its time runs from there. `one_body_s`: the estimated
    generation, for a caller that gets one body. `starts_at` forecasts when it would start, None when that cannot be known; it
    is asked last.
    """
    full = _full(asked, policy, queue, counts)
    if full is not None:
        return full
    start_by = (now if came_at is None else came_at) + start_within_s(asked, queue, one_body_s)
    not_before = rate.next_at(now) if rate is not None else now
    if not_before > now and (policy.over_rate is OverRate.REJECT or not_before >= start_by):
        what = f"over the rate of class {policy.name}, {policy.rate_per_min:g} a minute"
        return Rejected(429, what, retry_after(not_before - now))
    admitted = Admitted(priority_for(asked.priority, policy), start_by, not_before, asked.is_async)
    at = starts_at(admitted) if starts_at is not None else None
    if at is not None and at >= start_by:
        what = f"it would start in about {at - now:.0f} s, and its deadline to start is in {start_by - now:.0f} s"
        return Rejected(503, what, retry_after(at - start_by))
    if rate is not None:
        rate.take(now)
    return admitted


def start_within_s(asked: Asked, queue: QueuePolicy, one_body_s: float | None) -> float:
    """Return how long a request may wait for its start."""
    usual_s = queue.async_deadline_s if asked.is_async else queue.deadline_s
    within_s = usual_s if asked.deadline_s is None else asked.deadline_s
    if asked.is_async or one_body_s is None:
        return within_s
    return min(within_s, max(ONE_BODY_WITHIN_S - one_body_s, ONE_BODY_START_S))


def _full(asked: Asked, policy: ClassPolicy, queue: QueuePolicy, counts: Counts) -> Rejected | None:
    is_counted = not asked.is_async or policy.name == GUEST
    if is_counted and counts.of_agent >= policy.max_queued:
        own_wait_s = counts.wait_s * counts.of_agent / max(counts.whole + counts.asynchronous, 1)
        what = f"{counts.of_agent} requests of this caller wait already, and its class {policy.name} may have {policy.max_queued}"
        return Rejected(429, what, retry_after(own_wait_s))
    if asked.is_async and counts.asynchronous >= queue.async_max:
        what = f"{counts.asynchronous} asynchronous requests wait already, the backlog is full"
        return Rejected(503, what, retry_after(counts.wait_s))
    if not asked.is_async and counts.whole >= queue.memory_max:
        return Rejected(503, f"{counts.whole} requests wait already, the backlog is full", retry_after(counts.wait_s))
    return None


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


def _requires_exact(text: str | None) -> bool:
    if text is not None and text.strip().lower() != "exact":
        raise Refused(400, "X-AI-Require-Model can only be: exact")
    return text is not None


def _prefers_async(text: str) -> bool:
    """RFC 7240: preferences are separated by commas, each perhaps with parameters; what is not known is passed over."""
    return any(part.partition(";")[0].strip().lower() == "respond-async" for part in text.split(","))


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
