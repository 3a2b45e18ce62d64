"""What the cache was good for: per class and model, and which questions come again and again. Since the daemon started.

A question is known by its key. Its words are kept for the few hundred that were hit most, in memory, shortened, and shown only
to an owner who asks for them: they are somebody's prompts.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from supervisord_ai.core.cache_policy import Tier
from supervisord_ai.core.calls import Call
from supervisord_ai.gateway.view import RepeatedView, ShareView

_QUESTIONS = 1000  # known at once; the half that was hit least is forgotten when they are more
_EXCERPT_CHARS = 200


@dataclass(slots=True)
class Share:
    """One line of the account."""

    hits: int = 0
    misses: int = 0
    stale: int = 0
    saved_s: float = 0.0


@dataclass(slots=True)
class _Question:
    model: str
    path: str
    prompt: str
    hits: int = 0
    saved_s: float = 0.0


class CacheTally:
    """Counts. Its sums are those of its lines: every look at the cache is on one line."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], Share] = {}  # (class, model)
        self._questions: dict[bytes, _Question] = {}
        self.of_tier: Counter[Tier] = Counter()
        self.why_not: Counter[str] = Counter()  # why requests could not be looked up
        self.stored = 0

    def hit(
        self, key: bytes, agent_class: str, call: Call, tier: Tier, cost_s: float, *, is_stale: bool, was_missed: bool = False
    ) -> None:
        """An answer was given. `was_missed`: it was not there at the first look, which is taken back."""
        line = self._line(agent_class, call)
        line.misses -= was_missed
        line.hits += 1
        line.stale += is_stale
        line.saved_s += cost_s
        self.of_tier[tier] += 1
        question = self._questions.get(key)
        if question is None:
            question = self._questions[key] = _Question(call.canonical_model or "", call.path, excerpt(bytes(call.caller_body)))
            if len(self._questions) > _QUESTIONS:
                self._forget_rare()
        question.hits += 1
        question.saved_s += cost_s

    def missed(self, agent_class: str, call: Call) -> None:
        """There was none."""
        self._line(agent_class, call).misses += 1

    def _line(self, agent_class: str, call: Call) -> Share:
        key = (agent_class, call.canonical_model or "")
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Share()
        return line

    def _forget_rare(self) -> None:
        kept = sorted(self._questions.items(), key=lambda item: -item[1].hits)[: _QUESTIONS // 2]
        self._questions = dict(kept)

    # --- looks ---------------------------------------------------------------------------------------------------------

    def whole(self) -> Share:
        """Return the sum of all lines."""
        lines = self._lines.values()
        return Share(
            sum(one.hits for one in lines),
            sum(one.misses for one in lines),
            sum(one.stale for one in lines),
            sum(one.saved_s for one in lines),
        )

    def by(self, part: int) -> tuple[ShareView, ...]:
        """Return the sums by class (0) or by model (1), the busiest first."""
        sums: dict[str, Share] = {}
        for key, line in self._lines.items():
            one = sums.setdefault(key[part], Share())
            one.hits += line.hits
            one.misses += line.misses
            one.stale += line.stale
            one.saved_s += line.saved_s
        rows = [ShareView(name, one.hits, one.misses, one.stale, one.saved_s) for name, one in sums.items()]
        return tuple(sorted(rows, key=lambda row: -(row.hits + row.misses)))

    def repeated(self, count: int, *, with_prompts: bool) -> tuple[RepeatedView, ...]:
        """Return the questions that were answered most often from the cache."""
        top = sorted(self._questions.items(), key=lambda item: -item[1].hits)[:count]
        return tuple(
            RepeatedView(key.hex()[:12], one.model, one.path, one.hits, one.saved_s, one.prompt if with_prompts else None)
            for key, one in top
        )


def excerpt(body: bytes) -> str:
    """Return the beginning of what a request asks: its prompt, its last message or its first input."""
    fields: Any = json.loads(body) if body else {}
    said = fields.get("prompt") or fields.get("input") or ""
    messages = fields.get("messages")
    if not said and isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        said = messages[-1].get("content") or ""
    while isinstance(said, list) and said:
        said = said[0].get("text", "") if isinstance(said[0], dict) else said[0]
    return " ".join(str(said)[: 2 * _EXCERPT_CHARS].split())[:_EXCERPT_CHARS]
