"""What is done to a backend's models besides serving them: load, unload, and the proof and healing of lost slots.

An unload is: hold the model (its callers wait), let its calls end, unload, poll `/api/ps` until it is gone, let go. Sent at any
other time Ollama answers "unload" and does nothing, or does it whenever the last of overlapping calls has ended, which may be
never (server/sched.go of v0.33). Slots that Ollama has lost come back with the unload.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.breaker import BreakerState, CallEnd
from supervisord_ai.core.calls import Pins
from supervisord_ai.core.scheduler import Load, Scheduler
from supervisord_ai.core.watchdog import Probed, WatchdogPolicy, most_at_once
from supervisord_ai.duty import every
from supervisord_ai.errors import UpstreamFault, UpstreamUnreachable
from supervisord_ai.gateway.backends import Backend, BackendState
from supervisord_ai.wire.faces import error_text
from supervisord_ai.wire.ollama import probe_request, unload_request

log = logging.getLogger(__name__)

POLL_S = 0.05
MUTE_LOOK_S = 5.0
DRAIN_WITHIN_S = 300.0  # Ollama's longest generations here take a minute
GONE_WITHIN_S = 30.0
ERROR_BYTES = 500
LOADED_WITHIN_S = 600.0


class Upkeep:
    """The upkeep of one backend, one thing at a time."""

    def __init__(
        self,
        backend: Backend,
        *,
        scheduler: Scheduler,
        pins: Pins,
        clock: Clock,
        on_change: Callable[[], None],
        give_up: Callable[[str, Collection[str]], None],
        policy: WatchdogPolicy | None = None,
    ) -> None:
        self.backend = backend
        self._scheduler = scheduler
        self._pins = pins
        self._clock = clock
        self._on_change = on_change
        self._give_up = give_up
        self._policy = policy if policy is not None else WatchdogPolicy()
        self._turn = trio.Lock()

    def __repr__(self) -> str:
        return f"<Upkeep of {self.backend!r}>"

    @property
    def _name(self) -> str:
        return self.backend.spec.name

    async def watch(self) -> None:
        """Prove the slots of whatever model is doubted, and heal them; try out a backend whose breaker cools; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_slots)
            nursery.start_soon(every, MUTE_LOOK_S, "looking for models that are mute", self._look_for_mute)
            nursery.start_soon(self._watch_breaker)

    async def _watch_breaker(self) -> None:
        while True:
            model = await self.backend.next_trial()
            self.backend.judge(await self.try_out(model))

    async def _watch_slots(self) -> None:
        while True:
            await self._prove(await self.backend.next_doubt())

    async def _look_for_mute(self) -> None:
        for model in self.backend.mute():
            await self._prove(model, is_mute=True)

    async def _prove(self, model: str, *, is_mute: bool = False) -> None:
        try:
            await self.prove(model, is_mute=is_mute)
        except UpstreamFault as exc:
            log.warning("backend %s: the slots of %s could not be proved: %s", self._name, model, exc)
            self.backend.ask_now()

    # --- load, unload --------------------------------------------------------------------------------------------------

    async def load(self, model: str) -> None:
        """Load a model before anybody else's turn; return when it is loaded.

        Raises:
            UpstreamFault: it was not.
        """
        facts = await self.backend.facts(model)
        is_embedding = facts is not None and "embedding" in facts.capabilities and "completion" not in facts.capabilities
        wanted = Load(self._name, model, is_embedding)
        if model in self._scheduler.resident(self._name):
            return
        self._scheduler.want(wanted)
        self._on_change()
        await self._until(lambda: not self._scheduler.is_wanted(wanted), LOADED_WITHIN_S)
        if model not in self._scheduler.resident(self._name):
            raise UpstreamFault(f"{self._name} did not load {model}: {self.backend.refusal or self.backend.detail}")

    async def unload(self, model: str) -> None:
        """Drain a model and unload it; return when it is gone.

        Raises:
            UpstreamFault: its calls did not end in time, or it is still there.
        """
        async with self.drained(model):
            await self._unload(model)

    @asynccontextmanager
    async def drained(self, model: str) -> AsyncIterator[None]:
        """Inside, no call of this model runs and none starts. Entering waits for those that run. Raises: UpstreamFault."""
        names = self.backend.names_of(model)
        async with self._turn:
            try:
                for name in names:
                    self._scheduler.hold(self._name, name)
                if not await self._until_none_of(names, DRAIN_WITHIN_S):
                    raise UpstreamFault(f"the calls of {model} on {self._name} did not end within {DRAIN_WITHIN_S:.0f} s")
                yield
            finally:
                for name in names:
                    self._scheduler.release(self._name, name)
                self._on_change()

    async def _unload(self, model: str) -> None:
        path, body = unload_request(model)
        log.info("backend %s unloads %s", self._name, model)
        async with self.backend.client.open("POST", path, body=body) as reply:
            said = b""
            while (part := await reply.next_chunk()) is not None:
                said += part[: ERROR_BYTES - len(said)]
        give_up_at = self._clock.monotonic() + GONE_WITHIN_S
        while True:
            await self.backend.refresh()
            if model not in self._scheduler.resident(self._name):
                return
            if reply.status >= 400:  # 404: its files were removed while it was loaded (server/routes.go), so only time unloads it
                raise UpstreamFault(f"{self._name} does not unload {model}: {error_text(said)} ({reply.status})")
            if self._clock.monotonic() >= give_up_at:
                raise UpstreamFault(f"{model} is still loaded on {self._name} {GONE_WITHIN_S:.0f} s after its unload")
            await trio.sleep(POLL_S)

    # --- lost slots ----------------------------------------------------------------------------------------------------

    async def prove(self, model: str, *, is_mute: bool = False) -> bool:
        """Count the slots of a model with nothing else running on the backend; unload it when one is lost.

        Returns whether all of them are there, or that could not be found out now. `is_mute`: its calls are broken off and asked
        again, for they may have no slot and never end.

        Raises:
            UpstreamFault: the backend does not answer, or the model is still there.
        """
        names = self.backend.names_of(model)
        async with self._turn:
            try:
                # Its own calls end first: one that hangs on a lost slot does so for minutes, and other models have slots left.
                for name in names:
                    self._scheduler.hold(self._name, name)
                # One that was handed over just before the doubt may have such a slot too, and has only begun to be patient.
                if is_mute or (not await self._until_none_of(names, self._policy.idle_within_s) and self._are_mute(names)):
                    self._give_up(self._name, names)
                await self._until_none_of(names, DRAIN_WITHIN_S)
                self._scheduler.hold(self._name, None)
                if not await self._until_idle() or model not in self._scheduler.resident(self._name):
                    return True
                slots = self._scheduler.model_slots(self._name, model)
                found = most_at_once(await self._probe(model, slots))
                self.backend.proved(model, was_right=found < slots)
                if found >= slots:
                    log.info("backend %s has all %d slots of %s", self._name, slots, model)
                    return True
                log.warning("backend %s has %d of %d slots of %s: it is unloaded", self._name, found, slots, model)
                self.backend.healed += 1
                await self._unload(model)
                return False
            finally:
                for held in (*names, None):
                    self._scheduler.release(self._name, held)
                self._on_change()

    # --- is it well again ----------------------------------------------------------------------------------------------

    async def try_out(self, model: str) -> CallEnd:
        """Ask a backend whose breaker is half-open for a few tokens of a loaded model; nobody's own call is at stake."""
        slots = self._scheduler.model_slots(self._name, model)

        def has_room() -> bool:
            is_free = self._in_flight(None) < self.backend.spec.slots and self._in_flight(model) < slots
            return is_free or self.backend.breaker.state is not BreakerState.HALF_OPEN

        async with self._turn:
            if not await self._until(has_room, DRAIN_WITHIN_S) or self.backend.breaker.state is not BreakerState.HALF_OPEN:
                return CallEnd.UNKNOWN  # a call of before has told, or the backend is lost
            try:
                (probed,) = await self._probe(model, 1)
                if probed.spoke_at is not None:
                    return CallEnd.WELL
                if not self._in_flight(model) and self.backend.state is BackendState.READY:
                    # It answers small calls, and this model does not: every slot of it is lost, and only an unload brings them
                    # back. The next trial would ask it again, and nothing else is loaded while that fails.
                    log.warning("backend %s has 0 of %d slots of %s: it is unloaded", self._name, slots, model)
                    self.backend.healed += 1
                    with trio.move_on_after(GONE_WITHIN_S):
                        await self._unload(model)
            except UpstreamFault as exc:
                log.warning("backend %s is not well yet: %s", self._name, exc)
        return CallEnd.BADLY

    async def _until_idle(self) -> bool:
        """Wait until nothing runs. While a call that runs makes progress others wait for us, so then not for long."""
        give_up_at = self._clock.monotonic() + self._policy.idle_within_s

        def is_enough() -> bool:
            leases = self._scheduler.leases(self._name)
            is_mute = bool(leases) and not any(lease.has_arrived for lease in leases)
            return not self._in_flight(None) or (self._clock.monotonic() >= give_up_at and not is_mute)

        await self._until(is_enough, DRAIN_WITHIN_S)
        return not self._in_flight(None)

    async def _probe(self, model: str, slots: int) -> list[Probed]:
        facts = await self.backend.facts(model)
        is_embedding = facts is not None and "completion" not in facts.capabilities
        pins = self._pins.of(model)
        path, body = probe_request(model, is_embedding=is_embedding, num_ctx=pins.num_ctx, keep_alive_s=pins.keep_alive_s)
        probed: list[Probed] = []

        async def one() -> None:
            spoke_at: float | None = None
            with trio.move_on_after(self._policy.proof_within_s):
                async with self.backend.client.open("POST", path, body=body) as reply:
                    if reply.status != 200:
                        raise UpstreamFault(f"a probe was answered with {reply.status}")
                    spoke_at = self._clock.monotonic()
                    while await reply.next_chunk() is not None:
                        pass
            probed.append(Probed(spoke_at, self._clock.monotonic()))

        faults: list[UpstreamFault] = []

        async def kept() -> None:
            try:
                await one()
            except UpstreamFault as exc:
                faults.append(exc)

        async with trio.open_nursery() as nursery:
            for _ in range(slots):
                nursery.start_soon(kept)
        if faults:
            raise faults[0]
        return probed

    # --- waits ---------------------------------------------------------------------------------------------------------

    def _in_flight(self, model: str | None) -> int:
        return self._scheduler.in_flight(self._name, model)

    def _are_mute(self, names: Collection[str]) -> bool:
        leases = [lease for lease in self._scheduler.leases(self._name) if lease.ticket.model in names]
        return not any(lease.has_arrived for lease in leases)

    async def _until_none_of(self, names: Collection[str], within_s: float) -> bool:
        return await self._until(lambda: not any(map(self._in_flight, names)), within_s)

    async def _until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait for a condition on the scheduler, which nobody tells; say whether it came."""
        give_up_at = self._clock.monotonic() + within_s
        while not condition():
            if self._clock.monotonic() >= give_up_at or self.backend.state is not BackendState.READY:
                return False
            await trio.sleep(POLL_S)
        return True


class Lanes:
    """Loads and unloads on whichever backends have the model; names are canonical."""

    def __init__(self, upkeeps: Sequence[Upkeep], scheduler: Scheduler) -> None:
        self._upkeeps = upkeeps
        self._scheduler = scheduler

    async def load(self, model: str) -> None:
        """Load a model on the backend with the least calls that has it. Raises: UpstreamFault."""
        ready = [upkeep for upkeep in self._upkeeps if upkeep.backend.state is BackendState.READY]
        holders = [upkeep for upkeep in ready if upkeep.backend.has(model)]
        if not holders:
            raise UpstreamUnreachable(f"no backend that answers has {model}")
        await min(holders, key=lambda upkeep: self._scheduler.busy(upkeep.backend.spec.name)).load(model)

    async def unload(self, model: str) -> None:
        """Unload a model wherever it is loaded, or is being loaded now: then after that. Raises: UpstreamFault."""
        for upkeep in self._upkeeps:
            name = upkeep.backend.spec.name
            if model in self._scheduler.resident(name) or self._scheduler.loading(name) == model:
                await upkeep.unload(model)

    def of(self, backend: Backend) -> Upkeep:
        """Return the upkeep of a backend."""
        return next(upkeep for upkeep in self._upkeeps if upkeep.backend is backend)
