"""Every request that was asked: what may be answered, when it may start, what was promised. The one judge of answers.

A prompt names its request (`#17#`) or, where several may share an answer, its topic (`@4@`); the words that the double says
to it name it again. So an answer that reached the wrong caller, lost a word or ended early is seen by reading it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.fakes.ollama_double import Ask as UpstreamAsk
from tests.fakes.ollama_double.machine import default_vector

MODEL = "llama3.2:3b"
OTHER_MODEL = "tinyllama"
EMBEDDER = "nomic-embed-text"
_NAMED = re.compile(r"([#@])(\d+)\1")
TELLING = re.compile(r"/(\d+)")
SLACK_S = 0.3  # between a decision and the moment the double sees it, and G3's quarter of a second


class Shape(StrEnum):
    """How it is asked."""

    GENERATE_STREAM = "/api/generate stream"
    GENERATE = "/api/generate"
    CHAT_STREAM = "/api/chat stream"
    OPENAI = "/v1/chat/completions"
    OPENAI_STREAM = "/v1/chat/completions stream"
    ANTHROPIC = "/v1/messages"
    EMBED = "/api/embed"


class End(StrEnum):
    """What became of it."""

    WHOLE = "answered"
    REFUSED = "refused"  # by us, with a reason
    FAILED = "failed"  # an error in the caller's face
    BROKEN = "cut off"  # the connection ended: the daemon died, or what it stood on
    LEFT = "left"


@dataclass
class Asked:
    """One request."""

    number: int
    agent: str
    generation: int
    shape: Shape
    model: str
    at: float
    count: int  # words of the answer
    deadline_s: float
    topic: int | None = None
    key: str | None = None
    is_async: bool = False
    priority: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # that are the gateway's to grant
    left_at: float | None = None
    end: End | None = None
    ended_at: float = 0.0
    detail: str = ""
    starts: list[float] = field(default_factory=list)
    served: set[str] = field(default_factory=set)  # the models that worked for it
    harmed: str = ""  # the fault that the double answered it with
    body: bytes | None = None
    said: str | None = None  # the answer as it was told: from here on it is told like this to whoever asks again
    promised_at: float | None = None  # it was acknowledged: from here on it must be answered
    id: str | None = None

    def __str__(self) -> str:
        marks = [f"topic {self.topic}"] * (self.topic is not None) + ["keyed"] * (self.key is not None)
        marks += ["async"] * self.is_async
        starts = ", ".join(f"{at:.3f}" for at in self.starts)
        return (
            f"request {self.number} of {self.agent}#{self.generation} ({self.shape.value} {self.model}"
            f" {' '.join(marks)}, asked at {self.at:.3f} for {self.deadline_s:g} s, started [{starts}])"
        )

    @property
    def name(self) -> str:
        return f"@{self.topic}@" if self.topic is not None else f"#{self.number}#"

    def words(self, telling: int) -> tuple[str, ...]:
        """What the engine says to it, the telling-th time that it says anything: no two of its answers are alike."""
        mark = f"t{self.topic}" if self.topic is not None else f"a{self.number}"
        return tuple(f"{mark}.{index}/{telling} " for index in range(self.count))

    def request(self) -> tuple[str, dict[str, Any]]:
        """The path and the body."""
        prompt, count = self.name, self.count
        fixed = {"options": {"temperature": 0}} if self.topic is not None else self.options
        match self.shape:
            case Shape.GENERATE | Shape.GENERATE_STREAM:
                return "/api/generate", {
                    "model": self.model, "prompt": prompt, "stream": self.shape is Shape.GENERATE_STREAM, **fixed,
                }  # fmt: skip
            case Shape.CHAT_STREAM:
                return "/api/chat", {"model": self.model, "messages": [{"role": "user", "content": prompt}], **fixed}
            case Shape.OPENAI | Shape.OPENAI_STREAM:
                more = {"temperature": 0} if self.topic is not None else {}
                return "/v1/chat/completions", {
                    "model": self.model, "messages": [{"role": "user", "content": prompt}],
                    "stream": self.shape is Shape.OPENAI_STREAM, **more,
                }  # fmt: skip
            case Shape.ANTHROPIC:
                return "/v1/messages", {
                    "model": self.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 10 * count + 10,
                }  # fmt: skip
            case Shape.EMBED:
                return "/api/embed", {"model": self.model, "input": [f"{prompt} {index}" for index in range(count)]}

    def headers(self) -> dict[str, str]:
        given = {"X-AI-Deadline": f"{self.deadline_s:.0f}"}
        if self.key is not None:
            given["Idempotency-Key"] = self.key
        if self.priority is not None:
            given["X-AI-Priority"] = str(self.priority)
        if self.is_async:
            given["Prefer"] = "respond-async"
        return given


def named_in(ask: UpstreamAsk) -> tuple[str, int] | None:
    """Return ("#", request) or ("@", topic) of what reached the double, None for a probe or a load of our own."""
    found = _NAMED.search(ask.prompt)
    return (found[1], int(found[2])) if found else None


def read(asked: Asked, status: int, body: bytes) -> tuple[End, str, str]:
    """Say what an answer is, why, and what it says; a clean one must be the whole one, and of one telling alone.

    Raises: AssertionError when it looks like success and is not, or when it says what only a bug says.
    """
    if status in {429, 503, 504}:
        return End.REFUSED, _error_of(body), ""
    if status != 200:
        return End.FAILED, f"{status} {_error_of(body)}", ""
    match asked.shape:
        case Shape.GENERATE | Shape.GENERATE_STREAM | Shape.CHAT_STREAM:
            return _read_lines(asked, body)
        case Shape.OPENAI_STREAM:
            return _read_events(asked, body)
        case Shape.OPENAI:
            return _whole(asked, json.loads(body)["choices"][0]["message"]["content"])
        case Shape.ANTHROPIC:
            return _whole(asked, "".join(part.get("text", "") for part in json.loads(body)["content"]))
        case Shape.EMBED:
            vectors = json.loads(body)["embeddings"]
            assert len(vectors) == asked.count, f"{len(vectors)} vectors for {asked.count} inputs"
            prompt = asked.name
            for index, vector in enumerate(vectors):
                wanted = default_vector(f"{prompt} {index}")
                apart = abs(vector[0] * math.hypot(*wanted) - wanted[0])
                assert apart < 0.01, f"vector {index} is another input's"
            return End.WHOLE, "", ""


def _whole(asked: Asked, text: str) -> tuple[End, str, str]:
    told = TELLING.search(text)
    assert told is not None, f"the answer says {text[:80]!r}"
    assert text.strip() == "".join(asked.words(int(told[1]))).strip(), f"the answer says {text[:80]!r}"
    return End.WHOLE, "", text.strip()


def _read_lines(asked: Asked, body: bytes) -> tuple[End, str, str]:
    lines = [json.loads(line) for line in body.splitlines()]
    assert lines, "an empty 200"
    if "error" in lines[-1]:
        return _failed(lines[-1]["error"])
    assert lines[-1].get("done") is True, "a stream without its end looks like success"
    return _whole(asked, "".join(line.get("response", "") or line.get("message", {}).get("content", "") for line in lines))


def _read_events(asked: Asked, body: bytes) -> tuple[End, str, str]:
    frames = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    assert frames, "an event stream without an event"
    if frames[-1] != "[DONE]":
        last = json.loads(frames[-1])
        assert "error" in last, "a stream without its end looks like success"
        return _failed(last["error"])
    chunks = [json.loads(frame) for frame in frames[:-1]]
    if any("error" in chunk for chunk in chunks):
        return _failed(next(chunk["error"] for chunk in chunks if "error" in chunk))
    return _whole(asked, "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]))


def _failed(error: Any) -> tuple[End, str, str]:
    """An error in a stream: it may still be a refusal, when comments said meanwhile that it waits."""
    said = str(error.get("message")) if isinstance(error, dict) else str(error)
    return (End.REFUSED if said.startswith("no slot came free") else End.FAILED), said, ""


def _error_of(body: bytes) -> str:
    try:
        error = json.loads(body).get("error")
    except (ValueError, AttributeError):
        return body[:120].decode(errors="replace")
    return str(error.get("message") if isinstance(error, dict) else error)
