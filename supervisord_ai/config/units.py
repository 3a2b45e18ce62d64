"""Sizes, durations and rates as people write them. Each is a number that knows how to read itself from a config."""

from __future__ import annotations

import re
from typing import ClassVar

SIZE_UNITS = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}
DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
RATE_UNITS_PER_MIN = {"s": 60.0, "sec": 60.0, "min": 1.0, "m": 1.0, "h": 1 / 60, "hour": 1 / 60}

_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*([a-z]+)\s*")

# A year is longer than any wait here, 1 PB larger than any machine: more is a slip of the finger.
MAX_DURATION_S = 366 * 86_400.0
MAX_SIZE_BYTES = 1000**5


class Unreadable(ValueError):  # noqa: N818
    """The value cannot be read; the text says what would be."""


class Size(int):
    """Bytes, written `"300MB"` (decimal) or `"300MiB"` (binary). A bare number is refused: nobody knows its unit."""

    least: ClassVar[int] = 0
    example: ClassVar[str] = '"300MB" or "300MiB"'

    @classmethod
    def read(cls, raw: object) -> Size:
        match = _NUMBER_AND_UNIT.fullmatch(raw) if isinstance(raw, str) else None
        factor = SIZE_UNITS.get(match[2].upper()) if match else None
        if match is None or factor is None:
            raise Unreadable(f"must be a size with its unit, such as {cls.example}, not {shown(raw)}")
        size_bytes = float(match[1]) * factor
        if not cls.least <= size_bytes <= MAX_SIZE_BYTES:
            raise Unreadable(f"{shown(raw)} is too {'small' if size_bytes < cls.least else 'large'}")
        return cls(round(size_bytes))


class SomeSize(Size):
    """A size that may not be nothing."""

    least = 1


class MemoryCap(Size):
    """What one agent may use: no program starts in less than a megabyte."""

    least = 1000**2


class Duration(float):
    """Seconds, written `"100ms"`, `"2s"`, `"10m"`, `"24h"` or `"30d"`."""

    least: ClassVar[float] = 0.0

    @classmethod
    def read(cls, raw: object) -> Duration:
        match = _NUMBER_AND_UNIT.fullmatch(raw) if isinstance(raw, str) else None
        factor = DURATION_UNITS_S.get(match[2]) if match else None
        if match is None or factor is None:
            raise Unreadable(f'must be a duration with its unit, such as "100ms", "2s", "10m" or "24h", not {shown(raw)}')
        duration = cls(float(match[1]) * factor)
        if not cls.least <= duration <= MAX_DURATION_S:
            raise Unreadable(f"{shown(raw)} is too {'short' if duration < cls.least else 'long'}")
        return duration


class SomeTime(Duration):
    """A duration that may not be nothing."""

    least = 0.001


class Rate:
    """Requests a minute, written `"10/min"` (also `/s`, `/h`); `""` is no limit."""

    def __init__(self, per_min: float | None) -> None:
        self.per_min = per_min

    @classmethod
    def read(cls, raw: object) -> Rate:
        if raw == "":
            return cls(None)
        match = _RATE.fullmatch(raw) if isinstance(raw, str) else None
        factor = RATE_UNITS_PER_MIN.get(match[2]) if match else None
        if match is None or factor is None:
            raise Unreadable(f'must be a rate, such as "10/min", or "" for no limit, not {shown(raw)}')
        per_min = float(match[1]) * factor
        if per_min == 0:
            raise Unreadable(f'{shown(raw)} would let nobody in; "" is no limit')
        return cls(per_min)


class Command(tuple[str, ...]):
    """An argv, written as a list of words; or one shell line, written as text."""

    __slots__ = ()

    @classmethod
    def read(cls, raw: object) -> Command:
        if isinstance(raw, str):
            if not raw.strip():
                raise Unreadable("must not be empty")
            return cls(("/bin/sh", "-c", raw))
        if not isinstance(raw, list) or not all(isinstance(word, str) for word in raw):
            raise Unreadable(f"must be a list of words or one shell line, not {shown(raw)}")
        if not raw or not raw[0]:
            raise Unreadable("must name a program")
        return cls(raw)


def read_unit(kind: type, raw: object) -> object:
    """Read `raw` as one of the kinds above (the decode hook for msgspec).

    Raises:
        Unreadable: it is not one.
    """
    if issubclass(kind, (Size, Duration, Rate, Command)):
        return kind.read(raw)
    raise NotImplementedError(kind)


def shown(raw: object) -> str:
    """Return a value as a config would have it, short enough for one line."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, str):
        text = raw if len(raw) <= 40 else raw[:37] + "..."
        return '"' + text.encode("unicode_escape").decode() + '"'
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, list):
        return "a list"
    return str(raw)
