"""An agent that knows the SDKs of `requirements/clients.in` and nothing of us; run by test_sdks in their own environment.

    python sdk_agent.py OUT_FILE

Every client is made from the environment alone. Writes what each call gave, as JSON. Imports nothing of this project.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Or it asks the internet for prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import anthropic
import litellm
import ollama
import openai
from langchain_ollama import ChatOllama, OllamaEmbeddings

MODEL = "chat"
ASKED: list[Any] = [{"role": "user", "content": "[[n=3 delay=0.01]]"}]
NO_MODEL = "nope"


def of_anthropic() -> dict[str, Callable[[], Any]]:
    client = anthropic.Anthropic(max_retries=0)

    def whole() -> Any:
        answer = client.messages.create(model=MODEL, max_tokens=50, messages=ASKED)
        return [[block.text for block in answer.content if block.type == "text"], answer.stop_reason, answer.usage.output_tokens]

    def stream() -> Any:
        with client.messages.stream(model=MODEL, max_tokens=50, messages=ASKED) as events:
            return list(events.text_stream)

    async def later() -> Any:
        async with anthropic.AsyncAnthropic(max_retries=0) as patient:
            answer = await patient.messages.create(model=MODEL, max_tokens=50, messages=ASKED)
            return [block.text for block in answer.content if block.type == "text"]

    return {
        "anthropic": whole,
        "anthropic stream": stream,
        "anthropic async": lambda: asyncio.run(later()),
        "anthropic without the model": lambda: client.messages.create(model=NO_MODEL, max_tokens=5, messages=ASKED),
    }


def of_langchain() -> dict[str, Callable[[], Any]]:
    chat = ChatOllama(model=MODEL)
    return {
        "langchain": lambda: chat.invoke("[[n=3 delay=0.01]]").content,
        "langchain stream": lambda: [part.content for part in chat.stream("[[n=3 delay=0.01]]")],
        "langchain async": lambda: asyncio.run(chat.ainvoke("[[n=2]]")).content,
        "langchain embeddings": lambda: OllamaEmbeddings(model="embed").embed_documents(["a", "b c"]),
        "langchain without the model": lambda: ChatOllama(model=NO_MODEL).invoke("x"),
    }


def of_litellm() -> dict[str, Callable[[], Any]]:
    def whole(model: str) -> Any:
        answer = litellm.completion(model=model, messages=ASKED)
        return [answer.choices[0].message.content, answer.choices[0].finish_reason]

    def stream() -> Any:
        parts = litellm.completion(model=f"ollama_chat/{MODEL}", messages=ASKED, stream=True)
        return "".join(part.choices[0].delta.content or "" for part in parts)

    async def later() -> Any:
        answer = await litellm.acompletion(model=f"ollama_chat/{MODEL}", messages=ASKED)
        return answer.choices[0].message.content

    return {
        "litellm": lambda: whole(f"ollama_chat/{MODEL}"),
        "litellm generate": lambda: whole(f"ollama/{MODEL}"),
        "litellm stream": stream,
        "litellm async": lambda: asyncio.run(later()),
    }


def of_the_others() -> dict[str, Callable[[], Any]]:
    async def later() -> Any:
        async with openai.AsyncOpenAI(max_retries=0) as patient:
            answer = await patient.chat.completions.create(model=MODEL, messages=ASKED)
            parts = await patient.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
            return [answer.choices[0].message.content, [part.choices[0].delta.content async for part in parts if part.choices]]

    async def native() -> Any:
        client = ollama.AsyncClient()
        return [part.message.content async for part in await client.chat(MODEL, ASKED, stream=True)]

    return {"openai async": lambda: asyncio.run(later()), "ollama async": lambda: asyncio.run(native())}


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (anthropic.APIStatusError, openai.APIStatusError) as error:
        body: Any = error.body
        return [type(error).__name__, error.status_code, body["error"]["message"]]  # the rest has a random request_id
    except ollama.ResponseError as error:
        return ["ollama.ResponseError", error.status_code, error.error]


def main() -> None:
    calls = of_anthropic() | of_langchain() | of_litellm() | of_the_others()
    told = {name: outcome(call) for name, call in calls.items()}
    half = Path(f"{sys.argv[1]}.tmp")
    half.write_text(json.dumps(told))
    half.rename(sys.argv[1])


if __name__ == "__main__":
    main()
