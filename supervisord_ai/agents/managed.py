"""Keeps the embedded engine running for `url = "embedded"`: started with a secret, ready when it answers, restarted when it dies.

The engine's standard input is its lifeline: it ends at end of file, so it cannot outlive the daemon, whatever kills that.
"""

from __future__ import annotations

import math
import os
import random
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from logging import getLogger
from pathlib import Path

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.policies import RestartPolicy
from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.errors import HostFault, SpawnFailed, UpstreamFault
from supervisord_ai.host.process import Launch, ProcessDoor, ProcessHandle

log = getLogger(__name__)


class EngineState(StrEnum):
    """What the managed engine is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"


@dataclass(frozen=True, slots=True)
class EngineView:
    """The managed engine as it is now. `detail` says why it is not ready."""

    state: EngineState
    pid: int | None
    restarts: int
    detail: str


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """What the engine is started with. `threads` None: all cores but one. `ledger`: a file in which it counts its calls."""

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


Probe = Callable[[], Awaitable[object]]


class ManagedEngine:
    """The one writer of the engine child's state.

    `url` and `secret` are what a client needs; both stay the same over restarts. `probe` asks the engine anything cheap
    (its version) and raises UpstreamFault while it does not answer.
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
        self._view = EngineView(EngineState.STOPPED, None, 0, "")
        self._is_ready = trio.Event()

    async def run(self, probe: Probe, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it running until cancelled, then end it. Reports started when it first answers.

        Raises:
            HostFault: it cannot be started at all (not installed, no such model file).
        """
        raise NotImplementedError

    def statistics(self) -> EngineView:
        return self._view
