"""Step 2 of a request's path: from bytes to a Call that says what it is, what Ollama will be sent, and what it may share.

A body is read as Ollama reads it and written again from what was understood. What Ollama would refuse without looking at a
model is refused here in its words, so that nobody waits in a queue to be told of a typing error; what depends on the model is
left to Ollama. In its order: JSON and types, then the route's own checks, then the model's name.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote as quote_path

from supervisord_ai.core.cache_policy import RUNNER_OPTIONS, NotCanonical, canonical, hash_of, is_embedding, unknown_digest
from supervisord_ai.core.calls import (
    Body,
    CacheKeyBasis,
    Call,
    Face,
    Form,
    Json,
    JsonObject,
    Kind,
    Matched,
    ModelPins,
    NoSuchPath,
    Op,
    Pins,
    Redirect,
    Route,
    Sampling,
    WrongMethod,
    find_route,
)
from supervisord_ai.core.model_name import BadName, CloudName, ModelName, NoName, read_name
from supervisord_ai.errors import Refused
from supervisord_ai.wire.faces import NOT_FOUND_TEXT, WRONG_METHOD_TEXT
from supervisord_ai.wire.go_struct import Bound, WrongType, duration_s
from supervisord_ai.wire.json_go import EmptyBody, NotJson, encode, encode_members, encode_utf8
from supervisord_ai.wire.messages import STRUCTS, declares_web_search, read_body
from supervisord_ai.wire.ollama import keep_alive_json

NO_INFERENCE = "ollama cloud is disabled: remote model is unavailable"
NO_DETAILS = "ollama cloud is disabled: remote model details are unavailable"
NO_SEARCH = "ollama cloud is disabled: web search is unavailable"
NO_ACCOUNT = "ollama cloud is disabled: this machine's key is not for its agents"
NO_TRANSCRIPTION = "audio transcription is not carried by ai-supervisor yet"

_NATIVE_SAMPLED = frozenset({Op.GENERATE, Op.CHAT})
_NATIVE = frozenset({Op.GENERATE, Op.CHAT, Op.EMBED, Op.EMBEDDINGS})
_NOT_FOUND_WHEN_EMPTY = frozenset({Op.GENERATE, Op.EMBED, Op.COMPLETIONS, Op.V1_EMBEDDINGS})
_OPENAI_SAMPLED = frozenset({Op.CHAT_COMPLETIONS, Op.COMPLETIONS, Op.RESPONSES})
_TOLD_CHARS = 60  # of a value in X-AI-Options


def classify(
    method: str,
    path: str,
    body: bytes | bytearray,
    *,
    is_admin_allowed: bool,
    pins: Pins,
    query: str = "",
) -> Call:
    """Read one request as Ollama would.

    For a recovered row: pass its method, path and (canonical) body; the same Call comes out.

    Raises:
        Refused: 3xx, 4xx and 5xx answers of our own, in Ollama's words (`location`, `allow` filled where they apply).
    """
    matched = _match(method, path, query)
    route = matched.route
    if route.kind == Kind.REFUSED:
        raise _refused_route(route)
    if route.kind == Kind.ADMIN and not is_admin_allowed:
        raise Refused(403, f"{route.path.partition('/:')[0]} is for the owner of this machine only")
    if route.op not in STRUCTS or method in {"GET", "HEAD"}:
        return _without_fields(matched, method, path, body)
    bound = _read(route, body)
    if route.kind == Kind.INFERENCE:
        return _Reading(route, path, bound, pins, is_unload_granted=is_admin_allowed).call()
    return _administration(route, path, bound.fields)


def _match(method: str, path: str, query: str) -> Matched:
    match find_route(method, path):
        case Matched() as matched:
            return matched
        case Redirect(status, location):
            raise Refused(status, "the path is not clean", location=f"{location}?{query}" if query else location)
        case WrongMethod(allow):
            raise Refused(204, "", allow=allow) if method == "OPTIONS" else Refused(405, WRONG_METHOD_TEXT, allow=allow)
        case NoSuchPath():
            raise Refused(404, NOT_FOUND_TEXT)


def _refused_route(route: Route) -> Refused:
    match route.op:
        case Op.TRANSCRIPTIONS:
            return Refused(501, NO_TRANSCRIPTION)
        case Op.ACCOUNT:
            return Refused(403, NO_ACCOUNT)
        case _:
            return Refused(403, NO_SEARCH)


def _read(route: Route, body: bytes | bytearray) -> Bound:
    try:
        return read_body(route.op, body)
    except EmptyBody as error:
        raise Refused(400, "missing request body" if route.face == Face.OLLAMA else str(error)) from error
    except (NotJson, WrongType) as error:
        raise Refused(400, str(error)) from error


def _without_fields(matched: Matched, method: str, path: str, body: bytes | bytearray) -> Call:
    """A route without a JSON body. Ollama skips the body of a GET; a blob's is passed as it is."""
    route, parameter = matched.route, matched.parameter
    model = parameter if route.op == Op.V1_MODEL else None
    canonical_model = None
    if model is not None:
        match read_name(model):
            case CloudName():
                raise Refused(403, NO_DETAILS)
            case ModelName(name):
                canonical_model = name
            case NoName() | BadName():
                pass  # Ollama has words for these
    sent = bytes(body) if method not in {"GET", "HEAD"} else b""
    upstream_path = route.path if parameter is None else route.path.partition(":")[0] + quote_path(parameter, safe=":@")
    return Call(
        route=route,
        path=path,
        face=route.face,
        model=model,
        canonical_model=canonical_model,
        asked_stream=False,
        caller_body=Body(sent),
        upstream_path=upstream_path,
        upstream_body=Body(sent),
        upstream_streams=False,
        digest=hashlib.sha256(f"{route.op} {parameter or ''}\n".encode() + sent).digest(),
        cache_key=None,
        cache_why="not an inference",
        parameter=parameter,
    )


