"""What a config says, as frozen values. Each room gets the policies it needs, never the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from supervisord_ai.core.alerts import AlertSpec, Notify
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.policies import (
    BackendSpec,
    BreakerPolicy,
    CachePolicy,
    LevelsPolicy,
    LimitsPolicy,
    LogsPolicy,
    ModelsPolicy,
    QueuePolicy,
    RestartPolicy,
    RolloutPolicy,
    StartPolicy,
)
from supervisord_ai.core.roster import Roster


class Durability(StrEnum):
    """What an acknowledged request survives: a power cut (synced to disk), or the end of this process (written)."""

    POWER = "power"
    PROCESS = "process"


class Anonymous(StrEnum):
    """What a TCP caller without a token is: a guest, or refused."""

    GUEST = "guest"
    REFUSE = "refuse"


class GuestsAllow(StrEnum):
    """Which processes outside the fleet may call: the owner's (as root: root's), the owner's group's, or none."""

    OWNER = "owner"
    GROUP = "group"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class DaemonPolicy:
    """`[daemon]`, with every path absolute. `owner` is a user name or "" (whoever runs the daemon)."""

    runtime_dir: str
    state_dir: str
    log_dir: str
    owner: str = ""
    path: str = ""  # PATH of the agents; "" means a plain default
    log_level: str = "info"
    durability: Durability = Durability.POWER


@dataclass(frozen=True, slots=True)
class ListenPolicy:
    """`[listen]`: the loopback faces, each "address:port"; () turns TCP off."""

    tcp: tuple[str, ...] = ("127.0.0.1:11435",)
    anonymous: Anonymous = Anonymous.GUEST


@dataclass(frozen=True, slots=True)
class Config:
    """Everything one config file and its includes say, resolved. `path` is None for a config that never was a file."""

    daemon: DaemonPolicy
    path: str | None = None
    listen: ListenPolicy = field(default_factory=ListenPolicy)
    web_listen: str = "127.0.0.1:8787"  # "" turns the page off
    memory: MemoryPolicy = field(default_factory=MemoryPolicy)
    start: StartPolicy = field(default_factory=StartPolicy)
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    limits: LimitsPolicy = field(default_factory=LimitsPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    cache: CachePolicy = field(default_factory=CachePolicy)
    levels: LevelsPolicy = field(default_factory=LevelsPolicy)
    models: ModelsPolicy = field(default_factory=ModelsPolicy)
    logs: LogsPolicy = field(default_factory=LogsPolicy)
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    gpu_unload_at: float = 0.90
    isolation_mode: str = "none"
    retention_events_s: float = 30 * 86_400.0
    guests_allow: GuestsAllow = GuestsAllow.OWNER
    backends: tuple[BackendSpec, ...] = (BackendSpec(),)
    alerts: tuple[AlertSpec, ...] = ()
    notify: Notify = field(default_factory=Notify)
    roster: Roster = field(default_factory=Roster)
