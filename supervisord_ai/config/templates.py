"""Fills `{name}`, `{n}`, `{n:02}` and `{class}` into the text of an agent. Braces that are meant stand twice, as in Python."""

from __future__ import annotations

import re
from string import Formatter
from typing import Any

_WIDTH = re.compile(r"0?[1-9]?\d?")


class BadTemplate(ValueError):  # noqa: N818
    """The text names something else between braces, or its braces do not match."""


def fill(text: str, *, n: int, agent_class: str, name: str | None) -> str:
    """Return the text of one agent. `name` is None while the name itself is being made.

    Raises:
        BadTemplate: the text says why, and what to write instead.
    """
    filled = ""
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as exc:
        raise BadTemplate(f"has a brace without its partner ({exc}): write {{{{ or }}}} for one that is meant") from exc
    known: dict[str, Any] = {"n": n, "class": agent_class} | ({} if name is None else {"name": name})
    for literal, key, spec, conversion in pieces:
        filled += literal
        if key is None:
            continue
        if key not in known or conversion or not (_WIDTH.fullmatch(spec or "") if key == "n" else not spec):
            written = "{" + key + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
            usable = ", ".join(f"{{{k}}}" for k in known)
            raise BadTemplate(f"has {written}; usable are {usable} and {{n:02}}, and {{{{ }}}} stand for braces that are meant")
        filled += format(known[key], spec or "")
    return filled


def names_number(text: str) -> bool:
    """Tell whether a template differs from one agent of an entry to the next."""
    try:
        return any(key == "n" for _, key, _, _ in Formatter().parse(text))
    except ValueError:
        return True
