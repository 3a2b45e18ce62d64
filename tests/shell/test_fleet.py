"""The life of the fleet in virtual time: batches, stops, crashes, quarantine, readiness, faults of ours."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.agents.managed import ManagedEngine
from supervisord_ai.agents.memory_watch import PeakNotes
from supervisord_ai.agents.view import AgentView
from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.events import AgentAsked, AgentEnded, AgentReady, AgentStarted, ChildKilled, Event, GatewayRefused
from supervisord_ai.core.memory_plan import Enforce
from supervisord_ai.core.policies import LogsPolicy, RestartPolicy, RolloutPolicy, StartPolicy
from supervisord_ai.core.roster import MB, AgentSpec, ClassPolicy, Ready, Restart
from supervisord_ai.errors import SpawnFailed, StoreFault, UsageError
from supervisord_ai.host.cgroup import Guarantee
from supervisord_ai.host.process import Launch
from supervisord_ai.host.signals import KILL, TERM
from tests.fakes.fleet_journal import MemoryJournal
from tests.fakes.notify import FakeNotify
from tests.fakes.process import FakeCages, FakeProcess, FakeProcesses, Program

CLASS = ClassPolicy("opus", memory_bytes=100 * MB, start_s=2.0, grace_s=5.0)
PROGRAMS = {
    "serve": Program(),
    "job": Program(lives_s=1.0),
    "crash": Program(lives_s=0.5, dies_of=11),
    "deaf": Program(obeys_term=False),
    "slow": Program(takes_s=3.0),
    "gives-up": Program(lives_s=1.0, code=1),
    "oom": Program(lives_s=1.0, dies_of=KILL, is_oom=True),
    "parent": Program(lives_s=1.0, stray=Program(obeys_term=False)),
    "crashing-parent": Program(lives_s=1.0, dies_of=11, stray=Program(obeys_term=False)),
    "cursed-parent": Program(lives_s=1.0, stray=Program(obeys_term=False, is_unkillable=True)),
    "gentle-parent": Program(stray=Program(takes_s=3.0)),
    "undead": Program(is_unkillable=True, obeys_term=False),
}


class World:
    """A fleet and everything around it that a test may look at or set."""

    def __init__(self, log_dir: Path, agents: Mapping[str, str], **policy: object) -> None:
        self.processes = FakeProcesses(PROGRAMS)
        self.cages = FakeCages(self.processes)
        self.journal = MemoryJournal()
        self.notify = FakeNotify()
        self.events: list[Event] = []
        self.on_event: Callable[[Event], object] = lambda event: None
        self.log_dir = log_dir
        self.start = StartPolicy()
        self.restart = RestartPolicy()
        self.rollout = RolloutPolicy()
        self.enforce = Enforce.HARD
        self.peaks: PeakNotes | None = None
        self.engines: dict[str, ManagedEngine] = {}
        self.specs = {
            name: AgentSpec(name, dataclasses.replace(CLASS, **policy), (program,))  # type: ignore[arg-type]
            for name, program in agents.items()
        }

    def fleet(self) -> Fleet:
        return Fleet(
            self.specs,
            start=self.start,
            restart=self.restart,
            logs=LogsPolicy(),
            cages=self.cages,
            processes=self.processes,
            journal=self.journal,
            notify=self.notify,
            clock=VirtualClock(),
            tell=self._tell,
            environ_for=lambda spec, generation, run_tag: {"GIVEN": f"{spec.name}/{generation}"},
            log_dir=self.log_dir,
            rng=random.Random(1),
            rollout=self.rollout,
            enforce=self.enforce,
            peaks=self.peaks,
            engines=self.engines,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Fleet]:
        fleet = self.fleet()
        async with trio.open_nursery() as nursery:
            await nursery.start(fleet.run)
            yield fleet
            nursery.cancel_scope.cancel()

    def _tell(self, event: Event) -> None:
        self.on_event(event)
        self.events.append(event)

    async def leave_behind(self, name: str, program: str, *, boot: str | None = None) -> FakeProcess:
        """Have a process of an earlier supervisor, which was killed, still run."""
        cage = self.cages.cage(name)
        process = await self.processes.spawn(Launch((program,), {}, join_files=cage.join_files))
        facts = process.pid, process.start_ticks, boot or self.processes.boot
        number = await self.journal.next_generation(name, "digest")
        await self.journal.started(name, number, *facts, cage.record, f"{name}.1.tag")
        self.processes.spawned.clear()
        return process

    def process(self, program: str) -> FakeProcess:
        return next(p for p in self.processes.alive if p.launch.argv[0] == program)


def view(fleet: Fleet, name: str) -> AgentView:
    return next(agent for agent in fleet.statistics().agents if agent.name == name)


def states(fleet: Fleet) -> dict[str, AgentState]:
    return {agent.name: agent.state for agent in fleet.statistics().agents}


# --- start ---


async def test_the_next_batch_starts_when_this_one_is_ready(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {f"a{n:03}": "serve" for n in range(131)})
    began = trio.current_time()
    async with world.running() as fleet:
        await trio.sleep(30)
        assert set(states(fleet).values()) == {AgentState.RUNNING}
    starts = [round(at - began, 3) for at, _ in world.processes.spawned]
    assert starts == [2.0 * (n // 10) for n in range(131)]


async def test_a_batch_that_is_never_ready_holds_the_next_for_the_delay_only(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {f"a{n}": "serve" for n in range(4)}, ready=Ready.REQUEST)
    world.start = StartPolicy(batch_size=2, batch_delay_s=30.0)
    began = trio.current_time()
    async with world.running():
        await trio.sleep(100)
    assert [at - began for at, _ in world.processes.spawned] == [0.0, 0.0, 30.0, 30.0]


async def test_a_stop_in_the_middle_of_a_batch_starts_nobody_else(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {f"a{n:03}": "serve" for n in range(131)})
    world.processes.spawn_s = 1.0
    async with world.running() as fleet:
        await trio.sleep(6.5)  # the third batch: its children are being made
        began = trio.current_time()
        await fleet.stop_all()
        assert trio.current_time() - began < 1.0
        assert world.processes.alive == []
        await trio.sleep(100)
    assert len(world.processes.spawned) == 20
    assert len(world.processes.closed) == 20
    assert all(agent.state in {AgentState.STOPPED, AgentState.PENDING} for agent in fleet.statistics().agents)


async def test_an_agent_is_written_down_and_told_of_before_it_runs(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    seen: list[str] = []

    class Watching(MemoryJournal):
        async def started(self, name: str, *facts: object) -> None:
            seen.append(f"journal, held {world.process('serve').is_held}")
            await super().started(name, *facts)  # type: ignore[arg-type]

    world.journal = Watching()
    world.on_event = lambda event: seen.append(f"{type(event).__name__}, held {world.process('serve').is_held}")
    async with world.running():
        await trio.sleep(1)
        assert seen == ["journal, held True", "AgentStarted, held True"]
        assert not world.process("serve").is_held


async def test_an_agent_gets_its_cage_its_log_and_its_environment(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    world.specs["one"] = dataclasses.replace(world.specs["one"], env=(("MINE", "1"), ("PATH", "/mine")), cwd="/srv")
    async with world.running():
        await trio.sleep(1)
        launch = world.process("serve").launch
    started = next(e for e in world.events if isinstance(e, AgentStarted))
    assert launch.cwd == "/srv"
    assert launch.join_files == ("/fake/one/cgroup.procs",)
    assert launch.env["AI_SUPERVISOR_RUN"] == started.run_tag
    assert launch.env["GIVEN"] == "one/1"
    assert launch.env["MINE"] == "1"
    assert launch.env["PATH"] == "/mine"
    assert world.cages.cage("one").cap_bytes == 100 * MB
    assert (tmp_path / "one.log").exists()
    assert (started.agent, started.generation, started.cgroup, started.uid) == ("one", 1, "/fake/one", 1000)


async def test_readiness_by_request_comes_with_the_first_request_of_this_generation(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "serve"}, ready=Ready.REQUEST)
    async with world.running() as fleet:
        await trio.sleep(100)
        fleet.tell(AgentAsked("one", 7))
        fleet.tell(AgentAsked("nobody", 1))
        await wait_all_tasks_blocked()
        assert states(fleet) == {"one": AgentState.STARTING}
        fleet.tell(AgentAsked("one", 1))
        await wait_all_tasks_blocked()
        assert states(fleet) == {"one": AgentState.RUNNING}
    assert AgentReady("one", 1) in world.events


async def test_readiness_by_notify_comes_with_the_word_of_one_of_its_own_processes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "gentle-parent", "two": "serve"}, ready=Ready.NOTIFY)
    async with world.running() as fleet:
        await trio.sleep(100)
        main, child = [process.pid for process in world.processes.alive if process.launch.argv[0] == "gentle-parent"]
        stranger = world.process("serve").pid
        socket = world.notify.sockets["one"]
        assert world.process("serve").launch.env["NOTIFY_SOCKET"] == "/notify/two"
        socket.say(stranger, b"READY=1\nSTATUS=I am one")
        socket.say(0, b"READY=1")
        await trio.sleep(1)
        assert (view(fleet, "one").state, view(fleet, "one").status) == (AgentState.STARTING, "")
        socket.say(main, b"STATUS=loading")
        await trio.sleep(1)
        assert (view(fleet, "one").state, view(fleet, "one").status) == (AgentState.STARTING, "loading")
        socket.say(child, b"READY=1\nSTATUS=serving")
        await trio.sleep(1)
        assert (view(fleet, "one").state, view(fleet, "one").status) == (AgentState.RUNNING, "serving")
        assert AgentReady("one", 1) in world.events
        socket.say(main, b"STOPPING=1")
        await trio.sleep(1)
        assert view(fleet, "one").status == "stopping"
        fleet.restart("one")
        await trio.sleep(10)
        assert (view(fleet, "one").state, view(fleet, "one").generation) == (AgentState.STARTING, 2)
        assert view(fleet, "one").status == ""
        assert socket.is_closed
    assert all(socket.is_closed for socket in world.notify.sockets.values())


async def test_a_word_counts_as_status_only_where_readiness_is_something_else(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"}, ready=Ready.REQUEST)
    async with world.running() as fleet:
        await trio.sleep(1)
        world.notify.sockets["one"].say(world.process("serve").pid, b"READY=1\nSTATUS=here")
        await trio.sleep(1)
        assert (view(fleet, "one").state, view(fleet, "one").status) == (AgentState.STARTING, "here")


async def test_who_needs_no_notify_socket_starts_without_one(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "two": "serve"}, restart=Restart.NO)
    world.notify.is_broken = True
    policy = dataclasses.replace(world.specs["two"].policy, ready=Ready.NOTIFY)
    world.specs["two"] = dataclasses.replace(world.specs["two"], policy=policy)
    async with world.running() as fleet:
        await trio.sleep(5)
        assert states(fleet) == {"one": AgentState.RUNNING, "two": AgentState.FINISHED}
        assert view(fleet, "two").verdict == "failed:cage"
        assert "NOTIFY_SOCKET" not in world.process("serve").launch.env


# --- ends ---


async def test_a_crash_comes_back_with_backoff_and_five_lead_to_quarantine(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash", "other": "serve"})
    async with world.running() as fleet:
        await trio.sleep(60)
        one = view(fleet, "one")
        assert (one.state, one.verdict, one.restarts, one.generation) == (AgentState.QUARANTINED, "crash:SEGV", 4, 5)
        assert one.detail == "5 ends in 60 s, the last: crash:SEGV"
        assert states(fleet)["other"] is AgentState.RUNNING
        await trio.sleep(500)
        assert view(fleet, "one").generation == 5
        await trio.sleep(100)  # its trial, ten minutes later
        assert (view(fleet, "one").state, view(fleet, "one").generation) == (AgentState.QUARANTINED, 6)
    assert world.journal.verdicts("one") == ["crash:SEGV"] * 6


async def test_a_quarantine_says_when_its_trial_is(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash", "other": "serve"})
    async with world.running() as fleet:
        await trio.sleep(200)
        quarantined = view(fleet, "one")
        assert quarantined.state is AgentState.QUARANTINED
        assert quarantined.next_start_s is not None
        assert quarantined.next_start_s == pytest.approx(600 - quarantined.since_s)
        assert view(fleet, "other").next_start_s is None
        await trio.sleep(quarantined.next_start_s - 0.01)
        assert view(fleet, "one").generation == quarantined.generation
        await trio.sleep(3)
        assert view(fleet, "one").generation == quarantined.generation + 1


async def test_a_release_lets_it_try_again_as_if_nothing_had_been(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash"})
    async with world.running() as fleet:
        await trio.sleep(60)
        with pytest.raises(UsageError, match="there is no agent two"):
            fleet.release("two")
        world.processes.programs["crash"] = Program()
        fleet.release("one")
        await trio.sleep(10)
        assert states(fleet) == {"one": AgentState.RUNNING}
        with pytest.raises(UsageError, match="not in quarantine"):
            fleet.release("one")


async def test_a_job_that_has_finished_rests(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "job"})
    async with world.running() as fleet:
        await trio.sleep(100)
        assert (view(fleet, "one").state, view(fleet, "one").verdict) == (AgentState.FINISHED, "finished")
        fleet.start("one")
        await trio.sleep(100)
        assert view(fleet, "one").generation == 2
        assert view(fleet, "one").restarts == 0


async def test_started_always_it_comes_back(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "job"}, restart=Restart.ALWAYS)
    async with world.running() as fleet:
        await trio.sleep(20.5)
        assert view(fleet, "one").generation == 11


async def test_131_that_fall_together_come_back_through_the_gate(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {f"a{n:03}": "serve" for n in range(131)}, start_s=0.0)
    world.start = StartPolicy(batch_size=131)
    async with world.running() as fleet:
        await trio.sleep(1)
        fell = trio.current_time()
        for process in world.processes.alive:
            process.signal(KILL)
        await trio.sleep(60)
        assert set(states(fleet).values()) == {AgentState.RUNNING}
    starts = sorted(at - fell for at, _ in world.processes.spawned[131:])
    assert len(starts) == 131
    assert all(later - earlier >= 2.0 - 1e-6 for earlier, later in zip(starts, starts[10:], strict=False))
    assert starts[-1] >= 26.0


async def test_131_that_their_owner_starts_at_once_come_up_through_the_gate(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {f"a{n:03}": "serve" for n in range(131)}, start_s=0.0)
    world.start = StartPolicy(batch_size=131)
    async with world.running() as fleet:
        await trio.sleep(1)
        for name in world.specs:
            fleet.stop(name)
        await trio.sleep(10)
        began = trio.current_time()
        for name in world.specs:
            fleet.start(name)
        await trio.sleep(0.1)
        assert len(world.processes.alive) == 10  # who starts one alone does not wait
        due = sorted(one.next_start_s for one in fleet.statistics().agents if one.next_start_s is not None)
        assert len(due) == 121  # whoever looks at one that does not come yet is told when it will
        assert [due[0], due[-1]] == pytest.approx([1.9, 25.9])
        await trio.sleep(60)
        assert {one.next_start_s for one in fleet.statistics().agents} == {None}
        assert set(states(fleet).values()) == {AgentState.RUNNING}
    starts = sorted(at - began for at, _ in world.processes.spawned[131:])
    assert len(starts) == 131
    assert all(later - earlier >= 2.0 - 1e-6 for earlier, later in zip(starts, starts[10:], strict=False))


async def test_an_oom_kill_is_told_from_a_kill_from_outside(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"hog": "oom", "victim": "serve"})
    async with world.running() as fleet:
        await trio.sleep(0.5)
        world.process("serve").signal(KILL)
        await trio.sleep(1)
        assert view(fleet, "hog").verdict == "oom:own-cap"
        assert view(fleet, "victim").verdict == "killed:external"


async def test_a_child_taken_by_the_oom_killer_is_told_once_and_is_no_end(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "hog": "oom", "deaf": "deaf"}, restart=Restart.NO)
    world.processes.oom_kills["/fake/one"] = 7  # of earlier generations
    async with world.running() as fleet:
        await trio.sleep(3)
        world.processes.oom_kills["/fake/one"] += 2
        await trio.sleep(10)
        assert [event for event in world.events if isinstance(event, ChildKilled)] == [ChildKilled("one", 1, 2)]
        assert view(fleet, "one").state is AgentState.RUNNING
        assert view(fleet, "hog").verdict == "oom:own-cap"
        fleet.stop("deaf")
        world.processes.oom_kills["/fake/deaf"] = 1  # while it is ended: its verdict tells
        await trio.sleep(10)
        assert len([event for event in world.events if isinstance(event, ChildKilled)]) == 1


async def test_a_child_that_was_taken_long_ago_is_not_what_an_agent_ends_of(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"}, restart=Restart.NO)
    async with world.running() as fleet:
        await trio.sleep(3)
        world.processes.oom_kills["/fake/one"] = 1
        await trio.sleep(60)
        world.process("serve").signal(KILL)
        await trio.sleep(1)
        assert view(fleet, "one").verdict == "killed:external"


async def test_nobody_is_started_again_before_those_who_outlived_him_are_gone(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "parent"}, restart=Restart.ALWAYS)
    async with world.running():
        await trio.sleep(1.5)
        assert len(world.processes.alive) == 1  # the child, deaf to TERM
        assert len(world.processes.spawned) == 1
        await trio.sleep(3.0)
        assert len(world.processes.spawned) == 2
    assert world.processes.alive == []


async def test_a_program_that_cannot_be_executed_and_a_cage_that_cannot_be_made_are_two_verdicts(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "missing", "two": "serve", "three": "serve", "four": "elsewhere"}, restart=Restart.NO)
    world.cages.cage("two").is_broken = True
    world.specs["three"] = dataclasses.replace(
        world.specs["three"], policy=dataclasses.replace(world.specs["three"].policy, user="nobody-there")
    )
    world.processes.fails["elsewhere"] = SpawnFailed("failed:exec", "no such folder")
    async with world.running() as fleet:
        await trio.sleep(1)
        found = {agent.name: (agent.verdict, agent.detail) for agent in fleet.statistics().agents}
        assert set(states(fleet).values()) == {AgentState.FINISHED}
    assert found == {
        "one": ("failed:exec", "the program could not be executed"),
        "two": ("failed:cage", "/fake/two: no space left on device"),
        "three": ("failed:cage", "there is no user nobody-there on this machine"),
        "four": ("failed:exec", "no such folder"),
    }


async def test_ollama_down_for_ten_minutes_quarantines_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    """131 agents that ask, get a 503 and exit with 1, again and again; then Ollama is back."""
    world = World(tmp_path, {f"a{n:03}": "gives-up" for n in range(131)})
    async with world.running() as fleet:
        refuses = True

        def refuse(event: Event) -> None:
            if isinstance(event, AgentStarted) and refuses:
                nursery.start_soon(refuse_soon, event)

        async def refuse_soon(event: AgentStarted) -> None:
            await trio.sleep(0.5)
            fleet.tell(GatewayRefused(event.agent, event.generation))

        async with trio.open_nursery() as nursery:
            world.on_event = refuse
            await trio.sleep(600)
            assert not set(states(fleet).values()) & {AgentState.QUARANTINED, AgentState.FINISHED}
            assert view(fleet, "a000").restarts > 10
            assert view(fleet, "a000").detail.startswith("after=gateway: 0.5 s before")
            refuses = False
            world.processes.programs["gives-up"] = Program()
            await trio.sleep(120)
            assert set(states(fleet).values()) == {AgentState.RUNNING}


async def test_a_refusal_of_an_earlier_generation_excuses_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "gives-up"})
    async with world.running() as fleet:

        def refuse(event: Event) -> None:
            if isinstance(event, AgentReady | AgentStarted):
                fleet.tell(GatewayRefused(event.agent, event.generation - 1))
                fleet.tell(GatewayRefused("nobody", 1))

        world.on_event = refuse
        await trio.sleep(60)
        assert states(fleet) == {"one": AgentState.QUARANTINED}


# --- periodic jobs ---


async def test_a_periodic_job_runs_a_period_after_its_last_start_and_never_twice_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "job"})
    world.specs["one"] = dataclasses.replace(world.specs["one"], every_s=60.0)
    began = trio.current_time()
    async with world.running() as fleet:
        await trio.sleep(130)
        assert [at - began for at, _ in world.processes.spawned] == [0.0, 60.0, 120.0]
        one = view(fleet, "one")
        assert (one.state, one.verdict, one.restarts) == (AgentState.SCHEDULED, "finished", 0)
        world.processes.programs["job"] = Program(lives_s=90.0)
        await trio.sleep(370)
        assert [at - began for at, _ in world.processes.spawned] == [0.0, 60.0, 120.0, 180.0, 270.0, 360.0, 450.0]
        fleet.stop("one")
        await trio.sleep(1000)
        assert states(fleet) == {"one": AgentState.STOPPED}
        assert len(world.processes.spawned) == 7


async def test_a_periodic_job_is_run_now_when_its_owner_says_so(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "job"})
    world.specs["one"] = dataclasses.replace(world.specs["one"], every_s=600.0)
    began = trio.current_time()
    async with world.running() as fleet:
        await trio.sleep(100)
        fleet.start("one")
        await trio.sleep(650)
        assert [at - began for at, _ in world.processes.spawned] == [0.0, 100.0, 700.0]


async def test_a_periodic_job_that_fails_waits_for_its_period_too(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash"})
    world.specs["one"] = dataclasses.replace(world.specs["one"], every_s=60.0)
    began = trio.current_time()
    async with world.running() as fleet:
        await trio.sleep(130)
        assert [at - began for at, _ in world.processes.spawned] == [0.0, 60.0, 120.0]
        assert states(fleet) == {"one": AgentState.BACKOFF}


async def test_a_batch_does_not_wait_for_the_next_run_of_a_job(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "job", "two": "serve"})
    world.specs["one"] = dataclasses.replace(world.specs["one"], every_s=600.0)
    world.start = StartPolicy(batch_size=1)
    began = trio.current_time()
    async with world.running():
        await trio.sleep(10)
    assert [at - began for at, _ in world.processes.spawned] == [0.0, 1.0]


# --- stop ---


async def test_a_stop_asks_first_and_kills_when_the_grace_is_over(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "two": "deaf"})
    async with world.running() as fleet:
        await trio.sleep(3)
        deaf = world.process("deaf")
        began = trio.current_time()
        await fleet.stop_all(within_s=7.0)
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.1)
        assert deaf.signals[0] == TERM
        assert deaf.signals[-1] == KILL
        assert {a.name: (a.verdict, a.detail) for a in fleet.statistics().agents} == {
            "one": ("stopped:shutdown", "ended by SIGTERM"),
            "two": ("stopped:shutdown", "did not end within its grace and was killed"),
        }
    assert {(name, reason) for name, _, reason in world.journal.intents} == {("one", "shutdown"), ("two", "shutdown")}
    assert world.cages.is_closed


async def test_a_child_that_needs_its_grace_gets_it_though_its_parent_is_gone(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "gentle-parent"})
    async with world.running() as fleet:
        await trio.sleep(3)
        child = next(p for p in world.processes.alive if p.program.takes_s)
        await fleet.stop_all()
        assert KILL not in child.signals


async def test_stop_beats_start_wherever_the_agent_stands(autojump_clock: MockClock, tmp_path: Path) -> None:
    for pause_s in (0.0, 0.05, 0.15, 0.3, 0.55, 0.7, 1.0, 2.5):
        world = World(tmp_path, {"one": "crash"})
        world.processes.spawn_s = 0.1
        async with world.running() as fleet:
            await trio.sleep(pause_s)
            fleet.stop("one")
            await trio.sleep(60)
            assert states(fleet) == {"one": AgentState.STOPPED}, pause_s
            assert world.processes.alive == [], pause_s
            spawned = len(world.processes.spawned)
            await trio.sleep(1000)
            assert len(world.processes.spawned) == spawned, pause_s


async def test_an_owner_who_spoke_before_the_batch_came_is_not_overruled(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Which of the two tasks runs first is trio's draw, so it is drawn often."""
    for _ in range(30):
        world = World(tmp_path, {"one": "serve"})
        async with world.running() as fleet:
            fleet.stop("one")
            await trio.sleep(10)
            assert states(fleet) == {"one": AgentState.STOPPED}
            assert world.processes.spawned == []


