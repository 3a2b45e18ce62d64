"""The engine's routes: who may ask, what is asked, and the answer in the caller's dialect.

Every call that runs the model is in the ledger from here on, before it waits for anything: what a gateway hands over at once
is what is counted. A caller that hangs up ends its call at once; its slot is free after the step under way.
"""

from __future__ import annotations

import hmac
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from logging import getLogger

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.calls import Face, JsonObject, Kind, Matched, NoSuchPath, Op, Redirect, Route, WrongMethod, find_route
from supervisord_ai.core.model_name import ModelName, read_name
from supervisord_ai.engine import native, openai
from supervisord_ai.engine.asked import (
    Completion,
    Fields,
    read_body,
    read_chat,
    read_generate,
    read_inputs,
    refuse_what_it_cannot,
    require_model,
)
from supervisord_ai.engine.generation import Answering, Generator
from supervisord_ai.engine.gguf import Weights
from supervisord_ai.engine.ledger import Ledger
from supervisord_ai.errors import EngineFault, PeerGone, Refused
from supervisord_ai.serve.http import Exchange
from supervisord_ai.wire.faces import NOT_FOUND_TEXT, WRONG_METHOD_TEXT, error_line, refusal
from supervisord_ai.wire.http1 import RequestHead
from supervisord_ai.wire.json_go import encode

log = getLogger(__name__)

VERSION = "0.33.0"  # of Ollama's API as spoken here

JSON_TYPE = ("Content-Type", "application/json; charset=utf-8")
OPENAI_JSON_TYPE = ("Content-Type", "application/json")
NDJSON_TYPE = ("Content-Type", "application/x-ndjson")
EVENTS_TYPE = ("Content-Type", "text/event-stream")


