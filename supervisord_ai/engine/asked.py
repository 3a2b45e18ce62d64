"""What a body asks for: known fields to typed values, with Ollama's words for what cannot be done.

Only what this engine can do is understood; what it cannot is refused in Ollama's words where Ollama has some (tools, thinking,
a suffix) and in plain ones where it has none (a template, logprobs), never passed over in silence. Fields that change nothing
here (images to a model without eyes, `num_ctx` and the other runner options: the context is fixed at start) are accepted.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.core.calls import Face, Json, JsonObject, Route
from supervisord_ai.core.model_name import BadName, CloudName, ModelName, NoName, read_name
from supervisord_ai.errors import Refused
from supervisord_ai.wire import messages
from supervisord_ai.wire.go_struct import WrongType, duration_s
from supervisord_ai.wire.json_go import EmptyBody, NotJson, encode

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
    """The known fields of one body: their types have been checked, so a getter only says what absence means."""

    def __init__(self, values: JsonObject) -> None:
        self._values = values

    def get(self, key: str) -> Json:
        return self._values.get(key)

    def text(self, key: str, default: str = "") -> str:
        value = self._values.get(key)
        return value if isinstance(value, str) else default

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self._values.get(key)
        return value if isinstance(value, bool) else default

    def integer(self, key: str) -> int | None:
        value = self._values.get(key)
        return value if isinstance(value, int) else None

    def items(self, key: str) -> list[Json]:
        value = self._values.get(key)
        return value if isinstance(value, list) else []

    def part(self, key: str) -> Fields:
        """An object inside; absent is empty."""
        return Fields(self.mapping(key))

    def mapping(self, key: str) -> JsonObject:
        value = self._values.get(key)
        return value if isinstance(value, dict) else {}

    @property
    def keep_alive_s(self) -> float | None:
        """Seconds; None where nothing was said, infinite for ever."""
        value = self._values.get("keep_alive")
        return None if value is None else duration_s(value)


def read_body(route: Route, body: bytes) -> Fields:
    """Read a body as Ollama would.

    Raises:
        Refused: 400 with Go's words.
    """
    try:
        return Fields(messages.read_body(route.op, body).fields)
    except EmptyBody as empty:
        raise Refused(400, "missing request body" if route.face is Face.OLLAMA else str(empty)) from empty
    except (NotJson, WrongType) as wrong:
        raise Refused(400, str(wrong)) from wrong


def require_model(asked: str, served: str, *, empty: Refused, missing: str) -> None:
    """Pass when the name means the model this engine has.

    Raises:
        Refused: `empty` for no name, 400 for what is no name, 403 for a model in the cloud, 404 with `missing` for another.
    """
    match read_name(asked):
        case NoName():
            raise empty
        case BadName(message):
            raise Refused(400, message)
        case CloudName():
            raise Refused(403, "ollama cloud is disabled: remote model is unavailable")
        case ModelName(canonical):
            if canonical != served:
                raise Refused(404, missing)


def read_options(options: JsonObject) -> JsonObject:
    """Ollama's `options` as llama.cpp's parameters, defaults filled in.

    Raises:
        Refused: 500 for a value of the wrong type, as Ollama answers it.
    """
    parameters = dict(_DEFAULTS)
    for name, value in options.items():
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _FLOAT_OPTIONS:
            if not is_number:
                raise Refused(500, f'option "{name}" must be of type float32')
            parameters[_FLOAT_OPTIONS[name]] = value
        elif name in _INT_OPTIONS:
            if not is_number:
                raise Refused(500, f'option "{name}" must be of type integer')
            parameters[_INT_OPTIONS[name]] = int(value) if isinstance(value, float) else value
        elif name == "stop":
            if not isinstance(value, list):
                raise Refused(500, 'option "stop" must be of type array')
            if not all(isinstance(item, str) for item in value):
                raise Refused(500, 'option "stop" must be of an array of strings')
            parameters["stop"] = value
    return parameters


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
    said = encode(value).decode()
    quoted = encode(said).decode()
    raise Refused(500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


def read_messages(items: list[Json]) -> tuple[Message, ...]:
    """The turns of a conversation; roles in lower case, as Ollama makes them."""
    turns = [Fields(item) for item in items if isinstance(item, dict)]
    return tuple(Message(turn.text("role").lower(), turn.text("content")) for turn in turns)


def refuse_what_it_cannot(fields: Fields, model: str, served: str) -> None:
    """Say no to what would change the answer if it were possible here.

    Raises:
        Refused: 400, in Ollama's words where it has some.
    """
    if fields.get("think"):
        raise Refused(400, f'"{model}" does not support thinking')
    if fields.items("tools"):
        raise Refused(400, f"registry.ollama.ai/library/{served} does not support tools")
    if fields.text("suffix"):
        raise Refused(400, f"registry.ollama.ai/library/{served} does not support insert")
    if fields.text("template"):
        raise Refused(400, "this engine uses the model's own template and takes no other")
    if fields.get("logprobs") or fields.get("top_logprobs"):
        raise Refused(400, "this engine gives no logprobs")


def read_generate(fields: Fields) -> Completion:
    """The completion that /api/generate asks for."""
    parameters = read_options(fields.mapping("options")) | read_format(fields.get("format"))
    prompt, system = fields.text("prompt"), fields.text("system")
    context = tuple(token for token in fields.items("context") if isinstance(token, int))
    if fields.flag("raw"):
        if system or context:
            raise Refused(400, "raw mode does not support template, system, or context")
        return Completion((), prompt, parameters, fields.keep_alive_s)
    turns = ((Message("system", system),) if system else ()) + (Message("user", prompt),)
    return Completion(turns, None, parameters, fields.keep_alive_s, context)


def read_chat(fields: Fields) -> Completion:
    """The completion that /api/chat asks for."""
    parameters = read_options(fields.mapping("options")) | read_format(fields.get("format"))
    return Completion(read_messages(fields.items("messages")), None, parameters, fields.keep_alive_s)


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
