"""One completion or embedding from want to result: model loaded, prompt in tokens, a slot, tokens one by one.

A prompt is read in steps, because llama.cpp notices a caller that left only between two calls while it reads, and reads a
long prompt for many seconds: a leaver frees its slot after the step under way. The steps cost nothing, since each finds the
tokens of the one before in its slot (measured: 1201 tokens, 8.0 s in steps of 128, 7.5 s at once).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from supervisord_ai.core.calls import JsonObject
from supervisord_ai.engine.asked import Completion, Message
from supervisord_ai.engine.residency import Residency
from supervisord_ai.engine.slots import Slot, Slots, shared_prefix
from supervisord_ai.errors import Refused

PROMPT_STEP_TOKENS = 128
NS = 1_000_000_000

INPUT_TOO_LONG = "the input length exceeds the context length"


class Stop(StrEnum):
    """Why a text ended: by itself (or at a stop word), or at a limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text with its tokens: one token, or several when a character needs them all."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """llama.cpp's last word on a completion. Tokens of the prompt count whether they were read or still held."""

    stop: Stop
    prompt_tokens: int
    prompt_ms: float
    tokens: int
    tokens_ms: float


class LlamaStream(Protocol):
    """A completion under way. Leaving the block that gave it stops it."""

    async def next(self) -> Piece | Finish:
        """Return the next piece; after a Finish there is none. Raises: EngineFault."""


class Llama(Protocol):
    """What is needed of llama.cpp: `llama.LlamaServer` is the real one, tests have another."""

    async def load(self) -> None: ...

    async def unload(self) -> None: ...

    async def render(self, messages: Sequence[Message]) -> str:
        """The conversation in the words of the model's template. Raises: Refused, EngineFault."""

    async def tokenize(self, text: str, *, is_text_special: bool) -> list[int]:
        """The tokens of a text; `is_text_special` lets `<|im_start|>` be one. Raises: EngineFault."""

    def complete(self, prompt: Sequence[int], slot: int, parameters: JsonObject) -> AbstractAsyncContextManager[LlamaStream]:
        """Go on from these tokens in this slot."""

    async def embed(self, tokens: Sequence[int]) -> list[float]:
        """The mean of the tokens' hidden states, not normalised. Raises: EngineFault."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an answer cost, in Ollama's units. `context` are all its tokens, for `/api/generate`."""

    stop: Stop
    load_ns: int
    prompt_tokens: int
    prompt_ns: int
    tokens: int
    tokens_ns: int
    context: tuple[int, ...]


class Answering:
    """A completion that has its slot: iterate over its text, then `metrics` is there."""

    def __init__(self, stream: LlamaStream, slot: Slot, prompt: Sequence[int], *, load_ns: int, prompt_ms: float) -> None:
        self._stream = stream
        self._slot = slot
        self._prompt = tuple(prompt)
        self._made: list[int] = []
        self._load_ns = load_ns
        self._prompt_ms = prompt_ms
        self.metrics: Metrics | None = None

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return len(self._made) if self.metrics is None else self.metrics.tokens

    async def next_text(self) -> str | None:
        """Return the next text, None at the end. Raises: EngineFault."""
        while self.metrics is None:
            match await self._stream.next():
                case Piece(text, tokens):
                    self._made.extend(tokens)
                    self._slot.held = (*self._prompt, *self._made)
                    if text:
                        return text
                case Finish() as finish:
                    self.metrics = Metrics(
                        finish.stop,
                        self._load_ns,
                        len(self._prompt),
                        round((self._prompt_ms + finish.prompt_ms) * 1e6),
                        finish.tokens,
                        round(finish.tokens_ms * 1e6),
                        (*self._prompt, *self._made),
                    )
        return None


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of an embed call, not normalised."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int
    load_ns: int


