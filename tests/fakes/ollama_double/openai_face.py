"""/v1/chat/completions and /v1/completions: requests into native ones, native lines out as server-sent events."""

from __future__ import annotations

import random
from typing import Any

from .gojson import BadBody, JsonObject, encode, std_base64
from .machine import Machine
from .turn import Turn
from .voices import JSON, JSON_OF_A_WRITER

EVENTS = ("Content-Type", "text/event-stream")
FINGERPRINT = "fp_ollama"


class BadRequest(Exception):  # noqa: N818
    """A request the face itself refuses with 400."""


def error_body(status: int, message: str) -> JsonObject:
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def reject(turn: Turn, message: str) -> None:
    """A 400 of the face, before any native handler saw the request."""
    await turn.respond(400, [JSON], encode(error_body(400, message)))


class OpenAIVoice:
    """What the two completion routes share: ids, errors, the end of a stream."""

    def __init__(self, turn: Turn, machine: Machine, request: JsonObject, prefix: str) -> None:
        self._turn = turn
        self._machine = machine
        self._id = f"{prefix}-{random.randrange(999)}"
        self._created = machine.created()
        options = request.get("stream_options")
        self._wants_usage = isinstance(options, dict) and options.get("include_usage") is True

    async def refuse(self, status: int, message: str) -> None:
        await self._turn.respond(status, [JSON_OF_A_WRITER], encode(error_body(status, message)) + b"\n")

    async def fail_first(self, status: int, message: str) -> None:
        await self._turn.start(status, [JSON_OF_A_WRITER])
        await self._turn.send(encode(error_body(status, message)) + b"\n")
        await self._turn.finish()

    async def fail_late(self, message: str) -> None:
        """The writer takes the error's line for a token without model or text."""
        del message
        await self.line({"model": "", "message": {"content": ""}, "response": "", "done": False})
        await self.finish()

    async def finish(self) -> None:
        await self._turn.finish()

    async def _send(self, *events: JsonObject, is_last: bool = False) -> None:
        if not self._turn.is_started:
            await self._turn.start(200, [EVENTS])
        data = b"".join(b"data: " + encode(event) + b"\n\n" for event in events)
        await self._turn.send(data + (b"data: [DONE]\n\n" if is_last else b""))

    async def line(self, line: JsonObject) -> None:
        raise NotImplementedError


class ChatVoice(OpenAIVoice):
    """chat.completion and its chunks."""

    def __init__(self, turn: Turn, machine: Machine, request: JsonObject) -> None:
        super().__init__(turn, machine, request, "chatcmpl")
        self._has_role = False
        self._has_tools = False

    async def line(self, line: JsonObject) -> None:
        message = line["message"]
        delta: JsonObject = {} if self._has_role else {"role": "assistant"}
        self._has_role = True
        self._has_tools |= bool(message.get("tool_calls"))
        if not line["done"]:
            if message.get("thinking"):
                delta["reasoning"] = message["thinking"]
            if message.get("tool_calls"):
                delta["tool_calls"] = _tool_calls(message["tool_calls"])
            if not ({"reasoning", "tool_calls"} & delta.keys()) or message["content"]:
                delta["content"] = message["content"]
            await self._send(self._chunk(line["model"], delta, None))
            return
        events = [self._chunk(line["model"], delta if "role" in delta else {}, self._reason(line))]
        if self._wants_usage:
            events.append({**self._chunk(line["model"], {}, None), "choices": [], "usage": usage_of(line)})
        await self._send(*events, is_last=True)

    async def single(self, answer: JsonObject) -> None:
        message = answer["message"]
        said: JsonObject = {"role": "assistant", "content": message["content"]}
        if message.get("thinking"):
            said["reasoning"] = message["thinking"]
        if message.get("tool_calls"):
            self._has_tools = True
            said["tool_calls"] = _tool_calls(message["tool_calls"])
        choice = {"index": 0, "message": said, "finish_reason": self._reason(answer)}
        body = {**self._envelope("chat.completion", answer["model"]), "choices": [choice], "usage": usage_of(answer)}
        await self._turn.respond(200, [JSON_OF_A_WRITER], encode(body) + b"\n")

    def _reason(self, line: JsonObject) -> str | None:
        return "tool_calls" if self._has_tools and line["done"] else line.get("done_reason")

    def _envelope(self, kind: str, model: str) -> JsonObject:
        return {"id": self._id, "object": kind, "created": self._created, "model": model, "system_fingerprint": FINGERPRINT}

    def _chunk(self, model: str, delta: JsonObject, reason: str | None) -> JsonObject:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {**self._envelope("chat.completion.chunk", model), "choices": [choice]}


