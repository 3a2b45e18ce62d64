"""The keeper of an engine, in virtual time: the secret and lifeline of the embedded one, the cage of an Ollama, their returns."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.agents.launches import EngineLaunch, embedded_launch
from supervisord_ai.agents.managed import EngineState, Kept, ManagedEngine
from supervisord_ai.agents.output import LogFolder
from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.policies import LogsPolicy, RestartPolicy
from supervisord_ai.errors import HostFault, UpstreamUnreachable
from supervisord_ai.host.process import Launch
from supervisord_ai.host.signals import KILL, TERM
from tests.fakes.fleet_journal import MemoryJournal
from tests.fakes.process import FakeCages, FakeProcess, FakeProcesses, Program


class Stdin(trio.abc.SendStream):
    """A child's standard input. Closed, it ends a child that obeys its lifeline."""

    def __init__(self, process: FakeProcess, *, obeys: bool) -> None:
        self.process = process
        self.obeys = obeys
        self.received = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.received += bytes(data)
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        if self.obeys:
            self.process.signal(KILL)
        await trio.lowlevel.checkpoint()


class Engines(FakeProcesses):
    """Spawns engines that answer `after_s` from their start."""

    def __init__(self, program: Program = Program(), *, after_s: float = 1.0, obeys: bool = True) -> None:  # noqa: B008
        super().__init__({sys.executable: program})
        self.after_s = after_s
        self.obeys = obeys
        self.engines: list[tuple[float, FakeProcess, Stdin]] = []

    async def spawn(self, launch: Launch, *, hold: bool = False) -> FakeProcess:
        process = await super().spawn(launch, hold=hold)
        process.stdin = stdin = Stdin(process, obeys=self.obeys)
        self.engines.append((trio.current_time(), process, stdin))
        return process

    async def probe(self) -> None:
        await trio.lowlevel.checkpoint()
        started_at, process, _ = self.engines[-1]
        if not process.is_alive or trio.current_time() - started_at < self.after_s:
            raise UpstreamUnreachable("connection refused")


def keeper(engines: Engines, folder: Path) -> ManagedEngine:
    return ManagedEngine(
        embedded_launch(
            "e", socket=folder / "run" / "e.sock", slots=3, ledger=folder / "ledger", environ={"PATH": "/bin", "MY_KEY": "x"}
        ),
        processes=engines,
        logs=LogFolder(folder, LogsPolicy()),
        clock=VirtualClock(),
        restart=RestartPolicy(),
        rng=random.Random(1),
    )


def secret_of(engine: ManagedEngine) -> str:
    assert engine.launch.secret is not None
    return engine.launch.secret


