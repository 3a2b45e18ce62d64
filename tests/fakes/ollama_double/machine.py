"""The server behind the routes: its models, scheduler, script and counters, shared by every handler."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.errors import PeerGone

from .catalogue import Catalogue, ModelSpec
from .options import DoubleOptions
from .runner import Context, Peak
from .scheduler import CallerLeft, Scheduler
from .scripting import Script, script_in
from .turn import Turn


@dataclass(frozen=True, slots=True)
class Ask:
    """One generation as a test may want to see it before it says what the model answers."""

    path: str
    model: str
    prompt: str


class Machine:
    """One Ollama process, without its HTTP."""

    def __init__(self, models: Iterable[ModelSpec], options: DoubleOptions, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.catalogue = Catalogue(models)
        self.running = Peak()
        self.scheduler = Scheduler(options, clock, self.running)
        self.nursery: trio.Nursery | None = None
        self.script: Callable[[Ask], Script | None] = lambda _: None
        self.vector: Callable[[str], list[float]] = default_vector
        self.requests: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.in_flight = 0
        self.peak = 0
        self.peak_by_model: Counter[str] = Counter()
        self.in_flight_by_model: Counter[str] = Counter()
        self.blobs: dict[str, bytes] = {}

    def script_for(self, ask: Ask) -> Script:
        """The test's word, then the prompt's directive, then the default."""
        return self.script(ask) or script_in(ask.prompt) or Script()

    def enter(self, model: str) -> None:
        """A call that wants a slot has arrived, wherever it waits."""
        self.calls[model] += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self.in_flight_by_model[model] += 1
        self.peak_by_model[model] = max(self.peak_by_model[model], self.in_flight_by_model[model])

    def leave(self, model: str) -> None:
        self.in_flight -= 1
        self.in_flight_by_model[model] -= 1

    def created_at(self) -> str:
        return rfc3339(self.clock.wall())

    def created(self) -> int:
        return int(self.clock.wall())


def default_vector(text: str) -> list[float]:
    """Eight numbers that depend on every character and are never all zero."""
    return [float(byte + 1) for byte in hashlib.sha256(text.encode()).digest()[:8]]


def rfc3339(wall: float) -> str:
    """UTC with the fraction's trailing zeros trimmed, as Go's RFC3339Nano."""
    moment = datetime.fromtimestamp(wall, UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama prints it. Never 0, which would leave the field out: no real step takes no time at all, while in
    virtual time most do.
    """
    return max(1, round(seconds * 1e9))


async def under_context(turn: Turn, work: Callable[[Context], Awaitable[None]]) -> None:
    """Runs a handler whose context ends when the caller is gone: closed, reset, or, as Go sees it, half-closed.

    The request's body must have been read. A handler that finds its caller gone leaves the connection broken.
    """
    context = Context()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_when_gone, turn, context)
        try:
            await work(context)
        except (PeerGone, CallerLeft):
            turn.break_off()
        finally:
            context.end()
            nursery.cancel_scope.cancel()


async def _end_when_gone(turn: Turn, context: Context) -> None:
    await turn.wait_gone()
    context.end()
