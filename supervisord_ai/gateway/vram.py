"""Keeps graphics memory below its limit, and notices a model that is not where it was or not as fast.

Once a second: is too much in use (NVML's word, carried by the samples)? Then ask `/api/ps` what each model takes, and have the
least useful one drained, unloaded and seen to be gone (core/residency.py says which). While that happens nothing is loaded on its
backend, and calls of loaded models go on: no request is lost, at worst one waits for its model to be loaded again.

NVML decides whether, `/api/ps` only whom: where Ollama cannot read its runner's log it tells the size of the file instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from supervisord_ai.clock import Clock
from supervisord_ai.core.model_health import Move
from supervisord_ai.core.residency import Resident, Unload, UnloadPolicy, VramWatch
from supervisord_ai.core.scheduler import Scheduler
from supervisord_ai.errors import UpstreamFault
from supervisord_ai.gateway.backends import Backend, BackendState
from supervisord_ai.gateway.upkeep import Upkeep

log = logging.getLogger(__name__)

VRAM_EVERY_S = 1.0


class VramKeeper:
    """`used`: the share of graphics memory in use on the fullest GPU, None where nobody tells. `note` writes an event."""

    def __init__(
        self,
        upkeeps: Sequence[Upkeep],
        *,
        scheduler: Scheduler,
        policy: UnloadPolicy,
        used: Callable[[], float | None],
        clock: Clock,
        note: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        self._upkeeps = {upkeep.backend.spec.name: upkeep for upkeep in upkeeps if upkeep.backend.spec.device == "gpu"}
        self._scheduler = scheduler
        self._watch = VramWatch(policy)
        self._used = used
        self._clock = clock
        self._note = note

    def __repr__(self) -> str:
        return f"<VramKeeper of {', '.join(self._upkeeps) or 'nothing'}>"

    @property
    def fallen(self) -> tuple[str, ...]:
        """Models that were on the GPU and are not."""
        return tuple(sorted(name for upkeep in self._upkeeps.values() for name in upkeep.backend.places.fallen))

    async def look(self) -> None:
        """Look once, and do what is to be done. For `duty.every`."""
        self._tell_of_moves()
        used = self._used()
        if used is None or used < self._watch.policy.at:
            self._watch.judge(used, (), frozenset(), self._clock.monotonic())
            return
        backends = [one.backend for one in self._upkeeps.values() if one.backend.state is BackendState.READY]
        for backend in backends:
            await backend.place()
        loading = frozenset(one.spec.name for one in backends if self._scheduler.loading(one.spec.name) is not None)
        residents = [resident for backend in backends for resident in self._residents(backend)]
        unload = self._watch.judge(used, residents, loading, self._clock.monotonic())
        if unload is not None:
            await self._unload(unload)

    def _residents(self, backend: Backend) -> list[Resident]:
        name, now = backend.spec.name, self._clock.monotonic()
        waiting = self._scheduler.waiting_models()
        found = []
        for placed in backend.placed:
            names = backend.names_of(placed.name)  # they share one runner
            uses = [backend.use.of(one, now) for one in names]
            found.append(
                Resident(
                    name=placed.name,
                    backend=name,
                    vram_bytes=placed.vram_bytes,
                    in_flight=sum(self._scheduler.in_flight(name, one) for one in names),
                    queued=sum(waiting[one] for one in names),
                    used_s=sum(seconds for seconds, _ in uses),
                    last_used_at=max(at for _, at in uses),
                    loaded_at=backend.use.loaded_at.get(placed.name, now),
                )
            )
        return found

    async def _unload(self, unload: Unload) -> None:
        log.warning("backend %s: %s is unloaded: %s", unload.backend, unload.name, unload.reason)
        self._scheduler.hold_loads(unload.backend, True)
        try:
            await self._upkeeps[unload.backend].unload(unload.name)
        except UpstreamFault as exc:
            log.error("backend %s: %s was not unloaded: %s", unload.backend, unload.name, exc)
            self._note("model.not-unloaded", {"model": unload.name, "backend": unload.backend, "why": str(exc)})
        else:
            detail = {"model": unload.name, "backend": unload.backend, "why": unload.reason}
            self._note("model.unloaded", detail)
        finally:
            self._scheduler.hold_loads(unload.backend, False)

    def _tell_of_moves(self) -> None:
        for name, upkeep in self._upkeeps.items():
            for slowed in upkeep.backend.take_slowed():
                detail = {"model": slowed.name, "backend": name, "tokens_per_s": round(slowed.now, 1)}
                kind = "model.slow" if slowed.is_slow else "model.fast-again"
                self._note(kind, {**detail, "usual": round(slowed.usual, 1)})
            moves, upkeep.backend.moved = upkeep.backend.moved, []
            for moved in moves:
                detail = {"model": moved.name, "backend": name, "on_gpu": round(moved.share, 3), "was": round(moved.best, 3)}
                if moved.move is Move.FELL:
                    remedy = f"ai-supervisor models unload {moved.name}"
                    log.warning("backend %s: %s %s; its next call loads it anew after: %s", name, moved.name, moved.move, remedy)
                    self._note("model.fell-to-cpu", {**detail, "do": remedy})
                else:
                    log.info("backend %s: %s %s", name, moved.name, moved.move)
                    self._note("model.back-on-gpu", detail)
