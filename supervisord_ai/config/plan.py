"""Writes the memory plan for people: in MB, as it is declared, and in MiB, as the kernel counts."""

from __future__ import annotations

from collections.abc import Sequence

from supervisord_ai.core.memory_plan import CapLine, CapsExceedAgents, MachineTooSmall, MemoryPolicy, parts, parts_bytes
from supervisord_ai.core.roster import MB, MIB


def plan_table(policy: MemoryPolicy, caps: Sequence[CapLine]) -> list[str]:
    """Return the plan as lines of at most 60 columns: the parts of the machine, then what the caps add up to."""
    wanted = sum(line.total_bytes for line in caps)
    allowed = round(policy.agents_bytes * policy.overcommit)
    rows: list[tuple[str, int] | None] = [*parts(policy)]
    left = policy.total_bytes - parts_bytes(policy)
    rows.append((f"left of total {mb(policy.total_bytes)} MB", left))
    rows.append(None)
    rows += [(f"{line.count} x {line.agent_class} at {mb(line.cap_bytes)} MB", line.total_bytes) for line in caps]
    rows.append(("all caps", wanted))
    if policy.overcommit != 1.0:
        rows.append((f"agents x overcommit {policy.overcommit:g}", allowed))
    fits = wanted <= allowed
    rows.append(("left for more agents" if fits else "OVER the agents' part by", abs(allowed - wanted)))
    width = max(28, *(len(row[0]) for row in rows if row))
    lines = [f"{'':{width}}{'MB':>10}{'MiB':>10}"]
    lines += [f"{row[0]:{width}}{mb(row[1]):>10}{mib(row[1]):>10}" if row else "" for row in rows]
    return lines


def ways_out(over: CapsExceedAgents) -> list[str]:
    """Return the three ways to make caps and plan agree, each with the line that does it."""
    wanted = f'agents = "{over.agents_bytes / 1000 / MB:g}GB"'
    if over.agents_bytes <= over.free_bytes:
        first = f"[memory] {wanted}: the other parts leave {mb(over.free_bytes)} MB"
    else:
        lacking = over.agents_bytes - over.free_bytes
        first = f"[memory] {wanted}, and {mb(lacking)} MB less for os, ollama, cache or monitoring (or a larger total)"
    smaller = ", ".join(f'[class.{line.agent_class}] memory = "{line.cap_bytes // MB}MB"' for line in over.smaller_caps)
    return [
        "three ways out:",
        f"1. give the agents more: {first}",
        f"2. make the caps smaller: {smaller}",
        f"3. say that it is meant: [memory] overcommit = {over.overcommit:g}; if all fill their caps at once, some are killed",
    ]


def over_budget(policy: MemoryPolicy, caps: Sequence[CapLine], over: CapsExceedAgents) -> str:
    """Return the refusal of a plan whose caps do not fit, with table and ways out."""
    head = f"the caps of the agents add up to {mb(over.caps_bytes)} MB, their part of the machine is {mb(over.allowed_bytes)} MB"
    body = [*plan_table(policy, caps), "", *ways_out(over)]
    return "\n".join([head, *(f"    {line}".rstrip() for line in body)])


def too_small(small: MachineTooSmall) -> str:
    """Return the refusal of a machine that has less than the plan gives away."""
    has = f"{mb(small.machine_bytes)} MB ({mib(small.machine_bytes)} MiB)"
    return (
        f"the plan gives away {mb(small.parts_bytes)} MB, this machine has {has}: "
        "make [memory] smaller, or run with --accept-smaller-machine"
    )


def mb(size_bytes: int) -> str:
    return f"{size_bytes / MB:,.0f}"


def mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.0f}"