class Generator:
    """Runs completions and embeddings. `context_tokens`: what one slot holds; `embed_tokens`: the longest text embedded whole."""

    def __init__(
        self,
        llama: Llama,
        slots: Slots,
        residency: Residency,
        monotonic: Callable[[], float],
        *,
        context_tokens: int,
        embed_tokens: int,
    ) -> None:
        self.slots = slots
        self.residency = residency
        self._llama = llama
        self._monotonic = monotonic
        self._context_tokens = context_tokens
        self._embed_tokens = embed_tokens

    async def load(self, keep_alive_s: float | None) -> int:
        """Load the model if it is not; returns the nanoseconds that took."""
        began = self._monotonic()
        async with self.residency.use(keep_alive_s):
            return self._ns_since(began)

    @asynccontextmanager
    async def complete(self, want: Completion) -> AsyncIterator[Answering]:
        """Wait for the model and a slot, read the prompt, and give the answer as it comes. Leaving the block frees the slot.

        Raises:
            Refused: the template cannot express this conversation.
            EngineFault: llama.cpp refused or failed.
        """
        began = self._monotonic()
        async with self.residency.use(want.keep_alive_s):
            load_ns = self._ns_since(began)
            prompt = self._fit(await self._tokens_of(want), want.parameters)
            async with self.slots.take(prompt) as slot:
                prompt_ms = await self._read(prompt, slot)
                async with self._llama.complete(prompt, slot.number, want.parameters) as stream:
                    yield Answering(stream, slot, prompt, load_ns=load_ns, prompt_ms=prompt_ms)

    async def embed(self, texts: Sequence[str], keep_alive_s: float | None, *, is_truncating: bool) -> Embedded:
        """Embed texts one after the other in one slot.

        Raises:
            Refused: 400, a text is too long and may not be cut.
            EngineFault: llama.cpp refused or failed.
        """
        began = self._monotonic()
        async with self.residency.use(keep_alive_s):
            load_ns = self._ns_since(began)
            inputs = [await self._llama.tokenize(text, is_text_special=False) for text in texts]
            if not is_truncating and any(len(tokens) > self._embed_tokens for tokens in inputs):
                raise Refused(400, INPUT_TOO_LONG)
            # A model without a beginning-of-text token makes no token of "": one blank stands for it.
            blank = await self._llama.tokenize(" ", is_text_special=False) if not all(inputs) else []
            async with self.slots.take(()) as slot:
                slot.held = ()
                vectors = [tuple(await self._llama.embed(tokens[: self._embed_tokens] or blank)) for tokens in inputs]
        return Embedded(tuple(vectors), sum(min(len(tokens), self._embed_tokens) for tokens in inputs), load_ns)

    async def _tokens_of(self, want: Completion) -> list[int]:
        text = await self._llama.render(want.messages) if want.prompt is None else want.prompt
        return [*want.context, *await self._llama.tokenize(text, is_text_special=True)]

    def _fit(self, prompt: list[int], parameters: JsonObject) -> list[int]:
        """Cut a prompt that leaves no room for an answer, as Ollama does: the first `num_keep` tokens and the end stay."""
        limit = self._context_tokens - 1
        if len(prompt) <= limit:
            return prompt
        asked = parameters.get("n_keep")
        keep = min(max(asked if isinstance(asked, int) else 0, 0), limit - 1)
        return [*prompt[:keep], *prompt[len(prompt) - (limit - keep) :]]

    async def _read(self, prompt: Sequence[int], slot: Slot) -> float:
        """Have a long prompt read up to its last step; returns the milliseconds that took llama.cpp."""
        read_ms = 0.0
        known = shared_prefix(slot.held, prompt)
        for upto in range(known + PROMPT_STEP_TOKENS, len(prompt), PROMPT_STEP_TOKENS):
            async with self._llama.complete(prompt[:upto], slot.number, {"n_predict": 0}) as stream:
                while not isinstance(finish := await stream.next(), Finish):
                    pass
                read_ms += finish.prompt_ms
            slot.held = tuple(prompt[:upto])
        return read_ms

    def _ns_since(self, began: float) -> int:
        return round((self._monotonic() - began) * NS)


def normalised(vector: Sequence[float]) -> tuple[float, ...]:
    """The same direction with length one."""
    length = math.sqrt(sum(x * x for x in vector))
    return tuple(x / length for x in vector) if length else tuple(vector)
