"""Processes and cages that are made up: what `host.process` and `host.cgroup` promise, in virtual time and without a kernel.

A program is what its argv[0] names. A process knows the cage it joined, so a cage's members, signals and kills are those of
its processes, children that outlive their parent included. tests/contract holds these and the real ones to one suite.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.errors import HostFault, SpawnFailed
from supervisord_ai.host.cgroup import Counters, Guarantee, Outside
from supervisord_ai.host.process import Account, Launch
from supervisord_ai.host.signals import ABRT, KILL, TERM


@dataclass(frozen=True, slots=True)
class Program:
    """What a program does. `lives_s` None: until it is told to end. `takes_s` is how long it needs to end when it is told."""

    lives_s: float | None = None
    code: int = 0
    dies_of: int | None = None  # ends by this signal instead of with `code`
    obeys_term: bool = True
    takes_s: float = 0.0
    stray: Program | None = None  # a child that outlives it
    can_be_executed: bool = True
    is_oom: bool = False  # its end by KILL is the OOM killer's
    is_unkillable: bool = False  # sits in the kernel


class FakeProcess:
    """One made-up process. Its end is a moment on the clock; whoever looks later sees it ended."""

    def __init__(self, world: FakeProcesses, program: Program, cage: str | None, launch: Launch) -> None:
        self.pid = next(world.numbers)
        self.start_ticks = self.pid * 100
        self.stdin: trio.abc.SendStream | None = None
        self.launch = launch
        self.program = program
        self.cage = cage
        self.is_held = True
        self.signals: list[int] = []
        self._world = world
        self._ends_at: float | None = None
        self._status: ExitStatus | None = None
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<fake {self.pid} {self.launch.argv[0]}>"

    @property
    def is_alive(self) -> bool:
        return self._ends_at is None or trio.current_time() < self._ends_at

    def go(self) -> None:
        assert self.is_held, "go() is said once"
        self.is_held = False
        program = self.program
        if not program.can_be_executed:
            self._end(ExitStatus(code=127, never_ran=True), 0.0)
        elif program.lives_s is not None:
            status = ExitStatus(signal=program.dies_of) if program.dies_of is not None else ExitStatus(code=program.code)
            self._end(status, program.lives_s)
            if program.is_oom and self.cage is not None:
                self._world.oom_kills[self.cage] = self._world.oom_kills.get(self.cage, 0) + 1
        if program.stray is not None:
            stray = FakeProcess(self._world, program.stray, self.cage, self.launch)
            self._world.processes[stray.pid] = stray
            stray.go()

    async def wait(self) -> ExitStatus:
        while self.is_alive:
            with trio.move_on_at(float("inf") if self._ends_at is None else self._ends_at):
                await self._changed.wait()
        await trio.lowlevel.checkpoint()
        assert self._status is not None
        return self._status

    def signal(self, signum: int) -> bool:
        if not self.is_alive:
            return False
        self.signals.append(signum)
        if signum == KILL and not self.program.is_unkillable:
            self._end(ExitStatus(signal=KILL), 0.0)
        if signum == ABRT:
            self._end(ExitStatus(signal=ABRT), 0.0)
        if signum == TERM and self.program.obeys_term:
            self._end(ExitStatus(signal=TERM), self.program.takes_s)
        return True

    def close(self) -> None:
        assert not self.is_alive, "close() comes after wait()"
        self._world.closed.append(self.pid)

    def _end(self, status: ExitStatus, in_s: float) -> None:
        at = trio.current_time() + in_s
        if self._ends_at is None or at < self._ends_at:
            self._ends_at, self._status = at, status
            self._changed.set()
            self._changed = trio.Event()


class FakeSurvivor:
    """A process found by its number: it can be signalled and its end is seen, but its status is its parent's, mostly."""

    def __init__(self, process: FakeProcess, *, tells_status: bool) -> None:
        self._tells_status = tells_status
        self.pid = process.pid
        self.start_ticks = process.start_ticks
        self.stdin: trio.abc.SendStream | None = None
        self._process = process

    def go(self) -> None:
        raise AssertionError("a survivor has long gone")

    async def wait(self) -> ExitStatus:
        status = await self._process.wait()
        return status if self._tells_status else ExitStatus()

    def signal(self, signum: int) -> bool:
        return self._process.signal(signum)

    def close(self) -> None:
        pass


class FakeProcesses:
    """Made-up processes. `spawn_s` is how long a spawn takes, `fails` what a spawn of a program raises."""

    def __init__(self, programs: Mapping[str, Program], *, spawn_s: float = 0.0) -> None:
        self.programs = dict(programs)
        self.spawn_s = spawn_s
        self.fails: dict[str, SpawnFailed] = {}
        self.numbers = itertools.count(1000)
        self.processes: dict[int, FakeProcess] = {}
        self.spawned: list[tuple[float, str]] = []  # when, argv[0]
        self.closed: list[int] = []
        self.oom_kills: dict[str, int] = {}
        self.fleet_limit_hits: int | None = None
        self.oomd_kills: int | None = None
        self.boot = "this boot"
        self.tells_status = False  # of those it did not start: newer kernels do

    async def spawn(self, launch: Launch, *, hold: bool = False) -> FakeProcess:
        await trio.sleep(self.spawn_s)
        name = launch.argv[0]
        if name in self.fails:
            raise self.fails[name]
        cage = launch.join_files[0].removesuffix("/cgroup.procs") if launch.join_files else None
        process = FakeProcess(self, self.programs.get(name, Program(can_be_executed=False)), cage, launch)
        self.processes[process.pid] = process
        self.spawned.append((trio.current_time(), name))
        if not hold:
            process.go()
        return process

    def find(self, pid: int, start_ticks: int, boot_id: str) -> FakeSurvivor | None:
        process = self.processes.get(pid)
        if process is None or process.start_ticks != start_ticks or not process.is_alive or boot_id != self.boot:
            return None
        return FakeSurvivor(process, tells_status=self.tells_status)

    def become_subreaper(self) -> None:
        pass

    def reap_strays(self) -> int:
        return 0

    def boot_id(self) -> str:
        return self.boot

    def account(self, user: str | None) -> Account:
        if user == "nobody-there":
            raise SpawnFailed("failed:cage", f"there is no user {user} on this machine")
        return Account(user or "me", 1000 if user is None else 2000 + len(user), 1000, "/home/me")

    @property
    def alive(self) -> list[FakeProcess]:
        return [process for process in self.processes.values() if process.is_alive]

    def alive_in(self, cage: str) -> list[FakeProcess]:
        return [process for process in self.processes.values() if process.cage == cage and process.is_alive]


