"""Moves a state along a transition table. Knows nothing of what the states mean.

A table is `{(state, event): state}`. An illegal move is a missing key, turned into an error that names all three parts, so
that a bug shows where it happened and not where it was noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class IllegalMove(Exception):  # noqa: N818
    """The table has no such transition: a bug in the caller, never a user's fault."""

    def __init__(self, what: str, state: StrEnum, event: StrEnum) -> None:
        super().__init__(f"{what} in state {state} cannot take {event}")
        self.state = state
        self.event = event


def advance(what: str, table: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    """Return the next state.

    Raises:
        IllegalMove: the table has no entry for (state, event).
    """
    try:
        return table[state, event]
    except KeyError:
        raise IllegalMove(what, state, event) from None