async def test_it_is_started_when_it_answers_and_has_the_secret_on_its_standard_input(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    engines = Engines()
    engine = keeper(engines, tmp_path)
    await nursery.start(engine.run, engines.probe)
    assert trio.current_time() == pytest.approx(1.0, abs=0.2)
    _, process, stdin = engines.engines[0]
    assert stdin.received == secret_of(engine).encode() + b"\n"
    assert secret_of(engine) not in " ".join(process.launch.argv) + str(process.launch.env)
    assert engine.statistics().state is EngineState.READY
    assert engine.statistics().pid == process.pid
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


async def test_one_that_dies_is_started_again_with_the_same_address_and_secret(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    engines = Engines()
    engine = keeper(engines, tmp_path)
    await nursery.start(engine.run, engines.probe)
    secret = secret_of(engine)
    engines.engines[0][1].signal(KILL)
    await trio.sleep(5.0)
    assert len(engines.engines) == 2
    assert engines.engines[1][2].received == secret.encode() + b"\n"
    view = engine.statistics()
    assert (view.state, view.restarts) == (EngineState.READY, 1)
    assert len(engines.closed) == 1


async def test_one_that_dies_again_and_again_comes_back_later_each_time_and_is_never_given_up(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    engines = Engines(after_s=0.0)
    engine = keeper(engines, tmp_path)
    await nursery.start(engine.run, engines.probe)
    engines.programs[sys.executable] = Program(lives_s=0.5, dies_of=6)
    engines.engines[0][1].signal(KILL)
    await trio.sleep(600.0)
    assert 10 < len(engines.engines) < 60
    assert "crash:ABRT" in engine.statistics().detail


async def test_one_that_ends_before_it_ever_answered_is_an_error_with_its_log(autojump_clock: MockClock, tmp_path: Path) -> None:
    engines = Engines(Program(lives_s=0.3, code=1), after_s=60.0)
    engine = keeper(engines, tmp_path)
    with pytest.raises(HostFault, match=r"ended before it answered: exit:1.*engine-e\.log"):
        await engine.run(engines.probe)
    assert not engines.alive


async def test_one_that_never_answers_is_killed(autojump_clock: MockClock, tmp_path: Path) -> None:
    engines = Engines(after_s=float("inf"))
    engine = keeper(engines, tmp_path)
    with pytest.raises(HostFault, match="no answer within 120 s"):
        await engine.run(engines.probe)
    assert trio.current_time() == pytest.approx(120.0, abs=1.0)


@pytest.mark.parametrize("obeys", [True, False])
async def test_it_is_gone_when_we_end_whether_it_minds_its_lifeline_or_not(
    autojump_clock: MockClock, tmp_path: Path, obeys: bool
) -> None:
    engines = Engines(Program(obeys_term=False), obeys=obeys)
    engine = keeper(engines, tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, engines.probe)
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began <= 3.0
    assert not engines.alive
    assert len(engines.closed) == 1


async def test_cancelled_while_it_starts_leaves_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    engines = Engines(after_s=60.0)
    engine = keeper(engines, tmp_path)
    with trio.move_on_after(5.0):
        await engine.run(engines.probe)
    assert len(engines.engines) == 1
    assert not engines.alive


# --- the Ollama of a backend's command -----------------------------------------------------------------------------------


class Ollamas(FakeProcesses):
    """An address at which whoever was started last answers, and whoever has it besides."""

    def __init__(self, program: Program = Program()) -> None:  # noqa: B008
        super().__init__({"ollama": program})
        self.cages = FakeCages(self)
        self.journal = MemoryJournal()
        self.is_taken_by_another = False
        self.answers = True

    @property
    def runs(self) -> list[FakeProcess]:
        return [process for process in self.processes.values() if process.launch.argv == ("ollama", "serve")]

    async def probe(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_taken_by_another:
            return
        if not self.answers or not any(process.is_alive for process in self.runs):
            raise UpstreamUnreachable("connection refused")


def keeper_of_ollama(
    world: Ollamas, folder: Path, *, is_only_sampled: bool = False, restart: RestartPolicy | None = None
) -> ManagedEngine:
    launch = EngineLaunch(
        "engine-main", ("ollama", "serve"), {"OLLAMA_NUM_PARALLEL": "2"}, "http://127.0.0.1:11434", user="ollama", cap_bytes=8_000
    )
    return ManagedEngine(
        launch,
        processes=world,
        logs=LogFolder(folder, LogsPolicy()),
        clock=VirtualClock(),
        restart=restart or RestartPolicy(),
        rng=random.Random(1),
        kept=Kept(world.cages.cage("engine-main"), world.journal, world.boot, is_only_sampled=is_only_sampled),
    )


async def test_an_ollama_is_caged_and_written_down_before_it_runs(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = Ollamas()
    engine = keeper_of_ollama(world, tmp_path)
    await nursery.start(engine.run, world.probe)
    (process,) = world.runs
    assert process.cage == "/fake/engine-main"
    assert world.cages.cage("engine-main").cap_bytes == 8_000
    assert process.launch.account is not None
    assert process.launch.account.name == "ollama"
    assert process.launch.env["OLLAMA_NUM_PARALLEL"] == "2"
    record = world.journal.records["engine-main"]
    assert (record.pid, record.run_tag) == (process.pid, process.launch.env["AI_SUPERVISOR_RUN"])
    assert engine.statistics().state is EngineState.READY
    assert engine.statistics().log_path == str(tmp_path / "engine-main.log")


async def test_one_taken_by_its_cap_gets_that_verdict_and_comes_back_without_its_runners(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = Ollamas(Program(stray=Program()))
    engine = keeper_of_ollama(world, tmp_path)
    await nursery.start(engine.run, world.probe)
    first = world.runs[0]
    world.oom_kills["/fake/engine-main"] = 1
    world.cages.cage("engine-main").peak_bytes = 8_000
    first.signal(KILL)
    await trio.sleep(5.0)
    assert world.journal.verdicts("engine-main") == ["oom:own-cap"]
    alive = [process for process in world.runs if process.is_alive]
    assert first not in alive
    assert len(alive) == 2, "the second run and its runner; the runner of the first was ended with it"
    assert (engine.statistics().state, engine.statistics().restarts) == (EngineState.READY, 1)


async def test_one_that_fails_before_it_answers_is_tried_again_and_says_why(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = Ollamas(Program(lives_s=0.2, code=1))
    world.answers = False
    (tmp_path / "engine-main.log").write_text("")
    engine = keeper_of_ollama(world, tmp_path)
    nursery.start_soon(engine.run, world.probe)
    await trio.sleep(30.0)
    assert len(world.runs) > 3
    assert engine.statistics().detail.startswith("exit:1")
    world.programs["ollama"] = Program()
    world.answers = True
    await trio.sleep(120.0)
    assert engine.statistics().state is EngineState.READY


async def test_a_program_that_is_not_there_is_said_and_ends_nobody_else(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = Ollamas(Program(can_be_executed=False))
    engine = keeper_of_ollama(world, tmp_path)
    nursery.start_soon(engine.run, world.probe)
    await trio.sleep(0.5)
    assert "failed:exec" in world.journal.verdicts("engine-main")
    assert "could not be executed" in engine.statistics().detail


async def test_beside_another_ollama_at_its_address_it_waits_until_that_is_gone(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = Ollamas()
    world.is_taken_by_another = True
    engine = keeper_of_ollama(world, tmp_path)
    nursery.start_soon(engine.run, world.probe)
    await trio.sleep(60.0)
    assert not world.runs
    assert engine.statistics().state is EngineState.BLOCKED
    assert "another Ollama answers at http://127.0.0.1:11434" in engine.statistics().detail
    world.is_taken_by_another = False
    await trio.sleep(3.0)
    assert engine.statistics().state is EngineState.READY


async def test_told_to_restart_it_ends_by_term_and_is_back_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = Ollamas(Program(takes_s=0.5))
    engine = keeper_of_ollama(world, tmp_path, restart=RestartPolicy(base_s=3600.0, max_s=3600.0))
    await nursery.start(engine.run, world.probe)
    engine.restart("it hangs")
    await trio.sleep(1.0)
    first, second = world.runs
    assert TERM in first.signals
    assert KILL not in first.signals
    assert second.is_alive
    assert world.journal.verdicts("engine-main") == ["stopped:it hangs"]
    assert engine.statistics().state is EngineState.READY


async def test_one_that_hangs_against_term_is_killed_after_its_grace(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = Ollamas(Program(obeys_term=False))
    engine = keeper_of_ollama(world, tmp_path)
    await nursery.start(engine.run, world.probe)
    began = trio.current_time()
    engine.restart("it hangs")
    await trio.sleep(4.0)
    assert len(world.runs) == 2
    assert world.processes[world.runs[1].pid].is_alive
    assert trio.current_time() - began == pytest.approx(4.0)


@pytest.mark.parametrize("obeys", [True, False])
async def test_at_our_end_nothing_of_an_ollama_is_left(autojump_clock: MockClock, tmp_path: Path, obeys: bool) -> None:
    world = Ollamas(Program(obeys_term=obeys, stray=Program(obeys_term=False)))
    engine = keeper_of_ollama(world, tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run, world.probe)
        nursery.cancel_scope.cancel()
    assert not world.alive
    assert world.journal.verdicts("engine-main") == ["stopped:shutdown"]


async def test_where_no_group_binds_it_one_that_stays_over_its_cap_is_ended(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = Ollamas()
    engine = keeper_of_ollama(world, tmp_path, is_only_sampled=True)
    await nursery.start(engine.run, world.probe)
    cage = world.cages.cage("engine-main")
    cage.memory_bytes = 8_100
    await trio.sleep(2.5)
    assert len(world.runs) == 1
    await trio.sleep(1.0)
    cage.memory_bytes = 10
    await trio.sleep(5.0)
    assert world.journal.verdicts("engine-main") == ["oom:own-cap"]
    assert len(world.runs) == 2
