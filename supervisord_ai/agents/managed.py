"""Keeps the embedded engine running for `url = "embedded"`: started with a secret, ready when it answers, restarted when it dies.

The engine's standard input is its lifeline: it ends at end of file, so it cannot outlive the daemon, whatever kills that. The
secret comes first on it: in an argument or the environment it would be there for every process of this user to read.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from logging import getLogger
from pathlib import Path

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.policies import RestartPolicy
from supervisord_ai.core.verdict import SIGNAL_NAMES, ExitStatus
from supervisord_ai.errors import HostFault, UpstreamFault
from supervisord_ai.host import signals
from supervisord_ai.host.process import Launch, ProcessDoor, ProcessHandle

log = getLogger(__name__)

Probe = Callable[[], Awaitable[object]]

PROBE_EVERY_S = 0.1
PROBE_TIMEOUT_S = 2.0


class EngineState(StrEnum):
    """What the managed engine is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"


@dataclass(frozen=True, slots=True)
class EngineView:
    """The managed engine as it is now. `detail` says how its last life ended."""

    state: EngineState = EngineState.STOPPED
    pid: int | None = None
    restarts: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """What the engine is started with. `threads` None: all cores but one. `ledger`: a file in which it counts its calls.

    The socket's folder is made if need be, for us alone; the log is appended to.
    """

    socket: Path
    log_path: Path
    slots: int = 2
    threads: int | None = None
    model_file: Path | None = None
    ledger: Path | None = None

    def argv(self) -> tuple[str, ...]:
        words = [sys.executable, "-m", "supervisord_ai.engine", "--socket", str(self.socket), "--slots", str(self.slots)]
        for option, value in (("--threads", self.threads), ("--model-file", self.model_file), ("--ledger", self.ledger)):
            if value is not None:
                words += [option, str(value)]
        return tuple(words)


class ManagedEngine:
    """The one writer of the engine child's state.

    `url` and `secret` are what a client needs; both stay the same over restarts. `environ` is the child's whole environment.
    """

    def __init__(
        self,
        launch: EngineLaunch,
        *,
        processes: ProcessDoor,
        clock: Clock,
        restart: RestartPolicy,
        rng: random.Random,
        environ: Mapping[str, str],
        ready_within_s: float = 120.0,
        grace_s: float = 3.0,
    ) -> None:
        self.url = f"unix://{launch.socket}"
        self.secret = secrets.token_hex(16)
        self._launch = launch
        self._processes = processes
        self._clock = clock
        self._restart = restart
        self._rng = rng
        self._environ = dict(environ)
        self._ready_within_s = ready_within_s
        self._grace_s = grace_s
        self._view = EngineView()

    def __repr__(self) -> str:
        return f"<engine {self._view.state} pid={self._view.pid} restarts={self._view.restarts}>"

    async def run(self, probe: Probe, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it running until cancelled, then end it. Reports started when it first answers.

        `probe` asks it anything cheap (its version) and raises UpstreamFault while it does not answer.

        Raises:
            HostFault: it ended before it ever answered. Trying again would not help, and its log says why.
        """
        self._launch.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_known_good = False
        failures = 0
        while True:
            began = self._clock.monotonic()
            status = await self._live(probe, task_status if not is_known_good else trio.TASK_STATUS_IGNORED)
            how = _in_words(status)
            if not is_known_good and self._view.state is not EngineState.READY:
                self._view = EngineView(detail=how)
                raise HostFault(f"the embedded engine {how} before it answered; its log is {self._launch.log_path}")
            is_known_good = True
            now = self._clock.monotonic()
            failures = failures + 1 if now - began < self._restart.window_s else 1
            delay_s = self._rng.uniform(0.0, min(self._restart.max_s, self._restart.base_s * 2.0 ** (failures - 1)))
            log.warning("engine %s after %.1f s; starting it again in %.1f s", how, now - began, delay_s)
            self._view = EngineView(EngineState.BACKOFF, None, self._view.restarts, how)
            await trio.sleep(delay_s)
            self._view = replace(self._view, restarts=self._view.restarts + 1)

    def statistics(self) -> EngineView:
        return self._view

    async def _live(self, probe: Probe, task_status: trio.TaskStatus[None]) -> ExitStatus:
        """One life of the child, from spawn to end; whatever interrupts it, nothing is left."""
        child = await self._spawn()
        self._view = EngineView(EngineState.STARTING, child.pid, self._view.restarts, self._view.detail)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._announce, child, probe, task_status)
                status = await child.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._end(child)
        return status

    async def _spawn(self) -> ProcessHandle:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._launch.log_path, flags, 0o600)
        try:
            return await self._processes.spawn(
                Launch(argv=self._launch.argv(), env=self._environ, stdout_fd=fd, stderr_fd=fd, stdin="pipe"),
            )
        finally:
            os.close(fd)

    async def _announce(self, child: ProcessHandle, probe: Probe, task_status: trio.TaskStatus[None]) -> None:
        """Hand over the secret, then tell when it answers; one that does not in time is killed, for its wait to see."""
        assert child.stdin is not None
        began = self._clock.monotonic()
        try:
            await child.stdin.send_all(self.secret.encode() + b"\n")
        except trio.BrokenResourceError:
            return  # it has ended already
        with trio.move_on_after(self._ready_within_s) as waiting:
            while not await _answers(probe):  # noqa: ASYNC110 - another process: there is no event to wait for
                await trio.sleep(PROBE_EVERY_S)
        if waiting.cancelled_caught:
            log.error("engine %d did not answer within %.0f s", child.pid, self._ready_within_s)
            child.signal(signals.KILL)
            return
        self._view = EngineView(EngineState.READY, child.pid, self._view.restarts, "")
        log.info("engine %d answers on %s after %.1f s", child.pid, self.url, self._clock.monotonic() - began)
        task_status.started()

    async def _end(self, child: ProcessHandle) -> None:
        """Close its lifeline, wait, kill. Called once, also for one that ended by itself."""
        if child.stdin is not None:
            await child.stdin.aclose()
        with trio.move_on_after(self._grace_s):
            await child.wait()
            child.close()
            return
        log.warning("engine %d did not end within %.1f s: killed", child.pid, self._grace_s)
        child.signal(signals.KILL)
        await child.wait()
        child.close()


async def _answers(probe: Probe) -> bool:
    with trio.move_on_after(PROBE_TIMEOUT_S):
        try:
            await probe()
        except UpstreamFault:
            return False
        return True
    return False


def _in_words(status: ExitStatus) -> str:
    if status.signal is not None:
        return f"was ended by SIG{SIGNAL_NAMES.get(status.signal, str(status.signal))}"
    return f"ended with status {status.code}"
