"""Builds the way to each Ollama of the config: an address, a search, or an engine that we keep running ourselves.

    url = "http://..." or "unix:///..."   that address
    url = "auto" | "windows"              looked for, at each connect (`ollama/locate.py`)
    url = "embedded"                      the engine that came with us (`engine/`), kept by us
    command = [...]                       an Ollama of the owner's choice at `url`, kept by us in a cage of class `engine`
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from supervisord_ai.agents.generation import Journal
from supervisord_ai.agents.launches import EngineLaunch, command_launch, embedded_launch
from supervisord_ai.agents.managed import Kept, ManagedEngine
from supervisord_ai.agents.output import LogFolder
from supervisord_ai.clock import Clock
from supervisord_ai.config import Config
from supervisord_ai.core.locate import Facts
from supervisord_ai.core.policies import BackendSpec, RestartPolicy
from supervisord_ai.core.serving import ENGINE_CLASS, engine_name
from supervisord_ai.host import wsl
from supervisord_ai.host.cgroup import Cages, Guarantee
from supervisord_ai.host.command import run_command
from supervisord_ai.host.process import ProcessDoor
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.ollama.locate import Locator
from supervisord_ai.ollama.transport import Dialer


@dataclass(frozen=True, slots=True)
class Upstream:
    """One Ollama, and its keeper where it is ours to keep."""

    spec: BackendSpec
    client: OllamaClient
    engine: ManagedEngine | None = None

    def restart(self) -> Callable[[], Awaitable[object]] | None:
        """Return how it is restarted when it hangs: by its owner's command, by its keeper, or not at all."""
        if self.spec.restart_command:
            return partial(run_command, self.spec.restart_command)
        return self._by_keeper if self.engine is not None else None

    async def _by_keeper(self) -> None:
        assert self.engine is not None
        self.engine.restart("it accepts and does not answer")


@dataclass(frozen=True, slots=True)
class EngineDoors:
    """What every keeper of an engine uses. `journal` is the fleet's own: it holds every record in memory."""

    processes: ProcessDoor
    cages: Cages
    journal: Journal
    logs: LogFolder
    clock: Clock
    rng: random.Random
    dial: Callable[[BackendSpec], Dialer | None] = lambda _spec: None  # None: as the url says


class Upstreams:
    """Builds them. `ours` are the TCP addresses that this daemon itself listens on: there it would find itself."""

    def __init__(
        self,
        config: Config,
        doors: EngineDoors,
        *,
        ours: tuple[tuple[str, int], ...],
        ledger: Path | None = None,
        model_file: Path | None = None,
    ) -> None:
        self._config = config
        self._doors = doors
        self._facts: Callable[[], Facts] = partial(wsl.facts, ours=ours)
        self._ledger = ledger
        self._model_file = model_file

    def __repr__(self) -> str:
        return f"<upstreams of {self._config.path}>"

    def build(self) -> list[Upstream]:
        """Return one for each backend, in the order of the config. Starts nothing.

        Raises:
            HostFault: the user that an engine is to run as does not exist.
        """
        return [self._one(spec) for spec in self._config.backends]

    def _one(self, spec: BackendSpec) -> Upstream:
        if spec.command:
            keeper = self._of_command(spec)
            return Upstream(spec, OllamaClient(spec.url, connections=spec.connections, where=keeper.in_words), keeper)
        match spec.url:
            case "auto" | "windows" as word:
                locator = Locator(word, self._facts)
                client = OllamaClient(word, dial=locator.dial, connections=spec.connections, where=locator.where)
                return Upstream(spec, client)
            case "embedded":
                keeper = self._embedded(spec)
                url, secret = keeper.launch.url, keeper.launch.secret
                client = OllamaClient(url, connections=spec.connections, secret=secret, where=keeper.in_words)
                return Upstream(spec, client, keeper)
            case _:
                dial = self._doors.dial(spec)
                return Upstream(spec, OllamaClient(spec.url, dial=dial, connections=spec.connections))

    def _of_command(self, spec: BackendSpec) -> ManagedEngine:
        config, doors = self._config, self._doors
        policy = config.roster.classes.get(ENGINE_CLASS)
        user = None if policy is None else policy.user
        # One budget for all of them: two caps of the whole would let them take it twice.
        cap_bytes = config.memory.ollama_bytes // sum(bool(one.command) for one in config.backends)
        launch = command_launch(
            spec,
            models=config.models,
            environ=os.environ,
            account=doors.processes.account(user),
            user=user,
            cap_bytes=cap_bytes,
        )
        kept = Kept(
            doors.cages.cage(engine_name(spec.name)),
            doors.journal,
            doors.processes.boot_id(),
            is_only_sampled=doors.cages.guarantee is Guarantee.SOFT_RLIMIT,
        )
        return self._keeper(launch, kept)

    def _embedded(self, spec: BackendSpec) -> ManagedEngine:
        launch = embedded_launch(
            spec.name,
            socket=Path(self._config.daemon.runtime_dir) / "engine" / f"{spec.name}.sock",
            environ=os.environ,
            slots=spec.slots,
            ledger=self._ledger,
            model_file=self._model_file,
        )
        return self._keeper(launch)

    def _keeper(self, launch: EngineLaunch, kept: Kept | None = None) -> ManagedEngine:
        doors = self._doors
        return ManagedEngine(
            launch,
            processes=doors.processes,
            logs=doors.logs,
            clock=doors.clock,
            restart=RestartPolicy(),
            rng=doors.rng,
            kept=kept,
        )
