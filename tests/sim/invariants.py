"""What must hold at every moment, and what must be left when everything has come to rest.

Where each promise is watched: here G4 G15 G17, S1 S2 S3 S4 S7 S9, D2 D4; at each start (`order`) G2 G4 G7 G10 G16; at the engine
(`upstream`) G1 G3 G6 G8 G11, D1; at the caller (`callers`, `asks`) G5 G9 G12 G14 G16, D1; at a reload
(`befall`) D3; at a rollout (`owner`) S6.

Not watched, because it cannot be here, and what holds it: G13, equal to Ollama byte for byte (tests/contract/test_conformance*,
test_gateway_transcripts); of G1 that 131 at once take 1.05 of the ideal, and of G6 that estimates are within 30 %
(tests/shell/test_promises_fair, test_gateway_estimates); of G8 that ten calls at temperature 0.8 stay ten
(tests/shell/test_gateway_coalesce); of S3 and S4 what the kernel does: the cap at the first instruction, fork bombs, double forks
(tests/system/test_verdicts, tests/system/test_fleet); S8, memory and processor when idle (tests/system/test_diet). S5, a start
that is interrupted in any batch, is S4 after a stop at any moment, and each batch by name in tests/shell/test_fleet.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.effects import Level
from supervisord_ai.core.verdict import SIGNAL_NAMES, ExitStatus
from supervisord_ai.daemon import Daemon
from supervisord_ai.gateway.view import GatewayPulse, GatewayView
from tests.fakes.process import FakeProcess
from tests.sim.asks import Asked, End
from tests.sim.upstream import SLOTS

if TYPE_CHECKING:
    from tests.sim.life import Life
    from tests.sim.world import World

LOOK_S = 1.0
LOOK_CLOSELY_EVERY = 60  # looks
REMEMBERED = 5000
SPAWNS, GATE_S = 31, 2.0  # a batch of 10, ten that come back, and ten of a batch whose agents were ready at once
QUARANTINED_AFTER = 5  # ends of its own: `restart.intensity`
GONE_S = 60.0  # who was taken out of the roster has ended by then
LEAVES_WITHIN_S, STOPS_WITHIN_S = 2.0, 8.0
NOTICED_S = 32.0  # a hung engine is, within 30 s; and a look is made once a second
OPEN_S = 90.0  # a window of a minute and the cool-down, after the last fault
CAPS = (256_000_000, 300_000_000)  # of a sonnet, of an opus
VERDICT_S = 0.9  # an agent is started again after a second at the earliest, and may end of something else then


class Broken(AssertionError):  # noqa: N818 - what is broken is a promise
    """A promise was broken. `str` is for people: the promise, what was seen, and what happened before."""

    def __init__(self, promise: str, what: str, story: tuple[str, ...]) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise
        self.what = what
        self.story = story


class Watch:
    """Looks once a second, and is told of every end. The first breach ends the run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.began_at = trio.current_time()
        self._stop = trio.CancelScope()
        self._remembered: deque[Asked] = deque()
        self._by_number: dict[int, Asked] = {}
        self._last_topics: dict[int, Asked] = {}
        self._failed: Broken | None = None
        self._died_at = float("-inf")
        self._told_to_end_at = float("-inf")
        self._told_life = -1
        self.resized_at = float("-inf")
        self._stepped_at = float("-inf")
        self._stays = False  # who was told to end leaves its agents running
        self._verdicts: list[tuple[float, str, frozenset[str]]] = []  # when to look, at whom, for what
        self._ends: deque[tuple[float, str]] = deque(maxlen=2000)  # scripted ones: when, whose
        self._spawns: deque[float] = deque(maxlen=SPAWNS)
        self._children = 0  # taken by the OOM killer in groups that lived on
        self._critical_since: float | None = None
        self._changes: deque[tuple[float, int]] = deque(maxlen=50)
        self._level = 0
        self.reasons: Counter[str] = Counter()
        self.looks = 0
        self.busy = 0  # slots, summed over the looks
        self.levels: Counter[int] = Counter()
        self.waits: list[float] = []

    async def run(self) -> None:
        """Look until cancelled."""
        with self._stop:
            while True:
                await trio.sleep(LOOK_S)
                self._look()

    def fail(self, broken: Broken) -> None:
        """Raise from whoever saw it: everything unwinds from there."""
        self._failed = self._failed or broken
        raise self._failed

    # --- continuous ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        world = self._world
        life, now = world.life, trio.current_time()
        if life is None or not life.serves or life.daemon is None:
            return
        self.looks += 1
        self.busy += world.upstream.busy
        if world.bugs:
            world.broken("bug", world.bugs[0])
        gateway, fleet = life.daemon.gateway, life.daemon.fleet
        self._judge_verdicts(life.daemon, now)
        self._judge_level(life, now)
        self._judge_backends(gateway.pulse(), now)
        if fleet.pulse().states[AgentState.QUARANTINED]:
            self._judge_quarantine(life.daemon, now)
        if self.looks % LOOK_CLOSELY_EVERY:
            return
        for queued in gateway.statistics().queue:
            if queued.waited_s > 24 * 3600 + 5:
                world.broken("G6", f"{queued.id} of {queued.agent} has waited {queued.waited_s:.0f} s")
        strangers = set(fleet_names(world)) - world.names
        if strangers and now > self.resized_at + GONE_S:
            world.broken("D4", f"{sorted(strangers)} still run, and a reload took them out of the roster")

    def _judge_backends(self, pulse: GatewayPulse, now: float) -> None:
        upstream = self._world.upstream
        silent_s = now - max(upstream.hushed_at, upstream.last_start_at)
        for backend in pulse.backends:
            if backend.busy > SLOTS:
                self._world.broken("G1", f"{backend.name} has {backend.busy} of {SLOTS} slots busy")
            if backend.breaker != "closed" and now > upstream.troubled_until + OPEN_S:
                self._world.broken("G4", f"the breaker of {backend.name} is {backend.breaker}, and the engine was well for long")
            if silent_s > NOTICED_S and backend.state == "ready":
                self._world.broken("G17", f"{backend.name} is said to be ready, and has answered nothing for {silent_s:.0f} s")

    def _judge_level(self, life: Life, now: float) -> None:
        level = life.level
        self.levels[level] += 1
        if level != self._level:
            self._world.tell(f"level {self._level} -> {level}")
            self._level = level
        self._critical_since = None if level < Level.CRITICAL else self._critical_since or now

    @property
    def sees_who_leaves(self) -> bool:
        """Whether a daemon is there that sees who leaves or ends, and is not ending itself."""
        life = self._world.life
        return life is not None and life.serves and self._died_at < trio.current_time()

    def started(self, asked: Asked, now: float) -> None:
        """A call of one request begins at the engine."""
        life, paused_at = self._world.owner.paused_in
        if life == self._world.lives and now > paused_at + LOOK_S:
            self._world.broken("pause", f"{asked} starts, and its owner has paused the queue")
        since = self._critical_since
        is_late_class = not asked.agent.startswith("opus") and asked.at > self._died_at
        life_now = self._world.life
        # It may have fallen since the look.
        is_critical = life_now is not None and life_now.serves and life_now.level == Level.CRITICAL
        if since is not None and is_late_class and since + 2 * LOOK_S < asked.at and is_critical:
            self._world.broken("level", f"{asked} was let in at level 3, and its priority is later than 3")

    def _judge_quarantine(self, daemon: Daemon, now: float) -> None:
        """Nobody is quarantined but for his own ends: not for ours, for the fleet's or for what a refusal made of him."""
        for agent in daemon.fleet.statistics().agents:
            if agent.state is not AgentState.QUARANTINED:
                continue
            ends = sum(1 for at, name in self._ends if name == agent.name)
            if ends < QUARANTINED_AFTER:
                self._world.broken("S9", f"{agent.name} is quarantined after {ends} ends of its own: {agent.detail}")

    def ended(self, asked: Asked) -> None:
        """Judge one end."""
        world, now = self._world, trio.current_time()
        if asked.end is End.WHOLE:
            self.waits.append(now - asked.at)
            return
        if asked.end is End.REFUSED:
            self.reasons[_shortened(asked.detail)] += 1
            return
        went_at = max(self._died_at, self._told_to_end_at)
        if asked.end is End.BROKEN and went_at < asked.at:
            world.broken("G12", f"{asked} was cut off and no daemon died since it was asked")
        if asked.end is End.FAILED:
            self.reasons[_shortened(asked.detail)] += 1
            is_explained = bool(asked.harmed) or world.upstream.troubled_until >= asked.at or went_at >= asked.at - 1
            if not is_explained:
                world.broken("G12", f"{asked} failed without a cause: {asked.detail}")
            if "internal error" in asked.detail:
                world.broken("bug", f"{asked}: {asked.detail}")

    def remember(self, asked: Asked) -> None:
        """Keep it for a while: a leaver may yet be seen to start."""
        if len(self._remembered) == REMEMBERED:
            self._by_number.pop(self._remembered.popleft().number, None)
        self._remembered.append(asked)
        self._by_number[asked.number] = asked
        if asked.topic is not None:
            self._last_topics[asked.topic] = asked

    def remembered(self, number: int) -> Asked:
        """Return one that is over. Raises: Broken when it is long forgotten."""
        if number not in self._by_number:
            self._world.broken("G3", f"request {number} starts long after it was over")
        return self._by_number[number]

    def lost_topic(self, topic: int) -> Asked:
        """Return the last who asked a topic that nobody asks now: its asker left a moment ago."""
        return self._last_topics[topic]

    # --- processes -----------------------------------------------------------------------------------------------------

    def process_began(self, name: str, process: FakeProcess) -> None:
        """No agent runs twice."""
        life = self._world.life
        cap = life.cap_of(name) if life is not None else None
        if process.cage is None or not process.cage.endswith(f"/{name}") or cap != CAPS[name.startswith("opus")]:
            self._world.broken("S3", f"{name} begins in {process.cage}, whose cap is {cap}")
        twins = [
            other
            for other in self._world.processes.alive
            if other is not process and not other.is_held and other.launch.env.get("AI_SUPERVISOR_AGENT") == name
        ]
        now = trio.current_time()
        self._spawns.append(now)
        if len(self._spawns) == SPAWNS and self._spawns[0] > now - GATE_S:
            self._world.broken("S7", f"{SPAWNS} agents were started within {now - self._spawns[0]:.2f} s")
        if twins:
            self._world.broken("S1", f"{name} runs as {process.pid} and still as {[twin.pid for twin in twins]}")

    def ends_by_itself(self, name: str) -> None:
        """What it runs ends soon, and that is its own doing."""
        self._ends.append((trio.current_time(), name))

    def scripted_end(self, process: FakeProcess, status: ExitStatus, *, is_oom: bool) -> None:
        """Note how a process is about to end: its verdict must say so."""
        name = process.launch.env["AI_SUPERVISOR_AGENT"]
        words = {"oom:own-cap"} if is_oom else {f"crash:{SIGNAL_NAMES[status.signal or 0]}"}
        # Of one that was taken over the kernel may keep the status from us; what its group counted is known all the same.
        words |= set() if is_oom else {"exit:unknown(adopted)"}
        words |= set() if self.sees_who_leaves else {"lost-while-down"}
        words |= {"stopped:rollout"} if self._world.owner.is_rolling else set()  # its turn may have come in these seconds
        self._ends.append((trio.current_time(), name))
        self._verdicts.append((trio.current_time() + VERDICT_S, name, frozenset(words)))

    def forget_verdicts(self, names: Sequence[str]) -> None:
        """These are told to end by their owner at the same time."""
        self._verdicts = [one for one in self._verdicts if one[1] not in names]

    def _judge_verdicts(self, daemon: Daemon, now: float) -> None:
        due = [one for one in self._verdicts if one[0] <= now]
        if not due:
            return
        self._verdicts = [one for one in self._verdicts if one[0] > now]
        shown = {agent.name: agent.verdict for agent in daemon.fleet.statistics().agents}
        for at, name, words in due:
            if max(self._died_at, self._told_to_end_at) < at - VERDICT_S and name in shown and shown[name] not in words:
                self._world.broken("S2", f"{name} ended {' or '.join(sorted(words))}, and its verdict is {shown[name]}")

    def serves(self, life: Life) -> None:
        """The first status after a start shows everyone who outlived the last daemon, as he was."""
        assert life.daemon is not None
        shown = {agent.pid: agent for agent in life.daemon.fleet.statistics().agents if agent.pid is not None}
        for process in self._world.processes.alive:
            if process.is_held:
                continue  # spawned, and never let go by a daemon that died: it is no agent yet
            name = process.launch.env.get("AI_SUPERVISOR_AGENT")
            if process.pid not in shown and name in self._world.names:
                self._world.broken("S1", f"{name} outlived the last daemon as {process.pid}, and this one does not show it")

    # --- the world -----------------------------------------------------------------------------------------------------

    def daemon_died(self) -> None:
        self._died_at = trio.current_time()

    def told_to_end(self, *, stays: bool) -> None:
        """The daemon is told to end: its agents go with it, or stay."""
        self._told_to_end_at, self._stays = trio.current_time(), stays
        self._told_life = self._world.life.number if self._world.life is not None else -1

    def daemon_ended(self, life: Life) -> None:
        """A life is over. Of one that was told so it did not take long, and of its agents there is what should be."""
        now = trio.current_time()
        if self._died_at >= self._told_to_end_at or life.number != self._told_life:
            return
        took_s = now - self._told_to_end_at
        alive = {process.pid for process in self._world.processes.alive if not process.is_held}
        if took_s > (LEAVES_WITHIN_S if self._stays else STOPS_WITHIN_S):
            self._world.broken("S4", f"it was told to {'leave' if self._stays else 'stop'} and took {took_s:.1f} s")
        if not self._stays and alive:
            self._world.broken("S4", f"{len(alive)} agents still run after a stop")

    def clock_stepped(self) -> None:
        self._stepped_at = trio.current_time()

    def stepped_since(self, at: float) -> bool:
        """Whether the wall clock was stepped since then: what is kept for a while is kept by it."""
        return self._stepped_at >= at

    def child_taken(self, name: str) -> None:
        self._children += 1

    # --- at rest -------------------------------------------------------------------------------------------------------

    def at_rest(self) -> None:
        """Nobody has asked for a quarter of an hour and nothing is broken any more: nothing may be held."""
        world = self._world
        life = world.life
        if life is None or life.daemon is None or life.is_dead:
            world.broken("D2", "no daemon runs at the end")
            return
        view: GatewayView = life.daemon.gateway.statistics()
        double = world.upstream.double.statistics()
        if view.queued or view.running:
            world.broken("G3", f"{view.queued} queued and {view.running} running, and nobody asks")
        held = double.in_flight - double.leaked_handlers - world.upstream.of_the_dead  # what its own leaks keep is not ours
        if held > 0:
            world.broken("G3", f"the engine still has {held} calls of ours")
        if view.spool.memory_bytes or view.spool.disk_bytes:
            world.broken("D2", f"the spool still holds {view.spool.memory_bytes} + {view.spool.disk_bytes} bytes")
        for backend in view.backends:
            if backend.state != "ready" or backend.breaker != "closed":
                world.broken("G4", f"{backend.name} is {backend.state}, its breaker {backend.breaker}, long after the last fault")
        if (level := life.level) != Level.NORMAL:
            world.broken("G15", f"level {level} holds, and nothing has been wrong for a quarter of an hour")
        states = life.daemon.fleet.pulse().states
        if states[AgentState.RUNNING] != len(world.names):
            world.broken("S7", f"of {len(world.names)} agents not all run at the end: {dict(states)}")
        left = [asked for asked in world.open.values() if asked.end is None]
        if left:
            world.broken("D1", f"{len(left)} were never answered, the first: {left[0]}")

    def stopped(self) -> None:
        """The daemon was told to stop: everything is gone within 8 s."""
        alive = self._world.processes.alive
        if alive:
            self._world.broken("S4", f"{len(alive)} agents still run after a stop")


def _shortened(detail: str) -> str:
    return "".join("#" if char.isdigit() else char for char in detail)[:70]


def fleet_names(world: World) -> list[str]:
    """Return whose processes run."""
    return [process.launch.env["AI_SUPERVISOR_AGENT"] for process in world.processes.alive if not process.is_held]
