"""The door to what the machine is doing: memory, processors, pressure, the cgroup of the fleet. Read once a second, so cheaply.

Every reading is what the kernel says at this instant, counters as counters; `health/sampler.py` makes rates of them. None is
returned for what this machine does not have: PSI needs `psi=1` on WSL's kernel, a fleet without cgroups has no group. Nothing
here raises for what is missing. Sources: proc(5), kernel.org admin-guide/cgroup-v2.rst, accounting/psi.rst.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from supervisord_ai.core import locate
from supervisord_ai.core.samples import Gpu, Psi
from supervisord_ai.host.container import OwnGroups, Room, own_groups
from supervisord_ai.host.gpu import Gpus, NvmlGpus
from supervisord_ai.host.procfs import PAGE_BYTES, read_raw

KIB = 1024
# Who computes models wants every core there is, and that is no distress of anybody else's. Linux cuts names at 15.
ENGINE_NAMES = frozenset({b"ollama", b"ollama_llama_se", b"llama-server"})
LOOK_FOR_ENGINES_EVERY_S = 60.0
LOOK_AT_WINDOWS_EVERY_S = 60.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PSI = re.compile(rb"(some|full) avg10=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class MemoryState:
    """Of /proc/meminfo and /proc/vmstat. `refaults`: pages that were read back right after they had been given up; a counter."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_used_bytes: int
    refaults: int | None


@dataclass(frozen=True, slots=True)
class ProcessorState:
    """Of /proc/stat and /proc/loadavg: two counters of seconds over all cores, and who wants to run at this instant.

    `runnable` leaves out this reader, and the threads of engines where there are more runnable than cores.
    """

    cores: int
    busy_s: float
    total_s: float
    runnable: int


@dataclass(frozen=True, slots=True)
class Pressures:
    """PSI of the machine, or of one cgroup."""

    cpu: Psi | None = None
    memory: Psi | None = None
    io: Psi | None = None


@dataclass(frozen=True, slots=True)
class FleetState:
    """The cgroup that holds every agent. `ooms` and `limit_hits` are counters of the kernel."""

    used_bytes: int | None = None
    ooms: int | None = None
    limit_hits: int | None = None
    pressures: Pressures = Pressures()


class MachineDoor(Protocol):
    """What can be asked of the machine; every answer may be None."""

    def memory(self) -> MemoryState | None: ...
    def processor(self, now: float) -> ProcessorState | None: ...
    def pressures(self) -> Pressures | None: ...
    def fleet(self) -> FleetState | None: ...
    def gpus(self, now: float) -> tuple[Gpu, ...] | None: ...
    def windows_free_bytes(self, now: float) -> int | None: ...


