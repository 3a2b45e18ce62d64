"""The door to the machine's memory and our own: what there is, what is free, what this process uses."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """The machine's memory in bytes. `total` is what the kernel has, a little below what a virtual machine was given."""

    total_bytes: int
    available_bytes: int
    swap_bytes: int


@dataclass(frozen=True, slots=True)
class OwnUsage:
    """What this process has and has used: resident bytes, seconds of CPU since its start."""

    rss_bytes: int
    cpu_s: float


def machine_memory() -> MachineMemory:
    """Read the machine's memory (/proc/meminfo: MemTotal, MemAvailable, SwapTotal)."""
    memory = psutil.virtual_memory()
    return MachineMemory(memory.total, memory.available, psutil.swap_memory().total)


@functools.cache
def _ourselves() -> psutil.Process:
    """Kept: to find one's own process anew, each second, is three files for the one that is read."""
    return psutil.Process()


def own_usage() -> OwnUsage:
    """Read what this process uses."""
    # Not times(2), which adds up the children that were reaped too: 0.4 ms of an idle second.
    return OwnUsage(_ourselves().memory_info().rss, time.process_time())
