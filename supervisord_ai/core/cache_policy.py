"""Decides which answers may be kept and shared, under which key, and for how long. Knows nothing of where they are kept.

An answer may be shared when any one sample is as good as another: embeddings, an effective temperature of 0, or a fixed seed.
(Not "bit for bit the same": on a GPU a neighbour in the batch can flip a token.) Ten callers at temperature 0.8 want ten samples.

The key is SHA-256 over everything an answer depends on. Two rules make it safe:
- a field counts unless it is known not to matter; a needless miss costs a slot, a wrong hit is a lie;
- what Ollama treats as equal is made equal first: absent and empty, `0.7` and `0.70000001` (it keeps float32), `User` and `user`.

Left out: `stream` for native calls (their answer is kept as lines and replayed either way), `keep_alive`, the model's name (its
manifest digest is in the key instead), and fields Ollama does not know. Key order counts inside `format`, tools and tool
arguments, where templates and grammars follow it, and nowhere else. An Ollama newer than the tables here may know more fields
than they do: then unknown ones count too.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord_ai.core.calls import Call, Json, JsonObject, Op, Sampling

KNOWN_OLLAMA = (0, 33)  # the tables of fields and options are those of this version
RANDOM = "no fixed seed, and the temperature is above 0"
KEY_SCHEMA = 1  # raise it when the canonical form changes: all older entries then miss

RUNNER_INT_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict")
RUNNER_OPTIONS = frozenset({*RUNNER_INT_OPTIONS, "use_mmap"})
_INT_OPTIONS = frozenset({*RUNNER_INT_OPTIONS, "num_keep", "seed", "num_predict", "top_k", "repeat_last_n"})
_FLOAT_OPTIONS = frozenset(
    {"top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"}
)
KNOWN_OPTIONS = RUNNER_OPTIONS | _INT_OPTIONS | _FLOAT_OPTIONS | {"stop"}

_NOT_IN_THE_KEY = frozenset({"model", "name", "stream", "keep_alive", "metadata"})
_ZERO_IS_ABSENT = frozenset(  # no pointers in Go, so a zero value and no value are the same to Ollama
    {"prompt", "suffix", "system", "template", "raw", "_debug_render_only", "logprobs", "top_logprobs", "dimensions"}
    | {"images", "messages", "tools", "options", "instructions", "encoding_format"}
)

_MESSAGE_FIELDS = ("role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id")

_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's LLAMA_DEFAULT_SEED: "choose one"
_EMBEDDING_OPS = frozenset({Op.EMBED, Op.EMBEDDINGS, Op.V1_EMBEDDINGS})


class Tier(StrEnum):
    """Where a kept answer lies."""

    L1 = "l1"  # in memory, per agent
    L2 = "l2"  # in the cache file
    L3 = "l3"  # in a file of its own


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What `/api/tags` and `/api/show` say of a model: its manifest digest, its Modelfile's parameters, what it can do."""

    digest: str
    parameters: Mapping[str, Json] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()
    is_remote: bool = False  # `remote_host` is set: it would run on another machine
    context_length: int | None = None  # what it was trained for


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
    basis = call.cache_key
    if basis is None:
        return Private(call.cache_why)
    if facts is None or not facts.digest:
        return Private("the model's digest is not known")
    if facts.is_remote:
        return Private("the model runs on another machine")
    why = "" if basis.is_embedding else _why_random(basis.sampling, facts.parameters)
    if why:
        return Private(why)
    unknown = basis.unknown_digest.hex() if _is_newer(ollama_version) else ""
    parts: Json = [KEY_SCHEMA, ollama_version, scope, local_date, facts.digest, basis.form.value, basis.digest.hex(), unknown]
    return Shareable(hash_of(parts))


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long answers count as fresh, and whether older ones may be given; the level of pressure decides both.

    `ttl_factor` stretches the time an answer was kept for. What is stale is never older than the local day: the date is in
    the key.
    """

    ttl_factor: float = 1.0
    allow_stale: bool = False


@dataclass(frozen=True, slots=True)
class Usable:
    """The answer may be given. `ttl_s` is how long it will be fresh; negative says for how long it has been stale."""

    ttl_s: float

    @property
    def is_stale(self) -> bool:
        return self.ttl_s <= 0


def usable(
    finished_wall: float, expires_wall: float, now_wall: float, rule: Freshness, *, max_age_s: float | None = None
) -> Usable | None:
    """Say whether a kept answer may be given now; None when it may not. `max_age_s` is the caller's own bound.

    An answer of the future (the clock was set back) is as old as it is young: its age counts as 0, its end stays.
    """
    if max_age_s is not None and now_wall - finished_wall > max_age_s:
        return None
    ttl_s = finished_wall + (expires_wall - finished_wall) * rule.ttl_factor - now_wall
    return Usable(ttl_s) if ttl_s > 0 or rule.allow_stale else None


def _is_newer(version: str) -> bool:
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return not (major.isdecimal() and minor.isdecimal()) or (int(major), int(minor)) > KNOWN_OLLAMA


def _why_random(asked: Sampling, modelfile: Mapping[str, Json]) -> str:
    """Why another call could get another answer; "" if it could not. The request wins over the Modelfile."""
    temperature = asked.temperature if asked.temperature is not None else _number(modelfile.get("temperature"))
    if temperature is not None and temperature <= 0:
        return ""
    seed = asked.seed if asked.seed is not None else _number(modelfile.get("seed"))
    if seed is not None and 0 <= int(seed) % 2**32 < _RANDOM_SEED and seed >= 0:
        return ""
    return RANDOM


def parse_parameters(text: str) -> dict[str, Json]:
    """Read the `parameters` of `/api/show`: one `name value` a line, strings quoted, a repeated name a list (`stop`)."""
    found: dict[str, Json] = {}
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" ")
        value = _literal(rest.strip())
        if name == "stop":
            before = found.get(name)
            found[name] = [*before, value] if isinstance(before, list) else [value]
        elif name:
            found[name] = value
    return found


def _literal(text: str) -> Json:
    try:
        value: Json = json.loads(text)
    except ValueError:
        return text
    return value


# --- the canonical form -----------------------------------------------------------------------------------------------


def hash_of(value: Json) -> bytes:
    """SHA-256 over a value's JSON."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()).digest()