def shape(head: RequestHead | None, refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
    """A refusal in the dialect of the path it was asked on."""
    return refusal("GET" if head is None else head.method, "/" if head is None else head.path, refused)


@dataclass(frozen=True, slots=True)
class Served:
    """The one model this engine has, and under which name."""

    name: str
    weights: Weights
    context_tokens: int


@dataclass(eq=False)
class Entry:
    """One call in the ledger while it lasts. `outcome` stays `left` when the call is cancelled."""

    tokens: int = 0
    outcome: str = "left"


class Api:
    """Answers exchanges. `secret` empty: anybody who reaches the socket may ask (tests only)."""

    def __init__(
        self, served: Served, generator: Generator, ledger: Ledger, clock: Clock, *, secret: str, rng: random.Random
    ) -> None:
        self._served = served
        self._generator = generator
        self._ledger = ledger
        self._clock = clock
        self._secret = secret
        self._ids = itertools.count(rng.randrange(1000))

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            Refused: for the server to shape. PeerGone: nobody is there to answer.
        """
        head = exchange.head
        self._require_secret(head)
        match find_route(head.method, head.path):
            case Redirect(status, location):
                raise Refused(status, "the path is not clean", location=f"{location}?{head.query}" if head.query else location)
            case WrongMethod(allow):
                raise Refused(204, "", allow=allow) if head.method == "OPTIONS" else Refused(405, WRONG_METHOD_TEXT, allow=allow)
            case NoSuchPath():
                raise Refused(404, NOT_FOUND_TEXT)
            case Matched(route, parameter):
                if route.kind is Kind.INFERENCE:
                    await self._while_waited_for(exchange, route)
                else:
                    await self._tell(exchange, route, parameter)

    def _require_secret(self, head: RequestHead) -> None:
        given = head.headers.get("Authorization", "") or ""
        if self._secret and not hmac.compare_digest(given.encode(), b"Bearer " + self._secret.encode()):
            raise Refused(401, "this engine answers to its supervisor only")

    # --- metadata ---------------------------------------------------------------------------------------------------

    async def _tell(self, exchange: Exchange, route: Route, parameter: str | None) -> None:
        served = self._served
        match route.op:
            case Op.ROOT:
                await exchange.respond(200, [("Content-Type", "text/plain; charset=utf-8")], b"Ollama is running")
            case Op.VERSION:
                await self._json(exchange, {"version": VERSION})
            case Op.STATUS:
                await self._json(exchange, {"cloud": {"disabled": True, "source": "config"}})
            case Op.TAGS:
                await self._json(exchange, native.tags_body(served.name, served.weights))
            case Op.PS:
                await self._json(exchange, self._ps())
            case Op.SHOW:
                await self._show(exchange, read_body(route, await exchange.body()))
            case Op.V1_MODELS:
                await self._json(exchange, openai.models_body(served.name, served.weights), OPENAI_JSON_TYPE)
            case Op.V1_MODEL:
                asked = parameter or ""
                self._require_model(asked, f"model '{asked}' not found")
                await self._json(exchange, openai.model_card(asked, served.weights), OPENAI_JSON_TYPE)
            case _:
                raise Refused(501, "this engine has one built-in model: it cannot pull, create, copy or delete any")

    def _ps(self) -> JsonObject:
        residency = self._generator.residency
        left_s = residency.expires_at - self._clock.monotonic()
        return native.ps_body(
            self._served.name,
            self._served.weights,
            is_loaded=residency.is_loaded,
            context_tokens=self._served.context_tokens,
            expires_wall=None if left_s == float("inf") else self._clock.wall() + left_s,
        )

    async def _show(self, exchange: Exchange, fields: Fields) -> None:
        asked = fields.text("model") or fields.text("name")
        name = read_name(asked)
        canonical = name.canonical if isinstance(name, ModelName) else asked
        self._require_model(asked, f"model '{canonical}' not found", empty=Refused(400, "model is required"))
        await self._json(exchange, native.show_body(self._served.name, self._served.weights))

    # --- the model runs ---------------------------------------------------------------------------------------------

    async def _while_waited_for(self, exchange: Exchange, route: Route) -> None:
        """Run one inference call until it is answered or its caller has gone."""
        refused: Refused | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, exchange, nursery.cancel_scope)
            # What is raised is carried out of the nursery, which would wrap it in a group.
            try:
                await self._infer(exchange, route)
            except Refused as error:
                refused = error
            except EngineFault as fault:
                log.error("%s %s failed: %s", exchange.head.method, exchange.head.path, fault)
                refused = Refused(500, str(fault))
            except PeerGone:
                log.debug("the caller of %s left", route.op)
            nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused

    async def _infer(self, exchange: Exchange, route: Route) -> None:
        fields = read_body(route, await exchange.body())
        match route.op:
            case Op.GENERATE:
                await self._generate(exchange, fields)
            case Op.CHAT:
                await self._chat(exchange, fields)
            case Op.EMBED:
                await self._embed(exchange, fields)
            case Op.EMBEDDINGS:
                await self._embeddings(exchange, fields)
            case Op.CHAT_COMPLETIONS:
                await self._chat_completions(exchange, fields)
            case Op.V1_EMBEDDINGS:
                await self._v1_embeddings(exchange, fields)
            case _:
                raise Refused(501, f"this engine does not speak {exchange.head.path}")

    async def _generate(self, exchange: Exchange, fields: Fields) -> None:
        model = fields.text("model")
        self._require_model(model, f"model '{model}' not found")
        refuse_what_it_cannot(fields, model, self._served.name)
        want = read_generate(fields)

        def line(text: str) -> JsonObject:
            return native.generate_line(model, self._clock.wall(), text)

        if not fields.text("prompt"):
            await self._load_or_unload(exchange, line(""), want.keep_alive_s)
        else:
            is_stream, has_context = fields.flag("stream", default=True), want.prompt is None
            await self._answer_native(exchange, Op.GENERATE, want, line, is_stream=is_stream, has_context=has_context)

    async def _chat(self, exchange: Exchange, fields: Fields) -> None:
        model = fields.text("model")
        self._require_model(model, f"model '{model}' not found", empty=Refused(400, "model is required"))
        refuse_what_it_cannot(fields, model, self._served.name)
        want = read_chat(fields)

        def line(text: str) -> JsonObject:
            return native.chat_line(model, self._clock.wall(), text)

        if not want.messages:
            await self._load_or_unload(exchange, line(""), want.keep_alive_s)
        else:
            is_stream = fields.flag("stream", default=True)
            await self._answer_native(exchange, Op.CHAT, want, line, is_stream=is_stream, has_context=False)

    async def _load_or_unload(self, exchange: Exchange, line: JsonObject, keep_alive_s: float | None) -> None:
        """One body even where a stream was asked for. An unload is answered before it happens, as Ollama does."""
        if keep_alive_s == 0:
            self._generator.residency.release()
            await self._json(exchange, native.loaded(line, "unload"))
        else:
            await self._generator.load(keep_alive_s)
            await self._json(exchange, native.loaded(line, "load"))

    async def _answer_native(
        self,
        exchange: Exchange,
        op: Op,
        want: Completion,
        line: Callable[[str], JsonObject],
        *,
        is_stream: bool,
        has_context: bool,
    ) -> None:
        began = self._clock.monotonic()
        texts: list[str] = []
        async with self._completing(op, want) as answering:
            while (text := await self._next_text(exchange, answering, Face.OLLAMA)) is not None:
                if is_stream:
                    await self._start(exchange, NDJSON_TYPE)
                    await exchange.send(encode(line(text)) + b"\n")
                else:
                    texts.append(text)
            if answering.metrics is None:
                return  # it failed after it had begun, and the caller was told
        last = native.final(line("".join(texts)), answering.metrics, self._ns_since(began), has_context=has_context)
        if is_stream:
            await self._start(exchange, NDJSON_TYPE)
            await exchange.send(encode(last) + b"\n")
            await exchange.finish()
        else:
            await self._json(exchange, last)

    async def _embed(self, exchange: Exchange, fields: Fields) -> None:
        model = fields.text("model")
        self._require_model(model, f'model "{model}" not found, try pulling it first')
        texts = read_inputs(fields.get("input"))
        began = self._clock.monotonic()
        if not texts:
            await self._generator.load(fields.keep_alive_s)
            await self._json(exchange, {"model": model, "embeddings": []})
            return
        is_truncating = fields.flag("truncate", default=True)
        async with self._in_ledger(Op.EMBED):
            embedded = await self._generator.embed(texts, fields.keep_alive_s, is_truncating=is_truncating)
        await self._json(exchange, native.embed_body(model, embedded, self._ns_since(began), fields.integer("dimensions")))

    async def _embeddings(self, exchange: Exchange, fields: Fields) -> None:
        model = fields.text("model")
        missing = f'model "{model}" not found, try pulling it first'
        self._require_model(model, missing, empty=Refused(400, "model is required"))
        prompt = fields.text("prompt")
        if not prompt:
            await self._generator.load(fields.keep_alive_s)
            await self._json(exchange, {"embedding": []})
            return
        async with self._in_ledger(Op.EMBEDDINGS):
            embedded = await self._generator.embed([prompt], fields.keep_alive_s, is_truncating=True)
        await self._json(exchange, {"embedding": [*embedded.vectors[0]]})

    async def _chat_completions(self, exchange: Exchange, fields: Fields) -> None:
        model = fields.text("model")
        self._require_model(model, f"model '{model}' not found", empty=Refused(400, "model is required"))
        refuse_what_it_cannot(fields, model, self._served.name)
        want = openai.read_chat_completion(fields)
        chat = openai.Chat(f"chatcmpl-{next(self._ids) % 999}", model, int(self._clock.wall()))
        is_stream = fields.flag("stream")
        has_usage = fields.part("stream_options").flag("include_usage")
        texts: list[str] = []
        async with self._completing(Op.CHAT_COMPLETIONS, want) as answering:
            while (text := await self._next_text(exchange, answering, Face.OPENAI)) is not None:
                if is_stream:
                    await self._start(exchange, EVENTS_TYPE)
                    await exchange.send(openai.event(chat.text(text) if texts else chat.first(text)))
                texts.append(text)
            metrics = answering.metrics
            if metrics is None:
                return
        if not is_stream:
            await self._json(exchange, chat.body("".join(texts), metrics), OPENAI_JSON_TYPE)
            return
        await self._start(exchange, EVENTS_TYPE)
        if not texts:
            await exchange.send(openai.event(chat.first("")))
        tail = openai.event(chat.chunk({}, metrics.stop.value)) + (openai.event(chat.usage(metrics)) if has_usage else b"")
        await exchange.send(tail + openai.DONE)
        await exchange.finish()

    async def _v1_embeddings(self, exchange: Exchange, fields: Fields) -> None:
        model = fields.text("model")
        self._require_model(model, f'model "{model}" not found, try pulling it first')
        texts = openai.read_embedding_inputs(fields)
        encoding = fields.text("encoding_format") or "float"
        if encoding.lower() not in {"float", "base64"}:
            raise Refused(400, f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].")
        async with self._in_ledger(Op.V1_EMBEDDINGS):
            embedded = await self._generator.embed(texts, None, is_truncating=True)
        dimensions = fields.integer("dimensions")
        body = openai.embeddings_body(model, embedded, is_base64=encoding.lower() == "base64", dimensions=dimensions)
        await self._json(exchange, body, OPENAI_JSON_TYPE)

    # --- what they share --------------------------------------------------------------------------------------------

    def _require_model(self, asked: str, missing: str, *, empty: Refused | None = None) -> None:
        require_model(asked, self._served.name, empty=empty or Refused(404, missing), missing=missing)

    @asynccontextmanager
    async def _in_ledger(self, op: Op) -> AsyncIterator[Entry]:
        """One call, from now until the block ends."""
        entry = Entry()
        call = self._ledger.begin(op, self._clock.wall())
        try:
            yield entry
            entry.outcome = "ok" if entry.outcome == "left" else entry.outcome
        except (Refused, EngineFault):
            entry.outcome = "error"
            raise
        finally:
            self._ledger.end(call, entry.outcome, entry.tokens, self._clock.wall())

    @asynccontextmanager
    async def _completing(self, op: Op, want: Completion) -> AsyncIterator[Answering]:
        async with self._in_ledger(op) as entry, self._generator.complete(want) as answering:
            try:
                yield answering
                if answering.metrics is None:
                    entry.outcome = "error"
            finally:
                entry.tokens = answering.tokens

    async def _next_text(self, exchange: Exchange, answering: Answering, face: Face) -> str | None:
        """The next text; a failure before the first byte is a status, after it an error in the stream and a clean end."""
        try:
            return await answering.next_text()
        except EngineFault as fault:
            if not exchange.is_started:
                raise
            log.error("%s broke off: %s", exchange.head.path, fault)
            await exchange.send(error_line(face, str(fault)))
            await exchange.finish()
            return None

    async def _start(self, exchange: Exchange, content_type: tuple[str, str]) -> None:
        """Begin a stream, once. Nothing is sent before there is something to say: until then a failure has a status."""
        if not exchange.is_started:
            await exchange.start(200, [content_type])

    async def _json(self, exchange: Exchange, value: JsonObject, content_type: tuple[str, str] = JSON_TYPE) -> None:
        await exchange.respond(200, [content_type], encode(value))

    def _ns_since(self, began: float) -> int:
        return round((self._clock.monotonic() - began) * 1e9)


async def _cancel_when_gone(exchange: Exchange, scope: trio.CancelScope) -> None:
    await exchange.wait_gone()
    scope.cancel()
