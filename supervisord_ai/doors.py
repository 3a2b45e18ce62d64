"""What the command line adds to a config, and what of the machine a daemon uses."""

from __future__ import annotations

import gc
import random
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from supervisord_ai.clock import Clock, SystemClock
from supervisord_ai.config import Config
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.gateway.reading import in_own_thread
from supervisord_ai.health.back_doors import Connections
from supervisord_ai.health.notify import Courier, RealCourier
from supervisord_ai.health.sampler import in_sensor_thread
from supervisord_ai.host.cages import Form, find_cages
from supervisord_ai.host.cgroup import Cages
from supervisord_ai.host.connections import KernelConnections
from supervisord_ai.host.firewall import Firewall, Nft
from supervisord_ai.host.machine import MachineDoor, RealMachine
from supervisord_ai.host.notify import NotifyDoor, NotifyFolder
from supervisord_ai.host.process import ProcessDoor, Processes
from supervisord_ai.ollama.transport import Dialer
from supervisord_ai.store.disk import Disk, RunSync, in_thread

ONLY_FOR_MIGRATIONS = frozenset({"sqlite_utils", "sqlite_fts4", "click", "pluggy", "dateutil"})


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to a config. `ledger`: where the embedded engine counts its calls. `is_rehearsal`: what others
    do on this machine is left out of the level.

    `read_config` reads the config again, for a reload: it may block, and raises what `config.load` raises.
    """

    cages: Form = "auto"
    ledger: Path | None = None
    model_file: Path | None = None
    is_rehearsal: bool = False
    read_config: Callable[[], Config] | None = field(default=None, compare=False)


def _random_id() -> str:
    return secrets.token_urlsafe(16)


def _settle_memory() -> None:
    """What exists now lives as long as the daemon: a full collection over it would only be a pause.

    What made or migrated the files is not needed again: 4 MB, which the agents then use.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] in ONLY_FOR_MIGRATIONS]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True)
class Doors:
    """What of the machine the daemon uses: the real things, unless a simulation brings its own.

    With `run_sync` inline, a mock clock and made-up processes the whole daemon lives in virtual time (tests/sim).
    """

    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=random.Random)
    new_id: Callable[[], str] = _random_id
    processes: Callable[[], ProcessDoor] = Processes
    cages: Callable[..., Cages] = find_cages
    notify: Callable[..., NotifyDoor] = NotifyFolder
    machine: Callable[..., MachineDoor] = RealMachine
    courier: Callable[[], Courier] = RealCourier
    sense: RunSync = in_sensor_thread
    connections: Callable[[], Connections] = KernelConnections
    firewall: Callable[[], Firewall] = Nft
    dial: Callable[[BackendSpec], Dialer | None] = lambda _spec: None
    run_sync: RunSync = in_thread  # the store's
    read_elsewhere: RunSync = in_own_thread  # the gateway's, for large bodies
    disk: Disk | None = None
    settle_memory: Callable[[], None] = _settle_memory
