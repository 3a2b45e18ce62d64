"""L1: per agent the answers it used last, in memory, ready to be given.

Over its own bytes an agent loses its oldest, over all of them the largest agent does: nobody's flood costs another its answers.
An answer that is given often is kept as it goes out (`wire/ollama.py`, Mould), made at its first hit.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from supervisord_ai.core.cache_policy import Tier
from supervisord_ai.core.calls import Form
from supervisord_ai.store.rows import Answer
from supervisord_ai.wire.ollama import Mould, single_mould, stream_moulds

OVERHEAD_BYTES = 600  # the objects around an answer, measured with 10,000 of them
MOULD_PIECE_BYTES = 80


class Held:
    """An answer as it is given: what is made of it for that stays with it. `expires_wall` and `cost_s` are as in the file."""

    __slots__ = ("_single", "_stream", "answer", "cost_s", "expires_wall", "made_bytes", "size_bytes")

    def __init__(self, answer: Answer, expires_wall: float = 0.0, cost_s: float = 0.0) -> None:
        self.answer = answer
        self.expires_wall = expires_wall
        self.cost_s = cost_s
        self.size_bytes = len(answer.body) + OVERHEAD_BYTES
        self.made_bytes = 0  # what was made of the answer takes this much more
        self._single: Mould | None = None
        self._stream: tuple[Mould, ...] | None = None

    @property
    def is_lines(self) -> bool:
        return self.answer.form == Form.LINES

    def single(self) -> Mould:
        """The one body of a native answer."""
        if self._single is None:
            self._single = single_mould(self.answer.body)
            self.made_bytes += _size(self._single)
        return self._single

    def stream(self) -> tuple[Mould, ...]:
        """The lines of a native answer."""
        if self._stream is None:
            self._stream = stream_moulds(self.answer.body)
            self.made_bytes += sum(map(_size, self._stream))
        return self._stream


def _size(mould: Mould) -> int:
    return mould.size_bytes + MOULD_PIECE_BYTES * len(mould.pieces)


@dataclass(frozen=True, slots=True)
class Hit:
    """A kept answer that may be given now, and for how long it is fresh (negative: since when it is not)."""

    held: Held
    tier: Tier
    ttl_s: float

    @property
    def answer(self) -> Answer:
        return self.held.answer

    @property
    def status(self) -> str:
        """What RFC 9211 says of it."""
        return "hit" if self.ttl_s > 0 else f"hit; ttl={min(math.floor(self.ttl_s), -1)}; detail=stale"


class Memory:
    """Answers by agent and key."""

    def __init__(self, per_agent_bytes: int, total_bytes: int) -> None:
        self._per_agent_bytes = per_agent_bytes
        self._total_bytes = total_bytes
        self._agents: dict[str, OrderedDict[bytes, Held]] = {}
        self._used: dict[str, int] = {}
        self.bytes = 0
        self.evicted = 0

    def __repr__(self) -> str:
        return f"<Memory {self.entries} answers of {len(self._agents)} agents, {self.bytes} bytes>"

    @property
    def cap_bytes(self) -> int:
        return self._total_bytes

    @property
    def entries(self) -> int:
        return sum(len(kept) for kept in self._agents.values())

    def get(self, agent: str, key: bytes) -> Held | None:
        """Return an answer, whatever its age; it is the agent's newest from now on."""
        kept = self._agents.get(agent)
        found = kept.get(key) if kept is not None else None
        if kept is not None and found is not None:
            kept.move_to_end(key)
        return found

    def put(self, agent: str, key: bytes, held: Held) -> None:
        """Keep an answer, in place of what was there. One that is larger than what an agent may have is not kept."""
        self.drop(agent, key)
        size = held.size_bytes
        if size > min(self._per_agent_bytes, self._total_bytes):
            return
        self._agents.setdefault(agent, OrderedDict())[key] = held
        self._used[agent] = self._used.get(agent, 0) + size
        self.bytes += size
        self._make_room(agent)

    def was_made(self, agent: str, key: bytes, held: Held) -> None:
        """Count what was made of an answer that is kept."""
        size = len(held.answer.body) + OVERHEAD_BYTES + held.made_bytes
        if size == held.size_bytes:
            return
        kept = self._agents.get(agent)
        if kept is None or kept.get(key) is not held:
            return
        self._used[agent] += size - held.size_bytes
        self.bytes += size - held.size_bytes
        held.size_bytes = size
        self._make_room(agent)

    def drop(self, agent: str, key: bytes) -> None:
        """Forget one answer, if it is there."""
        kept = self._agents.get(agent)
        held = kept.pop(key, None) if kept is not None else None
        if kept is None or held is None:
            return
        self._used[agent] -= held.size_bytes
        self.bytes -= held.size_bytes
        if not kept:
            del self._agents[agent], self._used[agent]

    def clear(self) -> int:
        """Forget everything; returns how many answers there were."""
        gone = self.entries
        self._agents.clear()
        self._used.clear()
        self.bytes = 0
        return gone

    def _make_room(self, agent: str) -> None:
        while self._used.get(agent, 0) > self._per_agent_bytes:
            self._evict(agent)
        while self.bytes > self._total_bytes:
            self._evict(max(self._used, key=lambda name: self._used[name]))

    def _evict(self, agent: str) -> None:
        self.evicted += 1
        self.drop(agent, next(iter(self._agents[agent])))