async def test_start_after_stop_while_it_is_still_ending_starts_it_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "slow"})
    async with world.running() as fleet:
        await trio.sleep(3)
        fleet.stop("one")
        await trio.sleep(1)
        assert states(fleet) == {"one": AgentState.STOPPING}
        fleet.start("one")
        await trio.sleep(10)
        assert (view(fleet, "one").state, view(fleet, "one").generation) == (AgentState.RUNNING, 2)
        assert view(fleet, "one").verdict == "stopped:owner"


async def test_a_restart_is_no_crash(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    async with world.running() as fleet:
        for generation in range(1, 20):
            await trio.sleep(3)
            assert (view(fleet, "one").state, view(fleet, "one").generation) == (AgentState.RUNNING, generation)
            fleet.restart("one")


async def test_after_the_end_has_begun_nobody_is_started(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash", "two": "serve"})
    async with world.running() as fleet:
        await trio.sleep(0.2)
        await fleet.stop_all()
        with pytest.raises(UsageError, match="being stopped"):
            fleet.start("one")
        await trio.sleep(1000)
        assert world.processes.alive == []


async def test_a_fleet_that_is_cancelled_leaves_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    for pause_s in (0.0, 0.5, 1.0, 1.1, 2.0, 5.0):
        world = World(tmp_path, {f"a{n}": "deaf" for n in range(30)})
        world.processes.spawn_s = 1.0
        async with world.running():
            await trio.sleep(pause_s)
        assert world.processes.alive == [], pause_s
        assert sorted(world.processes.closed) == sorted(world.processes.processes), pause_s
        told = [(e.agent, e.generation) for e in world.events if isinstance(e, AgentStarted)]
        assert sorted((e.agent, e.generation) for e in world.events if isinstance(e, AgentEnded)) == sorted(told)


async def test_one_that_cannot_be_ended_is_never_started_twice(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "undead"})
    async with world.running() as fleet:
        await trio.sleep(3)
        fleet.restart("one")
        await trio.sleep(300)
        assert len(world.processes.spawned) == 1
        world.processes.alive[0].program = Program()  # the kernel lets go
        world.processes.alive[0].signal(KILL)


async def test_a_child_that_cannot_be_ended_keeps_its_agent_down_until_it_has(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "cursed-parent", "other": "serve"})
    async with world.running() as fleet:
        await trio.sleep(30)
        assert states(fleet) == {"one": AgentState.QUARANTINED, "other": AgentState.RUNNING}
        assert "do not end when killed" in view(fleet, "one").detail
        fleet.release("one")
        await trio.sleep(60)
        assert [name for _, name in world.processes.spawned].count("cursed-parent") == 1
        assert view(fleet, "one").verdict == "failed:cage"
        child = next(p for p in world.processes.alive if p.program.is_unkillable)
        child.program = Program()
        child.signal(KILL)
        world.processes.programs["cursed-parent"] = Program()
        fleet.restart("one")
        await trio.sleep(10)
        assert states(fleet)["one"] is AgentState.RUNNING


