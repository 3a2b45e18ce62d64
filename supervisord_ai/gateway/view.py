"""What the gateway shows of itself: frozen values for status, tests and people. Nobody decides by them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunningView:
    """A request that holds a slot. `since_s` counts from its start on the slot.

    `tokens`: the lines of its answer so far, about one token each; None before the first byte.
    """

    id: str
    agent: str
    model: str | None
    path: str
    since_s: float
    priority: int
    attempt: int
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class BackendView:
    """One Ollama. `state` is ready, waiting (never reached yet) or unreachable (was reached before).

    `way` says in words what `url` does not: which one was found, or how the engine is that we keep; else "".
    `breaker` is closed, open or half-open. `healed`: how often a model was unloaded because a slot of it was lost;
    `restarted`: how often the engine was restarted because it hung.
    """

    name: str
    url: str
    state: str
    detail: str
    slots: int
    busy: int
    running: tuple[RunningView, ...]
    loading: str | None
    resident: tuple[str, ...]
    way: str = ""
    breaker: str = "closed"
    healed: int = 0
    restarted: int = 0


@dataclass(frozen=True, slots=True)
class QueuedView:
    """A request that waits, in the order it would be started now."""

    id: str
    agent: str
    model: str | None
    path: str
    waited_s: float
    priority: int
    reason: str


@dataclass(frozen=True, slots=True)
class PriorityView:
    """One level of the backlog. `estimate_s`: how long one would wait that came now; None when that cannot be known."""

    priority: int
    queued: int
    oldest_s: float
    estimate_s: float | None = None


@dataclass(frozen=True, slots=True)
class TierView:
    """One tier of the cache. `evicted`: dropped to stay within `cap_bytes`, since the start."""

    entries: int
    bytes: int
    hits: int
    cap_bytes: int = 0
    evicted: int = 0


@dataclass(frozen=True, slots=True)
class CacheView:
    """The cache of answers: L1 in memory, per agent; L2 in a file, shared; L3 in files of their own, for large ones.

    `stale`: hits past their time, given because the level allowed it. `saved_s`: slot-seconds that the hits once took.
    """

    hits: int
    misses: int
    stored: int
    l1: TierView
    l2: TierView
    l3: TierView = TierView(0, 0, 0)
    stale: int = 0
    saved_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ShareView:
    """What the cache was good for to one class, or with one model."""

    name: str
    hits: int
    misses: int
    stale: int
    saved_s: float


@dataclass(frozen=True, slots=True)
class RepeatedView:
    """A question that comes again and again; `key` is the beginning of its hash, `prompt` None where nobody asked for it."""

    key: str
    model: str
    path: str
    hits: int
    saved_s: float
    prompt: str | None


@dataclass(frozen=True, slots=True)
class CacheReport:
    """Everything about the cache, for its owner. `not_shared`: why requests were not looked up, and how many."""

    cache: CacheView
    by_class: tuple[ShareView, ...]
    by_model: tuple[ShareView, ...]
    repeated: tuple[RepeatedView, ...]
    not_shared: dict[str, int]
    scope: str
    ttl_s: float
    ttl_factor: float
    allow_stale: bool
    advice: str


@dataclass(frozen=True, slots=True)
class SpoolView:
    """Answers on their way: bytes held in memory and in unlinked files."""

    memory_bytes: int
    disk_bytes: int
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Counted since the daemon started.

    `asked`: inference requests understood. Each ends as exactly one of `answered` (by a slot, with whatever status Ollama gave),
    `cached`, `refused` (by us, before or after it waited), `failed` (upstream broke it) or `cancelled` (its caller left).
    `coalesced`: those of them that shared the call of another.
    `recovered`: rows found at the start. `rejoined`: callers that came back to a row or to its kept answer.
    `not_granted`: those that asked for a runner option or a keep_alive which the gateway owns.
    `waited_s` and `generated_s` are summed over those that had a call of their own, `tokens` over the answers that were kept
    whole.
    """

    asked: int = 0
    answered: int = 0
    cached: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    recovered: int = 0
    rejoined: int = 0
    coalesced: int = 0
    waited_s: float = 0.0
    generated_s: float = 0.0
    tokens: int = 0
    not_granted: int = 0


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What one agent asked since the daemon started, and what it cost.

    `asked` and `answered` as in `Totals`, with hits and shared answers among them. `slot_s`: slot-seconds it was charged for; a
    call that is shared is charged to its sharers alike. `waited_s`: for a slot. `tokens`: generated at its expense.
    `cached_saved_s`, `coalesced_saved_s`: slot-seconds that hits and shared calls saved, by what such calls take now.
    """

    asked: int = 0
    answered: int = 0
    cached: int = 0
    coalesced: int = 0
    tokens: int = 0
    slot_s: float = 0.0
    waited_s: float = 0.0
    cached_saved_s: float = 0.0
    coalesced_saved_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BackendPulse:
    """One Ollama in three words, each as in `BackendView`."""

    name: str
    state: str
    breaker: str
    busy: int


@dataclass(frozen=True, slots=True)
class GatewayPulse:
    """What costs nothing to ask, for who asks every second.

    `models_on_cpu`: those that were on the GPU and are not; `models_slow`: those far below their usual speed.
    """

    backends: tuple[BackendPulse, ...] = ()
    queued: int = 0
    queued_async: int = 0
    running: int = 0
    totals: Totals = Totals()
    models_on_cpu: tuple[str, ...] = ()
    models_slow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayView:
    """Everything at one instant."""

    backends: tuple[BackendView, ...]
    queued: int
    running: int
    by_priority: tuple[PriorityView, ...]
    queue: tuple[QueuedView, ...]
    cache: CacheView
    spool: SpoolView
    totals: Totals
    mode: str = "open"  # what the owner said about the queue: open, paused, draining
