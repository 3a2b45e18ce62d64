"""The world: lives of the daemon one after the other, agents that outlive them, and who asks when."""

from __future__ import annotations

import random
import shutil
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from supervisord_ai.config import Config, load
from supervisord_ai.core.identity import Caller, CallerKind, Proof
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.errors import HostFault, StoreFault
from supervisord_ai.serve.connection import MemoryClient
from tests.fakes.files import MemoryFiles
from tests.fakes.ollama_double import running
from tests.fakes.process import FakeProcess
from tests.sim.asks import Asked, End
from tests.sim.callers import Agent
from tests.sim.clock import Leaps, SteppingClock
from tests.sim.invariants import Broken, Watch
from tests.sim.life import Life
from tests.sim.machine import GOOD, Fullness, SimProcesses, Weather, carry_over
from tests.sim.owner import Owner
from tests.sim.plan import Span
from tests.sim.upstream import Upstream

GUEST = Caller(CallerKind.GUEST, "guest", "guest", 0, Proof.PROVED, 1001)
EXPIRED = "no slot came free"  # it was let in, and its time passed
RESTART_S = 1.0  # RestartSec= of the unit
CALM_S = 900.0
AFTER_ASKING_S = 20.0  # of idle time are lived through second by second
AFTER_FAULT_S = 240.0
RATE_PER_S = 0.75  # of requests at full load, all agents together: the slots are busy most of the time
BAD_CONFIGS = (
    "[daemon\nstate_dir = 7",
    "[daemon]\nstate_dirs = 7\n[memory]\nagents = 3\n",
    '[class.opus]\nmemory = "64GB"\n[[agents]]',
)
# Of every ten agents one ignores TERM and one takes its time over it.
CONFIG = """
[daemon]
runtime_dir = "{home}/run"
state_dir = "{home}/state"
log_dir = "{home}/log"
[listen]
tcp = []
[web]
listen = ""
[models]
keep_alive = "30m"
[[agents]]
name = "opus-{{n:02}}"
class = "opus"
count = {opus}
command = ["agent"]
[[agents]]
name = "deaf-{{n:02}}"
class = "sonnet"
count = {deaf}
command = ["deaf"]
[[agents]]
name = "slow-{{n:02}}"
class = "sonnet"
count = {slow}
command = ["slow"]
[[agents]]
name = "sonnet-{{n:02}}"
class = "sonnet"
count = {sonnet}
command = ["{program}"]
"""