class NotCanonical(Exception):  # noqa: N818
    """A value Ollama will refuse; the text says which."""


def canonical(op: Op, fields: JsonObject, *, known: frozenset[str], images: Mapping[str, str]) -> JsonObject:
    """Return the fields of a call in the one form that all equal calls share.

    `known` are the route's field names, `images` the digest of each base64 image (of its decoded bytes). `model`, `stream` and
    `keep_alive` are left out; the caller adds what it needs of them.

    Raises:
        NotCanonical: an option has the wrong type.
    """
    made: JsonObject = {}
    for name in sorted(known - _NOT_IN_THE_KEY):
        value = fields.get(name)
        match name:
            case "options":
                value = _options(value) if isinstance(value, dict) else None
            case "messages" if op == Op.CHAT:
                value = [_message(item, images) for item in value] if isinstance(value, list) else None
            case "images":
                value = [images[item] for item in value if isinstance(item, str)] if isinstance(value, list) else None
            case "format" if value == "":
                value = None  # but {} is a schema: any JSON
            case "input" if isinstance(value, str) and is_embedding(op):
                value = [value]
            case "temperature" | "top_p" | "frequency_penalty" | "presence_penalty" if isinstance(value, int | float):
                value = _float32(value)
        is_zero = value is False or value == 0 or value in ("", [], {})
        if value is not None and not (is_zero and name in _ZERO_IS_ABSENT):
            made[name] = value
    return made


def unknown_digest(op: Op, fields: JsonObject, *, known: frozenset[str]) -> bytes:
    """SHA-256 over what `canonical` leaves out because no table has it, b"" if there is nothing."""
    left: list[Json] = [{name: value for name, value in fields.items() if name not in known}]
    options, messages = fields.get("options"), fields.get("messages")
    if isinstance(options, dict):
        left.append({name: value for name, value in options.items() if name not in KNOWN_OPTIONS})
    if op == Op.CHAT and isinstance(messages, list):
        for message in messages:
            members = message.items() if isinstance(message, dict) else []
            left.append({name: value for name, value in members if name not in _MESSAGE_FIELDS})
    return hash_of(left) if any(left) else b""


def is_embedding(op: Op) -> bool:
    """Whether a route answers with vectors, which depend on nothing random."""
    return op in _EMBEDDING_OPS


def _options(options: JsonObject) -> JsonObject:
    made: JsonObject = {}
    for name in sorted(KNOWN_OPTIONS & options.keys()):  # Ollama compares option names exactly
        value = options[name]
        if value is None:
            continue
        if name in _INT_OPTIONS:
            made[name] = int(_numeric(name, value))
        elif name in _FLOAT_OPTIONS:
            made[name] = _float32(_numeric(name, value))
        elif name == "use_mmap":
            if not isinstance(value, bool):
                raise NotCanonical(f"option {name} has the wrong type")
            made[name] = value
        else:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise NotCanonical(f"option {name} has the wrong type")
            made[name] = value
    return made


def _numeric(name: str, value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotCanonical(f"option {name} has the wrong type")
    return value


def _number(value: Json) -> float | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value


def _float32(value: float) -> Json:
    try:
        narrow: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return "inf" if value > 0 else "-inf"
    return narrow


def _message(message: Json, images: Mapping[str, str]) -> Json:
    assert isinstance(message, dict)  # reading the request has made it one, or refused it
    made: JsonObject = {}
    for name in _MESSAGE_FIELDS:
        value = message.get(name)
        if name == "role" and isinstance(value, str):
            value = value.lower()
        if name == "images" and isinstance(value, list):
            value = [images[item] for item in value if isinstance(item, str)]
        if value:
            made[name] = value
    return made

