"""What a request means: which of Ollama's routes it is, and everything the gateway needs to know of it before it waits.

Decides routes, methods and redirects as Ollama's own router does (gin 1.10 under server/routes.go of v0.33). Knows nothing
of bytes: `gateway/classify.py` reads the body and fills a `Call`.

The kinds:
- INFERENCE runs a model: it takes a slot and waits in the backlog (a load or unload takes the load lane instead);
- METADATA is cheap and forwarded at once;
- ADMIN changes what is installed: the owner's only;
- SUPERVISOR is answered by us;
- REFUSED would talk to ollama.com, or cannot be carried: 403 for everybody.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias
from urllib.parse import quote, unquote

Value: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json]"  # whatever is not null
Json: TypeAlias = "Value | None"
JsonObject: TypeAlias = "dict[str, Json]"

APART_BYTES = 64_000  # from here on a member of a body is not copied to stand in one piece with its neighbours


class Face(StrEnum):
    """Whose dialect the caller speaks: it decides the shape of errors and of streams."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Kind(StrEnum):
    """What a route does to the machine."""

    INFERENCE = "inference"
    METADATA = "metadata"
    ADMIN = "admin"
    SUPERVISOR = "supervisor"
    REFUSED = "refused"


class Op(StrEnum):
    """One member for each route; the last word of its path."""

    ROOT = "root"
    VERSION = "version"
    STATUS = "status"
    TAGS = "tags"
    PS = "ps"
    SHOW = "show"
    GENERATE = "generate"
    CHAT = "chat"
    EMBED = "embed"
    EMBEDDINGS = "embeddings"
    CHAT_COMPLETIONS = "chat-completions"
    COMPLETIONS = "completions"
    V1_EMBEDDINGS = "v1-embeddings"
    V1_MODELS = "v1-models"
    V1_MODEL = "v1-model"
    RESPONSES = "responses"
    MESSAGES = "messages"
    TRANSCRIPTIONS = "transcriptions"
    PULL = "pull"
    PUSH = "push"
    CREATE = "create"
    DELETE = "delete"
    COPY = "copy"
    BLOBS = "blobs"
    ACCOUNT = "account"
    CLOUD = "cloud"
    WHOAMI = "whoami"
    AGENTS = "agents"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Route:
    """One path of the table. `methods` are in the order in which Ollama's `Allow` header names them (HEAD, GET, POST, DELETE).

    A segment that begins with `:` stands for any one segment. `stream_default` is what an absent `stream` field means, None
    where the route knows no such field.
    """

    op: Op
    methods: tuple[str, ...]
    path: str
    face: Face
    kind: Kind
    stream_default: bool | None = None


_O, _V, _A = Face.OLLAMA, Face.OPENAI, Face.ANTHROPIC