class Populace(Protocol):
    """What a made-up cage knows of the processes: who is alive, and whom the OOM killer took."""

    processes: dict[int, FakeProcess]
    oom_kills: dict[str, int]
    fleet_limit_hits: int | None
    oomd_kills: int | None

    @property
    def alive(self) -> list[FakeProcess]: ...

    def alive_in(self, cage: str) -> list[FakeProcess]: ...


@dataclass
class FakeCage:
    """One made-up cage, named by its path."""

    path: str
    world: Populace
    rlimits: tuple[tuple[str, int], ...] = ()
    cap_bytes: int | None = None
    memory_bytes: int | None = None
    peak_bytes: int | None = None
    files_bytes: int = 0  # of its memory, what a limit would take back
    is_broken: bool = False
    is_removed: bool = False

    @property
    def join_files(self) -> tuple[str, ...]:
        return (f"{self.path}/cgroup.procs",)

    @property
    def identity(self) -> str | None:
        return self.path

    @property
    def record(self) -> str | None:
        return f"fake\t{self.path}"

    def prepare(self, cap_bytes: int | None, run_tag: str) -> None:
        if self.is_broken:
            raise HostFault(f"{self.path}: no space left on device")
        self.cap_bytes = cap_bytes

    def limit(self, cap_bytes: int | None) -> None:
        if self.is_broken or (cap_bytes is not None and (self.memory_bytes or 0) > cap_bytes):
            raise HostFault(f"{self.path}: {self.memory_bytes} bytes are used")
        self.cap_bytes = cap_bytes

    def started(self, pid: int) -> None:
        assert pid in self.world.processes

    def oom_kills(self) -> int:
        return self.world.oom_kills.get(self.path, 0)

    async def needed_bytes(self) -> int | None:
        return None if self.memory_bytes is None else self.memory_bytes - self.files_bytes

    def counters(self) -> Counters:
        return Counters(
            oom_kills=self.oom_kills(), memory_bytes=self.memory_bytes, peak_bytes=self.peak_bytes
        )

    def _members(self) -> list[FakeProcess]:
        return self.world.alive_in(self.path)

    def outside(self) -> Outside:
        return Outside(fleet_limit_hits=self.world.fleet_limit_hits, oomd_kills=self.world.oomd_kills)

    @property
    def has_members(self) -> bool:
        return bool(self._members())

    async def members(self) -> tuple[int, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(process.pid for process in self._members())

    async def signal(self, signum: int) -> None:
        await trio.lowlevel.checkpoint()
        for process in self._members():
            process.signal(signum)

    async def kill(self, *, within_s: float) -> tuple[int, ...]:
        with trio.move_on_after(within_s):
            while members := self._members():
                for process in members:
                    process.signal(KILL)
                await trio.sleep(0.01)
        return tuple(process.pid for process in self._members())

    def remove(self) -> None:
        self.is_removed = not self._members()


@dataclass
class FakeCages:
    """Made-up cages below `top`."""

    world: Populace
    top: str = "/fake"
    guarantee: Guarantee = Guarantee.HARD
    detail: str = "made up"
    cages: dict[str, FakeCage] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    is_closed: bool = False
    why_not_outlived: str = ""

    def adopt(self, name: str, record: str | None) -> FakeCage | None:
        if record is None:
            return None
        self.cages[name] = FakeCage(record.removeprefix("fake\t"), self.world)
        return self.cages[name]

    @property
    def group(self) -> Path | None:
        return None

    def cage(self, name: str) -> FakeCage:
        return self.cages.setdefault(name, FakeCage(f"{self.top}/{name}", self.world))

    def leftovers(self) -> tuple[str, ...]:
        prefix = f"{self.top}/"
        return tuple(sorted({p.cage.removeprefix(prefix) for p in self.world.alive if p.cage and p.cage.startswith(prefix)}))

    def recorded(self, name: str, record: str | None, run_tag: str | None) -> tuple[FakeCage, ...]:
        return (FakeCage(record.removeprefix("fake\t"), self.world) if record is not None else self.cage(name),)

    def kills_seen(self) -> int | None:
        return sum(self.world.oom_kills.values())

    async def usage(self) -> dict[str, int]:
        await trio.lowlevel.checkpoint()
        known = {name: cage.memory_bytes for name, cage in self.cages.items()} | self.used
        return {name: used for name, used in known.items() if used is not None and self.cage(name).has_members}

    def close(self) -> None:
        for cage in self.cages.values():
            cage.remove()
        self.is_closed = True
