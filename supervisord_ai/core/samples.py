"""What the machine was like at one instant: figures alone, each None where nothing on this machine tells it.

Shares run from 0 to 1. Counters of the kernel are given as rates over the time since the sample before, so that one sample
can be read alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Psi:
    """Pressure stall information: the share of the last 10 s in which some task, or all of them, waited. kernel.org, psi.rst."""

    some: float
    full: float


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics processor. `busy` is the share of time in which it computed."""

    name: str
    total_bytes: int | None
    used_bytes: int | None
    busy: float | None

    @property
    def used(self) -> float | None:
        """The share of its memory in use."""
        return self.used_bytes / self.total_bytes if self.used_bytes is not None and self.total_bytes else None


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine.

    Attributes:
        busy: share of all its cores.
        runnable: tasks that run or want to, those of an engine on this machine not counted.
        refaults_per_s: bytes read back that had just been given up (workingset_refault), the surest sign of too little memory.
        fleet_bytes, fleet_ooms, fleet_limit_hits: of the cgroup that holds all agents; the last two since the daemon started.
        fleet_cpu, fleet_memory: pressure on that cgroup alone.
        windows_free_bytes: free space on the Windows drive that holds WSL's own disk, which grows and is never given back.
    """

    cores: int = 1
    busy: float | None = None
    runnable: float | None = None
    total_bytes: int | None = None
    available_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    refaults_per_s: float | None = None
    cpu: Psi | None = None
    memory: Psi | None = None
    io: Psi | None = None
    fleet_bytes: int | None = None
    fleet_ooms: int | None = None
    fleet_limit_hits: int | None = None
    fleet_cpu: Psi | None = None
    fleet_memory: Psi | None = None
    gpus: tuple[Gpu, ...] | None = None
    windows_free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of Ollama. `wait_share`: the estimated p90 wait over the deadline, None while that cannot be known."""

    queued: int = 0
    running: int = 0
    slots: int = 0
    oldest_s: float = 0.0
    wait_s: float | None = 0.0
    wait_share: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything at one instant. `at` is monotonic, `wall` seconds since 1970."""

    at: float
    wall: float
    machine: Machine = field(default_factory=Machine)
    load: Load = field(default_factory=Load)
