"""What the demo's agents ask: 131 agents, two questions each. Pure; the same every time.

Most are texts nobody else asks for, so the engine has to write them. The rest shows the cache: what an opus agent has asked
before (those are served first), asked again by others, and texts to embed, some of them shared. All are deterministic
(temperature 0), so any of them may be answered from the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from supervisord_ai.core.calls import Json, JsonObject
from supervisord_ai.core.roster import CLASS_DEFAULTS

OPUS, SONNET = 36, 95
AGENTS = OPUS + SONNET
QUESTIONS = 2 * AGENTS

WORDS_ASKED = 20  # tokens of an answer
WRITING_OPUS = 32  # opus agents whose second question is new as well
REPEATING_SONNET = 50  # sonnet agents whose second question was an opus agent's; the others embed
TEXTS_TO_EMBED = 25

EMBED_PRIORITY = 8

HOG, STUBBORN, CRASHER = "sonnet-07", "sonnet-19", "opus-05"

_SUBJECTS = (
    *("amber", "anchors", "apples", "bees", "bells", "bread", "bridges", "bronze", "candles", "canals"),
    *("caves", "chess", "clay", "clouds", "coal", "coins", "compasses", "copper", "coral", "cotton"),
    *("deserts", "echoes", "ferries", "fog", "forests", "fountains", "gardens", "glaciers", "glass", "harbours"),
    *("honey", "ink", "iron", "islands", "kites"),
)
_FRAMES = (
    "Write a paragraph about {}.",
    "Tell a child about {}.",
    "Explain to a traveller why people like {}.",
    "Write the beginning of a story about {}.",
    "Describe what {} look like from far away, in several sentences.",
)


class Kind(StrEnum):
    """What a question is for."""

    WRITING = "writing"
    REPEAT = "repeat"
    EMBEDDING = "embedding"


class Role(StrEnum):
    """How an agent behaves."""

    GOOD = "good"
    HOG = "hog"
    STUBBORN = "stubborn"
    CRASHER = "crasher"


@dataclass(frozen=True, slots=True)
class Question:
    """One request. The key holds over restarts of the agent and of the supervisor."""

    key: str
    kind: Kind
    path: str
    body: JsonObject
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """One agent's part in the story."""

    name: str
    role: Role
    questions: tuple[Question, Question]


def story(model: str) -> tuple[Part, ...]:
    """Everybody's part."""
    prompts = _prompts()
    firsts, seconds = [[next(prompts) for _ in range(count)] for count in (OPUS, WRITING_OPUS)]
    opus = tuple(_opus(n, firsts, seconds, model) for n in range(OPUS))
    return opus + tuple(_sonnet(n, next(prompts), seconds, model) for n in range(SONNET))


def _opus(n: int, firsts: Sequence[str], seconds: Sequence[str], model: str) -> Part:
    """Opus agents chat, and read the answer as it comes."""
    name = _name("opus", n)
    if n < WRITING_OPUS:
        second = _chat(f"{name}-2", Kind.WRITING, seconds[n], model)
    else:
        second = _chat(f"{name}-2", Kind.REPEAT, firsts[n - WRITING_OPUS], model)
    return Part(name, _role(name), (_chat(f"{name}-1", Kind.WRITING, firsts[n], model), second))


def _sonnet(n: int, first: str, of_opus: Sequence[str], model: str) -> Part:
    """Sonnet agents want one body; half of them embed, with less urgency."""
    name = _name("sonnet", n)
    if n < REPEATING_SONNET:
        second = _chat(f"{name}-2", Kind.REPEAT, of_opus[n % WRITING_OPUS], model, is_stream=False)
    else:
        page = n % TEXTS_TO_EMBED
        text = f"Notes of the day, page {page}: {_SUBJECTS[page]} and {_SUBJECTS[-1 - page]}."
        body: JsonObject = {"model": model, "input": text}
        second = Question(f"{name}-2", Kind.EMBEDDING, "/api/embed", body, {"X-AI-Priority": str(EMBED_PRIORITY)})
    return Part(name, _role(name), (_generate(f"{name}-1", Kind.WRITING, first, model), second))


def _chat(key: str, kind: Kind, prompt: str, model: str, *, is_stream: bool = True) -> Question:
    messages: list[Json] = [{"role": "user", "content": prompt}]
    body: JsonObject = {"model": model, "messages": messages, "stream": is_stream, "options": _options()}
    return Question(key, kind, "/api/chat", body, {})


def _generate(key: str, kind: Kind, prompt: str, model: str) -> Question:
    return Question(key, kind, "/api/generate", {"model": model, "prompt": prompt, "stream": False, "options": _options()}, {})


def _options() -> JsonObject:
    return {"temperature": 0, "seed": 1, "num_predict": WORDS_ASKED}


def _prompts() -> Iterator[str]:
    """Prompts that all differ."""
    return (frame.format(subject) for frame in _FRAMES for subject in _SUBJECTS)


def _role(name: str) -> Role:
    return {HOG: Role.HOG, STUBBORN: Role.STUBBORN, CRASHER: Role.CRASHER}.get(name, Role.GOOD)


def _name(kind: str, n: int) -> str:
    return f"{kind}-{n + 1:02}"


def plan_of(part: Part, folder: Path) -> JsonObject:
    """What is written down for one agent's program."""
    questions: list[Json] = [{**asdict(question), "kind": question.kind.value} for question in part.questions]
    agent_class = part.name.partition("-")[0]
    return {
        "name": part.name,
        "role": part.role.value,
        "answers": str(folder / "answers" / f"{part.name}.jsonl"),
        "mark": str(folder / "marks" / part.name),
        "hoard_bytes": 3 * CLASS_DEFAULTS[agent_class].memory_bytes,
        "questions": questions,
    }
