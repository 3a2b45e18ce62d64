"""The fleet with real children, in every form of cage that this machine has, on the real clock.

The suite runs as whoever runs it; where that is root, `test_fleet_as_a_normal_user` runs it again as somebody else.
"""

from __future__ import annotations

import dataclasses
import os
import random
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence, Sized
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.agents.view import AgentView
from supervisord_ai.clock import SystemClock
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.events import AgentStarted, Event
from supervisord_ai.core.policies import LogsPolicy, RestartPolicy, StartPolicy
from supervisord_ai.core.roster import MB, AgentSpec, ClassPolicy, Ready
from supervisord_ai.errors import HostFault
from supervisord_ai.host import procfs
from supervisord_ai.host.cages import find_cages
from supervisord_ai.host.cgroup import folder_name
from supervisord_ai.host.notify import NotifyFolder
from supervisord_ai.host.process import Launch, Processes
from tests.eventually import until
from tests.fakes.fleet_journal import MemoryJournal

pytestmark = pytest.mark.slow

PYTHON = ("/usr/bin/env", "python3", "-I", "-S", "-c")
CLASS = ClassPolicy("opus", memory_bytes=100 * MB, start_s=0.05, grace_s=5.0)
SLEEPS = ("sleep", "100000")
HOG = (*PYTHON, "import time\nheld = []\nwhile True:\n held.append(bytearray(8_000_000))\n time.sleep(0.05)")
POLITE = (
    *PYTHON,
    """
import signal, sys, time
def end(*_):
    time.sleep(1)
    print("done", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(100000)
""",
)
GRANDCHILDREN = "trap '' TERM; sleep 100000 & sleep 100000; wait"
DEAF = ("/bin/sh", "-c", f"trap '' TERM; setsid sh -c \"{GRANDCHILDREN}\" & while :; do sleep 100000; done")
CRASHES = ("/bin/sh", "-c", "echo about to crash >&2; kill -SEGV $$")
ROOM = float(os.environ.get("TEST_ROOM", "1"))  # how much longer things may take: in an emulated machine, say
MEMORY_WRITABLE = os.geteuid() == 0 and os.access("/sys/fs/cgroup/memory", os.W_OK)


