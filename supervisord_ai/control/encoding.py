"""How an answer is made of the views of rooms, and written."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct


def fields_of(kind: type[Struct], *views: object) -> dict[str, Any]:
    """Return of some views what a struct has fields for; the first that has one gives it."""
    return {
        name: getattr(view, name) for name in kind.__struct_fields__ for view in reversed(views) if hasattr(view, name)
    }


def encoded(answer: object) -> bytes:
    """Return an answer as JSON, its seconds rounded to what a clock can mean."""
    return msgspec.json.encode(rounded(msgspec.to_builtins(answer)))


def rounded(value: Any) -> Any:
    """Return the same with every float rounded to a thousandth."""
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {key: rounded(inner) for key, inner in value.items()}
        case list() | tuple():
            return [rounded(inner) for inner in value]
        case _:
            return value