class World:
    """Everything, for one run."""

    def __init__(
        self, seed: int, span: Span, folder: Path, leaps: Leaps, *, opus: int, sonnet: int, bugs: list[str]
    ) -> None:
        self.seed = seed
        self.span = span
        self.bugs = bugs
        self.clock = SteppingClock()
        self.processes = SimProcesses()
        self.processes.on_go = self._process_began
        self.weather, self.fullness = Weather(), Fullness()
        self.agents: dict[str, Agent] = {}
        self.story: deque[str] = deque(maxlen=2000)
        self.upstream = Upstream(self._askers, self.broken, lambda asked, now: self.watch.started(asked, now))
        self.watch = Watch(self)
        self.counts: Counter[str] = Counter()
        self.lives = 0
        self.life: Life | None = None
        self.is_over = False
        self.owner = Owner(self)
        self.program = GOOD[0]  # what the sonnets are to run
        self.rng = random.Random(f"{seed} world")
        self.open: dict[int, Asked] = {}
        self.written: str | None = None  # a config in place of the right one
        self._folder = folder
        tenth = sonnet // 10
        self._size = {"opus": opus, "deaf": tenth, "slow": tenth, "sonnet": sonnet - 2 * tenth}
        self._all_sonnets = self._size["sonnet"]
        self._number = 0
        self._topics: dict[int, set[int]] = {}
        self._risen = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._guest: Agent | None = None
        self._stirred_until = float("inf")
        self._planned: Sequence[float] = ()
        self._next_planned = 0
        leaps.still_until = self._still_until

    # --- the run -------------------------------------------------------------------------------------------------------

    async def run(
        self, faults: Callable[[World, float], Awaitable[None]], planned: Sequence[tuple[float, int]], at: Sequence[float]
    ) -> None:
        """Live through the plan, come to rest, and be looked at. Raises: Broken."""
        began_at, span = self.watch.began_at, self.span
        ends_at = began_at + span.all_s
        self._planned = sorted(began_at + second for second in (*at, *(second for second, _ in planned), span.all_s))
        try:
            async with running(self.upstream.double), trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._live)
                self._nursery.start_soon(self.watch.run)
                self._nursery.start_soon(self._ask_all_day, began_at + span.busy_s, planned)
                await faults(self, ends_at)
                await self._come_to_rest()
                self.is_over = True
                if self.life is not None and self.life.daemon is not None:
                    self.watch.told_to_end(stays=False)
                    await self.life.end(leaving=False)
                with trio.move_on_after(30):
                    while self.life is not None:  # noqa: ASYNC110 - virtual time costs nothing
                        await trio.sleep(0.1)
                self.watch.stopped()
                self._nursery.cancel_scope.cancel()
        finally:
            self.fullness.end()

    async def _live(self) -> None:
        home = self._folder / "life-0"
        (home / "state").mkdir(parents=True)
        while not self.is_over:
            life = self.life = Life(self, self.lives, home)
            self.lives += 1
            life.disk.was_always_well = not self.fullness.is_full
            self.start(self._announce, life)
            try:
                await life.run()
            except (StoreFault, HostFault) as exc:
                if not self.fullness.is_full:
                    raise
                life.is_dead = True
                self.counts["starts that a full disk refused"] += 1
                self.tell(f"life {life.number} cannot start: {exc}")
            self.upstream.daemon_died()
            self.watch.daemon_ended(life)
            self.tell(f"life {life.number} is over")
            following = self._folder / f"life-{self.lives}"
            with self.fullness.lifted():
                if not (following / "state").exists():  # an orderly end: what is there now is what there is
                    carry_over(home / "state", following / "state", life.disk, torn=None)
                shutil.rmtree(home)
            home, self.life = following, None
            self._risen = trio.Event()
            await trio.sleep(RESTART_S)

    def next_home(self) -> Path:
        """Where the next life finds its state."""
        return self._folder / f"life-{self.lives}"

    def start(self, task: Callable[..., object], *args: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(task, *args)  # type: ignore[arg-type]

    def later(self, after_s: float, deed: Callable[[], object]) -> None:
        """Do it in so many seconds."""

        async def wait() -> None:
            await trio.sleep(after_s)
            deed()

        self.start(wait)

    async def _announce(self, life: Life) -> None:
        await life.is_up.wait()
        if not life.is_dead:
            self.tell(f"life {life.number} serves")
            self.watch.serves(life)
            self.upstream.last_start_at = trio.current_time()
            self._risen.set()

    async def _come_to_rest(self) -> None:
        self.tell("everybody is silent")
        await trio.sleep(CALM_S)
        self.watch.at_rest()

    # --- who asks when -------------------------------------------------------------------------------------------------

    async def _ask_all_day(self, busy_until: float, bursts: Sequence[tuple[float, int]]) -> None:
        """At full load one after the other, at random; then, while it is idle, now and then a few at once."""
        rng, agents = random.Random(f"{self.seed} askers"), self.agents
        while True:
            await trio.sleep(rng.expovariate(RATE_PER_S))
            if trio.current_time() >= busy_until:
                break
            if agents:
                agents[rng.choice(sorted(agents))].ask()
        self.tell("from now on it is mostly idle")
        self._stirred_until = trio.current_time() + AFTER_FAULT_S
        for at_s, count in bursts:
            await trio.sleep_until(self.watch.began_at + at_s)
            for _ in range(count if agents else 0):
                agents[rng.choice(sorted(agents))].ask()
                await trio.sleep(rng.expovariate(2.0))
            self.stir(0.0, AFTER_ASKING_S)

    def stir(self, lasts_s: float, after_s: float = AFTER_FAULT_S) -> None:
        """Something happened: from here on and for so long time goes second by second."""
        self._stirred_until = max(self._stirred_until, trio.current_time() + lasts_s + after_s)

    def _still_until(self) -> float | None:
        now = trio.current_time()
        if self.open or now < self._stirred_until or self.life is None or not self.life.serves:
            return None
        while self._next_planned < len(self._planned) and self._planned[self._next_planned] <= now:
            self._next_planned += 1
        return self._planned[self._next_planned] if self._next_planned < len(self._planned) else None

    # --- what callers use ----------------------------------------------------------------------------------------------

    async def up(self) -> Life:
        """Return the daemon that serves, waiting for one."""
        while True:
            await self._risen.wait()
            if self.life is not None and not self.life.is_over:
                return self.life
            await trio.sleep(0.25)

    def guest(self) -> Agent:
        """Return a program of the owner's that is no agent."""
        assert self._nursery is not None
        if self._guest is None:  # one for all: to the daemon they are one
            self._guest = Agent(self, "guest", 0, self._nursery, GUEST)
        return self._guest

    async def connect(self, caller: Caller, room_bytes: int) -> MemoryClient:
        life = await self.up()
        return life.connect(caller, room_bytes)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def note(self, asked: Asked) -> Asked:
        self.counts["asked"] += 1
        self.open[asked.number] = asked
        if asked.topic is not None:
            self._topics.setdefault(asked.topic, set()).add(asked.number)
        return asked

    def acknowledged(self, asked: Asked) -> None:
        """From here on it must come to an end that its caller is told."""
        asked.promised_at = trio.current_time()
        self.counts["acknowledged"] += 1

    def over(self, asked: Asked, end: End, detail: str, *, left_at: float | None = None) -> None:
        """A request has ended, as its caller saw it. `left_at`: when its leaving could be seen, if that is not now."""
        now = trio.current_time()
        if end is End.LEFT:
            asked.left_at = now if left_at is None else left_at
        asked.end, asked.detail, asked.ended_at = end, detail, now
        self.counts[end.value] += 1
        if end is End.FAILED and asked.harmed:
            self.counts["harmed"] += 1
        if end is End.REFUSED and EXPIRED in detail:
            self.counts["expired"] += 1
        if asked.promised_at is not None:
            self.counts[f"acknowledged: {end.value}"] += 1
        if asked.topic is not None:
            self._topics[asked.topic].discard(asked.number)
        self.watch.ended(asked)
        self.processes_forget()
        # A leaver is looked up again if its request starts after all.
        self.open.pop(asked.number, None)
        self.watch.remember(asked)

    def ends_after_refusal(self, name: str, generation: int) -> None:
        """Have an agent end of what we told it."""
        process = self.process_of(name)
        agent = self.agents.get(name)
        if process is not None and agent is not None and agent.generation == generation and not process.signals:
            self.counts["agents that ended after a refusal"] += 1
            self.processes.ends(process, ExitStatus(code=1))

    def processes_forget(self) -> None:
        """Ended processes are nobody's any more; a year of them would not fit into memory."""
        if len(self.processes.processes) > 4 * sum(self._size.values()) + 100:
            for pid in [pid for pid, process in self.processes.processes.items() if not process.is_alive]:
                del self.processes.processes[pid]
            self.processes.spawned.clear()
            self.processes.closed.clear()

    def process_of(self, name: str) -> FakeProcess | None:
        """Return the process of an agent that runs."""
        for process in self.processes.alive:
            if not process.is_held and process.launch.env.get("AI_SUPERVISOR_AGENT") == name:
                return process
        return None

    def _askers(self, mark: str, number: int) -> list[Asked]:
        if mark == "@":
            found = [self.open[n] for n in sorted(self._topics.get(number, ()))]
            return found or [self.watch.lost_topic(number)]
        asked = self.open.get(number) or self.watch.remembered(number)
        return [asked]

    def harm_running(self, by: str) -> None:
        """A fault meets the answers that are under way."""
        for asked in self.open.values():
            if asked.starts and not asked.harmed:
                asked.harmed = by

    # --- what faults use -----------------------------------------------------------------------------------------------

    def disk_fills(self) -> None:
        self.fullness.begin()
        if self.life is not None:
            self.life.disk.was_always_well = False

    def disk_empties(self) -> None:
        self.fullness.end()

    def resize(self, share: float) -> None:
        """From the next reload or start on there are so many sonnets."""
        self._size["sonnet"] = max(1, int(share * self._all_sonnets))
        self.watch.resized_at = trio.current_time()

    @property
    def names(self) -> set[str]:
        """Who is of the roster."""
        return {f"{kind}-{n:02}" for kind, count in self._size.items() for n in range(1, count + 1)}

    # --- what is seen --------------------------------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        self.story.append(f"{trio.current_time() - self.watch.began_at:12.3f}  {what}")

    def broken(self, promise: str, what: str) -> None:
        """A promise is broken: the run ends here, with its story."""
        self.tell(f"BROKEN {promise}: {what}")
        self.watch.fail(Broken(promise, what, tuple(self.story)))

    def config(self, home: Path) -> Config:
        text = self.written or CONFIG.format(home=home, program=self.program, **self._size)
        return load("/sim.toml", MemoryFiles({"/sim.toml": text}), Surroundings(1000, "/home/me", {}))

    def _process_began(self, process: FakeProcess) -> None:
        name = process.launch.env["AI_SUPERVISOR_AGENT"]
        self.watch.process_began(name, process)
        self.owner.began(name, process.launch.argv[0])
        self.start(self._be_agent, name, process)

    async def _be_agent(self, name: str, process: FakeProcess) -> None:
        generation = int(process.launch.env["AI_SUPERVISOR_RUN"].split(".")[1])
        async with trio.open_nursery() as nursery:
            agent = self.agents[name] = Agent(self, name, generation, nursery)
            await process.wait()
            if self.agents.get(name) is agent:
                del self.agents[name]
            nursery.cancel_scope.cancel()
