"""HTTP/1.1 as bytes: heads and bodies in, events out. Knows nothing of sockets, time or routes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class Headers:
    """Header fields in the order and spelling they were sent; names compare without case."""

    __slots__ = ("_first", "_items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = tuple(items)
        self._first: dict[str, str] = {}
        for name, value in self._items:
            self._first.setdefault(name.lower(), value)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of this name."""
        return self._first.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        """Every value of this name, in order."""
        wanted = name.lower()
        return [value for key, value in self._items if key.lower() == wanted]

    def items(self) -> list[tuple[str, str]]:
        """Every field as it was sent."""
        return list(self._items)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._first

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({list(self._items)!r})"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request, without its body. `path` is the raw path (still percent-encoded) without the query."""

    method: str
    target: str
    path: str
    query: str
    headers: Headers
    version: str  # "1.1" | "1.0"


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """One answer, without its body."""

    status: int
    headers: Headers
    version: str
