"""Decides what the level in force does to one call: is it let in, is its answer bounded. Knows nothing of queues or bytes."""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.core.admission import Rejected
from supervisord_ai.core.cache_policy import ModelFacts
from supervisord_ai.core.calls import Call, Op
from supervisord_ai.core.effects import Effects, Level
from supervisord_ai.core.estimate import retry_after

BOUNDED_OPS = frozenset({Op.GENERATE, Op.CHAT, Op.CHAT_COMPLETIONS, Op.COMPLETIONS, Op.RESPONSES})


@dataclass(frozen=True, slots=True)
class Degraded:
    """What a level did to an answer; its caller is told. `num_predict` is the bound that was put, None where none was."""

    level: Level
    num_predict: int | None = None


def turned_away(effects: Effects, priority: int, *, lifts_in_s: float) -> Rejected | None:
    """Return the refusal of a request that the level does not let in, None for one that it does."""
    if effects.priority_only is None or priority <= effects.priority_only:
        return None
    level = f"level {effects.level} ({effects.level.word})"
    what = f"{level}: only priorities up to {effects.priority_only} are let in, and this request has {priority}"
    return Rejected(503, what, retry_after(lifts_in_s))


def bound_of(call: Call, facts: ModelFacts | None, effects: Effects) -> int | None:
    """Return after how many tokens an answer is cut that nobody bounded; None for as many as it takes.

    Not those that would be useless when cut: tool calls, formats, and what a model thinks before it says anything. A bound in
    the Modelfile is one that was asked for.
    """
    if effects.num_predict is None or call.route.op not in BOUNDED_OPS or call.is_load or call.num_predict is not None:
        return None
    if call.has_tools or call.has_format or call.thinks:
        return None
    if facts is None or "num_predict" in facts.parameters:
        return None
    thinks_unasked = call.thinks is None and "thinking" in facts.capabilities
    return None if thinks_unasked else effects.num_predict
