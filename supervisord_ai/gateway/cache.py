"""Step 4: answers that need no slot. L1 in memory, per agent; L2 in the cache file, shared.

What may be kept is decided by `core/cache_policy.py` (the call) and `wire/` (the answer); here it is looked up, kept within
bytes, and given again in the form the caller asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from supervisord_ai.clock import Clock
from supervisord_ai.core.admission import CacheWish
from supervisord_ai.core.cache_policy import Private, Shareable, key_of
from supervisord_ai.core.calls import Call, Face, Form
from supervisord_ai.core.identity import Caller, CallerKind
from supervisord_ai.core.policies import CachePolicy
from supervisord_ai.gateway.backends import Backend
from supervisord_ai.gateway.view import CacheView, TierView
from supervisord_ai.serve.http import Exchange
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.rows import Answer, CacheMeta
from supervisord_ai.wire.faces import renewed_raw
from supervisord_ai.wire.ollama import as_single, as_stream


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call's answer would lie: None as `key` means nowhere, and `why` says why. Not known: ask again later."""

    key: bytes | None
    why: str
    is_known: bool = True


def scope_of(caller: Caller, policy: CachePolicy) -> str:
    """Return who shares an answer with this caller. Guests have their own: a hit's speed reveals what others asked."""
    if caller.kind is CallerKind.GUEST:
        return "guest"
    if policy.scope == "agent":
        return f"agent:{caller.name}"
    return f"class:{caller.agent_class}" if policy.scope == "class" else "shared"


class AnswerCache:
    """Looks up and keeps answers. The one writer of L1."""

    def __init__(self, policy: CachePolicy, file: CacheFile, clock: Clock) -> None:
        self._policy = policy
        self._file = file
        self._clock = clock
        self._l1 = _Memory(policy.l1_per_agent_bytes, policy.l1_total_bytes)
        self._hits = self._misses = self._stored = self._l1_hits = self._l2_hits = 0

    async def place(self, call: Call, caller: Caller, backend: Backend) -> Place:
        """Return where this call's answer lies; asks Ollama about the model when its digest may be out of date."""
        if call.cache_key is None or call.canonical_model is None:
            return Place(None, call.cache_why)
        facts = await backend.facts(call.canonical_model)
        found = key_of(
            call,
            facts,
            ollama_version=backend.version,
            scope=scope_of(caller, self._policy),
            local_date=datetime.fromtimestamp(self._clock.wall(), UTC).astimezone().date().isoformat(),
        )
        match found:
            case Shareable(key):
                return Place(key, "")
            case Private(why):
                return Place(None, why, is_known=facts is not None)

    def get(self, place: Place, agent: str, wish: CacheWish) -> Answer | None:
        """Return the answer kept for this agent, if it is young enough for the caller and us."""
        if place.key is None or wish.no_cache or wish.no_store:
            return None
        now_wall = self._clock.wall()
        answer = self._l1.get(agent, place.key, now_wall)
        in_memory = answer is not None
        if answer is None:
            answer = self._file.get(place.key, now_wall)
        if answer is None or (wish.max_age_s is not None and now_wall - answer.finished_wall > wish.max_age_s):
            self._misses += 1
            return None
        self._hits += 1
        if in_memory:
            self._l1_hits += 1
        else:
            self._l2_hits += 1
            self._l1.put(agent, place.key, answer, answer.finished_wall + self._policy.ttl_s)
        return answer

    def again(self, key: bytes, agent: str, wish: CacheWish) -> Answer | None:
        """Look once more for a request that waited: a miss was counted when it came."""
        misses = self._misses
        answer = self.get(Place(key, ""), agent, wish)
        self._misses = misses
        return answer

    def put(self, key: bytes, answer: Answer, call: Call, agent: str) -> None:
        """Keep an answer that may be kept."""
        expires_wall = answer.finished_wall + self._policy.ttl_s
        self._l1.put(agent, key, answer, expires_wall)
        self._file.put(key, answer, CacheMeta(call.canonical_model or "", call.path, self._policy.scope, expires_wall))
        self._stored += 1

    async def clear(self, *, l1: bool, l2: bool) -> int:
        """Forget what a tier holds; returns how many answers. Raises: StoreFault, the file cannot be written."""
        gone = 0
        if l1:
            gone += self._l1.entries
            self._l1 = _Memory(self._policy.l1_per_agent_bytes, self._policy.l1_total_bytes)
        if l2:
            gone += await self._file.clear()
        return gone

    def statistics(self) -> CacheView:
        """Return what is held and what it was good for."""
        l2 = self._file.statistics()
        return CacheView(
            hits=self._hits,
            misses=self._misses,
            stored=self._stored,
            l1=TierView(self._l1.entries, self._l1.bytes, self._l1_hits),
            l2=TierView(l2.entries, l2.bytes, self._l2_hits),
        )


