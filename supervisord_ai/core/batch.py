"""Decides which waiting embeds become one upstream call, and how its answer is split. Knows nothing of bytes.

Inside Ollama each text of a list is a runner call of its own, so a batch saves turns of the queue and not computing, and it
holds its slot for the whole list. Therefore it is small, and it is formed only when nothing is free any more: nobody waits for
a batch to fill while there is room. Vectors are exact whoever shares the list; how many tokens each text had is not told, so
the counts are parts of the sum, by characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from supervisord_ai.core.waiting import Ticket


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How much becomes one call.

    `window_s`: only those that came within it of the one whose turn it is. A member overtakes whoever came between, so it must
    have come with it. `items_max`, `chars_max`: a list holds its slot as long as all its texts take.
    """

    requests_max: int = 3
    window_s: float = 0.1
    items_max: int = 32
    chars_max: int = 65_536


def merge(first: Ticket, waiting: Iterable[Ticket], policy: BatchPolicy, now: float) -> list[Ticket]:
    """Return who joins `first` in one call, first come first. `waiting` are equal to it in all but their texts."""
    mine = first.merges
    if mine is None:
        return []
    items, chars, chosen = mine.items, mine.chars, list[Ticket]()
    for ticket in sorted(waiting, key=lambda ticket: ticket.arrived_at):
        theirs = ticket.merges
        if len(chosen) + 1 >= policy.requests_max:
            break
        if theirs is None or ticket.not_before > now:
            continue
        is_near = abs(ticket.arrived_at - first.arrived_at) <= policy.window_s
        if is_near and items + theirs.items <= policy.items_max and chars + theirs.chars <= policy.chars_max:
            chosen.append(ticket)
            items, chars = items + theirs.items, chars + theirs.chars
    return chosen


def weight_of(ticket: Ticket) -> float:
    """Return how much of a call's time is this ticket's, beside others of the same call."""
    return float(max(ticket.merges.chars, 1)) if ticket.merges is not None else 1.0


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One list for several requests: each text once. `places[i]` are the indexes of request i's texts in it."""

    texts: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]


def plan(inputs: Sequence[Sequence[str]]) -> BatchPlan:
    """Put the texts of several requests into one list."""
    index: dict[str, int] = {}
    places = tuple(tuple(index.setdefault(text, len(index)) for text in texts) for texts in inputs)
    return BatchPlan(tuple(index), places)


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Split a count by weights into whole parts that add up to it (largest remainders first)."""
    whole = sum(weights)
    if whole <= 0:
        weights, whole = [1.0] * len(weights), float(len(weights))
    exact = [total * weight / whole for weight in weights]
    parts = [int(part) for part in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts
