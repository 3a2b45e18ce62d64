"""The routes that run a model: each reads its own body, then goes the native way with its own voice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from . import anthropic_face, embedding, native, openai_face, responses_face
from .anthropic_face import AnthropicVoice
from .gojson import BadBody, JsonObject, Struct, bind, encode
from .machine import Machine, under_context
from .multipart import fields_of
from .openai_face import BadRequest, ChatVoice, CompletionVoice
from .requests import (
    CHAT,
    CHAT_COMPLETION,
    COMPLETION,
    EMBED,
    EMBEDDINGS,
    GENERATE,
    MESSAGES,
    OPENAI_EMBED,
    RESPONSES,
)
from .runner import Context
from .scheduler import CannotRun
from .turn import Turn
from .voices import JSON, JSON_OF_A_WRITER, NativeVoice, Voice

Reject = Callable[[Turn, str], Awaitable[None]]


async def _run(machine: Machine, turn: Turn, form: native.Form, body: JsonObject, voice: Voice) -> None:
    async def under(context: Context) -> None:
        await native.generation(machine, form, body, turn=turn, voice=voice, context=context)

    await under_context(turn, under)


async def _bound(turn: Turn, into: Struct, reject: Reject) -> JsonObject | None:
    """The body, or None after a 400."""
    try:
        return bind(await turn.body(), into)
    except BadBody as problem:
        await reject(turn, str(problem))
        return None


# --- native ------------------------------------------------------------------------------------------------------------


async def _native_reject(turn: Turn, message: str) -> None:
    await turn.respond(400, [JSON], encode({"error": message}))


async def generate(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, GENERATE, _native_reject)
    if body is not None:
        await _run(machine, turn, "generate", body, _native_voice(machine, turn))


async def chat(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, CHAT, _native_reject)
    if body is not None:
        await _run(machine, turn, "chat", body, _native_voice(machine, turn))


def _native_voice(machine: Machine, turn: Turn) -> NativeVoice:
    return NativeVoice(turn, has_early_status=machine.options.is_at_least(0, 12, 6))


async def embed(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, EMBED, _native_reject)
    if body is None:
        return

    async def under(context: Context) -> None:
        try:
            embedded = await embedding.embed(machine, body, context, turn.head.path)
        except CannotRun as no:
            await turn.respond(no.status, [JSON], encode({"error": no.message}))
            return
        await turn.respond(200, [JSON], encode(embedded.native(body["model"])))

    await under_context(turn, under)


async def embeddings(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, EMBEDDINGS, _native_reject)
    if body is None:
        return

    async def under(context: Context) -> None:
        try:
            vector = await embedding.embed_one(machine, body, context, turn.head.path)
        except CannotRun as no:
            await turn.respond(no.status, [JSON], encode({"error": no.message}))
            return
        await turn.respond(200, [JSON], encode({"embedding": vector}))

    await under_context(turn, under)


# --- OpenAI ------------------------------------------------------------------------------------------------------------


async def chat_completions(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, CHAT_COMPLETION, openai_face.reject)
    if body is None:
        return
    try:
        asked = openai_face.native_chat(body)
    except BadRequest as problem:
        await openai_face.reject(turn, str(problem))
        return
    await _run(machine, turn, "chat", asked, ChatVoice(turn, machine, body))


async def completions(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, COMPLETION, openai_face.reject)
    if body is not None:
        await _run(machine, turn, "generate", openai_face.native_generate(body), CompletionVoice(turn, machine, body))


async def openai_embeddings(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, OPENAI_EMBED, openai_face.reject)
    if body is None:
        return
    wanted = body.get("input")
    if wanted == "":
        body["input"] = [""]
    if wanted is None or wanted == []:
        await openai_face.reject(turn, "invalid input")
        return
    form = body.get("encoding_format", "")
    if form not in {"", "float", "base64"}:
        message = f"Invalid value for 'encoding_format' = {form}. Supported values: ['float', 'base64']."
        await openai_face.reject(turn, message)
        return

    async def under(context: Context) -> None:
        try:
            embedded = await embedding.embed(machine, body, context, turn.head.path)
        except CannotRun as no:
            error = openai_face.error_body(no.status, no.message)
            await turn.respond(no.status, [JSON_OF_A_WRITER], encode(error) + b"\n")
            return
        answer = embedded.openai(body["model"], is_base64=form == "base64")
        await turn.respond(200, [JSON_OF_A_WRITER], encode(answer) + b"\n")

    await under_context(turn, under)


async def responses(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, RESPONSES, openai_face.reject)
    if body is None:
        return
    try:
        asked = responses_face.native_chat(body)
    except BadRequest as problem:
        await openai_face.reject(turn, str(problem))
        return
    await _run(machine, turn, "chat", asked, responses_face.ResponsesVoice(turn, machine, body))


async def transcriptions(machine: Machine, turn: Turn) -> None:
    """Speech to text: one multipart form in, the words of an unscripted model out."""
    fields = fields_of(turn.head.headers.get("Content-Type", "") or "", await turn.body())
    if "file" not in fields:
        await openai_face.reject(turn, "file is required")
        return
    name = fields.get("model", b"").decode(errors="replace")
    asked: JsonObject = {"model": name, "prompt": "transcribe", "stream": False}
    is_text = fields.get("response_format", b"json") == b"text"
    await _run(machine, turn, "generate", asked, openai_face.TranscriptVoice(turn, machine, is_text=is_text))


# --- Anthropic ---------------------------------------------------------------------------------------------------------


async def messages(machine: Machine, turn: Turn) -> None:
    body = await _bound(turn, MESSAGES, anthropic_face.reject)
    if body is None:
        return
    try:
        asked = anthropic_face.native_chat(body)
    except BadRequest as problem:
        await anthropic_face.reject(turn, str(problem))
        return
    if anthropic_face.wants_thinking(body) and _thinks(machine, body["model"]):
        asked["think"] = True
    await _run(machine, turn, "chat", asked, AnthropicVoice(turn, body))


def _thinks(machine: Machine, name: str) -> bool:
    """A model that cannot think is not asked to: this face drops the wish without a word."""
    try:
        return "thinking" in native.find_model(machine, "chat", name).capabilities
    except CannotRun:
        return False
