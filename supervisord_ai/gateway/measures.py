"""How long requests took, in which part, by class and model. Observed once a request, when it ends; read by scrapes and the page.

    accepted --wait--> (its model is loaded: load) --> slot --first token--> first byte --generation--> end

The four parts of a request add up to its whole time. Only those that had a call of their own are measured: who shared one, or
was answered from the cache, cost no time of Ollama's. A model that is neither installed nor named in the config is `other`:
names are the callers' words, and there must not be a series for each.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from supervisord_ai.core.histogram import Histogram, HistogramView
from supervisord_ai.gateway.request import Times

OTHER = "other"
RECENT = 2000  # requests whose times are kept one by one, for exact quantiles


class Part(StrEnum):
    """A part of a request's time."""

    WAIT = "wait"
    LOAD = "load"
    FIRST_TOKEN = "first_token"  # noqa: S105
    GENERATION = "generation"


@dataclass(frozen=True, slots=True)
class Took:
    """The times of one request. `at` is when it ended, monotonic."""

    at: float
    agent_class: str
    model: str
    wait_s: float
    load_s: float
    first_token_s: float
    generation_s: float

    @property
    def total_s(self) -> float:
        return self.wait_s + self.load_s + self.first_token_s + self.generation_s


@dataclass(frozen=True, slots=True)
class MeasuresView:
    """Everything at one instant. Keys: (part, class, model), (class, model), class, and model."""

    times: Mapping[tuple[Part, str, str], HistogramView] = field(default_factory=dict)
    tokens: Mapping[tuple[str, str], int] = field(default_factory=dict)
    slot_s: Mapping[str, float] = field(default_factory=dict)
    loads: Mapping[str, HistogramView] = field(default_factory=dict)
    last_load: Mapping[str, float] = field(default_factory=dict)


class Measures:
    """Takes the measures. `is_known` says whether a model is one that there is."""

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self._is_known = is_known
        self._times: dict[tuple[str, str], dict[Part, Histogram]] = {}
        self._loads: dict[str, Histogram] = {}
        self._last_load: dict[str, float] = {}
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._slot_s: dict[str, float] = {}
        self.recent: deque[Took] = deque(maxlen=RECENT)

    def __repr__(self) -> str:
        return f"<Measures of {len(self._times)} classes and models>"

    def took(self, agent_class: str, model: str | None, times: Times, ended_at: float) -> None:
        """A request that had a slot has ended."""
        if times.started_at is None:
            return
        label = self._label(model)
        histograms = self._times.get((agent_class, label))
        if histograms is None:
            histograms = self._times[agent_class, label] = {part: Histogram() for part in Part}
        first_at = times.first_byte_at if times.first_byte_at is not None else ended_at
        load_s = min(times.load_s, times.started_at - times.accepted_at)
        wait_s = times.started_at - times.accepted_at - load_s
        first_s, generation_s = first_at - times.started_at, ended_at - first_at
        histograms[Part.WAIT].observe(wait_s)
        if load_s > 0:  # those that waited for none would hide how long the others did
            histograms[Part.LOAD].observe(load_s)
        histograms[Part.FIRST_TOKEN].observe(first_s)
        if times.first_byte_at is not None:
            histograms[Part.GENERATION].observe(generation_s)
        self.recent.append(Took(ended_at, agent_class, label, wait_s, load_s, first_s, generation_s))

    def generated(self, agent_class: str, model: str | None, tokens: int) -> None:
        """An answer that is kept has so many tokens."""
        self._tokens[agent_class, self._label(model)] += tokens

    def held_slot(self, agent_class: str, seconds: float) -> None:
        """A class is charged for so much of a slot's time."""
        self._slot_s[agent_class] = self._slot_s.get(agent_class, 0.0) + seconds

    def loaded(self, model: str, seconds: float) -> None:
        """A model was loaded."""
        label = self._label(model)
        self._loads.setdefault(label, Histogram()).observe(seconds)
        self._last_load[label] = seconds

    def view(self) -> MeasuresView:
        """Return everything so far."""
        return MeasuresView(
            times={
                (part, *key): histogram.view()
                for key, histograms in sorted(self._times.items())
                for part, histogram in histograms.items()
            },
            tokens=dict(self._tokens),
            slot_s=dict(self._slot_s),
            loads={model: histogram.view() for model, histogram in sorted(self._loads.items())},
            last_load=dict(self._last_load),
        )

    def _label(self, model: str | None) -> str:
        return model if model and self._is_known(model) else OTHER