def _administration(route: Route, path: str, fields: JsonObject) -> Call:
    """Show, pull, push, create, copy: passed on, unless a name in it leaves the machine. What is here may always be deleted."""
    names = [value for key in ("model", "name", "from", "source", "destination") if isinstance(value := fields.get(key), str)]
    is_cloud = any(isinstance(read_name(name), CloudName) for name in names) or bool(fields.get("remote_host"))
    if is_cloud and route.op != Op.DELETE:
        raise Refused(403, NO_DETAILS if route.op == Op.SHOW else NO_INFERENCE)
    model = next((name for name in names if name), None)
    if model is None and route.op == Op.SHOW:
        raise Refused(400, "model is required")
    read = read_name(model or "")
    sent = encode(fields)
    streams = route.stream_default is not None and fields.get("stream") is not False
    return Call(
        route=route,
        path=path,
        face=route.face,
        model=model,
        canonical_model=read.canonical if isinstance(read, ModelName) else None,
        asked_stream=streams,
        caller_body=Body(sent),
        upstream_path=route.path,
        upstream_body=Body(sent),
        upstream_streams=streams,
        digest=hashlib.sha256(f"{route.op}\n".encode() + sent).digest(),
        cache_key=None,
        cache_why="not an inference",
    )


class _Reading:
    """One inference being read: what is asked, what is granted of it, what Ollama is sent."""

    def __init__(self, route: Route, path: str, bound: Bound, pins: Pins, *, is_unload_granted: bool) -> None:
        self.op = route.op
        self.route = route
        self.path = path
        self.fields = bound.fields
        self.images = bound.image_digests
        self.is_native = route.op in _NATIVE
        self.is_transparent = pins.is_transparent
        self.is_unload_granted = is_unload_granted
        self.not_granted: list[str] = []
        self._check_route()
        self.model, self.canonical_model = self._model()
        self._check_input()
        self.pins = pins.of(self.canonical_model)

    def call(self) -> Call:
        fields, op = self.fields, self.op
        asked_stream = self._asked_stream()
        is_empty = _is_empty(op, fields)
        keep_alive = fields.get("keep_alive")
        is_unload = is_empty and op in _NATIVE_SAMPLED and keep_alive is not None and duration_s(keep_alive) < 1e-9
        is_load = is_empty and not is_unload
        sent = dict(fields)
        if self.is_native and not self.is_transparent:
            sent = self._granted(sent, self.pins, is_unload=is_unload)
        is_debug = fields.get("_debug_render_only") is True
        if op in _NATIVE_SAMPLED and not is_empty and not is_debug and not self.is_transparent:
            sent["stream"] = True
            if self.pins.num_ctx is not None and sent.get("truncate") is None:
                sent["truncate"] = False  # or what does not fit into the pinned context is cut, and nobody is told
        streams = not is_empty and not is_debug and self.route.stream_default is not None
        members = encode_members(fields)
        sent_members = {key: members[key] if fields.get(key, ...) is value else encode_utf8(value) for key, value in sent.items()}
        form = Form.LINES if self.is_native else Form.RAW
        cache_key, why = self._cache_basis(sent, form, asked_stream=asked_stream)
        if is_empty or is_debug:
            cache_key, why = None, "it loads or unloads a model" if is_empty else "it renders a prompt"
        return Call(
            route=self.route,
            path=self.path,
            face=self.route.face,
            model=self.model,
            canonical_model=self.canonical_model,
            asked_stream=asked_stream,
            caller_body=Body(members=members),
            upstream_path=self.route.path,
            upstream_body=Body(members=sent_members),
            upstream_streams=streams and (asked_stream or bool(sent.get("stream"))),
            digest=self._digest(form, asked_stream=asked_stream, is_unload=is_unload),
            cache_key=cache_key,
            cache_why=why,
            is_load=is_load,
            is_unload=is_unload,
            is_granted=not is_unload or self.is_unload_granted,
            not_granted=tuple(self.not_granted),
            embed_inputs=_embed_inputs(op, fields),
            num_predict=_num_predict(op, fields),
            has_tools=bool(fields.get("tools")),
            has_format=bool(fields.get("format") or fields.get("response_format") or fields.get("text")),
            has_images=bool(self.images),
            thinks=_thinks(fields),
            needs=_needs(fields, has_images=bool(self.images)),
            is_bound_to_model=any(fields.get(name) for name in ("raw", "template", "context")),
        )

    # --- what Ollama checks before it looks at a model ------------------------------------------------------------------

    def _check_route(self) -> None:
        """The checks that come before the model's name."""
        fields = self.fields
        top, given, encoding = fields.get("top_logprobs"), fields.get("input"), fields.get("encoding_format")
        match self.op:
            case Op.GENERATE | Op.CHAT if isinstance(top, int) and not 0 <= top <= 20:
                raise Refused(400, "top_logprobs must be between 0 and 20")
            case Op.CHAT_COMPLETIONS if not fields.get("messages"):
                raise Refused(400, "[] is too short - 'messages'")
            case Op.V1_EMBEDDINGS:
                if isinstance(encoding, str) and encoding and encoding.lower() not in {"float", "base64"}:
                    said = f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
                    raise Refused(400, said)
                if given is None or given == []:
                    raise Refused(400, "invalid input")

    def _model(self) -> tuple[str, str]:
        asked = self.fields.get("model")
        model = asked if isinstance(asked, str) else ""
        match read_name(model):
            case ModelName(name):
                return model, name
            case CloudName():
                raise Refused(403, NO_INFERENCE)
            case BadName(message):
                raise Refused(400, message)
            case NoName():
                if self.op in _NOT_FOUND_WHEN_EMPTY:
                    raise Refused(404, f"model '{model}' not found")
                raise Refused(400, "model is required")

    def _check_input(self) -> None:
        fields, given = self.fields, self.fields.get("input")
        if declares_web_search(self.op, fields):
            raise Refused(403, NO_SEARCH)
        match self.op:
            case Op.EMBED | Op.V1_EMBEDDINGS:
                if given is not None and not isinstance(given, str) and not _all_strings(given):
                    raise Refused(400, "invalid input type")
            case Op.MESSAGES:
                max_tokens = fields.get("max_tokens")
                if not isinstance(max_tokens, int) or max_tokens <= 0:
                    raise Refused(400, "max_tokens is required and must be positive")
                if not fields.get("messages"):
                    raise Refused(400, "messages is required")

    # --- what is granted ------------------------------------------------------------------------------------------------

    def _asked_stream(self) -> bool:
        asked = self.fields.get("stream")
        return asked if isinstance(asked, bool) else bool(self.route.stream_default)

    def _granted(self, sent: JsonObject, pins: ModelPins, *, is_unload: bool) -> JsonObject:
        """Put the pins where the caller's runner options were; note what was asked and is not given."""
        options = sent.get("options")
        kept: JsonObject = {}
        for name, value in options.items() if isinstance(options, dict) else []:
            if name not in RUNNER_OPTIONS:
                kept[name] = value
            elif value is not None and value != _pinned(name, pins):
                self._deny(name, value)
        if pins.num_ctx is not None and not is_unload:
            kept["num_ctx"] = pins.num_ctx
        if kept or "options" in sent:
            sent["options"] = kept
        if sent.get("shift") is False:  # a runner is started with or without it
            self._deny("shift", sent.pop("shift"))
        asked = sent.pop("keep_alive", None)
        if is_unload and self.is_unload_granted:
            sent["keep_alive"] = 0
            return sent
        if asked is not None and (pins.keep_alive_s is None or duration_s(asked) != pins.keep_alive_s):
            self._deny("keep_alive", asked)
        if pins.keep_alive_s is not None:
            sent["keep_alive"] = keep_alive_json(pins.keep_alive_s)
        return sent

    def _deny(self, name: str, value: Json) -> None:
        self.not_granted.append(f"{name}={encode(value).decode()[:_TOLD_CHARS]}")

    # --- what it may share ----------------------------------------------------------------------------------------------

    def _canonical(self, fields: JsonObject) -> JsonObject:
        return canonical(self.op, fields, known=frozenset(STRUCTS[self.op].fields), images=self.images)

    def _digest(self, form: Form, *, asked_stream: bool, is_unload: bool) -> bytes:
        try:
            said: Json = self._canonical(self.fields)
        except NotCanonical:
            said = self.fields
        return hash_of([self.op, self.model, is_unload, asked_stream if form == Form.RAW else None, said])

    def _cache_basis(self, sent: JsonObject, form: Form, *, asked_stream: bool) -> tuple[CacheKeyBasis | None, str]:
        if self.op == Op.RESPONSES:
            return None, "an answer of /v1/responses is somebody's state"
        try:
            said = self._canonical(sent)
        except NotCanonical as error:
            return None, str(error)
        digest = hash_of([self.op, asked_stream if form == Form.RAW else None, said])
        unknown = unknown_digest(self.op, sent, known=frozenset(STRUCTS[self.op].fields))
        return CacheKeyBasis(digest, unknown, form, is_embedding(self.op), self._sampling(said)), ""

    def _sampling(self, said: JsonObject) -> Sampling:
        options = said.get("options")
        holder = options if self.is_native and isinstance(options, dict) else said
        temperature, seed = holder.get("temperature"), holder.get("seed")
        if temperature is None and self.op in _OPENAI_SAMPLED:
            temperature = 1.0  # OpenAI's default; Ollama sends it on, so the Modelfile has no say
        return Sampling(
            temperature=None if temperature is None else float(temperature) if isinstance(temperature, int | float) else 1.0,
            seed=seed if isinstance(seed, int) else None,
        )


