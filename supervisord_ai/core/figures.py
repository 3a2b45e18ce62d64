"""Names the figures that an alert may ask for: what each means, in which unit, and which words it can be.

A figure is a number, or one of a few words. One that nobody can measure here (no GPU, no answer yet) is not known, which is
neither true nor false. `*` in a name stands for the name of a backend.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Value = float | str
Values = Mapping[str, Value | None]
"""The figures as they are now; one that is missing or None is not known."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `words`: what it can be, where it is no number. `unit` is "" for a plain count or ratio."""

    name: str
    unit: str
    meaning: str
    words: tuple[str, ...] = ()

    @property
    def is_word(self) -> bool:
        return bool(self.words)

    def named(self, name: str) -> str | None:
        """Return the part of a name that stands for the `*`; "" for a figure without one; None when the name is another's."""
        before, star, after = self.name.partition("*")
        if not star:
            return "" if name == self.name else None
        inner = name[len(before) : len(name) - len(after)]
        return inner if inner and name.startswith(before) and name.endswith(after) else None


BREAKER_WORDS = ("closed", "open", "half-open")
BACKEND_WORDS = ("ready", "waiting", "unreachable")

FIGURES = (
    Figure("level", "", "the level of the ladder: 0 normal, 1 minor, 2 major, 3 critical"),
    Figure("pressure.queue", "", "the estimated wait over the deadline: 0 nobody waits, 1 deadlines are missed"),
    Figure("pressure.memory", "", "the distance to the floor: 0 at three times `reserve`, 0.8 at `reserve`, 1 with nothing left"),
    Figure("pressure.cpu", "", "how much who wants the processor waits for it: 0 not at all, 1 all the time"),
    Figure("queue.queued", "", "requests that wait for a slot"),
    Figure("queue.async", "", "those of them that nobody waits for on a connection"),
    Figure("queue.running", "", "requests that have a slot"),
    Figure("queue.oldest_s", "s", "how long the oldest request that somebody waits for has waited"),
    Figure("requests.refused_per_min", "/min", "requests refused by us within the last minute (429, 503, 504)"),
    Figure("requests.failed_per_min", "/min", "requests that an Ollama broke within the last minute"),
    Figure("agents.running", "", "agents that run and are ready"),
    Figure("agents.waiting", "", "agents that ended and wait to be started again"),
    Figure("agents.quarantined", "", "agents that ended too often and are not started again"),
    Figure("agents.shed", "", "agents that were stopped to give memory back"),
    Figure("backends.down", "", "Ollamas that do not answer"),
    Figure("backend.*.state", "", "whether that Ollama answers", BACKEND_WORDS),
    Figure("backend.*.breaker", "", "whether calls are handed to that Ollama", BREAKER_WORDS),
    Figure("backend.*.busy", "", "slots of that Ollama in use"),
    Figure("models.on_cpu", "", "loaded models that were on the GPU and are not any more"),
    Figure("models.slow", "", "models whose last answers came at less than a third of their usual speed"),
    Figure("memory.available_mb", "MB", "memory that can be had without swapping (MemAvailable, or what the container has left)"),
    Figure("memory.of_reserve", "", "the same over [memory] `reserve`: below 1 agents are shed"),
    Figure("memory.swap_used_mb", "MB", "swap in use"),
    Figure("memory.daemon_mb", "MB", "memory of the daemon itself"),
    Figure("gpu.vram_used", "", "graphics memory in use over all there is, 0 to 1, of the fullest GPU"),
    Figure("disk.free_mb", "MB", "free space where the journal and the cache are"),
)


def find_figure(name: str) -> tuple[Figure, str] | None:
    """Return the figure of that name and what stands for its `*` ("" without one); None when there is none."""
    for figure in FIGURES:
        inner = figure.named(name)
        if inner is not None:
            return figure, inner
    return None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" where something known is near, else "; known are ..."."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(known)}"
