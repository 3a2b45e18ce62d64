"""The fleet: starts all agents in batches, keeps them running, ends them all."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from supervisord_ai.agents.view import AgentView, FleetView
from supervisord_ai.clock import Clock
from supervisord_ai.core.events import Event
from supervisord_ai.core.policies import LogsPolicy, RestartPolicy, StartPolicy
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.host.cgroup import Cages
from supervisord_ai.host.process import ProcessDoor

EnvironFor = Callable[[AgentSpec, int, str], dict[str, str]]


class Fleet:
    def __init__(
        self,
        specs: Mapping[str, AgentSpec],
        *,
        start: StartPolicy,
        restart: RestartPolicy,
        logs: LogsPolicy,
        cages: Cages,
        processes: ProcessDoor,
        journal: object,
        clock: Clock,
        tell: Callable[[Event], None],
        environ_for: EnvironFor,
        log_dir: Path,
        rng: random.Random,
    ) -> None:
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweep survivors of the last daemon, start everyone in batches, supervise until cancelled."""
        raise NotImplementedError

    async def stop_all(self, *, within_s: float = 7.0) -> None:
        """End everyone in parallel; returns when nothing is left. No agent is started afterwards."""
        raise NotImplementedError

    def tell(self, event: Event) -> None:
        raise NotImplementedError

    def statistics(self) -> FleetView:
        raise NotImplementedError


__all__ = ["AgentView", "Fleet", "FleetView"]
