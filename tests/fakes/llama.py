"""A llama.cpp that counts instead of thinking: a token is a byte, an answer is `w0 w1 w2 ...`, time is trio's.

It fails loudly where the real one would only be slow or wrong: two completions in one slot, a call without a loaded model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from supervisord_ai.core.calls import JsonObject
from supervisord_ai.engine.asked import Message
from supervisord_ai.engine.generation import Finish, LlamaStream, Piece, Stop
from supervisord_ai.errors import EngineFault

ENDLESS = 1_000_000


@dataclass
class FakeLlama:
    """One script for all completions: `words` tokens by default, each after `token_s`; a prompt token takes `prompt_token_s`."""

    load_s: float = 1.0
    token_s: float = 0.01
    prompt_token_s: float = 0.001
    words: int = 5
    fail_after: int | None = None
    is_loaded: bool = False
    loads: int = 0
    unloads: int = 0
    busy: dict[int, int] = field(default_factory=dict)
    peak: int = 0
    prompts: list[tuple[int, int]] = field(default_factory=list)  # (slot, tokens) of every call
    parameters: list[JsonObject] = field(default_factory=list)

    async def load(self) -> None:
        await trio.sleep(self.load_s)
        self.is_loaded = True
        self.loads += 1

    async def unload(self) -> None:
        await trio.sleep(self.load_s / 10)
        assert not self.busy, "unloaded while it was used"
        self.is_loaded = False
        self.unloads += 1

    async def render(self, messages: Sequence[Message]) -> str:
        assert self.is_loaded
        await trio.lowlevel.checkpoint()
        return "".join(f"{message.role}: {message.content}\n" for message in messages)

    async def tokenize(self, text: str, *, is_text_special: bool) -> list[int]:
        assert self.is_loaded
        await trio.lowlevel.checkpoint()
        return list(text.encode())

    @asynccontextmanager
    async def complete(self, prompt: Sequence[int], slot: int, parameters: JsonObject) -> AsyncIterator[LlamaStream]:
        assert self.is_loaded, "a call without a loaded model"
        assert slot not in self.busy, f"two completions in slot {slot}"
        self.busy[slot] = 1
        self.peak = max(self.peak, len(self.busy))
        self.prompts.append((slot, len(prompt)))
        self.parameters.append(parameters)
        try:
            asked = parameters.get("n_predict")
            limit = asked if isinstance(asked, int) and asked >= 0 else ENDLESS
            yield _Stream(self, len(prompt), min(limit, self.words), is_cut=limit < self.words)
        finally:
            del self.busy[slot]

    async def embed(self, tokens: Sequence[int]) -> list[float]:
        assert self.is_loaded
        await trio.sleep(self.token_s)
        return [3.0, 4.0, float(len(tokens)) * 0.0]


class _Stream:
    def __init__(self, llama: FakeLlama, prompt_tokens: int, words: int, *, is_cut: bool) -> None:
        self._llama = llama
        self._prompt_tokens = prompt_tokens
        self._words = words
        self._stop = Stop.LENGTH if is_cut else Stop.STOP
        self._sent = -1

    async def next(self) -> Piece | Finish:
        if self._sent < 0:
            await trio.sleep(self._llama.prompt_token_s * self._prompt_tokens)
            self._sent = 0
        if self._llama.fail_after is not None and self._sent >= self._llama.fail_after and self._words:
            raise EngineFault("an error was encountered while running the model: unexpected EOF")
        if self._sent < self._words:
            await trio.sleep(self._llama.token_s)
            self._sent += 1
            return Piece(f"w{self._sent - 1} ", (self._sent,))
        await trio.lowlevel.checkpoint()
        return Finish(self._stop, self._prompt_tokens, 1.0, self._words, 10.0 * self._words)
