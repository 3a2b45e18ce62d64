"""The machine under the daemon: what outlives one life of it, and what each life is given of it."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from supervisord_ai.core.samples import Gpu
from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.host.machine import MemoryState, ProcessorState
from supervisord_ai.host.process import Account, Launch
from supervisord_ai.store.disk import Checkpointed, RealDisk
from tests.fakes.machine import GB, FakeMachine, roomy
from tests.fakes.process import FakeCages, FakeProcess, FakeProcesses, FakeSurvivor, Program

RESERVE_BYTES = 2 * GB
GOOD = ("agent", "another agent")  # what the sonnets run by turns
BAD = "an agent that crashes"


class SimDisk:
    """Remembers how far each log was synced: what a power cut leaves for certain."""

    def __init__(self) -> None:
        self.was_always_well = True  # no write of this life failed
        self._real = RealDisk()
        self._synced: dict[int, int] = {}  # inode -> bytes

    def sync(self, wal_fd: int) -> None:
        seen = os.fstat(wal_fd)
        self._synced[seen.st_ino] = seen.st_size

    def checkpoint(self, conn: sqlite3.Connection, *, truncate: bool) -> Checkpointed:
        # A checkpoint syncs the log before it copies from it, and the file after; then the log may begin anew.
        done = self._real.checkpoint(conn, truncate=truncate)
        if done.is_complete:
            self._synced.clear()
        return done

    def synced_bytes(self, log: Path) -> int:
        """How much of this log a power cut leaves."""
        return self._synced.get(log.stat().st_ino, 0) if log.exists() else 0


def carry_over(state: Path, to: Path, disk: SimDisk, *, torn: float | None) -> None:
    """Copy a dead daemon's state as the next one finds it.

    `torn` None: a kill; the kernel has every byte that was written. Else a power cut: of the log bytes that were not synced
    this part survived, cut wherever it happens to be.
    """
    to.mkdir(parents=True)
    for path in sorted(state.iterdir()):
        if path.is_dir():
            shutil.copytree(path, to / path.name)
        elif not path.name.endswith(("-shm", ".lock")) and path.is_file():
            shutil.copy2(path, to / path.name)
    if torn is None:
        return
    for log in to.glob("*-wal"):
        held = state / log.name
        synced = disk.synced_bytes(held)
        rest = held.stat().st_size - synced
        if rest > 0:
            with log.open("r+b") as file:
                file.truncate(synced + int(rest * torn))


class Fullness:
    """While it holds no byte goes into any file of this process, as on a full disk: the kernel itself refuses them.

    By RLIMIT_FSIZE, so SQLite meets a write that fails (EFBIG, SQLITE_IOERR_WRITE) where a full disk says ENOSPC.
    """

    def __init__(self) -> None:
        self.is_full = False

    def begin(self) -> None:
        self.is_full = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def end(self) -> None:
        self.is_full = False
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Room for what the simulation itself writes."""
        was_full = self.is_full
        if was_full:
            self.end()
        try:
            yield
        finally:
            if was_full:
                self.begin()


class Weather:
    """What the sensors tell, whichever daemon asks: the machine is calm but for what a fault made of it."""

    def __init__(self) -> None:
        self.machine = FakeMachine()
        self.calm()

    def calm(self) -> None:
        self.machine.memory_state = roomy()
        self.machine.processor_state = ProcessorState(8, 0.0, 0.0, 2)
        self.machine.pressure = None
        self.full_vram(is_full=False)

    def short_of_memory(self, reserves: float) -> None:
        self.machine.memory_state = MemoryState(48 * GB, int(reserves * RESERVE_BYTES), 0, 0, 0)

    def crowded(self, per_core: float) -> None:
        self.machine.processor_state = ProcessorState(8, 0.0, 0.0, int(8 * per_core))

    def full_vram(self, *, is_full: bool) -> None:
        used = int((0.97 if is_full else 0.7) * 4 * GB)
        self.machine.cards = (Gpu("made up", 4 * GB, used, 0.5),)

    def silent(self) -> None:
        lost = OSError(5, "Input/output error")
        self.machine.memory_state = self.machine.processor_state = lost
        self.machine.cards = None


class SimProcesses(FakeProcesses):
    """Processes that outlive the daemon that started them. `on_go` is told of each program that begins to run."""

    def __init__(self) -> None:
        programs = {BAD: Program(lives_s=3.0, dies_of=11), "deaf": Program(obeys_term=False), "slow": Program(takes_s=2.0)}
        super().__init__(dict.fromkeys(GOOD, Program()) | programs)
        self.on_go: Callable[[FakeProcess], None] = lambda process: None

    def ends(self, process: FakeProcess, status: ExitStatus, *, is_oom: bool = False) -> None:
        """Have a process end now, by a fault of its own or of its cap."""
        if is_oom:
            self.takes_child(process)
        process._end(status, 0.0)

    def takes_child(self, process: FakeProcess) -> None:
        """Have the OOM killer take a process of this one's group."""
        if process.cage is not None:
            self.oom_kills[process.cage] = self.oom_kills.get(process.cage, 0) + 1


class Leased:
    """One life's handle on a process it started or found. When that life is dead its signals reach nobody."""

    def __init__(self, process: FakeProcess | FakeSurvivor, held: Held) -> None:
        self.pid = process.pid
        self.start_ticks = process.start_ticks
        self.stdin: trio.abc.SendStream | None = None
        self._process = process
        self._held = held

    def go(self) -> None:
        self._process.go()
        assert isinstance(self._process, FakeProcess), "who was found has long gone"
        self._held.world.on_go(self._process)

    async def wait(self) -> ExitStatus:
        status = ExitStatus(signal=9)
        async with trio.open_nursery() as nursery:

            async def until_let_go() -> None:
                await self._held.let_go_of.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_let_go)
            status = await self._process.wait()
            nursery.cancel_scope.cancel()
        return status

    def signal(self, signum: int) -> bool:
        return False if self._held.is_let_go else self._process.signal(signum)

    def close(self) -> None:
        if not self._held.is_let_go:
            self._process.close()


class Held:
    """One life's hold on the processes. Let go, it sees none and moves none: what a dead daemon's last steps do is nothing."""

    def __init__(self, world: SimProcesses) -> None:
        self.world = world
        self.let_go_of = trio.Event()
        self.processes = world.processes
        self.oom_kills = world.oom_kills
        self.fleet_limit_hits: int | None = world.fleet_limit_hits
        self.oomd_kills: int | None = world.oomd_kills

    @property
    def is_let_go(self) -> bool:
        return self.let_go_of.is_set()

    @property
    def alive(self) -> list[FakeProcess]:
        return [] if self.is_let_go else self.world.alive

    def alive_in(self, cage: str) -> list[FakeProcess]:
        return [] if self.is_let_go else self.world.alive_in(cage)

    async def spawn(self, launch: Launch, *, hold: bool = False) -> Leased:
        if self.is_let_go:
            await trio.sleep_forever()
        leased = Leased(await self.world.spawn(launch, hold=True), self)
        if not hold:
            leased.go()
        return leased

    def find(self, pid: int, start_ticks: int, boot_id: str) -> Leased | None:
        found = None if self.is_let_go else self.world.find(pid, start_ticks, boot_id)
        return None if found is None else Leased(found, self)

    def become_subreaper(self) -> None:
        pass

    def reap_strays(self) -> int:
        return 0

    def boot_id(self) -> str:
        return self.world.boot_id()

    def account(self, user: str | None) -> Account:
        return self.world.account(user)


def cages_for(held: Held) -> FakeCages:
    """The cages as one life sees them."""
    return FakeCages(held)
