"""The values that go into the journal and the cache and come out again, as the rest of the program sees them."""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.core.adoption import Baseline, Standing
from supervisord_ai.core.cache_policy import Tier
from supervisord_ai.core.request_state import RowState


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One accepted request, with all that is needed to run it again after a crash.

    Times are wall seconds. `body` is the caller's body in canonical form, as read from the disk; it is let go (b"") once the row
    is done or cancelled, and by a request that lives: its call has it. `key` is the caller's `Idempotency-Key`, scoped per
    agent. `attempt` counts the claims so far.
    """

    id: str
    agent: str
    agent_class: str
    generation: int
    key: str | None
    digest: bytes
    method: str
    path: str
    face: str
    asked_stream: bool
    body: bytes
    priority: int
    accepted_wall: float
    deadline_wall: float
    is_async: bool
    attempt: int = 0
    state: RowState = RowState.QUEUED


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered, in a form from which the asked one can be made.

    `form` is "lines" (native: the NDJSON lines joined, from which a stream or one body is made) or "raw" (the bytes as
    they were sent). `cut` says that upstream broke off: such an answer is an error and never a success.
    """

    status: int
    content_type: str
    body: bytes
    form: str
    cut: bool
    finished_wall: float


@dataclass(frozen=True, slots=True)
class CacheMeta:
    """What the cache file keeps beside an answer, for the owner's questions and for expiry. Times are wall seconds."""

    model: str
    path: str
    scope: str  # "shared", "class:NAME", "agent:NAME", "guest"
    expires_wall: float
    cost_s: float = 0.0  # slot-seconds the answer took: what a hit saves


@dataclass(frozen=True, slots=True)
class Cached:
    """An answer that was kept, wherever it lies. Whether it is young enough is its reader's to say."""

    answer: Answer
    expires_wall: float
    cost_s: float
    tier: Tier


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """What is known of an agent across runs of the supervisor: its last generation and how that ended.

    `pid`, `start_ticks` and `boot_id` together name one process for ever; None before the generation was started.
    `intent` is the reason we wrote down before ending it ourselves. `ended_wall` is None while it may be alive. `baseline` and
    `peak_bytes` are of that generation; `standing` is the agent's, whatever its generation.
    """

    name: str
    generation: int
    digest: str
    pid: int | None = None
    start_ticks: int | None = None
    boot_id: str | None = None
    cgroup: str | None = None
    run_tag: str | None = None
    verdict: str | None = None
    detail: str | None = None
    restarts: int = 0
    ended_wall: float | None = None
    intent: str | None = None
    baseline: Baseline | None = None
    standing: Standing | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """Where an alert stood. `rule` is its condition and its time: another one under the same name begins anew.

    `told` is the last thing that was delivered: "firing", or "" for nothing or its end.
    """

    name: str
    rule: str
    state: str
    since_wall: float
    told: str = ""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One line of the event journal. `seq` only grows."""

    seq: int
    at_wall: float
    kind: str
    agent: str | None
    request_id: str | None
    detail: dict[str, object]
