"""/v1/responses: OpenAI's newer shape, as numbered events around one message."""

from __future__ import annotations

import random

from .anthropic_face import STREAM_HEADERS
from .gojson import JsonObject, encode
from .machine import Machine
from .openai_face import EVENTS, BadRequest, OpenAIVoice
from .turn import Turn
from .voices import JSON_OF_A_WRITER


class ResponsesVoice(OpenAIVoice):
    """response.* events, or one response."""

    def __init__(self, turn: Turn, machine: Machine, request: JsonObject) -> None:
        super().__init__(turn, machine, request, "resp")
        self._id = f"resp_{random.randrange(1_000_000)}"
        self._message_id = f"msg_{random.randrange(1_000_000)}"
        self._request = request
        self._number = 0
        self._text = ""
        if request.get("stream"):
            turn.extra_headers = [*turn.extra_headers, *STREAM_HEADERS]

    async def fail_late(self, message: str) -> None:
        """Nothing is said: the stream stops."""
        del message
        await self._turn.finish()

    async def line(self, line: JsonObject) -> None:
        if not self._turn.is_started:
            await self._turn.start(200, [EVENTS])
            opened = self._response(line["model"], "in_progress")
            await self._event("created", response=opened)
            await self._event("in_progress", response=opened)
            item = {"content": [], "id": self._message_id, "role": "assistant", "status": "in_progress", "type": "message"}
            await self._event("output_item.added", item=item, output_index=0)
            await self._of_text("content_part.added", part=self._part(""))
        if line["message"]["content"]:
            self._text += line["message"]["content"]
            await self._of_text("output_text.delta", delta=line["message"]["content"], logprobs=[])
        if line["done"]:
            await self._of_text("output_text.done", text=self._text, logprobs=[])
            await self._of_text("content_part.done", part=self._part(self._text))
            await self._event("output_item.done", item=self._item(self._text), output_index=0)
            closed = self._response(line["model"], "completed")
            closed |= {"completed_at": self._machine.created(), "output": [self._item(self._text)], "usage": _usage(line)}
            await self._event("completed", response=closed)

    async def single(self, answer: JsonObject) -> None:
        text = answer["message"]["content"]
        body = self._response(answer["model"], "completed")
        body |= {"completed_at": self._machine.created(), "output": [self._item(text)], "usage": _usage(answer)}
        await self._turn.respond(200, [JSON_OF_A_WRITER], encode(body) + b"\n")

    def _part(self, text: str) -> JsonObject:
        return {"annotations": [], "logprobs": [], "text": text, "type": "output_text"}

    def _item(self, text: str) -> JsonObject:
        content = [self._part(text)]
        return {"content": content, "id": self._message_id, "role": "assistant", "status": "completed", "type": "message"}

    def _response(self, model: str, status: str) -> JsonObject:
        asked = self._request
        return {
            "background": False,
            "completed_at": None,
            "created_at": self._created,
            "error": None,
            "frequency_penalty": 0,
            "id": self._id,
            "incomplete_details": None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "max_tool_calls": None,
            "metadata": {},
            "model": model,
            "object": "response",
            "output": [],
            "parallel_tool_calls": True,
            "presence_penalty": 0,
            "previous_response_id": None,
            "prompt_cache_key": None,
            "reasoning": None,
            "safety_identifier": None,
            "service_tier": "default",
            "status": status,
            "store": False,
            "temperature": asked.get("temperature", 1),
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": asked.get("tools", []),
            "top_logprobs": 0,
            "top_p": asked.get("top_p", 1),
            "truncation": "disabled",
            "usage": None,
        }

    async def _of_text(self, event: str, **fields: object) -> None:
        await self._event(event, content_index=0, item_id=self._message_id, output_index=0, **fields)

    async def _event(self, event: str, **fields: object) -> None:
        name = f"response.{event}"
        data = encode({**fields, "sequence_number": self._number, "type": name})
        self._number += 1
        await self._turn.send(b"event: " + name.encode() + b"\ndata: " + data + b"\n\n")


def _usage(line: JsonObject) -> JsonObject:
    asked, said = line.get("prompt_eval_count", 0), line.get("eval_count", 0)
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked + said,
    }


def native_chat(request: JsonObject) -> JsonObject:
    """The /api/chat request that a response becomes.

    Raises: BadRequest.
    """
    given = request.get("input")
    match given:
        case str():
            messages: list[JsonObject] = [{"role": "user", "content": given}]
        case list():
            messages = [{"role": item.get("role", "user"), "content": _flat(item.get("content", ""))} for item in given]
        case _:
            raise BadRequest("input is required")
    if request.get("instructions"):
        messages.insert(0, {"role": "system", "content": request["instructions"]})
    options: JsonObject = {"temperature": request.get("temperature", 1.0), "top_p": request.get("top_p", 1.0)}
    if "max_output_tokens" in request:
        options["num_predict"] = request["max_output_tokens"]
    return {"model": request.get("model", ""), "messages": messages, "stream": request.get("stream", False), "options": options}


def _flat(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts if isinstance(part, dict))