class _Memory:
    """L1: per agent the answers it used last. Over its own bytes an agent loses its oldest; over all, the largest agent does."""

    def __init__(self, per_agent_bytes: int, total_bytes: int) -> None:
        self._per_agent_bytes = per_agent_bytes
        self._total_bytes = total_bytes
        self._agents: dict[str, OrderedDict[bytes, tuple[Answer, float]]] = {}
        self._used: dict[str, int] = {}
        self.bytes = 0

    @property
    def entries(self) -> int:
        return sum(len(kept) for kept in self._agents.values())

    def get(self, agent: str, key: bytes, now_wall: float) -> Answer | None:
        kept = self._agents.get(agent)
        found = kept.get(key) if kept is not None else None
        if kept is None or found is None:
            return None
        answer, expires_wall = found
        if expires_wall <= now_wall:
            self._drop(agent, key)
            return None
        kept.move_to_end(key)
        return answer

    def put(self, agent: str, key: bytes, answer: Answer, expires_wall: float) -> None:
        size = len(answer.body)
        if size > self._per_agent_bytes or size > self._total_bytes:
            return
        kept = self._agents.setdefault(agent, OrderedDict())
        if key in kept:
            self._drop(agent, key)
            kept = self._agents.setdefault(agent, OrderedDict())
        kept[key] = (answer, expires_wall)
        self._used[agent] = self._used.get(agent, 0) + size
        self.bytes += size
        while self._used[agent] > self._per_agent_bytes:
            self._drop(agent, next(iter(kept)))
        while self.bytes > self._total_bytes:
            largest = max(self._used, key=lambda name: self._used[name])
            self._drop(largest, next(iter(self._agents[largest])))

    def _drop(self, agent: str, key: bytes) -> None:
        answer, _ = self._agents[agent].pop(key)
        self._used[agent] -= len(answer.body)
        self.bytes -= len(answer.body)
        if not self._agents[agent]:
            del self._agents[agent], self._used[agent]


async def replay(
    exchange: Exchange,
    call: Call,
    answer: Answer,
    headers: list[tuple[str, str]],
    *,
    took_s: float,
    now_wall: float,
    fresh_id: str,
) -> None:
    """Give a kept answer in the form asked for now, with the caller's own model name and the time and id of this answer.

    Raises:
        PeerGone: the caller left.
    """
    model = call.model or ""
    if answer.form != Form.LINES:
        body = answer.body
        if answer.status == 200 and call.face is not Face.OLLAMA:
            is_stream = answer.content_type.startswith("text/event-stream")
            body = renewed_raw(body, is_stream=is_stream, model=model, created=int(now_wall), new_id=fresh_id)
        await exchange.respond(answer.status, [("Content-Type", answer.content_type), *headers], body)
        return
    created_at = datetime.fromtimestamp(now_wall, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    total_ns = max(1, round(took_s * 1e9))
    if not call.asked_stream:
        whole = as_single(answer.body, model, created_at, total_ns)
        await exchange.respond(200, [("Content-Type", "application/json; charset=utf-8"), *headers], whole)
        return
    await exchange.start(200, [("Content-Type", "application/x-ndjson"), *headers])
    for line in as_stream(answer.body, model, created_at, total_ns):
        await exchange.send(line)
    await exchange.finish()
