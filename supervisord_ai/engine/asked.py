"""What a body asks for: bytes to typed values, with Ollama's words for what cannot be read.

Only what this engine can do is understood; what it cannot is refused in Ollama's words where Ollama has some (tools, thinking,
a suffix) and in plain ones where it has none (a Modelfile template, logprobs), never passed over in silence. Fields that
change nothing here (images, `num_ctx` and the other runner options: the context is fixed at start) are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supervisord_ai.core.calls import Json, JsonObject
from supervisord_ai.core.model_name import BadName, CloudName, ModelName, NoName, read_name
from supervisord_ai.errors import Refused
from supervisord_ai.wire.json_go import EmptyBody, NotJson, decode, fold

_GO_TYPES: Mapping[type, str] = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")

# Ollama's option -> llama.cpp's parameter. All others are accepted and change nothing.
_FLOAT_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_INT_OPTIONS = {
    "top_k": "top_k",
    "seed": "seed",
    "num_predict": "n_predict",
    "repeat_last_n": "repeat_last_n",
    "num_keep": "n_keep",
}

# Ollama's defaults (api/types.go, DefaultOptions), which are not llama.cpp's.
_DEFAULTS: JsonObject = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": -1,
    "n_predict": -1,
    "n_keep": 4,
}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A text to be generated: from a conversation (through the model's template), or from a bare prompt.

    `context` are tokens of an earlier answer that come first. `parameters` are llama.cpp's.
    """

    messages: tuple[Message, ...]
    prompt: str | None
    parameters: JsonObject
    keep_alive_s: float | None = None
    context: tuple[int, ...] = ()


class Fields:
    """The fields of one body under their folded names. Of two spellings of one key the later counts, as in Go."""

    def __init__(self, struct: str, values: JsonObject, *, prefix: str = "") -> None:
        self._struct = struct
        self._prefix = prefix
        self._values = {fold(key): value for key, value in values.items()}

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str) -> Json:
        return self._values.get(key)

    def text(self, key: str, default: str = "") -> str:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._mistyped(key, value, "string")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._mistyped(key, value, "bool")
        return value

    def number(self, key: str) -> int | float | None:
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._mistyped(key, value, "float64")
        return value

    def integer(self, key: str) -> int | None:
        value = self.number(key)
        if value is None:
            return None
        if isinstance(value, float):
            raise self._mistyped(key, value, "int", f"number {value}")
        return value

    def mapping(self, key: str, go_type: str) -> JsonObject:
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._mistyped(key, value, go_type)
        return value

    def items(self, key: str, go_type: str) -> Sequence[Json]:
        value = self._values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._mistyped(key, value, go_type)
        return value

    def _mistyped(self, key: str, value: Json, go_type: str, what: str | None = None) -> Refused:
        found = what or _GO_TYPES[type(value)]
        field = f"{self._struct}.{self._prefix}{key}"
        return Refused(400, f"json: cannot unmarshal {found} into Go struct field {field} of type {go_type}")


def read_body(body: bytes, struct: str) -> Fields:
    """Read a body as Ollama would.

    Raises:
        Refused: 400 with Go's words.
    """
    try:
        value = decode(body)
    except EmptyBody:
        raise Refused(400, "missing request body" if struct.startswith("api.") else "EOF") from None
    except NotJson as wrong:
        raise Refused(400, str(wrong)) from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise Refused(400, f"json: cannot unmarshal {_GO_TYPES[type(value)]} into Go value of type {struct}")
    return Fields(struct.rpartition(".")[2], value)


def require_model(asked: str, served: str, *, empty: Refused, missing: str) -> None:
    """Pass when the name means the model this engine has.

    Raises:
        Refused: `empty` for no name, 400 for what is no name, 403 for a model in the cloud, 404 with `missing` for another.
    """
    name = read_name(asked)
    match name:
        case NoName():
            raise empty
        case BadName(message):
            raise Refused(400, message)
        case CloudName():
            raise Refused(403, "ollama cloud is disabled: remote model is unavailable")
        case ModelName(canonical):
            if canonical != served:
                raise Refused(404, missing)


def read_keep_alive(value: Json) -> float | None:
    """Seconds; None where nothing was said, negative for ever.

    Raises:
        Refused: 400 with Go's words.
    """
    match value:
        case None:
            return None
        case bool():
            raise Refused(400, "Unsupported type: 'bool'")
        case int() | float():
            return float(value)
        case str():
            return read_duration(value)
        case list():
            raise Refused(400, "Unsupported type: '[]interface {}'")
        case dict():
            raise Refused(400, "Unsupported type: 'map[string]interface {}'")


