"""Decides what a model can do at once, and which models are in memory, from Ollama's small calls. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from supervisord_ai.core.cache_policy import ModelFacts, parse_parameters
from supervisord_ai.core.calls import Json
from supervisord_ai.core.model_health import Placed
from supervisord_ai.core.model_name import ModelName, read_name

# server/sched.go of v0.33, lines 497-508: these get one slot whatever OLLAMA_NUM_PARALLEL says, and so do embedding-only models.
ONE_SLOT_FAMILIES = frozenset({"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"})
ONE_SLOT_FAMILY_PREFIX = "nemotron_h"


def canonical_name(name: str) -> str:
    """Return the name under which all spellings of a model meet; the name itself when it is none."""
    read = read_name(name)
    return read.canonical if isinstance(read, ModelName) else name


def digests_of(tags: Iterable[Mapping[str, Json]]) -> dict[str, str]:
    """Return the manifest digest of every installed model, by canonical name, from `/api/tags`."""
    return {canonical_name(str(model.get("name", ""))): str(model.get("digest", "")) for model in tags}


def resident_of(loaded: Iterable[Mapping[str, Json]], digests: Mapping[str, str]) -> frozenset[str]:
    """Return the models that are in memory, from `/api/ps`.

    It lists a runner under the name that loaded it; the other tags of the same manifest are in memory too.
    """
    entries = list(loaded)
    names = {canonical_name(str(model.get("name", ""))) for model in entries}
    held = {str(model.get("digest", "")) for model in entries} - {""}
    return frozenset(names | {name for name, digest in digests.items() if digest in held})


def placed_of(loaded: Iterable[Mapping[str, Json]]) -> tuple[Placed, ...]:
    """Return how much of each loaded model is where, by canonical name, from `/api/ps`."""
    return tuple(
        Placed(canonical_name(str(model.get("name", ""))), _bytes(model.get("size")), _bytes(model.get("size_vram")))
        for model in loaded
    )


def _bytes(value: Json) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def facts_of(digest: str, show: Mapping[str, Json]) -> ModelFacts:
    """Read `/api/show`."""
    parameters = show.get("parameters")
    capabilities = show.get("capabilities")
    return ModelFacts(
        digest=digest,
        parameters=parse_parameters(parameters) if isinstance(parameters, str) else {},
        capabilities=frozenset(str(item) for item in capabilities) if isinstance(capabilities, list) else frozenset(),
        is_remote=bool(show.get("remote_host")),
        context_length=_context_length(show.get("model_info")),
    )


def _context_length(info: Json) -> int | None:
    """Read `ARCHITECTURE.context_length`, whatever the architecture is called."""
    found = (value for key, value in info.items() if key.endswith(".context_length")) if isinstance(info, dict) else ()
    return next((value for value in found if isinstance(value, int)), None)


def serves_one_at_a_time(show: Mapping[str, Json]) -> bool:
    """Say whether Ollama gives this model one slot only, from `/api/show`."""
    capabilities = show.get("capabilities")
    if isinstance(capabilities, list) and "embedding" in capabilities and "completion" not in capabilities:
        return True
    details = show.get("details")
    families: set[str] = set()
    if isinstance(details, dict):
        listed = details.get("families")
        families = {str(details.get("family", ""))} | {str(item) for item in (listed if isinstance(listed, list) else [])}
    return any(family in ONE_SLOT_FAMILIES or family.startswith(ONE_SLOT_FAMILY_PREFIX) for family in families)
