"""The door to the machine: one suite for the fake and for this machine; then files of machines that we are not on."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from supervisord_ai.core.samples import Psi
from supervisord_ai.host.gpu import NvmlGpus
from supervisord_ai.host.machine import (
    LOOK_FOR_ENGINES_EVERY_S,
    FleetState,
    MachineDoor,
    Pressures,
    RealMachine,
    free_bytes,
    windows_drive,
)
from tests.fakes.machine import FakeMachine
from tests.fakes.nvml import FakeNvml


@pytest.fixture(params=["fake", "real"])
def machine(request: pytest.FixtureRequest) -> MachineDoor:
    return FakeMachine() if request.param == "fake" else RealMachine()


class TestEveryMachine:
    def test_its_memory_is_more_than_what_is_free_of_it(self, machine: MachineDoor) -> None:
        found = machine.memory()
        assert found is not None
        assert 0 < found.available_bytes < found.total_bytes
        assert 0 <= found.swap_used_bytes <= found.swap_total_bytes
        assert found.refaults is None or found.refaults >= 0

    def test_its_processors_are_busy_for_a_part_of_the_time(self, machine: MachineDoor) -> None:
        found = machine.processor(0.0)
        assert found is not None
        assert found.cores > 0
        assert 0 <= found.busy_s <= found.total_s
        assert found.runnable >= 0

    def test_what_it_has_not_is_none(self, machine: MachineDoor) -> None:
        assert machine.fleet() is None

    def test_pressure_is_a_share(self, machine: MachineDoor) -> None:
        found = machine.pressures()
        for psi in (found.cpu, found.memory, found.io) if found is not None else ():
            assert psi is None or (0 <= psi.some <= 1 and 0 <= psi.full <= 1)


def test_a_second_of_work_is_a_second_of_busy_time() -> None:
    machine = RealMachine()
    before = machine.processor(0.0)
    ends_at = time.monotonic() + 0.3
    while time.monotonic() < ends_at:
        pass
    after = machine.processor(1.0)
    assert before is not None
    assert after is not None
    assert after.busy_s - before.busy_s > 0.1  # ticks of 10 ms, on a machine that others use
    assert after.total_s - before.total_s < 0.3 * 4 * after.cores


# --- other machines -----------------------------------------------------------------------------------------------------


def made(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


MEMINFO = "MemTotal:  48000 kB\nMemFree:  100 kB\nMemAvailable:  20000 kB\nSwapTotal:  1000 kB\nSwapFree:  400 kB\n"


def test_swap_and_refaults_are_read_in_bytes(tmp_path: Path) -> None:
    vmstat = "workingset_nodes 7\nworkingset_refault_anon 3\nworkingset_refault_file 4\nworkingset_restore_file 9\n"
    found = RealMachine(proc=made(tmp_path, meminfo=MEMINFO, vmstat=vmstat)).memory()
    assert found is not None
    assert (found.total_bytes, found.available_bytes) == (48_000 * 1024, 20_000 * 1024)
    assert (found.swap_total_bytes, found.swap_used_bytes) == (1_024_000, 600 * 1024)
    assert found.refaults == 7 * os.sysconf("SC_PAGE_SIZE")


def test_a_kernel_before_5_9_counts_refaults_in_one_line(tmp_path: Path) -> None:
    found = RealMachine(proc=made(tmp_path, meminfo=MEMINFO, vmstat="workingset_refault 5\n")).memory()
    assert found is not None
    assert found.refaults == 5 * os.sysconf("SC_PAGE_SIZE")


def test_a_machine_that_tells_nothing_has_nothing(tmp_path: Path) -> None:
    machine = RealMachine(proc=tmp_path, gpus=None, fleet=tmp_path / "gone")
    assert machine.memory() is None
    assert machine.processor(0.0) is None
    assert machine.pressures() is None
    assert machine.fleet() is None
    assert machine.windows_free_bytes(0.0) is None


def test_an_old_kernel_has_no_full_pressure_of_the_cpu(tmp_path: Path) -> None:
    proc = made(
        tmp_path,
        pressure__cpu="some avg10=12.50 avg60=0.00 avg300=0.00 total=1\n",
        pressure__memory="some avg10=1.00 avg60=0 avg300=0 total=1\nfull avg10=0.50 avg60=0 avg300=0 total=1\n",
    )
    found = RealMachine(proc=proc).pressures()
    assert found == Pressures(cpu=Psi(0.125, 0.0), memory=Psi(0.01, 0.005))


def process(pid: int, name: str, states: str) -> dict[str, str]:
    threads = {f"{pid}__task__{pid + n}__stat": f"{pid + n} (a) b) {state} 1 2" for n, state in enumerate(states)}
    return {f"{pid}__comm": f"{name}\n", **threads}


def test_threads_of_an_engine_are_not_counted_as_waiting(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    proc = made(
        tmp_path,
        stat="cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1\n",
        loadavg=f"9.0 9.0 9.0 {cores + 21}/400 99\n",
        **process(50, "ollama", "RRRRS"),
        **process(60, "python3", "RR"),
        **process(70, "python3", "RRR"),
    )
    alone = RealMachine(proc=proc).processor(0.0)
    assert alone is not None
    assert alone.runnable == cores + 20 - 4
    with_ours = RealMachine(proc=proc, engine_pids=lambda: [60]).processor(0.0)
    assert with_ours is not None
    assert with_ours.runnable == cores + 20 - 6
    assert (alone.busy_s, alone.total_s) == (1.5, 10.0)


def test_an_engine_is_looked_for_now_and_then_and_one_that_ended_since_has_no_threads(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    files = {"stat": "cpu  100 0 50 800 50 0 0 0 0 0\n", "loadavg": f"9.0 9.0 9.0 {cores + 21}/400 99\n"}
    proc = made(tmp_path, **files, **process(50, "ollama", "RRR"))
    machine = RealMachine(proc=proc, engine_pids=lambda: [60])  # ours, which ended this instant
    seen = []
    for now in (0.0, LOOK_FOR_ENGINES_EVERY_S - 1, LOOK_FOR_ENGINES_EVERY_S):
        found = machine.processor(now)
        assert found is not None
        seen.append(found.runnable - cores - 20)
        made(tmp_path, **process(70, "ollama", "RR"))  # another one, which is seen at the next look
    assert seen == [-3, -3, -5]
    shutil.rmtree(tmp_path / "50")
    ended = machine.processor(LOOK_FOR_ENGINES_EVERY_S + 1)
    assert ended is not None
    assert ended.runnable == cores + 20 - 2


def test_the_cgroup_of_the_fleet_is_read_whole(tmp_path: Path) -> None:
    group = made(
        tmp_path / "agents",
        **{
            "memory.current": "123456\n",
            "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n",
            "cpu.pressure": "some avg10=50.00 avg60=0.00 avg300=0.00 total=1\n",
        },
    )
    found = RealMachine(fleet=group).fleet()
    assert found == FleetState(123456, ooms=1, limit_hits=7, pressures=Pressures(cpu=Psi(0.5, 0.0)))


WSL = "5.15.153.1-microsoft-standard-WSL2\n"


@pytest.mark.parametrize(
    ("osrelease", "mounts", "where"),
    [
        (WSL, r"C:\134 /mnt/c 9p rw,aname=drvfs;path=C:\;uid=1000 0 0", "/mnt/c"),
        (WSL, r"d /mnt/d 9p aname=drvfs;path=D:\ 0 0" "\n" r"c /mnt/my\040c 9p aname=drvfs;path=C:\ 0 0", "/mnt/my c"),
        (WSL, "drvfsC0 /mnt/c virtiofs rw 0 0", "/mnt/c"),
        (WSL, "C: /mnt/c drvfs rw 0 0", "/mnt/c"),
        (WSL, "/dev/sdc / ext4 rw 0 0", None),
        ("6.1.0-18-amd64\n", r"C:\134 /mnt/c 9p rw,aname=drvfs;path=C:\ 0 0", None),
    ],
)
def test_the_drive_of_windows_is_found_where_wsl_has_mounted_it(
    tmp_path: Path, osrelease: str, mounts: str, where: str | None
) -> None:
    assert windows_drive(str(made(tmp_path, sys__kernel__osrelease=osrelease, mounts=mounts + "\n"))) == where


def test_where_nothing_is_mounted_nobody_knows_what_is_free(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "nowhere") is None
    assert (free_bytes(tmp_path) or 0) > 0


def test_cards_come_through_the_door_of_their_own(tmp_path: Path) -> None:
    found = RealMachine(proc=tmp_path, gpus=NvmlGpus(FakeNvml)).gpus(0.0)
    assert found is not None
    assert found[0].total_bytes == 4_294_967_296
