"""Reads and judges the conditions of alerts. Measures nothing.

    condition  = all { "or" all }
    all        = comparison { "and" comparison }
    comparison = FIGURE ( ">" | ">=" | "<" | "<=" | "==" | "!=" ) ( NUMBER | "WORD" )

`queue.oldest_s > 60`, `level >= 2 and memory.available_mb < 1000`, `backend.main.breaker == "open"`. Units are those of the
figures (`core/figures.py`). A condition is true, false, or not known: a figure that cannot be measured decides nothing, except
where the other side of an `and` or `or` has decided already.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from supervisord_ai.core.figures import FIGURES, Value, Values, find_figure, nearest

_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][\w.\-]*)|(?P<op>>=|<=|==|!=|>|<)|(?P<number>[+-]?\d[\w.]*)|"(?P<word>[^"]*)"|(?P<other>\S))""",
    re.ASCII,
)
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
FORM = "a condition is FIGURE > NUMBER, such as `queue.oldest_s > 60`"


class BadCondition(ValueError):  # noqa: N818
    """It is no condition; the text says why, for whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure against one value."""

    figure: str
    sign: str
    value: Value

    def holds(self, values: Values) -> bool | None:
        """Return whether it is true, None while the figure is not known."""
        now = values.get(self.figure)
        if now is None:
            return None
        if isinstance(now, str) or isinstance(self.value, str):
            return (now == self.value) is (self.sign == "==")
        return _COMPARE[self.sign](now, self.value)


@dataclass(frozen=True, slots=True)
class Condition:
    """Any of these groups, in each of which all hold. `text` is what was written."""

    text: str
    any_of: tuple[tuple[Comparison, ...], ...]

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures it asks for, in its order, each once."""
        return tuple(dict.fromkeys(one.figure for group in self.any_of for one in group))

    def holds(self, values: Values) -> bool | None:
        """Return whether it is true, None while that is not known."""
        groups = [_all(one.holds(values) for one in group) for group in self.any_of]
        if any(groups):
            return True
        return None if None in groups else False


def _all(facts: Iterable[bool | None]) -> bool | None:
    told = list(facts)
    if False in told:
        return False
    return None if None in told else True


def read_condition(text: str, backends: Collection[str]) -> Condition:
    """Return the condition that a text means; `backends` are the names that may stand in `backend.NAME.state`.

    Raises:
        BadCondition: it means none.
    """
    tokens = [match for match in _TOKEN.finditer(text) if match.group().strip()]
    if not tokens:
        raise BadCondition(f"is empty: {FORM}")
    groups: list[list[Comparison]] = [[]]
    at = 0
    while True:
        groups[-1].append(_comparison([match.group().strip() for match in tokens[at : at + 3]], tokens[at : at + 3], backends))
        at += 3
        if at >= len(tokens):
            return Condition(text, tuple(tuple(group) for group in groups))
        joint = tokens[at].group().strip()
        if joint not in {"and", "or"}:
            raise BadCondition(f"has `{joint}` where `and`, `or` or the end is expected")
        if joint == "or":
            groups.append([])
        at += 1


def _comparison(said: list[str], tokens: list[re.Match[str]], backends: Collection[str]) -> Comparison:
    if len(said) < 3 or tokens[0]["name"] is None or tokens[1]["op"] is None:
        raise BadCondition(f"cannot be read at `{' '.join(said) or 'its end'}`: {FORM}")
    name, sign = said[0], said[1]
    found = find_figure(name)
    if found is None:
        raise BadCondition(f"there is no figure `{name}`{nearest(name, (figure.name for figure in FIGURES))}")
    figure, inner = found
    if inner and inner not in backends:
        raise BadCondition(f"there is no [[ollama]] named `{inner}`{nearest(inner, backends)}")
    if not figure.is_word:
        if tokens[2]["number"] is None or _NUMBER.fullmatch(said[2]) is None:
            unit = f" (in {figure.unit})" if figure.unit else ""
            raise BadCondition(f"`{name}` is a number{unit}: compare it with one, not with {said[2]}")
        return Comparison(name, sign, float(said[2]))
    word = tokens[2]["word"]
    if word is None:
        raise BadCondition(f'`{name}` is a word: write it in quotes, such as "{figure.words[0]}", not {said[2]}')
    if sign not in {"==", "!="}:
        raise BadCondition(f"`{name}` is a word: it can be compared by == and !=, not by {sign}")
    if word not in figure.words:
        raise BadCondition(f"`{name}` is never `{word}`{nearest(word, figure.words)}")
    return Comparison(name, sign, word)
