"""Step 4: answers that need no slot. L1 in memory, per agent; L2 in the cache file, shared; L3 in files, for large ones.

What may be kept is decided by `core/cache_policy.py` (the call) and `wire/` (the answer); here it is looked up, kept within
bytes, and given again in the form the caller asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from supervisord_ai.clock import Clock
from supervisord_ai.core.admission import CacheWish
from supervisord_ai.core.cache_advice import CacheFigures, advice
from supervisord_ai.core.cache_policy import RANDOM, Freshness, ModelFacts, Shareable, Tier, key_of, usable
from supervisord_ai.core.calls import CacheKeyBasis, Call, Face
from supervisord_ai.core.identity import Caller, CallerKind
from supervisord_ai.core.policies import CachePolicy
from supervisord_ai.gateway.backends import Backend
from supervisord_ai.gateway.cache_tally import CacheTally
from supervisord_ai.gateway.headers import rfc3339
from supervisord_ai.gateway.memory import Held, Hit, Memory
from supervisord_ai.gateway.view import CacheReport, CacheView, TierView
from supervisord_ai.serve.http import Exchange
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.rows import Answer, Cached, CacheMeta
from supervisord_ai.wire.faces import renewed_raw
from supervisord_ai.wire.ollama import hole_values

_PLACES = 8192  # keys known by what they are made of; 3 MB

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
        self._rule = Freshness()
        self._l1 = Memory(policy.l1_per_agent_bytes, policy.l1_total_bytes)
        self._tally = CacheTally()
        self._places: dict[tuple[bytes, str, str], tuple[ModelFacts, str, str, Place]] = {}
        self._day = (-1, "")

    def follow(self, rule: Freshness) -> None:
        """Go by another rule of what is fresh from now on, also for what is kept already."""
        self._rule = rule

    # --- where -----------------------------------------------------------------------------------------------------------

    async def place(self, call: Call, caller: Caller, backend: Backend) -> Place:
        """Return where this call's answer lies; asks Ollama about the model when its digest may be out of date."""
        if call.cache_key is None or call.canonical_model is None:
            self._tally.why_not[call.cache_why] += 1
            return Place(None, call.cache_why)
        facts = backend.known_facts(call.canonical_model) or await backend.facts(call.canonical_model)
        place = self._place(call, call.cache_key, scope_of(caller, self._policy), facts, backend.version)
        if place.key is None and place.is_known:
            self._tally.why_not[place.why] += 1
        return place

    def _place(self, call: Call, basis: CacheKeyBasis, scope: str, facts: ModelFacts | None, version: str) -> Place:
        """The key is the same as long as what it is made of is; a repeated question finds it made."""
        date = self._local_date()
        told = (basis.digest, scope, facts.digest if facts is not None else "")
        known = self._places.get(told)
        if known is not None and known[0] is facts and known[1] == version and known[2] == date and not basis.unknown_digest:
            return known[3]
        found = key_of(call, facts, ollama_version=version, scope=scope, local_date=date)
        place = Place(found.key, "") if isinstance(found, Shareable) else Place(None, found.why, is_known=facts is not None)
        if facts is not None:
            if len(self._places) >= _PLACES:
                self._places.clear()
            self._places[told] = (facts, version, date, place)
        return place

    def _local_date(self) -> str:
        """Today. It changes at a full minute in every time zone there is."""
        wall = self._clock.wall()
        minute = int(wall // 60)
        if minute != self._day[0]:
            self._day = (minute, datetime.fromtimestamp(wall, UTC).astimezone().date().isoformat())
        return self._day[1]

    # --- out -------------------------------------------------------------------------------------------------------------

    def get(self, key: bytes | None, agent: str, agent_class: str, call: Call, wish: CacheWish) -> Hit | None:
        """Return the answer kept for this agent, if it is young enough for the caller and us.

        Not one that takes long to read: `get_slowly` has those.
        """
        if key is None or wish.no_cache or wish.no_store:
            return None
        hit = self._in_memory(agent, key, wish) or self._taken_up(agent, key, self._file.get(key), wish)
        if hit is None:
            self._tally.missed(agent_class, call)
        else:
            self._tally.hit(key, agent_class, call, hit.tier, hit.held.cost_s, is_stale=hit.ttl_s <= 0)
        return hit

    async def get_slowly(self, key: bytes | None, agent: str, agent_class: str, call: Call, wish: CacheWish) -> Hit | None:
        """Return the answer for which `get` has counted a miss, if it is a very large one."""
        if key is None or wish.no_cache or wish.no_store:
            return None
        hit = self._taken_up(agent, key, await self._file.get_slowly(key), wish)
        if hit is not None:
            self._tally.hit(key, agent_class, call, hit.tier, hit.held.cost_s, is_stale=hit.ttl_s <= 0, was_missed=True)
        return hit

    def again(self, key: bytes, agent: str, agent_class: str, call: Call, wish: CacheWish) -> Hit | None:
        """Look once more for a request that waited, for whom a miss was counted when it came."""
        if wish.no_cache or wish.no_store:
            return None
        hit = self._in_memory(agent, key, wish) or self._taken_up(agent, key, self._file.get(key), wish)
        if hit is not None:
            self._tally.hit(key, agent_class, call, hit.tier, hit.held.cost_s, is_stale=hit.ttl_s <= 0, was_missed=True)
        return hit

    def _in_memory(self, agent: str, key: bytes, wish: CacheWish) -> Hit | None:
        held = self._l1.get(agent, key)
        if held is None:
            return None
        fit = usable(
            held.answer.finished_wall, held.expires_wall, self._clock.wall(), self._rule, max_age_s=wish.max_age_s
        )
        return Hit(held, Tier.L1, fit.ttl_s) if fit is not None else None

    def _taken_up(self, agent: str, key: bytes, cached: Cached | None, wish: CacheWish) -> Hit | None:
        """What a file had goes into this agent's memory."""
        if cached is None:
            return None
        answer = cached.answer
        fit = usable(answer.finished_wall, cached.expires_wall, self._clock.wall(), self._rule, max_age_s=wish.max_age_s)
        if fit is None:
            return None
        held = Held(answer, cached.expires_wall, cached.cost_s)
        self._l1.put(agent, key, held)
        return Hit(held, cached.tier, fit.ttl_s)

    def was_given(self, key: bytes, agent: str, hit: Hit) -> None:
        """Count what was made of an answer to give it."""
        self._l1.was_made(agent, key, hit.held)

    # --- in --------------------------------------------------------------------------------------------------------------

    def put(self, key: bytes, answer: Answer, call: Call, agent: str, *, cost_s: float = 0.0) -> None:
        """Keep an answer that may be kept. `cost_s`: the slot-seconds it took."""
        expires_wall = answer.finished_wall + self._policy.ttl_s
        self._l1.put(agent, key, Held(answer, expires_wall, cost_s))
        meta = CacheMeta(call.canonical_model or "", call.path, self._policy.scope, expires_wall, cost_s)
        self._file.put(key, answer, meta)
        self._tally.stored += 1

    async def clear(self, *, l1: bool = True, l2: bool = True, l3: bool = True) -> int:
        """Forget what a tier holds; returns how many answers. Raises: StoreFault, the file cannot be written."""
        return (self._l1.clear() if l1 else 0) + await self._file.clear(l2=l2, l3=l3)

    def drop_memory(self) -> int:
        """Forget what is kept in memory; returns how many answers. What is in the file is found there."""
        return self._l1.clear()

    # --- looks -----------------------------------------------------------------------------------------------------------

    def statistics(self) -> CacheView:
        """Return what is held and what it was good for."""
        l1, file, tally = self._l1, self._file.statistics(), self._tally
        whole, large = tally.whole(), file.large
        return CacheView(
            hits=whole.hits,
            misses=whole.misses,
            stored=tally.stored,
            l1=TierView(l1.entries, l1.bytes, tally.of_tier[Tier.L1], l1.cap_bytes, l1.evicted),
            l2=TierView(file.entries, file.bytes, tally.of_tier[Tier.L2], file.cap_bytes, file.evicted),
            l3=TierView(large.entries, large.bytes, tally.of_tier[Tier.L3], large.cap_bytes, large.evicted),
            stale=whole.stale,
            saved_s=whole.saved_s,
        )

    def report(self, *, with_prompts: bool = False, count: int = 20) -> CacheReport:
        """Return everything for the owner. Prompts are shown only where they were asked for."""
        view, tally = self.statistics(), self._tally
        return CacheReport(
            cache=view,
            by_class=tally.by(0),
            by_model=tally.by(1),
            repeated=tally.repeated(count, with_prompts=with_prompts),
            not_shared=dict(tally.why_not.most_common()),
            scope=self._policy.scope,
            ttl_s=self._policy.ttl_s,
            ttl_factor=self._rule.ttl_factor,
            allow_stale=self._rule.allow_stale,
            advice=advice(_figures(view, tally.why_not[RANDOM], self._policy.scope)),
        )


def _figures(view: CacheView, random: int, scope: str) -> CacheFigures:
    fills = {name: tier.bytes / tier.cap_bytes for name, tier in (("cache.l2", view.l2), ("cache.l3", view.l3)) if tier.cap_bytes}
    fullest = max(fills, key=lambda name: fills[name], default="cache.l2")
    evicted = view.l2.evicted + view.l3.evicted
    return CacheFigures(view.hits, view.misses, random, view.saved_s, evicted, fullest, fills.get(fullest, 0.0), scope)


async def replay(
    exchange: Exchange,
    call: Call,
    held: Held,
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
    model, answer = call.model or "", held.answer
    if not held.is_lines:
        body = answer.body
        if answer.status == 200 and call.face is not Face.OLLAMA:
            is_stream = answer.content_type.startswith("text/event-stream")
            body = renewed_raw(body, is_stream=is_stream, model=model, created=int(now_wall), new_id=fresh_id)
        await exchange.respond(answer.status, [("Content-Type", answer.content_type), *headers], body)
        return
    values = hole_values(model, rfc3339(now_wall), max(1, round(took_s * 1e9)))
    if not call.asked_stream:
        whole = held.single().fill(values)
        await exchange.respond(200, [("Content-Type", "application/json; charset=utf-8"), *headers], whole)
        return
    await exchange.start(200, [("Content-Type", "application/x-ndjson"), *headers])
    for mould in held.stream():
        await exchange.send(mould.fill(values))
    await exchange.finish()
