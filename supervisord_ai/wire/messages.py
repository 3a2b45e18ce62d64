"""The bodies callers send: the fields Ollama v0.33 knows on each of its routes, with their Go types.

After api/types.go, openai/openai.go, openai/responses.go and anthropic/anthropic.go. Tools, JSON schemas and the parts of
OpenAI's contents are decoded by Go into maps, whose keys are compared exactly: they stay as they are, order and all.
"""

from __future__ import annotations

from supervisord_ai.core.calls import JsonObject, Op
from supervisord_ai.wire.go_struct import Bound, Custom, FieldType, ListOf, Plain, Pointer, Struct, bind
from supervisord_ai.wire.json_go import decode, fold, pairs_of

_STRING, _BOOL, _INT = Plain.STRING, Plain.BOOL, Plain.INT
_ANY, _RAW, _MAP = Custom.ANY, Custom.RAW, Custom.MAP
_STRINGS = ListOf("[]string", Plain.STRING)
_IMAGES = ListOf("[]api.ImageData", Custom.IMAGE)

_FUNCTION = Struct("api", "ToolCallFunction", {"index": _INT, "name": _STRING, "arguments": _ANY})
_TOOL_CALL = Struct("api", "ToolCall", {"id": _STRING, "function": _FUNCTION})
_MESSAGE = Struct(
    "api",
    "Message",
    {
        "role": _STRING,
        "content": _STRING,
        "thinking": _STRING,
        "images": _IMAGES,
        "tool_calls": ListOf("[]api.ToolCall", _TOOL_CALL),
        "tool_name": _STRING,
        "tool_call_id": _STRING,
    },
    alias="api.Alias",
)
_TOOL = Struct("api", "Tool", {})  # its schema stays as it came
_SAMPLED: dict[str, FieldType] = {
    "model": _STRING,
    "stream": Pointer(Plain.BOOL),
    "format": _RAW,
    "keep_alive": Custom.DURATION,
    "options": _MAP,
    "think": Custom.THINK,
    "truncate": Pointer(Plain.BOOL),
    "shift": Pointer(Plain.BOOL),
    "_debug_render_only": _BOOL,
    "logprobs": _BOOL,
    "top_logprobs": _INT,
}
_TRANSFER: dict[str, FieldType] = {
    "model": _STRING,
    "insecure": _BOOL,
    "username": _STRING,
    "password": _STRING,
    "stream": Pointer(Plain.BOOL),
    "name": _STRING,
}
_FILES = Custom.MAP

_OPENAI_TOOL_CALL = Struct(
    "openai",
    "ToolCall",
    {"id": _STRING, "index": _INT, "type": _STRING, "function": Struct("openai", "", {"name": _STRING, "arguments": _STRING})},
)
_OPENAI_MESSAGE = Struct(
    "openai",
    "Message",
    {
        "role": _STRING,
        "content": _ANY,
        "reasoning": _STRING,
        "tool_calls": ListOf("[]openai.ToolCall", _OPENAI_TOOL_CALL),
        "name": _STRING,
        "tool_call_id": _STRING,
    },
)
_STREAM_OPTIONS = Struct("openai", "StreamOptions", {"include_usage": _BOOL})
_RESPONSES_TOOL = Struct(
    "openai",
    "ResponsesTool",
    {
        "type": _STRING,
        "name": _STRING,
        "description": Pointer(Plain.STRING),
        "strict": Pointer(Plain.BOOL),
        "parameters": _MAP,
        "tools": ListOf("[]openai.ResponsesTool", _ANY),  # of itself: a namespace's members, read by `declares_web_search`
    },
)
_MESSAGE_PARAM = Struct(
    "anthropic",
    "MessageParam",
    {"role": _STRING, "content": _RAW},
    alias='struct { Role string "json:\\"role\\""; Content json.RawMessage "json:\\"content\\"" }',
)
_ANTHROPIC_TOOL = Struct(
    "anthropic",
    "Tool",
    {"type": _STRING, "name": _STRING, "description": _STRING, "input_schema": _RAW, "max_uses": _INT},
)

