"""Decides whether the memory that was promised fits, in declared numbers and on a real machine. Reads no memory itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from supervisord_ai.core.roster import MB


class Enforce(StrEnum):
    """What the caps do: hard ones bind, observed ones are only shown."""

    HARD = "hard"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """`[memory]`: who gets how much of the machine. `overcommit` 1.07 means: caps may add up to 107 % of `agents`."""

    total_bytes: int = 48_000 * MB
    os_bytes: int = 3_000 * MB
    ollama_bytes: int = 8_000 * MB
    cache_bytes: int = 1_000 * MB
    monitoring_bytes: int = 500 * MB
    agents_bytes: int = 35_200 * MB
    overcommit: float = 1.0
    reserve_bytes: int = 2_000 * MB
    enforce: Enforce = Enforce.HARD
