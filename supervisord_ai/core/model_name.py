"""Reads a model's name as Ollama does: which model it means, whether it is a name at all, and whether it leaves the machine.

After internal/modelref/modelref.go, types/model/name.go and server/model_resolver.go of Ollama v0.33. A name is
`[host/][namespace/]model[:tag][:local|:cloud]`; letters compare without case; `llama3.2` means
`registry.ollama.ai/library/llama3.2:latest`, which `/api/tags` lists as `llama3.2:latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model on this machine. `canonical` is the name by which `/api/tags` lists it, in lower case."""

    canonical: str


@dataclass(frozen=True, slots=True)
class CloudName:
    """Ollama would send the prompt to ollama.com."""


@dataclass(frozen=True, slots=True)
class NoName:
    """Empty: each route has its own words for that."""


@dataclass(frozen=True, slots=True)
class BadName:
    """Not a name; `message` is Ollama's."""

    message: str


def read_name(asked: str) -> ModelName | CloudName | NoName | BadName:
    """Say which model a name means."""
    raw = asked.strip()
    if not raw:
        return NoName()
    base, source = _cut_source(raw)
    if source and _cut_source(base)[1]:
        return BadName(f'use either :local or :cloud, not both: "{raw}"')
    canonical = _canonical(base)
    if canonical is None:
        return BadName("invalid model name")
    return CloudName() if source == "cloud" else ModelName(canonical)


def _cut_source(raw: str) -> tuple[str, str]:
    """Cut `:local`, `:cloud` or the `-cloud` of a tag off a name: (rest, "local" | "cloud" | "")."""
    colon = raw.rfind(":")
    if colon < 0:
        return raw, ""
    suffix = raw[colon + 1 :].strip()
    folded = suffix.lower()
    if folded in {"cloud", "local"}:
        return raw[:colon], folded
    if "/" not in suffix and folded.endswith("-cloud"):
        return raw[: colon + 1] + suffix[: -len("-cloud")], "cloud"
    return raw, ""


def _canonical(name: str) -> str | None:
    tag, host, namespace = DEFAULT_TAG, DEFAULT_HOST, DEFAULT_NAMESPACE
    rest = name
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    rest, slash, model = rest.rpartition("/")
    if slash:
        rest, slash, namespace = rest.rpartition("/")
        if slash:
            host = rest.partition("://")[2] or rest
    if not (_HOST.fullmatch(host) and _NAMESPACE.fullmatch(namespace) and _PART.fullmatch(model) and _PART.fullmatch(tag)):
        return None
    host, namespace, model, tag = host.lower(), namespace.lower(), model.lower(), tag.lower()
    if host != DEFAULT_HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    if namespace != DEFAULT_NAMESPACE:
        return f"{namespace}/{model}:{tag}"
    return f"{model}:{tag}"