STRUCTS: dict[Op, Struct] = {
    Op.GENERATE: Struct(
        "api",
        "GenerateRequest",
        {
            **_SAMPLED,
            "prompt": _STRING,
            "suffix": _STRING,
            "system": _STRING,
            "template": _STRING,
            "context": ListOf("[]int", Plain.INT),
            "raw": _BOOL,
            "images": _IMAGES,
        },
    ),
    Op.CHAT: Struct(
        "api",
        "ChatRequest",
        {**_SAMPLED, "messages": ListOf("[]api.Message", _MESSAGE), "tools": ListOf("api.Tools", _TOOL)},
    ),
    Op.EMBED: Struct(
        "api",
        "EmbedRequest",
        {
            "model": _STRING,
            "input": _ANY,
            "keep_alive": Custom.DURATION,
            "truncate": Pointer(Plain.BOOL),
            "dimensions": _INT,
            "options": _MAP,
        },
    ),
    Op.EMBEDDINGS: Struct(
        "api", "EmbeddingRequest", {"model": _STRING, "prompt": _STRING, "keep_alive": Custom.DURATION, "options": _MAP}
    ),
    Op.SHOW: Struct(
        "api",
        "ShowRequest",
        {"model": _STRING, "system": _STRING, "template": _STRING, "verbose": _BOOL, "options": _MAP, "name": _STRING},
    ),
    Op.PULL: Struct("api", "PullRequest", _TRANSFER),
    Op.PUSH: Struct("api", "PushRequest", _TRANSFER),
    Op.DELETE: Struct("api", "DeleteRequest", {"model": _STRING, "name": _STRING}),
    Op.COPY: Struct("api", "CopyRequest", {"source": _STRING, "destination": _STRING}),
    Op.CREATE: Struct(
        "api",
        "CreateRequest",
        {
            **dict.fromkeys(("model", "quantize", "draft_quantize", "from", "remote_host", "template", "system"), _STRING),
            **dict.fromkeys(("renderer", "parser", "requires", "name", "quantization"), _STRING),
            "stream": Pointer(Plain.BOOL),
            "files": _FILES,
            "draft_files": _FILES,
            "adapters": _FILES,
            "license": _ANY,
            "parameters": _MAP,
            "messages": ListOf("[]api.Message", _MESSAGE),
            "info": _MAP,
        },
    ),
    Op.CHAT_COMPLETIONS: Struct(
        "openai",
        "ChatCompletionRequest",
        {
            "model": _STRING,
            "messages": ListOf("[]openai.Message", _OPENAI_MESSAGE),
            "stream": _BOOL,
            "stream_options": _STREAM_OPTIONS,
            "max_tokens": Pointer(Plain.INT),
            "seed": Pointer(Plain.INT),
            "stop": _ANY,
            "temperature": Pointer(Plain.FLOAT64),
            "frequency_penalty": Pointer(Plain.FLOAT64),
            "presence_penalty": Pointer(Plain.FLOAT64),
            "top_p": Pointer(Plain.FLOAT64),
            "response_format": Struct(
                "openai",
                "ResponseFormat",
                {"type": _STRING, "json_schema": Struct("openai", "JsonSchema", {"schema": _RAW})},
            ),
            "tools": ListOf("[]api.Tool", _TOOL),
            "reasoning": Struct("openai", "Reasoning", {"effort": _STRING}),
            "reasoning_effort": Pointer(Plain.STRING),
            "logprobs": Pointer(Plain.BOOL),
            "top_logprobs": _INT,
            "_debug_render_only": _BOOL,
        },
    ),
    Op.COMPLETIONS: Struct(
        "openai",
        "CompletionRequest",
        {
            "model": _STRING,
            "prompt": _STRING,
            "frequency_penalty": Plain.FLOAT32,
            "max_tokens": Pointer(Plain.INT),
            "presence_penalty": Plain.FLOAT32,
            "seed": Pointer(Plain.INT),
            "stop": _ANY,
            "stream": _BOOL,
            "stream_options": _STREAM_OPTIONS,
            "temperature": Pointer(Plain.FLOAT32),
            "top_p": Plain.FLOAT32,
            "suffix": _STRING,
            "logprobs": Pointer(Plain.INT),
            "_debug_render_only": _BOOL,
        },
    ),
    Op.V1_EMBEDDINGS: Struct(
        "openai", "EmbedRequest", {"input": _ANY, "model": _STRING, "dimensions": _INT, "encoding_format": _STRING}
    ),
    Op.RESPONSES: Struct(
        "openai",
        "ResponsesRequest",
        {
            "model": _STRING,
            "background": _BOOL,
            "conversation": _RAW,
            "include": _STRINGS,
            "input": _ANY,
            "instructions": _STRING,
            "max_output_tokens": Pointer(Plain.INT),
            "reasoning": Struct(
                "openai", "ResponsesReasoning", {"effort": _STRING, "generate_summary": _STRING, "summary": _STRING}
            ),
            "temperature": Pointer(Plain.FLOAT64),
            "text": Struct(
                "openai",
                "ResponsesText",
                {
                    "format": Struct(
                        "openai",
                        "ResponsesTextFormat",
                        {"type": _STRING, "name": _STRING, "schema": _RAW, "strict": Pointer(Plain.BOOL)},
                    )
                },
            ),
            "top_p": Pointer(Plain.FLOAT64),
            "truncation": Pointer(Plain.STRING),
            "tools": ListOf("[]openai.ResponsesTool", _RESPONSES_TOOL),
            "stream": Pointer(Plain.BOOL),
        },
    ),
    Op.MESSAGES: Struct(
        "anthropic",
        "MessagesRequest",
        {
            "model": _STRING,
            "max_tokens": _INT,
            "messages": ListOf("[]anthropic.MessageParam", _MESSAGE_PARAM),
            "system": _ANY,
            "stream": _BOOL,
            "temperature": Pointer(Plain.FLOAT64),
            "top_p": Pointer(Plain.FLOAT64),
            "top_k": Pointer(Plain.INT),
            "stop_sequences": _STRINGS,
            "tools": ListOf("[]anthropic.Tool", _ANTHROPIC_TOOL),
            "tool_choice": Struct(
                "anthropic", "ToolChoice", {"type": _STRING, "name": _STRING, "disable_parallel_tool_use": _BOOL}
            ),
            "thinking": Struct("anthropic", "ThinkingConfig", {"type": _STRING, "budget_tokens": _INT}),
            "metadata": Struct("anthropic", "Metadata", {"user_id": _STRING}),
            "output_config": Struct("anthropic", "OutputConfig", {"effort": _STRING}),
        },
    ),
}


def read_body(op: Op, body: bytes | bytearray) -> Bound:
    """Read a body as the route's handler does: known fields spelled and typed as Ollama knows them, others as they came.

    Raises:
        EmptyBody: no body.
        NotJson, WrongType: with Go's words.
    """
    return bind(STRUCTS[op], decode(body))


def declares_web_search(op: Op, fields: JsonObject) -> bool:
    """Whether a body lists a built-in web search among its tools, which Ollama runs at ollama.com.

    Any spelling counts, at any depth of namespaces: here it is better to refuse what Ollama would not have understood.
    """
    if op not in {Op.MESSAGES, Op.RESPONSES}:
        return False
    todo = [fields.get("tools")]
    while todo:
        tools = todo.pop()
        for tool in tools if isinstance(tools, list) else []:
            for key, value in pairs_of(tool) if isinstance(tool, dict) else []:
                if fold(key) == "type" and isinstance(value, str) and value.strip().startswith("web_search"):
                    return True
                if fold(key) == "tools":
                    todo.append(value)
    return False
