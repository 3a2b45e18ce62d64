"""The bodies Ollama reads, as the structs its type errors name."""

from __future__ import annotations

from .gojson import Struct

TOOL = Struct("Tool", {"type": "string", "items": "any", "function": "any"})
MESSAGE = Struct(
    "Message",
    {
        "role": "string",
        "content": "string",
        "thinking": "string",
        "images": "images",
        "tool_calls": "any",
        "tool_name": "string",
        "tool_call_id": "string",
    },
)
_COMMON = {
    "model": "string",
    "stream": "bool",
    "format": "raw",
    "keep_alive": "duration",
    "options": "map",
    "think": "think",
    "truncate": "bool",
    "shift": "bool",
    "logprobs": "bool",
    "top_logprobs": "int",
    "_debug_render_only": "bool",
}
GENERATE = Struct(
    "GenerateRequest",
    {
        **_COMMON,
        "prompt": "string",
        "suffix": "string",
        "system": "string",
        "template": "string",
        "context": "any",
        "raw": "bool",
        "images": "images",
    },
)
CHAT = Struct("ChatRequest", {**_COMMON, "messages": [MESSAGE], "tools": [TOOL]})
EMBED = Struct(
    "EmbedRequest",
    {
        "model": "string",
        "input": "any",
        "keep_alive": "duration",
        "truncate": "bool",
        "dimensions": "int",
        "options": "map",
    },
)
EMBEDDINGS = Struct(
    "EmbeddingRequest", {"model": "string", "prompt": "string", "keep_alive": "duration", "options": "map"}
)
SHOW = Struct(
    "ShowRequest",
    {"model": "string", "name": "string", "system": "string", "template": "string", "verbose": "bool", "options": "map"},
)
DELETE = Struct("DeleteRequest", {"model": "string", "name": "string"})
COPY = Struct("CopyRequest", {"source": "string", "destination": "string"})
PULL = Struct("PullRequest", {"model": "string", "name": "string", "insecure": "bool", "stream": "bool"})
PUSH = Struct("PushRequest", {"model": "string", "name": "string", "insecure": "bool", "stream": "bool"})
CREATE = Struct(
    "CreateRequest",
    {
        "model": "string",
        "name": "string",
        "from": "string",
        "files": "map",
        "parameters": "map",
        "system": "string",
        "stream": "bool",
    },
)

_OPENAI = {
    "model": "string",
    "stream": "bool",
    "max_tokens": "int",
    "seed": "int",
    "stop": "any",
    "temperature": "float",
    "top_p": "float",
    "frequency_penalty": "float",
    "presence_penalty": "float",
    "stream_options": "any",
}
CHAT_COMPLETION = Struct(
    "ChatCompletionRequest",
    {
        **_OPENAI,
        "messages": [Struct("Message", {**MESSAGE.fields, "content": "any", "name": "string"}, "openai")],
        "tools": [TOOL],
        "response_format": "any",
        "reasoning": "any",
        "reasoning_effort": "string",
        "logprobs": "bool",
        "top_logprobs": "int",
        "_debug_render_only": "bool",
    },
    "openai",
)
COMPLETION = Struct("CompletionRequest", {**_OPENAI, "prompt": "string", "suffix": "string"}, "openai")
OPENAI_EMBED = Struct(
    "EmbedRequest", {"model": "string", "input": "any", "dimensions": "int", "encoding_format": "string"}, "openai"
)
RESPONSES = Struct(
    "ResponsesRequest",
    {
        "model": "string",
        "input": "any",
        "instructions": "string",
        "stream": "bool",
        "max_output_tokens": "int",
        "temperature": "float",
        "top_p": "float",
        "tools": "any",
        "reasoning": "any",
    },
    "openai",
)
MESSAGES = Struct(
    "MessagesRequest",
    {
        "model": "string",
        "max_tokens": "int",
        "messages": "any",
        "system": "any",
        "stream": "bool",
        "temperature": "float",
        "top_p": "float",
        "top_k": "int",
        "stop_sequences": "strings",
        "tools": "any",
        "tool_choice": "any",
        "thinking": "any",
        "metadata": "any",
    },
    "anthropic",
)