class CompletionVoice(OpenAIVoice):
    """text_completion, whole and in pieces."""

    def __init__(self, turn: Turn, machine: Machine, request: JsonObject) -> None:
        super().__init__(turn, machine, request, "cmpl")

    async def line(self, line: JsonObject) -> None:
        event = self._body(line["model"], line["response"], line.get("done_reason"))
        if self._wants_usage:
            event["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        if not line["done"]:
            await self._send(event)
            return
        events = [event]
        if self._wants_usage:
            events.append({**self._body(line["model"], "", None), "choices": [], "usage": usage_of(line)})
        await self._send(*events, is_last=True)

    async def single(self, answer: JsonObject) -> None:
        choice = {"text": answer["response"], "index": 0, "finish_reason": answer.get("done_reason")}
        body = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": answer["model"],
            "system_fingerprint": FINGERPRINT,
            "choices": [choice],
            "usage": usage_of(answer),
        }
        await self._turn.respond(200, [JSON_OF_A_WRITER], encode(body) + b"\n")

    def _body(self, model: str, text: str, reason: str | None) -> JsonObject:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "choices": [{"text": text, "index": 0, "finish_reason": reason}],
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }


def usage_of(line: JsonObject) -> JsonObject:
    asked, said = line.get("prompt_eval_count", 0), line.get("eval_count", 0)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _tool_calls(calls: list[JsonObject]) -> list[JsonObject]:
    return [
        {
            "id": call["id"],
            "index": call["function"]["index"],
            "type": "function",
            "function": {"name": call["function"]["name"], "arguments": encode(call["function"]["arguments"]).decode()},
        }
        for call in calls
    ]


def native_chat(request: JsonObject) -> JsonObject:
    """The /api/chat request that a chat completion becomes.

    Raises: BadRequest.
    """
    if not request.get("messages"):
        raise BadRequest("[] is too short - 'messages'")
    native: JsonObject = {
        "model": request.get("model", ""),
        "messages": [_message(message) for message in request["messages"]],
        "stream": request.get("stream", False),
        "options": _options(request),
    }
    form = request.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_object":
        native["format"] = "json"
    elif isinstance(form, dict) and form.get("type") == "json_schema":
        native["format"] = form.get("json_schema", {}).get("schema")
    if request.get("tools"):
        native["tools"] = request["tools"]
    effort = request.get("reasoning_effort") or (request.get("reasoning") or {}).get("effort")
    if effort is not None:
        if effort not in {"none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max"}:
            raise BadRequest(f"invalid reasoning value: '{effort}'")
        native["think"] = effort != "none"
    return native


def native_generate(request: JsonObject) -> JsonObject:
    """The /api/generate request that a completion becomes."""
    return {
        "model": request.get("model", ""),
        "prompt": request.get("prompt", ""),
        "suffix": request.get("suffix", ""),
        "stream": request.get("stream", False),
        "options": _options(request),
    }


def _options(request: JsonObject) -> JsonObject:
    """Runner options, with the face's own defaults: temperature and top_p are 1.0, whatever the Modelfile says."""
    options: JsonObject = {"temperature": request.get("temperature", 1.0), "top_p": request.get("top_p", 1.0)}
    if "max_tokens" in request:
        options["num_predict"] = request["max_tokens"]
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        if name in request:
            options[name] = request[name]
    stop = request.get("stop")
    if isinstance(stop, str):
        options["stop"] = [stop]
    elif isinstance(stop, list):
        options["stop"] = stop
    return options


def _message(message: JsonObject) -> JsonObject:
    content = message.get("content", "")
    native: JsonObject = {"role": message.get("role", ""), "content": content}
    if isinstance(content, list):
        native["content"] = "".join(part.get("text", "") for part in content if part.get("type") == "text")
        native["images"] = [_image(part) for part in content if part.get("type") == "image_url"]
    elif not isinstance(content, str):
        raise BadRequest(f"invalid message content type: {type(content).__name__}")
    return native


def _image(part: JsonObject) -> bytes:
    url: Any = part.get("image_url")
    text: str = url.get("url", "") if isinstance(url, dict) else url
    head, _, data = text.partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise BadRequest("invalid image input")
    try:
        return std_base64(data)
    except BadBody:
        raise BadRequest("invalid image input") from None




class TranscriptVoice(OpenAIVoice):
    """/v1/audio/transcriptions: one text, bare or in JSON."""

    def __init__(self, turn: Turn, machine: Machine, *, is_text: bool) -> None:
        super().__init__(turn, machine, {}, "transcript")
        self._is_text = is_text

    async def single(self, answer: JsonObject) -> None:
        text: str = answer["response"]
        if self._is_text:
            await self._turn.respond(200, [("Content-Type", "text/plain; charset=utf-8")], text.encode())
        else:
            await self._turn.respond(200, [JSON_OF_A_WRITER], encode({"text": text}) + b"\n")
