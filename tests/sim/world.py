"""The world: lives of the daemon one after the other, agents that outlive them, and the faults of the plan."""

from __future__ import annotations

import itertools
import random
import shutil
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import trio

from supervisord_ai.config import Config, load
from supervisord_ai.core.identity import Caller
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.daemon import Daemon, Doors, Options
from supervisord_ai.errors import PeerGone, UpstreamUnreachable
from supervisord_ai.ollama.transport import ByteStream, Dialer
from supervisord_ai.serve.connection import MemoryClient, memory_pair
from supervisord_ai.serve.http import serve_connection
from supervisord_ai.store.disk import inline
from tests.fakes.connections import FakeConnections
from tests.fakes.files import MemoryFiles
from tests.fakes.machine import FakeMachine
from tests.fakes.notify import FakeNotify
from tests.fakes.ollama_double import running
from tests.fakes.process import FakeProcess
from tests.sim.asks import Asked, End
from tests.sim.callers import Agent
from tests.sim.invariants import Broken, Watch
from tests.sim.machine import Held, SimDisk, SimProcesses, SteppingClock, cages_for, carry_over
from tests.sim.plan import Fault, Kind
from tests.sim.upstream import Upstream

RESTART_S = 1.0  # RestartSec= of the unit
CALM_S = 900.0
CONFIG = """
[daemon]
runtime_dir = "{home}/run"
state_dir = "{home}/state"
log_dir = "{home}/log"
[listen]
tcp = []
{web}
[models]
keep_alive = "30m"
[[agents]]
name = "opus-{{n:02}}"
class = "opus"
count = {opus}
command = ["agent"]
[[agents]]
name = "sonnet-{{n:02}}"
class = "sonnet"
count = {sonnet}
command = ["agent"]
"""


class Life:
    """One daemon, from its start to its end."""

    def __init__(self, world: World, number: int, home: Path) -> None:
        self.number = number
        self.home = home
        self.is_dead = False
        self.disk = SimDisk()
        self.held = Held(world.processes)
        self.is_up = trio.Event()
        self._world = world
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        self.daemon: Daemon | None = None

    async def run(self) -> None:
        world = self._world
        numbers = itertools.count(self.number * 1_000_000)
        doors = Doors(
            clock=world.clock,
            rng=random.Random(f"{world.seed} life {self.number}"),
            new_id=lambda: f"{next(numbers):022x}",
            processes=lambda: self.held,
            cages=lambda _state_dir, form: cages_for(self.held),
            notify=lambda _folder, for_others: FakeNotify(),
            dial=self._dial,
            run_sync=inline,
            read_elsewhere=inline,
            disk=self.disk,
            settle_memory=self.is_up.set,
            machine=lambda **_: FakeMachine(),
            sense=inline,
            connections=FakeConnections,
        )
        with ExitStack() as held:
            self.daemon = Daemon(world.config(self.home), Options(read_config=lambda: world.config(self.home)), held, doors)
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._live, self.daemon)
                await self._ended.wait()
                self._nursery.cancel_scope.cancel()
        self.is_dead = True

    async def _live(self, daemon: Daemon) -> None:
        await daemon.live()
        self.is_dead = True
        self._ended.set()

    def _dial(self, _spec: BackendSpec) -> Dialer:
        async def dial() -> ByteStream:
            try:
                return await self._world.upstream.double.dial()
            except PeerGone as exc:
                raise UpstreamUnreachable("refused") from exc

        return dial

    def connect(self, caller: Caller, room_bytes: int) -> MemoryClient:
        assert self._nursery is not None
        assert self.daemon is not None
        client, served = memory_pair("memory-unix", room_bytes=room_bytes)
        self._nursery.start_soon(serve_connection, served, self.daemon.gateway.handler_for(caller))
        return client

    def kill(self) -> None:
        """Nothing more that it does reaches anybody. Its files must have been copied before."""
        self.is_dead = True
        self.held.let_go_of.set()
        self._ended.set()


