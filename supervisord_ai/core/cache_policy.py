"""Decides which answers may be kept and shared, and under which key. Knows nothing of where they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisord_ai.core.calls import Call, Json


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What `/api/tags` and `/api/show` say of a model: its manifest digest, its Modelfile's parameters, what it can do."""

    digest: str
    parameters: Mapping[str, Json] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Shareable:
    """The answer may be kept, and given to whoever asks the same; `key` is 32 bytes."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Private:
    """The answer is for this caller alone; `why` is for `Cache-Status` and people."""

    why: str


def key_of(call: Call, facts: ModelFacts | None, *, ollama_version: str, scope: str, local_date: str) -> Shareable | Private:
    """Say whether a call may be answered from the cache, coalesced and kept, and its key.

    `scope` names who shares (`"shared"`, `"class:opus"`, `"agent:opus-01"`, `"guest"`); `local_date` is `YYYY-MM-DD`, because
    templates may print it.
    """
    raise NotImplementedError
