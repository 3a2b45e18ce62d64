"""Which models are loaded: one serial loop loads and evicts, calls for a loaded and fitting model never wait for it.

The parts that hurt a gateway are kept as they are in Ollama's server/sched.go: a load blocks every later one, a busy runner is
never replaced while calls overlap on it, an unload of a busy model waits for its last call, `keep_alive` belongs to whoever
asked last, and a caller that leaves takes the load it waits for with it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import trio

from supervisord_ai.clock import Clock

from .catalogue import ModelSpec
from .options import DoubleOptions, RunnerSettings
from .runner import Context, Peak, Runner

BUSY = "server busy, please try again.  maximum pending requests exceeded"
AFTER_THE_LAST_INT64_NS_S = 9223372036.854775807
"""`time.Duration`'s largest value, which is what Ollama makes of a negative keep_alive: about 292 years."""


TOO_LONG = "the input length exceeds the context length"


class CannotRun(Exception):  # noqa: N818
    """No runner for this call: an HTTP status and Ollama's text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message


class CallerLeft(Exception):  # noqa: N818
    """The caller is gone; Ollama writes 499 to nobody."""


@dataclass(eq=False)
class _Pending:
    spec: ModelSpec
    settings: RunnerSettings
    keep_alive_s: float | None
    context: Context
    answered: trio.Event = field(default_factory=trio.Event)
    outcome: Runner | Exception | None = None

    def answer(self, outcome: Runner | Exception) -> None:
        self.outcome = outcome
        self.answered.set()


class Scheduler:
    """Lends runners. Everything it counts is read by tests through `Double.statistics()`."""

    def __init__(self, options: DoubleOptions, clock: Clock, total: Peak) -> None:
        self._options = options
        self._clock = clock
        self._total = total
        self._pending: deque[_Pending] = deque()
        self._served: _Pending | None = None  # whose model is made room for, or loaded
        self._wake = trio.Event()
        self._unloaded = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.loaded: dict[str, Runner] = {}
        self.loading: str | None = None
        self.loads: dict[str, int] = {}
        self.aborted_loads = 0
        self.unloads = 0
        self.leaked_handlers = 0
        self.vram_of_others = 0  # a game on the Windows side; bytes

    @property
    def vram_used(self) -> int:
        """What the loaded models and whoever else hold of the graphics memory."""
        return self.vram_of_others + sum(runner.vram_bytes for runner in self.loaded.values())

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def deserted(self) -> int:
        """Handlers whose caller is gone, and that wait here all the same."""
        waiting = [*self._pending, *([] if self._served is None else [self._served])]
        return self.leaked_handlers + sum(pending.context.is_ended for pending in waiting)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The serial loop, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                while not self._pending:
                    self._wake = trio.Event()
                    await self._wake.wait()
                self._served = self._pending.popleft()
                await self._serve(self._served)
                self._served = None

    async def lend(
        self, spec: ModelSpec, settings: RunnerSettings, *, keep_alive_s: float | None, context: Context
    ) -> Runner:
        """A runner for this call, given back by itself when the context ends.

        Raises: CannotRun (queue full, load failed), CallerLeft.
        """
        runner = self.loaded.get(spec.blob)
        if runner is not None and runner.suits(settings):
            return self._attach(runner, keep_alive_s, context)
        if len(self._pending) >= self._options.max_queue:
            raise CannotRun(503, BUSY)
        pending = _Pending(spec, settings, keep_alive_s, context)
        self._pending.append(pending)
        self._wake.set()
        if not self._options.leaks.on_pending_cancel:
            context.on_end(lambda: self._forget(pending))
        await pending.answered.wait()  # Go waits here without looking at the context
        if isinstance(pending.outcome, Exception):
            raise pending.outcome
        assert pending.outcome is not None
        return pending.outcome

    def expire(self, spec: ModelSpec) -> None:
        """Asks for an unload, as keep_alive 0 does: at once when idle, else after the last call; nothing while it loads."""
        runner = self.loaded.get(spec.blob)
        if runner is None:
            return
        runner.expires_at = self._clock.wall()
        runner.session_s = 0.0
        self._stop_timer(runner)
        if runner.refs == 0:
            self._unload(runner)

    def forget_all(self) -> None:
        """What a restart of the server does to what was loaded."""
        for runner in list(self.loaded.values()):
            self._unload(runner)

    def _forget(self, pending: _Pending) -> None:
        if pending in self._pending:
            self._pending.remove(pending)
            pending.answer(CallerLeft())

    async def _serve(self, pending: _Pending) -> None:
        if pending.context.is_ended:
            self.leaked_handlers += 1  # skipped, and nobody tells its handler
            return
        while True:
            runner = self.loaded.get(pending.spec.blob)
            if runner is not None and runner.suits(pending.settings):
                pending.answer(self._attach(runner, pending.keep_alive_s, pending.context))
                return
            victim = runner or self._victim(pending.spec)
            if victim is None:
                await self._load(pending)
                return
            await self._retire(victim)

    def _victim(self, wanted: ModelSpec) -> Runner | None:
        """Whom to evict: idle first, then the smallest keep_alive, then by path; None while there is room."""
        if not self.loaded:
            return None
        total = self._options.memory_bytes
        used = sum(runner.spec.size_bytes for runner in self.loaded.values())
        is_tight = total is not None and used + wanted.size_bytes > 0.8 * total
        if len(self.loaded) < self._options.max_loaded and not is_tight:
            return None
        return min(self.loaded.values(), key=lambda runner: (runner.refs > 0, runner.session_s, runner.spec.blob_digest))

    async def _retire(self, runner: Runner) -> None:
        """Waits until something was unloaded; the loop, and all behind it, stand still meanwhile."""
        runner.session_s = 0.0
        if runner.refs == 0:
            self._unload(runner)
            return
        await self._unloaded.wait()

    async def _load(self, pending: _Pending) -> None:
        spec, server = pending.spec, self._options
        self.loads[spec.name] = self.loads.get(spec.name, 0) + 1
        self.loading = spec.blob
        try:
            with trio.move_on_after(server.load_s if spec.load_s is None else spec.load_s):
                await pending.context.wait_ended()
                self.aborted_loads += 1
                pending.answer(CallerLeft())
                return
        finally:
            self.loading = None
        if spec.load_error is not None:
            pending.answer(CannotRun(500, spec.load_error))
            return
        runner = Runner(spec, pending.settings, server, self._total)
        if server.vram_bytes is not None:
            runner.vram_bytes = min(runner.vram_bytes, max(0, server.vram_bytes - self.vram_used))
        self.loaded[spec.blob] = runner
        pending.answer(self._attach(runner, pending.keep_alive_s, pending.context))

    def _attach(self, runner: Runner, keep_alive_s: float | None, context: Context) -> Runner:
        runner.refs += 1
        self._stop_timer(runner)
        if keep_alive_s is not None:
            runner.session_s = keep_alive_s
        context.on_end(lambda: self._detach(runner))
        return runner

    def _detach(self, runner: Runner) -> None:
        runner.refs -= 1
        if runner.refs:
            return
        if runner.session_s <= 0:
            self._unload(runner)
            return
        runner.expires_at = self._clock.wall() + min(runner.session_s, AFTER_THE_LAST_INT64_NS_S)
        self._start_timer(runner)

    def _start_timer(self, runner: Runner) -> None:
        if not math.isfinite(runner.session_s):
            return
        runner.timer = trio.CancelScope()
        if self._nursery is not None:
            self._nursery.start_soon(self._unload_after, runner, runner.session_s, runner.timer)

    def _stop_timer(self, runner: Runner) -> None:
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None

    async def _unload_after(self, runner: Runner, seconds: float, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(seconds)
            if runner.refs == 0:
                runner.timer = None
                self._unload(runner)

    def _unload(self, runner: Runner) -> None:
        if self.loaded.get(runner.spec.blob) is not runner:
            return
        self._stop_timer(runner)
        del self.loaded[runner.spec.blob]
        self.unloads += 1
        happened, self._unloaded = self._unloaded, trio.Event()
        happened.set()