class World:
    """Everything, for one run."""

    def __init__(
        self, seed: int, faults: Sequence[Fault], span_s: float, folder: Path, *, opus: int, sonnet: int, bugs: list[str]
    ) -> None:
        self.seed = seed
        self.bugs = bugs
        self.span_s = span_s
        self.clock = SteppingClock()
        self.processes = SimProcesses()
        self.processes.on_go = self._process_began
        self.agents: dict[str, Agent] = {}
        self.story: deque[str] = deque(maxlen=2000)
        self.upstream = Upstream(self._askers, self.broken)
        self.watch = Watch(self)
        self.counts: Counter[str] = Counter()
        self.lives = 0
        self.life: Life | None = None
        self.is_over = False
        self.stopped_at = float("-inf")
        self._faults = faults
        self._folder = folder
        self._size = {"opus": opus, "sonnet": sonnet}
        self._calm_think_s = (opus + sonnet) / 0.9  # 0.9 requests a second, all together: both slots are mostly busy
        self.think_s = self._calm_think_s
        self.open: dict[int, Asked] = {}
        self._topics: dict[int, set[int]] = {}
        self._numbers = itertools.count()
        self._risen = trio.Event()
        self._rng = random.Random(f"{seed} world")
        self._nursery: trio.Nursery | None = None
        self._torn: float | None = None
        self._damages_cache = False
        self._may_rise = trio.Event()
        self._may_rise.set()

    # --- the run -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live through the plan, come to rest, and be looked at. Raises: Broken."""
        async with running(self.upstream.double), trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._live)
            self._nursery.start_soon(self.watch.run)
            for fault in self._faults:
                await trio.sleep_until(self.watch.began_at + fault.at_s)
                self.tell(f"fault {fault}")
                self.counts["faults"] += 1
                await self._befall(fault)
            await trio.sleep_until(self.watch.began_at + self.span_s)
            await self._come_to_rest()
            self.is_over = True
            if self.life is not None and self.life.daemon is not None:
                self.life.daemon.stop()
            with trio.move_on_after(30):
                while self.life is not None:  # noqa: ASYNC110 - virtual time costs nothing
                    await trio.sleep(0.1)
            self.watch.stopped()
            self._nursery.cancel_scope.cancel()

    async def _live(self) -> None:
        home = self._folder / "life-0"
        (home / "state").mkdir(parents=True)
        while not self.is_over:
            self.life = Life(self, self.lives, home)
            self.lives += 1
            self._nursery_start(self._announce, self.life)
            await self.life.run()
            self.upstream.daemon_died()
            self.tell(f"life {self.life.number} is over")
            following = self._folder / f"life-{self.lives}"
            if not (following / "state").exists():  # an orderly end: what is there now is what there is
                carry_over(home / "state", following / "state", self.life.disk, torn=None)
            shutil.rmtree(home)
            home, self.life = following, None
            self._risen = trio.Event()
            await trio.sleep(RESTART_S)

    def _nursery_start(self, task: object, *args: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(task, *args)  # type: ignore[arg-type]

    async def _announce(self, life: Life) -> None:
        await life.is_up.wait()
        if not life.is_dead:
            self.tell(f"life {life.number} serves")
            self.watch.serves(life)
            self.upstream.last_start_at = trio.current_time()
            self._risen.set()

    async def _come_to_rest(self) -> None:
        self.tell("everybody falls silent")
        self.think_s = 1e9
        for agent in self.agents.values():
            agent.silence()
        await trio.sleep(CALM_S)
        self.watch.at_rest()

    # --- what callers use ----------------------------------------------------------------------------------------------

    async def up(self) -> Life:
        """Return the daemon that serves, waiting for one."""
        while True:
            await self._risen.wait()
            if self.life is not None and not self.life.is_dead:
                return self.life
            await trio.sleep(0.25)

    async def connect(self, caller: Caller, room_bytes: int) -> MemoryClient:
        life = await self.up()
        return life.connect(caller, room_bytes)

    def next_number(self) -> int:
        return next(self._numbers)

    def note(self, asked: Asked) -> Asked:
        self.counts["asked"] += 1
        self.open[asked.number] = asked
        if asked.topic is not None:
            self._topics.setdefault(asked.topic, set()).add(asked.number)
        return asked

    def over(self, asked: Asked, end: End, detail: str) -> None:
        """A request has ended, as its caller saw it."""
        now = trio.current_time()
        if end is End.LEFT:
            asked.left_at = now
        asked.end, asked.detail, asked.ended_at = end, detail, now
        self.counts[end.value] += 1
        if end is End.FAILED and asked.harmed:
            self.counts["harmed"] += 1
        if asked.topic is not None:
            self._topics[asked.topic].discard(asked.number)
        self.watch.ended(asked)
        self.processes_forget()
        # A leaver is looked up again if its request starts after all.
        self.open.pop(asked.number, None)
        self.watch.remember(asked)

    def processes_forget(self) -> None:
        """Ended processes are nobody's any more; a year of them would not fit into memory."""
        if len(self.processes.processes) > 4 * sum(self._size.values()) + 100:
            for pid in [pid for pid, process in self.processes.processes.items() if not process.is_alive]:
                del self.processes.processes[pid]
            self.processes.spawned.clear()
            self.processes.closed.clear()

    def _askers(self, mark: str, number: int) -> list[Asked]:
        if mark == "@":
            found = [self.open[n] for n in sorted(self._topics.get(number, ()))]
            return found or [self.watch.lost_topic(number)]
        asked = self.open.get(number) or self.watch.remembered(number)
        return [asked]

    # --- what is seen --------------------------------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        self.story.append(f"{trio.current_time() - self.watch.began_at:12.3f}  {what}")

    def broken(self, promise: str, what: str) -> None:
        """A promise is broken: the run ends here, with its story."""
        self.tell(f"BROKEN {promise}: {what}")
        self.watch.fail(Broken(promise, what, tuple(self.story)))

    def config(self, home: Path) -> Config:
        text = CONFIG.format(home=home, web='[web]\nlisten = ""', **self._size)
        return load("/sim.toml", MemoryFiles({"/sim.toml": text}), Surroundings(1000, "/home/me", {}))

    def _process_began(self, process: FakeProcess) -> None:
        name = process.launch.env["AI_SUPERVISOR_AGENT"]
        self.watch.process_began(name, process)
        self._nursery_start(self._be_agent, name, process)

    async def _be_agent(self, name: str, process: FakeProcess) -> None:
        generation = int(process.launch.env["AI_SUPERVISOR_RUN"].split(".")[1])
        agent = self.agents[name] = Agent(self, name, generation)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.live)
            await process.wait()
            nursery.cancel_scope.cancel()
        if self.agents.get(name) is agent:
            del self.agents[name]

    # --- faults --------------------------------------------------------------------------------------------------------

    async def _befall(self, fault: Fault) -> None:
        upstream, double, size = self.upstream, self.upstream.double, fault.size
        match fault.kind:
            case Kind.KILL:
                self._kill(torn=None)
            case Kind.POWER_CUT:
                self._kill(torn=size)
            case Kind.CACHE_DAMAGED:
                self._kill(torn=None, damages_cache=True)
            case Kind.STOP:
                if self.life is not None and self.life.daemon is not None and self.life.is_up.is_set():
                    self.stopped_at = trio.current_time()
                    self.life.daemon.stop()
            case Kind.ENGINE_CRASH:
                upstream.crash(size)
                self._nursery_start(self._listen_again, size)
            case Kind.ENGINE_HANG:
                upstream.trouble(size + 120.0)
                double.hush()
                self._nursery_start(self._speak_again, size)
            case Kind.ENGINE_REFUSES:
                upstream.refuses += int(size)
            case Kind.CUT_STREAMS:
                upstream.cuts += int(size)
            case Kind.STALL:
                upstream.stalls += 1
            case Kind.DEAD_RUNNER:
                upstream.dies += int(size)
            case Kind.UNLOADED:
                upstream.trouble()
                double.machine.scheduler.forget_all()
            case Kind.AGENT_CRASH:
                self._agents_end(int(size), ExitStatus(signal=11))
            case Kind.AGENT_OOM:
                self._agents_end(int(size), ExitStatus(signal=9), is_oom=True)
            case Kind.FLOOD:
                for agent in self._some(1):
                    agent.ask(int(size))
            case Kind.LEAVERS:
                for agent in self._some(int(size)):
                    agent.ask(leaves=True)
            case Kind.SPIKE:
                for agent in self._some(len(self.agents)):
                    agent.ask()
            case Kind.CLOCK_STEP:
                self.clock.step_s += size
                self.watch.clock_stepped(size)
            case Kind.RELOAD:
                pass

    def _some(self, count: int) -> list[Agent]:
        names = sorted(self.agents)
        return [self.agents[name] for name in self._rng.sample(names, min(count, len(names)))]

    def _kill(self, *, torn: float | None, damages_cache: bool = False) -> None:
        life = self.life
        if life is None or life.is_dead or life.daemon is None:
            return
        following = self._folder / f"life-{self.lives}"
        carry_over(life.home / "state", following / "state", life.disk, torn=torn)
        if damages_cache:
            cache = following / "state" / "cache.db"
            if cache.exists():
                cache.write_bytes(b"not a database" * 1000)
        self.counts["kills"] += 1
        if torn is not None:  # nothing outlives the power
            self.processes.boot = f"boot {self.lives}"
            for process in self.processes.alive:
                self.processes.ends(process, ExitStatus(signal=9))
        self.upstream.daemon_died()
        self.watch.daemon_died()
        life.kill()

    def _agents_end(self, count: int, status: ExitStatus, *, is_oom: bool = False) -> None:
        alive = [process for process in self.processes.alive if not process.is_held]
        for process in self._rng.sample(alive, min(count, len(alive))):
            self.watch.scripted_end(process, status, is_oom=is_oom)
            self.processes.ends(process, status, is_oom=is_oom)

    async def _listen_again(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self.upstream.double.is_refusing = False

    async def _speak_again(self, after_s: float) -> None:
        await trio.sleep(after_s)
        self.upstream.speak()