ROUTES: tuple[Route, ...] = (
    Route(Op.ROOT, ("HEAD", "GET"), "/", _O, Kind.METADATA),
    Route(Op.VERSION, ("HEAD", "GET"), "/api/version", _O, Kind.METADATA),
    Route(Op.STATUS, ("GET",), "/api/status", _O, Kind.METADATA),
    Route(Op.TAGS, ("HEAD", "GET"), "/api/tags", _O, Kind.METADATA),
    Route(Op.PS, ("GET",), "/api/ps", _O, Kind.METADATA),
    Route(Op.SHOW, ("POST",), "/api/show", _O, Kind.METADATA),
    Route(Op.GENERATE, ("POST",), "/api/generate", _O, Kind.INFERENCE, stream_default=True),
    Route(Op.CHAT, ("POST",), "/api/chat", _O, Kind.INFERENCE, stream_default=True),
    Route(Op.EMBED, ("POST",), "/api/embed", _O, Kind.INFERENCE),
    Route(Op.EMBEDDINGS, ("POST",), "/api/embeddings", _O, Kind.INFERENCE),
    Route(Op.CHAT_COMPLETIONS, ("POST",), "/v1/chat/completions", _V, Kind.INFERENCE, stream_default=False),
    Route(Op.COMPLETIONS, ("POST",), "/v1/completions", _V, Kind.INFERENCE, stream_default=False),
    Route(Op.V1_EMBEDDINGS, ("POST",), "/v1/embeddings", _V, Kind.INFERENCE),
    Route(Op.V1_MODELS, ("GET",), "/v1/models", _V, Kind.METADATA),
    Route(Op.V1_MODEL, ("GET",), "/v1/models/:model", _V, Kind.METADATA),
    Route(Op.RESPONSES, ("POST",), "/v1/responses", _V, Kind.INFERENCE, stream_default=False),
    Route(Op.MESSAGES, ("POST",), "/v1/messages", _A, Kind.INFERENCE, stream_default=False),
    Route(Op.TRANSCRIPTIONS, ("POST",), "/v1/audio/transcriptions", _V, Kind.REFUSED),
    Route(Op.PULL, ("POST",), "/api/pull", _O, Kind.ADMIN, stream_default=True),
    Route(Op.PUSH, ("POST",), "/api/push", _O, Kind.ADMIN, stream_default=True),
    Route(Op.CREATE, ("POST",), "/api/create", _O, Kind.ADMIN, stream_default=True),
    Route(Op.DELETE, ("DELETE",), "/api/delete", _O, Kind.ADMIN),
    Route(Op.COPY, ("POST",), "/api/copy", _O, Kind.ADMIN),
    Route(Op.BLOBS, ("HEAD", "POST"), "/api/blobs/:digest", _O, Kind.ADMIN),
    Route(Op.ACCOUNT, ("POST",), "/api/me", _O, Kind.REFUSED),
    Route(Op.ACCOUNT, ("POST",), "/api/signout", _O, Kind.REFUSED),
    Route(Op.ACCOUNT, ("DELETE",), "/api/user/keys/:encodedKey", _O, Kind.REFUSED),
    Route(Op.CLOUD, ("POST",), "/api/experimental/web_search", _O, Kind.REFUSED),
    Route(Op.CLOUD, ("POST",), "/api/experimental/web_fetch", _O, Kind.REFUSED),
    Route(Op.CLOUD, ("GET",), "/api/experimental/model-recommendations", _O, Kind.REFUSED),
    Route(Op.WHOAMI, ("GET",), "/supervisor/v1/whoami", _O, Kind.SUPERVISOR),
    Route(Op.AGENTS, ("GET",), "/supervisor/v1/agents", _O, Kind.SUPERVISOR),
    Route(Op.REQUEST, ("GET", "DELETE"), "/supervisor/v1/requests/:id", _O, Kind.SUPERVISOR),
)


@dataclass(frozen=True, slots=True)
class Matched:
    """The path and method are a route's. `parameter` is what stands for its `:segment`."""

    route: Route
    parameter: str | None


@dataclass(frozen=True, slots=True)
class Redirect:
    """The path is a route's once cleaned; Go's mux or gin sends the caller there."""

    status: int
    location: str


@dataclass(frozen=True, slots=True)
class WrongMethod:
    """A known path, another method. `allow` is the header's value; OPTIONS is answered 204 with it."""

    allow: str


@dataclass(frozen=True, slots=True)
class NoSuchPath:
    """Nobody's path."""


_PLAIN = {
    (method, route.path): Matched(route, None) for route in ROUTES if ":" not in route.path for method in route.methods
}


def find_route(method: str, path: str) -> Matched | Redirect | WrongMethod | NoSuchPath:
    """Say what Ollama's router would make of a method and a raw path (still percent-encoded, without query).

    In its order: 1. Go's mux sends an unclean path (`//x`, `/../x`) to the clean one, whatever the method; 2. gin sends a path
    with a slash too many to the one without, if that is a route of this method; 3. a path of another method is 405.
    """
    known = _PLAIN.get((method, path))  # most requests, by far
    if known is not None:
        return known
    plain = unquote(path, errors="replace")
    clean = _clean(plain)
    if clean != plain:  # 1
        return Redirect(307, quote(clean))
    here = [(route, parameter) for route in ROUTES for parameter in [_fit(route.path, plain)] if parameter is not None]
    for route, parameter in here:
        if method in route.methods:
            return Matched(route, parameter or None)
    if plain != "/" and plain.endswith("/"):  # 2
        shorter = plain[:-1]
        if any(method in route.methods and _fit(route.path, shorter) is not None for route in ROUTES):
            return Redirect(301 if method == "GET" else 307, quote(shorter))
    if here:  # 3
        return WrongMethod(", ".join(method for route, _ in here for method in route.methods))
    return NoSuchPath()


def _clean(path: str) -> str:
    """cleanPath of net/http: no empty, `.` or `..` segments, a trailing slash kept."""
    if not path.startswith("/"):
        path = "/" + path
    clean = posixpath.normpath(path).replace("//", "/", 1)  # normpath leaves two leading slashes
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _fit(pattern: str, path: str) -> str | None:
    """The text of the pattern's `:segment` if the path fits ("" if it has none), else None."""
    if pattern == path:
        return ""
    fixed, colon, _ = pattern.partition(":")
    segment = path[len(fixed) :]
    return segment if colon and path.startswith(fixed) and segment and "/" not in segment else None


