"""NVML as a driver that a test makes up: its cards, and the calls that it does not know."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace


class NVMLError(Exception):
    """The base of all of NVML's errors."""


@dataclass
class Card:
    """One card. `lacks` names what its driver does not tell: "handle", "memory", "rates", "name", "processes"."""

    name: str | bytes = "NVIDIA GeForce RTX 3050 Laptop GPU"
    total: int = 4_294_967_296
    used: int = 1_000_000_000
    gpu: int = 40
    lacks: frozenset[str] = frozenset()


@dataclass
class FakeNvml:
    """Stands for the module `pynvml`; only what the door calls."""

    cards: list[Card] = field(default_factory=lambda: [Card()])
    starts: bool = True
    inits: int = 0
    shutdowns: int = 0
    NVMLError: type[Exception] = NVMLError

    def nvmlInit(self) -> None:  # noqa: N802
        self.inits += 1
        if not self.starts:
            raise NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shutdowns += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        self._check(self.cards[index], "handle")
        return self.cards[index]

    def nvmlDeviceGetName(self, card: Card) -> str | bytes:  # noqa: N802
        self._check(card, "name")
        return card.name

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> SimpleNamespace:  # noqa: N802
        self._check(card, "memory")
        return SimpleNamespace(total=card.total, used=card.used, free=card.total - card.used)

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> SimpleNamespace:  # noqa: N802
        self._check(card, "rates")
        return SimpleNamespace(gpu=card.gpu, memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[SimpleNamespace]:  # noqa: N802
        self._check(card, "processes")
        return []

    def _check(self, card: Card, what: str) -> None:
        if what in card.lacks:
            raise NVMLError("Not Supported")
