"""The remaining tables of the config as frozen values, each with its default and the reason for it.

A policy that belongs to one core lives beside that core's code and is re-exported here by nobody: import it from there.
This file holds those that several rooms read.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.core.roster import MB, MIB


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """`[queue]`: how long and how much may wait."""

    deadline_s: float = 240.0  # Node's fetch gives up at 300 s without a byte
    async_deadline_s: float = 86_400.0
    async_max: int = 50_000  # 7 hours at 120 a minute
    memory_max: int = 1000
    batch_max: int = 3
    batch_window_s: float = 0.1
    result_keep_s: float = 600.0
    orphan_grace_s: float = 60.0


@dataclass(frozen=True, slots=True)
class LimitsPolicy:
    """`[limits]`: what one peer may make us hold."""

    body_bytes: int = 64 * MB  # a 40 MB image in base64 and some room
    ingest_bytes: int = 128 * MB
    headers_bytes: int = 64_000
    spool_bytes: int = 64 * MB  # in memory, over all answers; then disk
    spool_disk_bytes: int = 2_000 * MB
    idle_s: float = 600.0


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """`[breaker]`: how many upstream faults in which time open it, and for how long."""

    failures: int = 5
    window_s: float = 60.0
    cool_down_s: float = 15.0


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """`[cache]`: what is kept, for whom, how much of it."""

    ttl_s: float = 3600.0
    scope: str = "shared"  # shared | class | agent
    l1_per_agent_bytes: int = 10 * MB
    l1_total_bytes: int = 256 * MB
    l2_bytes: int = 1_000 * MB
    l3_bytes: int = 10_000 * MB
    l3_min_entry_bytes: int = 64_000


@dataclass(frozen=True, slots=True)
class LevelsPolicy:
    """`[levels]`: how far service is degraded, and at which pressure."""

    enter: tuple[float, float, float] = (0.60, 0.80, 0.95)
    leave_below: float = 0.10
    dwell_s: float = 60.0
    num_predict: int = 256  # 0: no answer is bounded
    ttl_factor: tuple[float, float, float, float] = (1.0, 2.0, 8.0, 24.0)
    light_model: str = "tinyllama"  # "": no model is substituted
    priority_only: int = 3
    stale: bool = True
    pause_starts: bool = True
    shadow: bool = False  # decide and log, change nothing


@dataclass(frozen=True, slots=True)
class StartPolicy:
    """`[start]`: the fleet comes up in batches; the next batch starts when this one is ready, at the latest after the delay."""

    batch_size: int = 10
    batch_delay_s: float = 30.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`[restart]`: exponential backoff with full jitter, and how many unexpected ends in which window mean quarantine."""

    base_s: float = 1.0
    max_s: float = 60.0
    intensity: int = 5
    window_s: float = 60.0


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """`[[ollama]]`: one Ollama. `slots` is the hard ceiling of requests handed to it at once."""

    name: str = "main"
    url: str = "http://127.0.0.1:11434"
    slots: int = 2
    connections: int = 10
    device: str = "gpu"
    command: tuple[str, ...] = ()
    restart_command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """`[models."NAME"]`: what the gateway pins for one model."""

    num_ctx: int | None = None
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class ModelsPolicy:
    """`[models]`: runner options have one owner, the gateway, because two callers with two values reload the model in turns."""

    num_ctx: int = 4096
    keep_alive_s: float = 1800.0
    each: tuple[tuple[str, ModelPolicy], ...] = ()


@dataclass(frozen=True, slots=True)
class LogsPolicy:
    """`[logs]`: agents' stdout and stderr, one O_APPEND file each."""

    max_size_bytes: int = 10 * MB
    keep: int = 2


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """`[rollout]`: how many agents are down or unproved at once, how one proves itself, how many may fail before all go back."""

    group_size: int = 10
    min_ready_s: float = 10.0
    max_failures: int = 1


__all__ = [
    "MB",
    "MIB",
    "BackendSpec",
    "BreakerPolicy",
    "CachePolicy",
    "LevelsPolicy",
    "LimitsPolicy",
    "LogsPolicy",
    "ModelPolicy",
    "ModelsPolicy",
    "QueuePolicy",
    "RestartPolicy",
    "RolloutPolicy",
    "StartPolicy",
]