def face_of(path: str) -> Face:
    """The face in which an error for this path is written, route or not."""
    if path.startswith("/v1/messages"):
        return Face.ANTHROPIC
    return Face.OPENAI if path.startswith("/v1/") else Face.OLLAMA


@dataclass(frozen=True, slots=True)
class ModelPins:
    """What the gateway pins for one model, because two callers with two values would reload it in turns.

    None pins nothing: then the caller's value is dropped as well, and Ollama's own default holds for everybody.
    """

    num_ctx: int | None = None
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of every model: `each` by canonical name, else `default`. `is_transparent` passes everything untouched."""

    default: ModelPins = ModelPins()
    each: Mapping[str, ModelPins] = field(default_factory=dict)
    is_transparent: bool = False

    def of(self, canonical_model: str) -> ModelPins:
        return self.each.get(canonical_model, self.default)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What decides whether an answer may be shared: the values as asked, None where absent (the Modelfile then decides)."""

    temperature: float | None = None
    seed: int | None = None


class Form(StrEnum):
    """How an answer is kept: LINES are Ollama's NDJSON objects, from which a stream or one body is made; RAW is as sent."""

    LINES = "lines"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class CacheKeyBasis:
    """All of a call that its answer depends on, but for the model's digest, Ollama's version, the date and the scope.

    `core.cache_policy.key_of` adds those. Native calls leave out `stream`; /v1 calls keep their form in the basis, since
    their answers are kept as bytes.
    """

    digest: bytes  # SHA-256 of the canonical JSON
    unknown_digest: bytes  # of the fields Ollama's tables did not have when ours were written; b"" if there are none
    form: Form
    is_embedding: bool
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Body:
    """A body as it is sent and kept: one piece, or an object whose members were each written by themselves.

    So two bodies that differ in a member hold the others once: beside what its caller asked, what Ollama is sent costs nothing,
    though it may be 40 MB of image. It is put together piece by piece where it goes.
    """

    whole: bytes = b""
    members: Mapping[str, bytes] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.pieces()))

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())

    def pieces(self) -> list[bytes]:
        """Return it in order. A large member is a piece of its own, and no copy."""
        if self.members is None:
            return [self.whole]
        pieces: list[bytes] = []
        small = bytearray(b"{")
        for number, (key, member) in enumerate(self.members.items()):
            small += b"," if number else b""
            small += json.dumps(key, ensure_ascii=False).encode() + b":"
            if len(member) < APART_BYTES:
                small += member
                continue
            pieces += [bytes(small), member]
            small = bytearray()
        return [*pieces, bytes(small) + b"}"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, understood.

    Attributes:
        path: as asked, without query.
        model: as asked, to be echoed; None on routes without one.
        canonical_model: the name by which `/api/tags` lists it (`llama3.2` -> `llama3.2:latest`); for residency and keys.
        asked_stream: what the caller wants to get.
        caller_body: the body as understood, re-serialised: classifying it again gives this Call again (the journal keeps it).
        upstream_path, upstream_body: what Ollama is sent. Native inference always asks for a stream.
        upstream_streams: Ollama will answer with NDJSON or SSE lines (if it answers 200).
        digest: SHA-256 over route and body without `stream` and `keep_alive`; equal for the same request asked again.
        cache_key: None when the answer may never be kept, `cache_why` says why.
        is_load, is_unload: no slot, but the load lane. `is_granted` False: an unload that is answered without effect.
        not_granted: `name=value` of everything asked and dropped, for `X-AI-Options`.
        embed_inputs: the strings of an `/api/embed` that may be merged with others.
        thinks: whether the model is asked to think before it speaks; None leaves it to the model.
        needs: what a model must be able to do to answer it, in the words of `capabilities` of `/api/show`.
        is_bound_to_model: no other model may answer it: its prompt or its context is in this one's own form.
        parameter: the `:segment` of the path.
    """

    route: Route
    path: str
    face: Face
    model: str | None
    canonical_model: str | None
    asked_stream: bool
    caller_body: Body = field(repr=False)  # prompts do not belong in a log
    upstream_path: str
    upstream_body: Body = field(repr=False)
    upstream_streams: bool
    digest: bytes
    cache_key: CacheKeyBasis | None
    cache_why: str
    is_load: bool = False
    is_unload: bool = False
    is_granted: bool = True
    not_granted: tuple[str, ...] = ()
    embed_inputs: tuple[str, ...] | None = field(default=None, repr=False)
    num_predict: int | None = None
    has_tools: bool = False
    has_format: bool = False
    has_images: bool = False
    thinks: bool | None = None
    needs: frozenset[str] = frozenset()
    is_bound_to_model: bool = False
    parameter: str | None = None
