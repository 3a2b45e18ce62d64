"""The models an Ollama has, and how it reads their names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .gojson import quote

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}\Z")

ONE_SLOT_FAMILIES = frozenset({"mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"})
"""Families that get one slot whatever OLLAMA_NUM_PARALLEL says (server/sched.go 497-508), with every `nemotron_h*`."""


class NotValid(Exception):  # noqa: N818
    """A model name that Ollama refuses to look up; the text is its answer, status 400."""


class CloudName(Exception):  # noqa: N818
    """A name that would send the prompt to ollama.com."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One installed model: what metadata says of it, and how its runner behaves."""

    name: str
    family: str = "llama"
    capabilities: tuple[str, ...] = ("completion",)
    size_bytes: int = 1056
    parameter_size: str = "1.2B"
    quantization: str = "Q4_K_M"
    train_ctx: int = 8192
    parameters: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    blob: str = ""  # models of one blob share one runner
    modified_at: float = 1_795_423_675.0
    load_s: float | None = None  # None: what the double's options say
    load_error: str | None = None

    @property
    def is_embedding_only(self) -> bool:
        return "embedding" in self.capabilities and "completion" not in self.capabilities

    @property
    def is_one_slot(self) -> bool:
        return self.is_embedding_only or self.family in ONE_SLOT_FAMILIES or self.family.startswith("nemotron_h")

    @property
    def blob_digest(self) -> str:
        return hashlib.sha256((self.blob or self.name).encode()).hexdigest()

    @property
    def digest(self) -> str:
        """The manifest's: another tag of the same blob has another one."""
        return hashlib.sha256(f"{self.name}\n{self.blob}\n{sorted(self.parameters.items())}\n{self.system}".encode()).hexdigest()

    def details(self) -> dict[str, object]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": self.parameter_size,
            "quantization_level": self.quantization,
        }


def embedding_model(name: str, **changes: Any) -> ModelSpec:
    """A model that only embeds; it gets one slot."""
    spec = ModelSpec(name, family="nomic-bert", capabilities=("embedding",), size_bytes=992, parameter_size="137M")
    return replace(spec, **changes)


@dataclass(frozen=True, slots=True)
class Name:
    """A model name in its four parts, defaults filled in."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def shortest(self) -> str:
        if self.host != "registry.ollama.ai":
            return self.full
        if self.namespace != "library":
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"


def parse_name(text: str) -> Name:
    """The parts of a name.

    Raises: NotValid.
    """
    path, _, tag = text.rpartition(":") if ":" in text.rpartition("/")[2] else (text, "", "latest")
    parts = path.split("/")
    if not 1 <= len(parts) <= 3:
        raise NotValid("invalid model name")
    host, namespace, model = ["registry.ollama.ai", "library"][: 3 - len(parts)] + parts
    if not (_HOST.match(host) and _PART.match(namespace) and _PART.match(model) and _PART.match(tag)):
        raise NotValid("invalid model name")
    return Name(host, namespace, model, tag)


def without_source(text: str) -> str:
    """The name without its `:local`, which only says where to look.

    Raises: CloudName for `:cloud` and `-cloud` tags, NotValid for a name that says both.
    """
    base, _, last = text.rpartition(":")
    if base and last in {"cloud", "local"} and base.rpartition(":")[2] in {"cloud", "local"} and last != base.rpartition(":")[2]:
        raise NotValid(f"use either :local or :cloud, not both: {quote(text)}")
    if base and (last == "cloud" or last.endswith("-cloud")):
        raise CloudName(text)
    return base if base and last == "local" else text


class Catalogue:
    """The installed models, newest first in listings as Ollama lists them."""

    def __init__(self, models: Iterable[ModelSpec]) -> None:
        self._models: dict[str, ModelSpec] = {}
        for spec in models:
            self.add(spec)

    def add(self, spec: ModelSpec) -> None:
        name = parse_name(spec.name).shortest
        self._models[name] = replace(spec, name=name, blob=spec.blob or name)

    def remove(self, text: str) -> bool:
        found = self.find(text)
        return found is not None and self._models.pop(found.name, None) is not None

    def find(self, text: str, *, is_case_sensitive: bool = False) -> ModelSpec | None:
        """The model of a name as asked.

        Raises: NotValid.
        """
        wanted = parse_name(text).shortest
        for name, spec in self._models.items():
            if name == wanted or (not is_case_sensitive and name.lower() == wanted.lower()):
                return spec
        return None

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(sorted(self._models.values(), key=lambda spec: -spec.modified_at))

    def __len__(self) -> int:
        return len(self._models)
