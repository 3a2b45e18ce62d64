"""/v1/messages: Anthropic's shape around native chat lines."""

from __future__ import annotations

import secrets
from typing import Any

from .gojson import JsonObject, encode
from .openai_face import EVENTS, BadRequest
from .turn import Turn
from .voices import JSON, JSON_OF_A_WRITER

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
STREAM_HEADERS = [("Cache-Control", "no-cache"), ("Connection", "keep-alive")]


def error_body(status: int, message: str) -> JsonObject:
    kind = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_{secrets.token_hex(12)}"}


async def reject(turn: Turn, message: str) -> None:
    await turn.respond(400, [JSON], encode(error_body(400, message)))


class AnthropicVoice:
    """message events, or one message."""

    def __init__(self, turn: Turn, request: JsonObject) -> None:
        self._turn = turn
        self._id = f"msg_{secrets.token_hex(12)}"
        self._headers = STREAM_HEADERS if request.get("stream") else []
        self._prompt_estimate = max(1, -(-sum(len(text) for text in _texts(request)) // 4))
        self._block: str | None = None
        self._index = -1
        self._has_tools = False

    async def refuse(self, status: int, message: str) -> None:
        headers = [*self._headers, JSON_OF_A_WRITER]
        await self._turn.respond(status, headers, encode(error_body(status, message)) + b"\n")

    async def fail_first(self, status: int, message: str) -> None:
        await self._turn.start(status, [*self._headers, JSON_OF_A_WRITER])
        await self._turn.send(encode(error_body(status, message)) + b"\n")
        await self._turn.finish()

    async def fail_late(self, message: str) -> None:
        """Nothing is said: the stream stops, and the SDK returns what it has as a success."""
        del message
        await self._turn.finish()

    async def finish(self) -> None:
        await self._turn.finish()

    async def line(self, line: JsonObject) -> None:
        if not self._turn.is_started:
            await self._turn.start(200, [*self._headers, EVENTS])
            usage = {"input_tokens": self._prompt_estimate, "output_tokens": 0}
            message = {"id": self._id, "type": "message", "role": "assistant", "model": line["model"], "content": [],
                       "usage": usage}  # fmt: skip
            await self._send("message_start", {"message": message})
        said = line["message"]
        if said.get("thinking"):
            await self._in_block("thinking", {"type": "thinking", "thinking": ""})
            await self._delta({"type": "thinking_delta", "thinking": said["thinking"]})
        if said["content"]:
            await self._in_block("text", {"type": "text", "text": ""})
            await self._delta({"type": "text_delta", "text": said["content"]})
        for call in said.get("tool_calls", ()):
            self._has_tools = True
            await self._close_block()
            name = call["function"]["name"]
            await self._in_block("tool_use", {"type": "tool_use", "id": call["id"], "name": name, "input": {}})
            json_text = encode(call["function"]["arguments"]).decode()
            await self._delta({"type": "input_json_delta", "partial_json": json_text})
            await self._close_block()
        if line["done"]:
            await self._close_block()
            await self._send("message_delta", {"delta": self._reason(line), "usage": _usage(line)})
            await self._send("message_stop", {})

    async def single(self, answer: JsonObject) -> None:
        said = answer["message"]
        content: list[JsonObject] = []
        if said.get("thinking"):
            content.append({"type": "thinking", "thinking": said["thinking"]})
        if said["content"]:
            content.append({"type": "text", "text": said["content"]})
        for call in said.get("tool_calls", ()):
            self._has_tools = True
            function = call["function"]
            content.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": function["arguments"]})
        body = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": answer["model"],
            "content": content or None,  # Go's nil slice
            **self._reason(answer),
            "usage": _usage(answer),
        }
        await self._turn.respond(200, [*self._headers, JSON_OF_A_WRITER], encode(body) + b"\n")

    def _reason(self, line: JsonObject) -> JsonObject:
        """Why it stopped, as a member; none where Ollama does not know, as after a runner that went without its last line."""
        if self._has_tools:
            return {"stop_reason": "tool_use"}
        done_reason = line.get("done_reason", "")
        return {"stop_reason": _STOP_REASONS.get(done_reason, "stop_sequence")} if done_reason else {}

    async def _in_block(self, kind: str, start: JsonObject) -> None:
        if self._block == kind:
            return
        await self._close_block()
        self._block = kind
        self._index += 1
        await self._send("content_block_start", {"index": self._index, "content_block": start})

    async def _close_block(self) -> None:
        if self._block is not None:
            self._block = None
            await self._send("content_block_stop", {"index": self._index})

    async def _delta(self, delta: JsonObject) -> None:
        await self._send("content_block_delta", {"index": self._index, "delta": delta})

    async def _send(self, event: str, fields: JsonObject) -> None:
        data = encode({"type": event, **fields})
        await self._turn.send(b"event: " + event.encode() + b"\ndata: " + data + b"\n\n")


def _usage(line: JsonObject) -> JsonObject:
    return {"input_tokens": line.get("prompt_eval_count", 0), "output_tokens": line.get("eval_count", 0)}


def native_chat(request: JsonObject) -> JsonObject:
    """The /api/chat request that a message becomes.

    Raises: BadRequest.
    """
    if not request.get("model"):
        raise BadRequest("model is required")
    if request.get("max_tokens", 0) <= 0:
        raise BadRequest("max_tokens is required and must be positive")
    if not request.get("messages"):
        raise BadRequest("messages is required")
    options: JsonObject = {"num_predict": request["max_tokens"]}
    for name in ("temperature", "top_p", "top_k"):
        if name in request:
            options[name] = request[name]
    if "stop_sequences" in request:
        options["stop"] = request["stop_sequences"]
    system = [{"role": "system", "content": _flat(request["system"])}] if request.get("system") else []
    messages = [{"role": each.get("role", ""), "content": _flat(each.get("content", ""))} for each in request["messages"]]
    native: JsonObject = {
        "model": request["model"],
        "messages": system + messages,
        "stream": request.get("stream", False),
        "options": options,
    }
    if request.get("tools"):
        native["tools"] = [{"type": "function", "function": tool} for tool in request["tools"]]
    return native


def wants_thinking(request: JsonObject) -> bool:
    thinking = request.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") in {"enabled", "adaptive"}


def _texts(request: JsonObject) -> list[str]:
    return [_flat(each.get("content", "")) for each in request.get("messages") or []] + [_flat(request.get("system") or "")]


def _flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if isinstance(part, dict))