@pytest.fixture(params=["v2", "v1", "none"])
def form(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    wanted: str = request.param
    try:
        find_cages(tmp_path / "probe", form=wanted).close()  # type: ignore[arg-type]
    except HostFault as exc:
        if wanted == "v1" and MEMORY_WRITABLE:
            raise
        pytest.skip(str(exc))
    return wanted


class World:
    """One supervisor's fleet; a second one on the same folder and journal is its successor."""

    def __init__(self, folder: Path, form: str, agents: Mapping[str, Sequence[str]], **policy: object) -> None:
        self.folder = folder
        self.processes = Processes()
        self.cages = find_cages(folder, form=form)  # type: ignore[arg-type]
        self.journal = MemoryJournal()
        self.tags: set[str] = set()
        self.start = StartPolicy()
        self.restart = RestartPolicy(base_s=0.1)
        klass = dataclasses.replace(CLASS, **policy)  # type: ignore[arg-type]
        self.specs = {name: AgentSpec(name, klass, tuple(command)) for name, command in agents.items()}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Fleet]:
        fleet = Fleet(
            self.specs,
            start=self.start,
            restart=self.restart,
            logs=LogsPolicy(),
            cages=self.cages,
            processes=self.processes,
            journal=self.journal,
            notify=NotifyFolder(self.folder / "notify", for_others=False),
            clock=SystemClock(),
            tell=self._tell,
            environ_for=lambda spec, generation, run_tag: {},
            log_dir=self.folder / "logs",
            rng=random.Random(1),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(fleet.run)
            yield fleet
            nursery.cancel_scope.cancel()

    def _tell(self, event: Event) -> None:
        if isinstance(event, AgentStarted):
            self.tags.add(event.run_tag)

    def alive(self) -> list[int]:
        """Everyone who carries a tag of this fleet, wherever he went."""
        return [pid for pid in procfs.pids() if is_running(pid) and procfs.environ_value(pid, "AI_SUPERVISOR_RUN") in self.tags]


def is_running(pid: int) -> bool:
    seen = procfs.stat(pid)
    return seen is not None and seen.state != "Z"


def view(fleet: Fleet, name: str) -> AgentView:
    return next(agent for agent in fleet.statistics().agents if agent.name == name)


def all_are(fleet: Fleet, state: AgentState) -> bool:
    return all(agent.state is state for agent in fleet.statistics().agents)


async def test_131_agents_come_up_and_go_down_within_eight_seconds(form: str, tmp_path: Path) -> None:
    world = World(tmp_path, form, {f"agent-{n:03}": SLEEPS for n in range(131)})
    world.start = StartPolicy(batch_size=131)
    async with world.running() as fleet:
        await until(lambda: all_are(fleet, AgentState.RUNNING), within_s=40, what="131 running")
        assert len(world.alive()) == 131
        began = trio.current_time()
        await fleet.stop_all()
        took_s = trio.current_time() - began
        assert world.alive() == []
        assert took_s < 8.0
        assert {agent.verdict for agent in fleet.statistics().agents} == {"stopped:shutdown"}


async def test_one_that_ignores_term_is_gone_with_its_grandchildren(form: str, tmp_path: Path) -> None:
    world = World(tmp_path, form, {"deaf": DEAF, "polite": POLITE})
    log = tmp_path / "logs" / "polite.log"
    async with world.running() as fleet:
        await until(lambda: all_are(fleet, AgentState.RUNNING) and len(world.alive()) >= 6 and log.read_text(), what="everyone")
        began = trio.current_time()
        await fleet.stop_all()
        assert trio.current_time() - began < 8.0
        assert world.alive() == []
        assert view(fleet, "deaf").detail == "did not end within its grace and was killed"
        assert view(fleet, "polite").detail == "exit 0"
        assert log.read_text() == "up\ndone\n"


async def test_an_agent_over_its_cap_dies_alone_and_comes_back(form: str, tmp_path: Path) -> None:
    world = World(tmp_path, form, {"hog": HOG, "neighbour": SLEEPS}, memory_bytes=60 * MB, start_s=0.01)
    async with world.running() as fleet:
        neighbour = await until(lambda: view(fleet, "neighbour").pid, what="the neighbour")
        await until(lambda: view(fleet, "hog").verdict, within_s=40, what="its end")
        hog = view(fleet, "hog")
        if form == "none":
            assert hog.verdict in {"oom:own-cap", "oom:rlimit(likely)"}, hog
        else:
            assert hog.verdict == "oom:own-cap", hog
            assert "of 60 MB" in world.journal.ends[0][3]
        await until(lambda: view(fleet, "hog").generation >= 2, what="its return")
        assert view(fleet, "neighbour").pid == neighbour
        assert view(fleet, "neighbour").restarts == 0
        await fleet.stop_all()


async def test_a_fork_bomb_is_gone_two_seconds_after_its_stop(form: str, tmp_path: Path) -> None:
    """It forks into sessions of its own, twice over, is deaf to TERM, and half of it has no environment."""
    bomb = "trap '' TERM; b() { (setsid sh -c 'sleep 100000 & env -i sleep 100000' &) ; (b &) ; sleep 0.05; }; b; sleep 100000"
    if form == "none":
        pytest.skip("without a group nobody who scrubs its environment can be told from a stranger")
    world = World(tmp_path, form, {"bomb": ("/bin/sh", "-c", bomb), "other": SLEEPS}, grace_s=0.2)
    async with world.running() as fleet:
        cage = world.cages.cage("bomb")
        members = 0
        while members < 60:
            await trio.sleep(0.02)
            members = len(await cage.members())
        began = trio.current_time()
        fleet.stop("bomb")
        await until(lambda: view(fleet, "bomb").state is AgentState.STOPPED, what="its end")
        assert trio.current_time() - began < 2.0 * ROOM + 0.2
        assert await cage.members() == ()
        assert view(fleet, "other").state is AgentState.RUNNING
        await fleet.stop_all()


async def test_a_crash_loop_ends_in_quarantine_with_the_last_words(form: str, tmp_path: Path) -> None:
    world = World(tmp_path, form, {"one": CRASHES, "other": SLEEPS})
    async with world.running() as fleet:
        await until(lambda: view(fleet, "one").state is AgentState.QUARANTINED, within_s=40, what="quarantine")
        assert view(fleet, "one").generation == 5
        assert world.journal.verdicts("one") == ["crash:SEGV"] * 5
        # Where /proc/sys/kernel/core_pattern is a program, it is handed the core whatever our limit says (core(5)).
        told = world.journal.ends[0][3].removeprefix("core dumped; ").splitlines()
        assert told == ["last line: about to crash", "about to crash"]
        assert view(fleet, "other").state is AgentState.RUNNING
        await fleet.stop_all()


async def test_a_start_is_interrupted_in_the_third_batch(form: str, tmp_path: Path) -> None:
    world = World(tmp_path, form, {f"agent-{n:03}": SLEEPS for n in range(131)}, start_s=1.0)
    async with world.running() as fleet:
        await until(lambda: len(world.journal.records) > 22, what="the third batch")
        began = trio.current_time()
        await fleet.stop_all()
        assert trio.current_time() - began < 8.0
        assert world.alive() == []
        assert len(world.journal.records) <= 30
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.journal.records) <= 30


