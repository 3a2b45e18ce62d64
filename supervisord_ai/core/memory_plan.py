"""Decides whether the memory that was promised fits, in declared numbers and on a real machine. Reads no memory itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from supervisord_ai.core.roster import MB, AgentSpec


class Enforce(StrEnum):
    """What the caps do: hard ones bind, observed ones are only shown."""

    HARD = "hard"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """`[memory]`: who gets how much of the machine. `overcommit` 1.07 means: caps may add up to 107 % of `agents`."""

    total_bytes: int = 48_000 * MB
    os_bytes: int = 3_000 * MB
    ollama_bytes: int = 8_000 * MB
    cache_bytes: int = 1_000 * MB
    monitoring_bytes: int = 500 * MB
    agents_bytes: int = 35_200 * MB
    overcommit: float = 1.0
    reserve_bytes: int = 2_000 * MB
    enforce: Enforce = Enforce.HARD


@dataclass(frozen=True, slots=True)
class CapLine:
    """So many agents of one class with the same cap."""

    agent_class: str
    count: int
    cap_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.count * self.cap_bytes


def cap_lines(agents: Iterable[AgentSpec]) -> tuple[CapLine, ...]:
    """Return what the fleet may use, grouped by class and cap. External agents have no cap of ours."""
    counts = Counter((spec.policy.name, spec.policy.memory_bytes) for spec in agents if not spec.external)
    return tuple(CapLine(agent_class, count, cap) for (agent_class, cap), count in counts.items())


@dataclass(frozen=True, slots=True)
class PartsExceedTotal:
    """More was given away than there is."""

    parts_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class CapsExceedAgents:
    """The caps add up to more than the agents' part, and nobody said that this is meant. Each of the last three is a way out.

    Attributes:
        agents_bytes: the part that would hold them, rounded up to 100 MB; the other parts leave `free_bytes` for it.
        smaller_caps: every cap made smaller by the same factor, in whole MB.
        overcommit: the least factor that declares it, in hundredths.
    """

    caps_bytes: int
    allowed_bytes: int
    free_bytes: int
    agents_bytes: int
    smaller_caps: tuple[CapLine, ...]
    overcommit: float


@dataclass(frozen=True, slots=True)
class MachineTooSmall:
    """The machine has less than the parts that were given away."""

    parts_bytes: int
    machine_bytes: int


def parts(policy: MemoryPolicy) -> tuple[tuple[str, int], ...]:
    """Return who was given what, in the order of the config."""
    return (
        ("os", policy.os_bytes),
        ("ollama", policy.ollama_bytes),
        ("cache", policy.cache_bytes),
        ("monitoring", policy.monitoring_bytes),
        ("agents", policy.agents_bytes),
    )


def parts_bytes(policy: MemoryPolicy) -> int:
    """Return the sum of all parts."""
    return sum(size for _, size in parts(policy))


def judge_plan(policy: MemoryPolicy, caps: Sequence[CapLine]) -> tuple[PartsExceedTotal | CapsExceedAgents, ...]:
    """Return what is wrong with the declared numbers; () when the plan holds."""
    wrong: list[PartsExceedTotal | CapsExceedAgents] = []
    given = parts_bytes(policy)
    if given > policy.total_bytes:
        wrong.append(PartsExceedTotal(given, policy.total_bytes))
    wanted = sum(line.total_bytes for line in caps)
    allowed = round(policy.agents_bytes * policy.overcommit)  # in hundredths no factor is exact
    if wanted > allowed:
        factor = allowed / wanted
        wrong.append(
            CapsExceedAgents(
                caps_bytes=wanted,
                allowed_bytes=allowed,
                free_bytes=max(0, policy.total_bytes - (given - policy.agents_bytes)),
                agents_bytes=math.ceil(wanted / policy.overcommit / (100 * MB)) * 100 * MB,
                smaller_caps=tuple(
                    CapLine(line.agent_class, line.count, math.floor(line.cap_bytes * factor / MB) * MB) for line in caps
                ),
                overcommit=math.ceil(wanted / policy.agents_bytes * 100) / 100 if policy.agents_bytes else math.inf,
            )
        )
    return tuple(wrong)


def judge_machine(policy: MemoryPolicy, machine_bytes: int) -> MachineTooSmall | None:
    """Compare the plan with a real machine. `total` is what its owner believes; only the parts must fit.

    MemTotal is always a little below what the machine was given (the kernel keeps some), so `total` is not compared.
    """
    given = parts_bytes(policy)
    return MachineTooSmall(given, machine_bytes) if machine_bytes < given else None


STEP_BYTES = 100 * MB


def fitted(machine_bytes: int) -> MemoryPolicy:
    """Return the shipped plan where the machine can hold it, else one of the same shape for what it has, in steps of 100 MB.

    The system and the engine need a least part however small the machine is; what is left is for agents.
    """
    shipped = MemoryPolicy()
    if judge_machine(shipped, machine_bytes) is None:
        return shipped
    total = _down(machine_bytes)
    part = machine_bytes / shipped.total_bytes
    system = max(_down(shipped.os_bytes * part), 300 * MB)
    ollama = max(_down(shipped.ollama_bytes * part), 200 * MB)
    cache = max(_down(shipped.cache_bytes * part), 300 * MB)
    monitoring = max(_down(shipped.monitoring_bytes * part), 100 * MB)
    reserve = max(_down(shipped.reserve_bytes * part), 200 * MB)
    agents = max(0, total - system - ollama - cache - monitoring)
    total = max(total, system + ollama + cache + monitoring)  # below 1 GB nothing fits, and `run` says so
    return MemoryPolicy(total, system, ollama, cache, monitoring, agents, reserve_bytes=reserve)


def _down(size_bytes: float) -> int:
    return int(size_bytes // STEP_BYTES) * STEP_BYTES