class RealMachine:
    """This machine. `fleet`: the folder of the fleet's cgroup; `engine_pids`: engines that we keep, under whatever name."""

    def __init__(
        self,
        *,
        fleet: Path | None = None,
        engine_pids: Callable[[], Iterable[int]] = lambda: (),
        gpus: Gpus | None = None,
        proc: Path = Path("/proc"),
        groups: OwnGroups | None = None,
    ) -> None:
        self._groups = groups
        self._fleet = fleet
        self._engine_pids = engine_pids
        self._gpus = gpus if gpus is not None else NvmlGpus()
        self._proc = str(proc)
        self._cores = os.cpu_count() or 1
        self._engines: tuple[int, ...] = ()
        self._engines_at = float("-inf")
        self._windows: str | None = None
        self._windows_free: int | None = None
        self._windows_at = float("-inf")

    def __repr__(self) -> str:
        return f"<this machine, {self._cores} cores, fleet {self._fleet}>"

    # --- memory --------------------------------------------------------------------------------------------------------

    def memory(self) -> MemoryState | None:
        found = _fields(read_raw(f"{self._proc}/meminfo", 1 << 14))
        if b"MemTotal" not in found or b"MemAvailable" not in found:
            return None
        total, available = found[b"MemTotal"] * KIB, found[b"MemAvailable"] * KIB
        if (room := self._room()) is not None:
            total, available = min(total, room.limit_bytes), min(available, room.left_bytes)
        swap_total = found.get(b"SwapTotal", 0)
        return MemoryState(
            total_bytes=total,
            available_bytes=available,
            swap_total_bytes=swap_total * KIB,
            swap_used_bytes=(swap_total - found.get(b"SwapFree", 0)) * KIB,
            refaults=self._refaults(),
        )

    def _room(self) -> Room | None:
        """What our own cgroups leave, where they have a limit: in a container that is less than the machine has."""
        if self._groups is None:
            self._groups = own_groups()
        return self._groups.room()

    def _refaults(self) -> int | None:
        text = read_raw(f"{self._proc}/vmstat", 1 << 16) or b""
        counts = [int(count) for count in re.findall(rb"^workingset_refault(?:_anon|_file)? (\d+)", text, re.MULTILINE)]
        return sum(counts) * PAGE_BYTES if counts else None

    # --- processors ----------------------------------------------------------------------------------------------------

    def processor(self, now: float) -> ProcessorState | None:
        ticks = (read_raw(f"{self._proc}/stat", 256) or b"").split(b"\n", 1)[0].split()[1:9]
        load = (read_raw(f"{self._proc}/loadavg", 64) or b"").split()
        if len(ticks) < 8 or len(load) < 4:
            return None
        counts = [int(count) for count in ticks]  # user nice system idle iowait irq softirq steal
        idle = counts[3] + counts[4]
        runnable = max(0, int(load[3].partition(b"/")[0]) - 1)
        if runnable > self._cores:
            runnable = max(0, runnable - self._engine_threads(now))
        return ProcessorState(self._cores, (sum(counts) - idle) / _TICKS_PER_S, sum(counts) / _TICKS_PER_S, runnable)

    def _engine_threads(self, now: float) -> int:
        """Count the threads of engines that run or want to."""
        if now >= self._engines_at + LOOK_FOR_ENGINES_EVERY_S:
            self._engines_at = now
            self._engines = tuple(self._named_engines())
        return sum(self._running_threads(pid) for pid in {*self._engines, *self._engine_pids()})

    def _named_engines(self) -> Iterable[int]:
        for name in os.listdir(self._proc):
            if name.isdigit() and (read_raw(f"{self._proc}/{name}/comm", 32) or b"").rstrip(b"\n") in ENGINE_NAMES:
                yield int(name)

    def _running_threads(self, pid: int) -> int:
        folder = f"{self._proc}/{pid}/task"
        try:
            threads = os.listdir(folder)
        except OSError:  # it has ended
            return 0
        states = ((read_raw(f"{folder}/{thread}/stat") or b"").rpartition(b")")[2][1:2] for thread in threads)
        return sum(state == b"R" for state in states)

    # --- pressure ------------------------------------------------------------------------------------------------------

    def pressures(self) -> Pressures | None:
        return _pressures(f"{self._proc}/pressure/", "")

    def fleet(self) -> FleetState | None:
        if self._fleet is None or not self._fleet.is_dir():
            return None
        folder = f"{self._fleet}/"
        events = _fields(read_raw(f"{folder}memory.events"))
        used = read_raw(f"{folder}memory.current") or read_raw(f"{folder}memory.usage_in_bytes")
        return FleetState(
            used_bytes=int(used) if used else None,
            ooms=events.get(b"oom_kill"),
            limit_hits=events.get(b"max"),
            pressures=_pressures(folder, ".pressure") or Pressures(),
        )

    # --- graphics processors, and Windows ------------------------------------------------------------------------------

    def gpus(self, now: float) -> tuple[Gpu, ...] | None:
        return self._gpus.read(now)

    def windows_free_bytes(self, now: float) -> int | None:
        if now >= self._windows_at + LOOK_AT_WINDOWS_EVERY_S:  # it asks Windows over a socket
            self._windows_at = now
            self._windows = self._windows or windows_drive(self._proc)
            self._windows_free = free_bytes(self._windows) if self._windows is not None else None
        return self._windows_free


def windows_drive(proc: str = "/proc") -> str | None:
    """Return where WSL has mounted C:, None elsewhere. Its own disk is a file there, unless its owner has moved it."""
    osrelease = os.fsdecode(read_raw(f"{proc}/sys/kernel/osrelease", 256) or b"")
    return locate.windows_drive(osrelease, os.fsdecode(read_raw(f"{proc}/mounts", 1 << 16) or b""))


def free_bytes(path: str | Path) -> int | None:
    """Return how much a user may still write where this is, None where nobody tells."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _pressures(before: str, after: str) -> Pressures | None:
    found = Pressures(*(_psi(read_raw(f"{before}{what}{after}", 256)) for what in ("cpu", "memory", "io")))
    return found if found != Pressures() else None


def _psi(text: bytes | None) -> Psi | None:
    shares = {word: float(percent) / 100 for word, percent in _PSI.findall(text or b"")}
    # Before 5.13 the cpu's file has no `full`, and of the whole machine it means nothing.
    return Psi(some=shares[b"some"], full=shares.get(b"full", 0.0)) if b"some" in shares else None


def _fields(text: bytes | None) -> dict[bytes, int]:
    """Read lines of `name value` or `name: value kB`."""
    words = (line.split() for line in (text or b"").splitlines())
    return {line[0].rstrip(b":"): int(line[1]) for line in words if len(line) >= 2 and line[1].isdigit()}