async def test_survivors_of_a_killed_supervisor_are_ended_before_the_first_start(form: str, tmp_path: Path) -> None:
    """What SIGKILL leaves: cages, children in them that obey nobody, and a journal that knows them."""
    killed = World(tmp_path, form, {f"agent-{n}": SLEEPS for n in range(8)} | {"deaf": DEAF})
    handles = []
    for name, spec in killed.specs.items():
        cage = killed.cages.cage(name)
        tag = f"{name}.1.{secrets.token_hex(8)}"
        cage.prepare(spec.policy.memory_bytes, tag)
        env = {"PATH": "/usr/bin:/bin", "AI_SUPERVISOR_RUN": tag}
        handle = await killed.processes.spawn(Launch(spec.command, env, join_files=cage.join_files, rlimits=cage.rlimits))
        boot = killed.processes.boot_id()
        number = await killed.journal.next_generation(name, spec.digest)
        await killed.journal.started(name, number, handle.pid, handle.start_ticks, boot, cage.record, tag)
        killed.tags.add(tag)
        handles.append(handle)
    survivors = await until(lambda: alive if len(alive := killed.alive()) >= 12 else None, what="everyone")
    successor = World(tmp_path, form, {"agent-0": SLEEPS})
    successor.journal = killed.journal
    successor.processes = killed.processes  # here they are this process's children, not init's: it must not take them for strays
    async with successor.running() as fleet:
        assert [pid for pid in survivors if is_running(pid)] == []
        await until(lambda: all_are(fleet, AgentState.RUNNING), what="the new one")
        assert view(fleet, "agent-0").generation == 2
        assert len(successor.journal.ends) == 9
        assert {verdict for _, _, verdict, _ in successor.journal.ends} == {"lost-while-down"}
        assert len(successor.alive()) == 1
        await fleet.stop_all()
    for handle in handles:
        assert (await handle.wait()).signal in {9, 15}
        handle.close()


async def test_a_job_and_its_output(form: str, tmp_path: Path) -> None:
    script = "echo out; echo err >&2; echo $HOME $PATH; pwd"
    world = World(tmp_path, form, {"job": ("/bin/sh", "-c", script)})
    async with world.running() as fleet:
        await until(lambda: view(fleet, "job").state is AgentState.FINISHED, what="its end")
        await fleet.stop_all()
    lines = (tmp_path / "logs" / "job.log").read_text().splitlines()
    assert lines[:2] == ["out", "err"]
    assert lines[2].endswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert lines[3] == "/"
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


async def test_a_fleet_cancelled_in_the_middle_leaves_no_process_group_or_descriptor(form: str, tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for records in (0, 1, 5, 11):
        world = World(tmp_path, form, {f"agent-{n}": DEAF for n in range(12)}, start_s=0.3)
        async with world.running():
            await until(partial(has_grown, world.journal.records, records), what=f"{records} starts")
        assert world.alive() == []
        assert [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if folder_name(tmp_path) in folder] == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def has_grown(records: Sized, size: int) -> bool:
    return len(records) >= size


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start agents as somebody else")
async def test_an_agent_with_a_user_of_its_own_cannot_leave_its_group(form: str, tmp_path: Path) -> None:
    if form == "none":
        pytest.skip("there is no group to leave")
    script = "for f in $(find /sys/fs/cgroup -name cgroup.procs); do { echo 0 >$f; } 2>/dev/null && echo left to $f; done; id -un"
    world = World(tmp_path, form, {"one": ("/bin/sh", "-c", script)}, user="nobody")
    async with world.running() as fleet:
        await until(lambda: view(fleet, "one").state is AgentState.FINISHED, what="its end")
        await fleet.stop_all()
    assert (tmp_path / "logs" / "one.log").read_text().splitlines()[-1] == "nobody"
    assert "left to" not in (tmp_path / "logs" / "one.log").read_text()


async def test_a_real_agent_says_itself_that_it_is_ready(form: str, tmp_path: Path) -> None:
    says = (
        "import os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    s.sendto(b'READY=1\\nSTATUS=its child speaks', os.environ['NOTIFY_SOCKET'])\n"
        "time.sleep(600)\n"
    )
    world = World(tmp_path, form, {"one": (sys.executable, "-c", says)}, ready=Ready.NOTIFY)
    async with world.running() as fleet:
        await until(lambda: all_are(fleet, AgentState.RUNNING), what="its readiness")
        assert view(fleet, "one").status == "its child speaks"
        await fleet.stop_all()
    assert os.listdir(tmp_path / "notify") == []
    assert world.alive() == []
