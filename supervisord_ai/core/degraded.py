"""Decides what the level in force does to one call: is it let in, is its answer bounded, does the light model stand in.

Knows nothing of queues or bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.core.admission import Rejected
from supervisord_ai.core.cache_policy import ModelFacts
from supervisord_ai.core.calls import Call, Op
from supervisord_ai.core.effects import Effects, Level
from supervisord_ai.core.estimate import retry_after

BYTES_PER_TOKEN = 3  # of any language, to be on the safe side; English has four
ANSWER_TOKENS = 512  # room that is left for an answer nobody bounded
SUBSTITUTED_OPS = frozenset({Op.GENERATE, Op.CHAT, Op.CHAT_COMPLETIONS, Op.COMPLETIONS, Op.MESSAGES})
SUBSTITUTED_BYTES_MAX = 1_000_000  # what is longer fits into no light model
BOUNDED_OPS = frozenset({Op.GENERATE, Op.CHAT, Op.CHAT_COMPLETIONS, Op.COMPLETIONS, Op.RESPONSES})


@dataclass(frozen=True, slots=True)
class Degraded:
    """What a level did to an answer; its caller is told.

    `num_predict` is the bound that was put, None where none was. `asked` and `served` are models, None where they are the same.
    """

    level: Level
    num_predict: int | None = None
    asked: str | None = None
    served: str | None = None


def turned_away(effects: Effects, priority: int, *, lifts_in_s: float) -> Rejected | None:
    """Return the refusal of a request that the level does not let in, None for one that it does."""
    if effects.priority_only is None or priority <= effects.priority_only:
        return None
    level = f"level {effects.level} ({effects.level.word})" if effects.level is Level.CRITICAL else "memory is short"
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


def why_it_stays(call: Call, asked: ModelFacts | None, light: ModelFacts | None, *, num_ctx: int | None) -> str:
    """Say why the light model cannot stand in for the one that was asked for, "" where it can.

    Vectors of two models have nothing to do with each other, so embeddings never. `num_ctx` is what the light model is run with.
    """
    if call.route.op not in SUBSTITUTED_OPS or call.is_load:
        return "it is no question to a model"
    if light is None or asked is None:
        return "one of the models is not installed, or not known"
    if asked.digest == light.digest:
        return "it asks for the light model"
    if call.is_bound_to_model or light.is_remote:
        return "its prompt is in the form of its own model"
    lacking = (call.needs | {"completion"}) - light.capabilities
    if lacking:
        return f"the light model lacks {', '.join(sorted(lacking))}"
    room = min((size for size in (light.context_length, num_ctx) if size is not None), default=0)
    bound = max(call.num_predict or 0, 0) or ANSWER_TOKENS  # below zero it may take as long as it takes
    wanted = len(call.caller_body) // BYTES_PER_TOKEN + bound
    if len(call.caller_body) > SUBSTITUTED_BYTES_MAX or wanted > room:
        return f"it may need {wanted} tokens, and the light model has room for {room}"
    return ""
