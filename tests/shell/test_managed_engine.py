"""The keeper of the embedded engine, in virtual time: its secret, its lifeline, its returns."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.agents.managed import EngineLaunch, EngineState, ManagedEngine
from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.policies import RestartPolicy
from supervisord_ai.errors import HostFault, UpstreamUnreachable
from supervisord_ai.host.process import Launch
from supervisord_ai.host.signals import KILL
from tests.fakes.process import FakeProcess, FakeProcesses, Program


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
        EngineLaunch(folder / "run" / "e.sock", folder / "engine.log", slots=3, ledger=folder / "ledger"),
        processes=engines,
        clock=VirtualClock(),
        restart=RestartPolicy(),
        rng=random.Random(1),
        environ={"PATH": "/bin"},
    )


async def test_it_is_started_when_it_answers_and_has_the_secret_on_its_standard_input(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    engines = Engines()
    engine = keeper(engines, tmp_path)
    await nursery.start(engine.run, engines.probe)
    assert trio.current_time() == pytest.approx(1.0, abs=0.2)
    _, process, stdin = engines.engines[0]
    assert stdin.received == engine.secret.encode() + b"\n"
    assert engine.secret not in " ".join(process.launch.argv) + str(process.launch.env)
    assert engine.statistics().state is EngineState.READY
    assert engine.statistics().pid == process.pid
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


async def test_one_that_dies_is_started_again_with_the_same_address_and_secret(
    nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    engines = Engines()
    engine = keeper(engines, tmp_path)
    await nursery.start(engine.run, engines.probe)
    secret = engine.secret
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
    assert "SIGABRT" in engine.statistics().detail


async def test_one_that_ends_before_it_ever_answered_is_an_error_with_its_log(autojump_clock: MockClock, tmp_path: Path) -> None:
    engines = Engines(Program(lives_s=0.3, code=1), after_s=60.0)
    engine = keeper(engines, tmp_path)
    with pytest.raises(HostFault, match=r"ended with status 1 before it answered.*engine\.log"):
        await engine.run(engines.probe)
    assert not engines.alive


async def test_one_that_never_answers_is_killed(autojump_clock: MockClock, tmp_path: Path) -> None:
    engines = Engines(after_s=float("inf"))
    engine = keeper(engines, tmp_path)
    with pytest.raises(HostFault, match="SIGKILL"):
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