def _pinned(name: str, pins: ModelPins) -> Json:
    """The value of a runner option that changes nothing."""
    match name:
        case "num_ctx":
            return pins.num_ctx
        case "num_gpu":
            return -1  # "choose", as when it is absent
        case _:
            return None


def _is_empty(op: Op, fields: JsonObject) -> bool:
    """Nothing to generate from: Ollama then loads the model (or unloads it), and answers one object."""
    match op:
        case Op.GENERATE | Op.COMPLETIONS | Op.EMBEDDINGS:
            return not fields.get("prompt")
        case Op.CHAT:
            return not fields.get("messages")
        case Op.EMBED:
            return not fields.get("input")
        case _:
            return False


def _all_strings(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _embed_inputs(op: Op, fields: JsonObject) -> tuple[str, ...] | None:
    given = fields.get("input")
    if op != Op.EMBED or not given:
        return None
    if isinstance(given, str):
        return (given,)
    return tuple(item for item in given if isinstance(item, str)) if isinstance(given, list) else None


def _thinks(fields: JsonObject) -> bool | None:
    """What is said of thinking: `think` of Ollama, an effort in OpenAI's faces, a type in Anthropic's."""
    think, effort = fields.get("think"), fields.get("reasoning_effort")
    reasoning, thinking = fields.get("reasoning"), fields.get("thinking")
    if isinstance(reasoning, dict) and effort is None:
        effort = reasoning.get("effort")
    if isinstance(thinking, dict):
        think = {"enabled": True, "disabled": False}.get(str(thinking.get("type")))
    if think is None and effort:
        return effort != "none"
    return None if think is None else bool(think)


def _needs(fields: JsonObject, *, has_images: bool) -> frozenset[str]:
    needs = {"tools": fields.get("tools"), "vision": has_images, "thinking": _thinks(fields), "insert": fields.get("suffix")}
    return frozenset(name for name, is_needed in needs.items() if is_needed)


def _num_predict(op: Op, fields: JsonObject) -> int | None:
    options = fields.get("options")
    if op in _NATIVE_SAMPLED:
        value = options.get("num_predict") if isinstance(options, dict) else None
    else:
        value = fields.get("max_output_tokens") if op == Op.RESPONSES else fields.get("max_tokens")
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