async def test_a_stop_that_comes_after_the_crash_is_not_the_reason_for_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The main process has crashed, its deaf child is given its time, and then the whole fleet is stopped."""
    world = World(tmp_path, {"one": "crashing-parent"})
    async with world.running() as fleet:
        await trio.sleep(1.5)
        assert len(world.processes.alive) == 1
        began = trio.current_time()
        await fleet.stop_all(within_s=2.5)
        assert trio.current_time() - began == pytest.approx(0.5, abs=0.1)
        assert (view(fleet, "one").state, view(fleet, "one").verdict) == (AgentState.STOPPED, "crash:SEGV")
    assert world.journal.intents == []


async def test_the_last_verdict_is_remembered_over_a_restart_of_the_supervisor(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "crash"}, restart=Restart.NO)
    async with world.running():
        await trio.sleep(1)
    successor = World(tmp_path, {"one": "serve"})
    successor.journal = world.journal
    async with successor.running() as fleet:
        await wait_all_tasks_blocked()
        assert (view(fleet, "one").verdict, view(fleet, "one").generation) == ("crash:SEGV", 2)


# --- memory without a group ---


async def test_without_a_group_three_looks_over_the_cap_end_it(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "neighbour": "serve"})
    world.cages.guarantee = Guarantee.SOFT_RLIMIT
    world.cages.used = {"one": 110 * MB, "neighbour": 90 * MB}
    async with world.running() as fleet:
        await trio.sleep(1.5)  # two looks, or one: the first may come before the first start
        assert view(fleet, "one").verdict is None
        await trio.sleep(2.0)
        assert view(fleet, "one").verdict == "oom:own-cap"
        world.cages.used["one"] = 50 * MB
        await trio.sleep(5)
        assert states(fleet) == {"one": AgentState.RUNNING, "neighbour": AgentState.RUNNING}
        assert (view(fleet, "one").generation, view(fleet, "neighbour").generation) == (2, 1)
        assert fleet.statistics().guarantee == "soft-rlimit"


async def test_far_over_the_cap_there_is_no_grace(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "deaf"})
    world.cages.guarantee = Guarantee.SOFT_RLIMIT
    async with world.running() as fleet:
        await trio.sleep(1.5)
        world.cages.used = {"one": 130 * MB}
        await trio.sleep(1)
        assert view(fleet, "one").verdict == "oom:own-cap"


# --- after a crash of the supervisor ---


async def test_survivors_of_the_last_supervisor_are_ended_before_anyone_is_started(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {f"a{n}": "serve" for n in range(3)})
    survivors = [await world.leave_behind(name, "serve") for name in ("a0", "a1", "no-longer-in-the-roster")]
    survivors.append(await world.leave_behind("a2", "deaf"))
    began = trio.current_time()
    async with world.running() as fleet:
        assert not any(process.is_alive for process in survivors)
        assert trio.current_time() - began == pytest.approx(2.0, abs=0.1)
        assert world.processes.spawned == []
        await trio.sleep(3)
        assert {agent.name: agent.generation for agent in fleet.statistics().agents} == {"a0": 2, "a1": 2, "a2": 2}
    assert {name for name, _, verdict, _ in world.journal.ends if verdict == "lost-while-down"} == {
        "a0",
        "a1",
        "a2",
        "no-longer-in-the-roster",
    }
    assert survivors[0].signals == [TERM]
    told = {(e.agent, e.generation) for e in world.events if isinstance(e, AgentEnded) and e.verdict == "lost-while-down"}
    assert told == {(name, 1) for name in ("a0", "a1", "a2", "no-longer-in-the-roster")}


async def test_a_stop_that_comes_while_survivors_are_ended_waits_for_them_and_starts_nobody(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "serve"})
    survivor = await world.leave_behind("one", "deaf")
    fleet = world.fleet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run)
        await trio.sleep(1)
        await fleet.stop_all()
        assert not survivor.is_alive
        await trio.sleep(100)
        assert world.processes.spawned == []
        nursery.cancel_scope.cancel()


async def test_a_stop_of_a_fleet_that_has_ended_of_a_fault_returns_at_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    async with world.running() as fleet:
        await trio.sleep(3)
    began = trio.current_time()
    await fleet.stop_all()
    assert trio.current_time() == began
    assert world.processes.alive == []


async def test_a_survivor_that_cannot_be_ended_keeps_its_agent_down_and_no_other(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World(tmp_path, {"one": "serve", "two": "serve"})
    survivor = await world.leave_behind("one", "undead")
    async with world.running() as fleet:
        await trio.sleep(5)
        assert states(fleet) == {"one": AgentState.QUARANTINED, "two": AgentState.RUNNING}
        assert view(fleet, "one").detail == f"processes {survivor.pid} of its last run do not end when killed"
    survivor.program = Program()
    survivor.signal(KILL)


async def test_what_ended_while_nobody_watched_is_lost_and_nobody_is_signalled(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    (await world.leave_behind("one", "serve")).signal(KILL)
    async with world.running():
        await trio.sleep(1)
    assert world.journal.ends[0] == ("one", 1, "lost-while-down", "nothing of it was running any more")


async def test_pids_of_another_boot_are_nobodys(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve"})
    bystander = await world.leave_behind("one", "serve", boot="the boot before")
    bystander.cage = None  # a number that got a new owner
    async with world.running():
        await trio.sleep(1)
        assert bystander.is_alive
        assert bystander.signals == []


# --- faults of ours ---


async def test_a_journal_that_fails_stops_one_start_and_blames_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World(tmp_path, {"one": "serve", "two": "serve"})

    class Full(MemoryJournal):
        is_full = True

        async def next_generation(self, name: str, digest: str) -> int:
            if self.is_full and name == "one":
                raise StoreFault("journal.db: no space left on device")
            return await super().next_generation(name, digest)

    journal = world.journal = Full()
    async with world.running() as fleet:
        await trio.sleep(35)
        assert states(fleet) == {"one": AgentState.BACKOFF, "two": AgentState.RUNNING}
        assert view(fleet, "one").detail == "journal.db: no space left on device"
        journal.is_full = False
        await trio.sleep(15)
        assert states(fleet)["one"] is AgentState.RUNNING


async def test_a_bug_of_ours_costs_one_agent_and_no_other(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, {"one": "serve", "two": "serve"})

    class Wrong(MemoryJournal):
        async def started(self, name: str, *facts: object) -> None:
            if name == "one":
                raise ZeroDivisionError("a bug")
            await super().started(name, *facts)  # type: ignore[arg-type]

    world.journal = Wrong()
    async with world.running() as fleet:
        await trio.sleep(10)
        assert states(fleet) == {"one": AgentState.QUARANTINED, "two": AgentState.RUNNING}
        assert "a bug" in view(fleet, "one").detail
        assert len(world.processes.alive) == 1
    assert "a fault of the supervisor" in caplog.text


async def test_a_stop_beside_the_cancellation_of_the_fleet_does_not_wait_for_its_deadline(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The daemon's way out when something else failed: whoever would say `down` is being cancelled at this moment."""
    world = World(tmp_path, {"one": "serve", "two": "serve"})
    fleet = world.fleet()
    async with trio.open_nursery() as nursery:
        await nursery.start(fleet.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
        began = trio.current_time()
        with trio.CancelScope(shield=True):
            await fleet.stop_all(within_s=7.0)
        assert trio.current_time() - began < 1.0
    assert world.processes.alive == []
