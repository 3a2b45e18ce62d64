"""What is known of one Ollama: whether it answers, which models it has and holds, what each can do.

One task per backend (`watch`) finds it, finds it back, lets its breaker cool and keeps the knowledge fresh. The scheduler is
told; nobody else acts on it. Between two refreshes facts are asked for when they are needed, at most once per model and manifest.
A model's slots are known before its first call starts: they are asked for with its load, or when it is found loaded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.breaker import Breaker, BreakerState, CallEnd
from supervisord_ai.core.cache_policy import ModelFacts
from supervisord_ai.core.events import BackendChanged, BreakerChanged, EngineRestarted, Event, SlotLost
from supervisord_ai.core.model_facts import (
    canonical_name,
    digests_of,
    facts_of,
    placed_of,
    resident_of,
    serves_one_at_a_time,
)
from supervisord_ai.core.model_health import Moved, Placed, Placements, Slowed, Speeds
from supervisord_ai.core.patience import Patience, next_probe_s
from supervisord_ai.core.policies import BackendSpec, BreakerPolicy, ModelsPolicy
from supervisord_ai.core.residency import ModelUse
from supervisord_ai.core.scheduler import Scheduler
from supervisord_ai.core.watchdog import HangWatch, SlotWatch
from supervisord_ai.errors import UpstreamFault, UpstreamStalled
from supervisord_ai.gateway.view import BackendPulse, BackendView, RunningView
from supervisord_ai.ollama.client import OllamaClient

log = logging.getLogger(__name__)

RESTART_WITHIN_S = 60.0


def _to_nobody(_event: Event) -> None:
    """Where nobody is told."""


class BackendState(StrEnum):
    """Whether calls may be handed to a backend."""

    READY = "ready"
    WAITING = "waiting"  # it has not answered yet since we started
    UNREACHABLE = "unreachable"  # it has, and does not now


class Backend:
    """One Ollama. `on_change` is called when something may start that could not before."""

    def __init__(
        self,
        spec: BackendSpec,
        client: OllamaClient,
        *,
        scheduler: Scheduler,
        models: ModelsPolicy,
        patience: Patience,
        clock: Clock,
        on_change: Callable[[], None],
        tell: Callable[[Event], None] = _to_nobody,
        breaker: BreakerPolicy | None = None,
        restart: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.spec = spec
        self.client = client
        self.breaker = Breaker(breaker)
        self.healed = 0  # models unloaded because a slot of theirs was lost
        self.restarted = 0
        self.refusal = ""  # why the last load was refused, in Ollama's words
        self.use = ModelUse()
        self.speeds = Speeds()
        self.places = Placements()
        self.placed: tuple[Placed, ...] = ()  # as `/api/ps` told last
        self.slowed: list[Slowed] = []
        self.moved: list[Moved] = []  # what became of its models, for who tells people
        self._restart = restart
        self._slots = SlotWatch()
        self._hang = HangWatch()
        self._doubts: list[str] = []
        self._suspects: set[str] = set()  # models whose calls were left at no moment of our choosing
        self._doubted = trio.Event()
        self._failed = ""  # the model of the last call that Ollama failed
        self._trial: str | None = None
        self._tried = trio.Event()
        self.state = BackendState.WAITING
        self.detail = "not asked yet"
        self.version = ""
        self._scheduler = scheduler
        self._model_slots = {canonical_name(name): model.slots for name, model in models.each if model.slots is not None}
        self._patience = patience
        self._clock = clock
        self._on_change = on_change
        self._tell = tell
        self._digests: dict[str, str] = {}
        self._digests_at = float("-inf")
        self._facts: dict[str, ModelFacts] = {}  # by manifest digest
        self._one_slot: set[str] = set()  # digests
        self._last_load: dict[str, tuple[float, float]] = {}  # model -> (began, ended)
        self._asking = trio.Lock()  # one small call at a time: 131 callers of one model ask for its facts once
        self._wake = trio.Event()

    def __repr__(self) -> str:
        return f"<Backend {self.spec.name} {self.spec.url} {self.state}>"

    # --- whether it answers --------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Find the backend, again and again."""
        pause_s = 0.0
        while True:
            self._wake = trio.Event()
            asked_at = self._clock.monotonic()
            try:
                await self.refresh()
            except UpstreamStalled as exc:
                self.lost(str(exc))
                await self._perhaps_restart(asked_at)
            except UpstreamFault as exc:
                self._hang.refused()
                self.lost(str(exc) or "no answer")
            else:
                self._hang.answered()
                self._cool()
            if self.state is BackendState.READY:
                pause_s = 0.0
                await self._until_news()
            else:
                pause_s = next_probe_s(pause_s, self._patience)
                await trio.sleep(pause_s)

    async def _until_news(self) -> None:
        """Return when it is to be asked again: at the latest after `refresh_s`, or when an idle connection to it has ended."""
        look_again_at = self._clock.monotonic() + self._patience.refresh_s
        while not self._wake.is_set() and not self.client.has_ended():
            until = min(look_again_at, self.breaker.cools_at)
            now = self._clock.monotonic()
            if now >= until:
                return
            with trio.move_on_at(min(until, now + self._patience.glance_s)):
                await self._wake.wait()

    async def _perhaps_restart(self, silent_since: float) -> None:
        """Restart an engine that accepts and never answers, where its owner has said how."""
        if self._restart is None or not self._hang.silent(silent_since, self._clock.monotonic()):
            return
        log.warning("backend %s at %s hangs: it is restarted", self.spec.name, self.spec.url)
        self.restarted += 1
        self._tell(EngineRestarted(self.spec.name))
        with trio.move_on_after(RESTART_WITHIN_S) as scope:
            await self._restart()
        if scope.cancelled_caught:
            log.error("the restart of backend %s did not end within %.0f s", self.spec.name, RESTART_WITHIN_S)

    async def refresh(self, *, also_resident: str | None = None) -> None:
        """Ask everything anew and tell the scheduler.

        `also_resident` was just loaded, under whatever name `/api/ps` lists it.

        Raises:
            UpstreamFault: it does not answer.
        """
        async with self._asking:
            with trio.move_on_after(self._patience.small_call_s) as scope:
                self.version = await self.client.version()
                await self._read_tags()
                loaded = await self.client.ps()
                self._place(loaded)
                resident = resident_of(loaded, self._digests) | ({also_resident} if also_resident is not None else set())
                for model in resident:
                    await self._ask_facts(model)
            if scope.cancelled_caught:
                raise UpstreamStalled(self._patience.small_call_s)
        was_ready = self.state is BackendState.READY
        self.state = BackendState.READY
        self._doubt_suspects(resident)
        self.detail = f"Ollama {self.version}, {len(self._digests)} models"
        if not was_ready:
            log.info("backend %s at %s answers: Ollama %s", self.spec.name, self.client.where() or self.spec.url, self.version)
            self._tell(BackendChanged(self.spec.name, self.state.value, self.detail))
        self._scheduler.backend_ready(
            self.spec.name,
            resident=resident,
            installed=frozenset(self._digests),
            model_slots=self._known_slots(),
        )
        self._on_change()

    def _place(self, loaded: list[dict[str, Any]]) -> None:
        self.placed = placed_of(loaded)
        self.use.follow(frozenset(one.name for one in self.placed), self._clock.monotonic())
        if self.spec.device == "gpu":
            self.moved += self.places.follow(self.placed)

    async def place(self) -> None:
        """Ask where its models are, and nothing else."""
        try:
            async with self._asking:
                self._place(await self.client.ps())
        except UpstreamFault as exc:
            self.lost(str(exc) or "no answer")

    def lost(self, why: str) -> None:
        """It did not answer: nothing more is handed to it until it is found back."""
        if self.state is BackendState.READY:
            log.warning("backend %s at %s is lost: %s", self.spec.name, self.spec.url, why)
            self.state = BackendState.UNREACHABLE
            self._tell(BackendChanged(self.spec.name, self.state.value, why))
            self._suspects |= {lease.ticket.model for lease in self._scheduler.leases(self.spec.name) if lease.ticket.model}
        self.detail = why
        self._scheduler.backend_lost(self.spec.name)
        self._wake.set()

    def ask_now(self) -> None:
        """An answer broke: find out now, and not with the next refresh, whether it is still there."""
        self._wake.set()

    # --- its calls -----------------------------------------------------------------------------------------------------

    def call_started(self, call: str, model: str | None, *, is_streamed: bool) -> None:
        """A call is handed over."""
        self._slots.started(call, model or "", self._clock.monotonic(), is_streamed=is_streamed)
        self.use.call_began(call, model or "", self._clock.monotonic())

    def call_spoke(self, call: str, model: str | None) -> None:
        """The first byte of its answer is here."""
        slots = self._scheduler.model_slots(self.spec.name, model or "")
        if self._slots.spoke(call, model or "", slots, self._clock.monotonic()):
            self._doubt(model)

    def call_ended(self, call: str, model: str | None, end: CallEnd, *, was_silent: bool = False) -> None:
        """A call is over. `was_silent`: it was given up, with or without a byte."""
        self.use.call_ended(call, self._clock.monotonic())
        if self._slots.ended(call, model or "", self._clock.monotonic(), was_silent=was_silent):
            self._doubt(model)
        if end is CallEnd.BADLY:
            self._failed = model or ""
        self.judge(end)

    def take_slowed(self) -> list[Slowed]:
        """Return what changed in the speed of its models since this was asked last."""
        slowed, self.slowed = self.slowed, []
        return slowed

    def note_speed(self, model: str, tokens: int, seconds: float) -> None:
        """A call of a model brought so many tokens in so long, from its first byte on."""
        slowed = self.speeds.note(model, tokens, seconds)
        if slowed is None:
            return
        what = "became slow" if slowed.is_slow else "is as fast as before"
        log.warning("backend %s: %s %s: %.1f tokens/s, usually %.1f", self.spec.name, model, what, slowed.now, slowed.usual)
        self.slowed.append(slowed)

    def judge(self, end: CallEnd) -> None:
        """Tell the breaker how a call or a load ended."""
        before = self.breaker.state
        match end:
            case CallEnd.WELL:
                self.breaker.success()
            case CallEnd.BADLY:
                self.breaker.fault(self._clock.monotonic())
            case CallEnd.UNKNOWN:
                pass
        self._follow_breaker(before)

    def _cool(self) -> None:
        """It answers small calls: a backend whose breaker has cooled is tried out, and again if that told nothing."""
        before = self.breaker.state
        self.breaker.cool(self._clock.monotonic())
        if before is not BreakerState.HALF_OPEN or self._scheduler.busy(self.spec.name) == 0:
            self._follow_breaker(before)

    def _follow_breaker(self, before: BreakerState) -> None:
        state = self.breaker.state
        if state is not before:
            log.warning("the breaker of backend %s is %s", self.spec.name, state)
            self._tell(BreakerChanged(self.spec.name, state.value))
        match state:
            case BreakerState.HALF_OPEN:
                self._scheduler.allow(self.spec.name, self._ask_for_trial())
                self._on_change()
            case BreakerState.OPEN if state is not before:
                self._scheduler.allow(self.spec.name, 0)
                self._wake.set()  # the watch waits until it cools, and not for the next refresh
            case BreakerState.CLOSED if state is not before:
                self._scheduler.allow(self.spec.name, math.inf)
                self._on_change()
            case _:
                pass

    def _ask_for_trial(self) -> int:
        """Have a loaded model tried out; return how many calls or loads may begin. Where none is loaded, a load tells."""
        loaded = [model for model in self._scheduler.resident(self.spec.name) if model in self._digests]
        if not loaded:
            return 1
        self._trial = self._failed if self._failed in loaded else min(loaded)
        self._tried.set()
        return 0

    async def next_trial(self) -> str:
        """Return a loaded model with which a half-open backend is to be tried out."""
        while self._trial is None:
            self._tried = trio.Event()
            await self._tried.wait()
        model, self._trial = self._trial, None
        return model

    def _doubt(self, model: str | None) -> None:
        if model is not None and model in self._digests and model not in self._doubts:
            log.warning("backend %s has perhaps lost a slot of %s", self.spec.name, model)
            self._tell(SlotLost(self.spec.name, model))
            self._doubts.append(model)
            self._doubted.set()

    def mute(self) -> list[str]:
        """Return the models all of whose slots seem to be lost: their calls have had no byte for long. Each is doubted now.

        Where nobody waits behind them there are none: slow calls are not broken off for nobody's good.
        """
        now, name = self._clock.monotonic(), self.spec.name
        if not self._scheduler.queued:
            return []
        resident = self._scheduler.resident(name) & self._digests.keys()
        found = [each for each in sorted(resident) if self._slots.is_mute(each, self._scheduler.model_slots(name, each), now)]
        for model in found:
            log.warning("backend %s: every call of %s is silent, it has perhaps lost all its slots", name, model)
            self._tell(SlotLost(name, model))
        return found

    def suspect(self, models: Iterable[str]) -> None:
        """Calls of these models were cut when the last supervisor died: a leaver at a random moment may take its slot along."""
        self._suspects |= set(models)

    def _doubt_suspects(self, resident: frozenset[str]) -> None:
        """Prove them before anything else starts: with a slot gone, whoever starts first would wait minutes to show it."""
        suspects, self._suspects = sorted(self._suspects & resident), set()
        for model in suspects:
            self._scheduler.hold(self.spec.name, None)  # the proof lets go
            log.info("backend %s: calls of %s were cut off, so its slots are counted", self.spec.name, model)
            self._doubts.append(model)
            self._doubted.set()

    async def next_doubt(self) -> str:
        """Return a model whose slots are to be proved."""
        while not self._doubts:
            self._doubted = trio.Event()
            await self._doubted.wait()
        return self._doubts.pop(0)

    def proved(self, model: str, *, was_right: bool) -> None:
        """The slots of a model have been counted. `was_right`: one was missing."""
        self._slots.proved(model, was_right=was_right)

    # --- its models ----------------------------------------------------------------------------------------------------

    async def facts(self, model: str) -> ModelFacts | None:
        """Return what is known of a model by its canonical name, never older than `fresh_s` while the backend answers.

        None when the model is not installed, or cannot be asked about now.
        """
        if self.state is BackendState.READY:
            async with self._asking:
                await self._freshen(model)
        return self._facts.get(self._digests.get(model, ""))

    def known_facts(self, model: str) -> ModelFacts | None:
        """Return what `facts` would, if it can be said without asking; None also when it cannot."""
        if self.state is BackendState.READY and self._clock.monotonic() - self._digests_at >= self._patience.fresh_s:
            return None
        return self._facts.get(self._digests.get(model, ""))

    def has(self, model: str) -> bool:
        """Say whether a model is installed, by its canonical name, as far as is known."""
        return model in self._digests

    def names_of(self, model: str) -> frozenset[str]:
        """Return every name of this model's manifest, its own among them: they share one runner."""
        digest = self._digests.get(model)
        return frozenset({model} | {name for name, other in self._digests.items() if other == digest})

    def invalidate(self) -> None:
        """Something changed what is installed: what is known of digests is old."""
        self._digests_at = float("-inf")

    async def _freshen(self, model: str) -> None:
        if self.state is not BackendState.READY:
            return  # it was lost while others asked: of a hundred who wait here, one waits for its silence
        try:
            with trio.move_on_after(self._patience.small_call_s) as scope:
                await self._ask_facts(model)
            if scope.cancelled_caught:
                self.lost(str(UpstreamStalled(self._patience.small_call_s)))
        except UpstreamFault as exc:
            self.lost(str(exc) or "no answer")

    async def _ask_facts(self, model: str) -> None:
        if self._clock.monotonic() - self._digests_at >= self._patience.fresh_s:
            await self._read_tags()
        digest = self._digests.get(model)
        if digest is None or digest in self._facts:
            return
        show = await self.client.show(model)
        if show is None:
            return
        self._facts[digest] = facts_of(digest, show)
        if serves_one_at_a_time(show):
            self._one_slot.add(digest)
            self._scheduler.limit_model(self.spec.name, self._known_slots())

    async def _read_tags(self) -> None:
        self._digests = digests_of(await self.client.tags())
        self._digests_at = self._clock.monotonic()

    def _known_slots(self) -> dict[str, int]:
        found = {name: 1 for name, digest in self._digests.items() if digest in self._one_slot}
        # More than Ollama gives a model would only wait in its own queue, which has no order.
        return found | {name: min(slots, self.spec.slots, found.get(name, slots)) for name, slots in self._model_slots.items()}

    # --- loads ---------------------------------------------------------------------------------------------------------

    def note_load(self, model: str, began_at: float, ended_at: float) -> None:
        """Remember when a model was loaded last, to tell its callers how long they waited for it."""
        self._last_load[model] = (began_at, ended_at)

    def load_wait_s(self, model: str | None, since: float) -> float:
        """Return how much of the time since then went by while this model was loaded."""
        began_at, ended_at = self._last_load.get(model or "", (since, since))
        return max(0.0, ended_at - max(began_at, since))

    # --- looks ---------------------------------------------------------------------------------------------------------

    def pulse(self) -> BackendPulse:
        """Return it in three words."""
        return BackendPulse(self.spec.name, self.state.value, self.breaker.state.value, self._scheduler.busy(self.spec.name))

    def view(self, running: tuple[RunningView, ...]) -> BackendView:
        """Return everything for people."""
        name, way = self.spec.name, self.client.where()
        return BackendView(
            name=name,
            url=self.spec.url,
            state=self.state.value,
            detail=self.detail if self.state is BackendState.READY or not way else f"{self.detail}; {way}",
            slots=self.spec.slots,
            busy=self._scheduler.busy(name),
            running=running,
            loading=self._scheduler.loading(name),
            resident=tuple(sorted(self._scheduler.resident(name))),
            breaker=self.breaker.state.value,
            healed=self.healed,
            restarted=self.restarted,
            way=way,
        )