def read_duration(text: str) -> float:
    """Go's time.ParseDuration, in seconds.

    Raises:
        Refused: 400 with Go's words.
    """
    sign, rest = (-1.0, text[1:]) if text[:1] == "-" else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    if not rest:
        raise Refused(400, f'time: invalid duration "{text}"')
    total, at = 0.0, 0
    while at < len(rest):
        found = _DURATION.match(rest, at)
        if found is None:
            raise Refused(400, f'time: invalid duration "{text}"')
        number, unit = found.groups()
        if not unit:
            raise Refused(400, f'time: missing unit in duration "{text}"')
        if unit not in _UNITS_S:
            raise Refused(400, f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _UNITS_S[unit]
        at = found.end()
    return sign * total


def read_options(options: JsonObject) -> JsonObject:
    """Ollama's `options` as llama.cpp's parameters, defaults filled in.

    Raises:
        Refused: 500 for a value of the wrong type, as Ollama answers it.
    """
    parameters = dict(_DEFAULTS)
    for name, value in options.items():
        if value is None:
            continue
        if name in _FLOAT_OPTIONS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Refused(500, f'option "{name}" must be of type float32')
            parameters[_FLOAT_OPTIONS[name]] = float(value)
        elif name in _INT_OPTIONS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Refused(500, f'option "{name}" must be of type integer')
            parameters[_INT_OPTIONS[name]] = int(value)
        elif name == "stop":
            parameters["stop"] = _stop_words(value)
    return parameters


def _stop_words(value: Json) -> Json:
    if not isinstance(value, list):
        raise Refused(500, 'option "stop" must be of type array')
    if not all(isinstance(item, str) for item in value):
        raise Refused(500, 'option "stop" must be of an array of strings')
    return value


def read_format(value: Json) -> JsonObject:
    """What `format` adds to llama.cpp's parameters.

    Raises:
        Refused: 500, as Ollama answers it.
    """
    if value is None or value == "":
        return {}
    if value == "json":
        return {"json_schema": {}}
    if isinstance(value, dict):
        return {"json_schema": value}
    raise Refused(500, f'invalid format: "{value}"; expected "json" or a valid JSON Schema object')


def read_messages(items: Sequence[Json], struct: str) -> tuple[Message, ...]:
    """The turns of a conversation; roles in lower case, as Ollama makes them.

    Raises:
        Refused: 400 with Go's words.
    """
    messages = []
    for item in items:
        if not isinstance(item, dict):
            found = _GO_TYPES[type(item)]
            raise Refused(400, f"json: cannot unmarshal {found} into Go struct field {struct}.messages of type api.Message")
        fields = Fields(struct, item, prefix="messages.")
        messages.append(Message(fields.text("role").lower(), fields.text("content")))
    return tuple(messages)


def refuse_what_it_cannot(fields: Fields, model: str, canonical: str) -> None:
    """Say no to what would change the answer if it were possible here.

    Raises:
        Refused: 400, in Ollama's words where it has some.
    """
    think = fields.get("think")
    if think is not None and think is not False:
        if isinstance(think, str) and think not in {"high", "medium", "low", "max"}:
            raise Refused(400, f'invalid think value: "{think}" (must be "high", "medium", "low", "max", true, or false)')
        raise Refused(400, f'"{model}" does not support thinking')
    if fields.get("tools"):
        raise Refused(400, f"registry.ollama.ai/library/{canonical} does not support tools")
    if fields.get("suffix"):
        raise Refused(400, f"registry.ollama.ai/library/{canonical} does not support insert")
    if fields.get("template"):
        raise Refused(400, "this engine uses the model's own template and takes no other")
    if fields.get("logprobs") or fields.get("top_logprobs"):
        raise Refused(400, "this engine gives no logprobs")


def read_generate(fields: Fields) -> Completion:
    """The completion that /api/generate asks for. An empty prompt is a load or an unload: `is_load_only` says so."""
    parameters = read_options(fields.mapping("options", "map[string]interface {}")) | read_format(fields.get("format"))
    keep_alive_s = read_keep_alive(fields.get("keep_alive"))
    prompt, system = fields.text("prompt"), fields.text("system")
    context = tuple(token for token in fields.items("context", "[]int") if isinstance(token, int))
    if fields.flag("raw", default=False):
        if system or context:
            raise Refused(400, "raw mode does not support template, system, or context")
        return Completion((), prompt, parameters, keep_alive_s)
    turns = ((Message("system", system),) if system else ()) + (Message("user", prompt),)
    return Completion(turns, None, parameters, keep_alive_s, context)


def read_chat(fields: Fields) -> Completion:
    """The completion that /api/chat asks for."""
    parameters = read_options(fields.mapping("options", "map[string]interface {}")) | read_format(fields.get("format"))
    messages = read_messages(fields.items("messages", "[]api.Message"), "ChatRequest")
    return Completion(messages, None, parameters, read_keep_alive(fields.get("keep_alive")))


def read_inputs(value: Json) -> list[str]:
    """The texts of an embed call; empty when it only loads the model.

    Raises:
        Refused: 400, in Ollama's words.
    """
    match value:
        case None | "":
            return []
        case str():
            return [value]
        case list():
            texts = [item for item in value if isinstance(item, str)]
            if len(texts) == len(value):
                return texts
    raise Refused(400, "invalid input type")
