"""What must hold at every moment, and what must be left when everything has come to rest."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import trio

from supervisord_ai.core.verdict import SIGNAL_NAMES, ExitStatus
from supervisord_ai.daemon import Daemon
from supervisord_ai.gateway.view import GatewayView
from tests.fakes.process import FakeProcess
from tests.sim.asks import Asked, End, Shape

if TYPE_CHECKING:
    from tests.sim.world import Life, World

LOOK_S = 1.0
REMEMBERED = 5000
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
        self._remembered: deque[Asked] = deque(maxlen=REMEMBERED)
        self._by_number: dict[int, Asked] = {}
        self._last_topics: dict[int, Asked] = {}
        self._failed: Broken | None = None
        self._died_at = float("-inf")
        self._stepped_at = float("-inf")
        self._verdicts: list[tuple[float, str, frozenset[str]]] = []  # when to look, at whom, for what
        self.reasons: Counter[str] = Counter()
        self.looks = 0
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
        life = self._world.life
        if life is None or life.is_dead or life.daemon is None or not life.is_up.is_set():
            return
        self.looks += 1
        if self._world.bugs:
            self._world.broken("bug", self._world.bugs[0])
        self._judge_verdicts(life.daemon, trio.current_time())
        view = life.daemon.gateway.statistics()
        for backend in view.backends:
            if backend.busy > backend.slots:
                self._world.broken("G1", f"{backend.name} has {backend.busy} of {backend.slots} slots busy")
        for queued in view.queue:
            if queued.waited_s > 24 * 3600 + 5:
                self._world.broken("G6", f"{queued.id} of {queued.agent} has waited {queued.waited_s:.0f} s")

    def ended(self, asked: Asked) -> None:
        """Judge one end."""
        world, now = self._world, trio.current_time()
        if asked.end is End.WHOLE:
            self.waits.append(now - asked.at)
            return
        if asked.end is End.REFUSED:

            self.reasons[_shortened(asked.detail)] += 1
            return
        if asked.end is End.BROKEN and self._died_at < asked.at:
            world.broken("G12", f"{asked} was cut off and no daemon died since it was asked")
        if asked.end is End.FAILED:
            self.reasons[_shortened(asked.detail)] += 1
            is_explained = bool(asked.harmed) or world.upstream.troubled_until >= asked.at or self._died_at >= asked.at - 1
            if not is_explained:
                world.broken("G12", f"{asked} failed without a cause: {asked.detail}")
            if "internal error" in asked.detail:
                world.broken("bug", f"{asked}: {asked.detail}")

    def remember(self, asked: Asked) -> None:
        """Keep it for a while: a leaver may yet be seen to start."""
        if len(self._remembered) == REMEMBERED:
            self._by_number.pop(self._remembered[0].number, None)
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
        twins = [
            other
            for other in self._world.processes.alive
            if other is not process and not other.is_held and other.launch.env.get("AI_SUPERVISOR_AGENT") == name
        ]
        if twins:
            self._world.broken("S1", f"{name} runs as {process.pid} and still as {[twin.pid for twin in twins]}")

    def scripted_end(self, process: FakeProcess, status: ExitStatus, *, is_oom: bool) -> None:
        """Note how a process is about to end: its verdict must say so."""
        name = process.launch.env["AI_SUPERVISOR_AGENT"]
        words = {"oom:own-cap"} if is_oom else {f"crash:{SIGNAL_NAMES[status.signal or 0]}"}
        # Of one that was taken over the kernel may keep the status from us; what its group counted is known all the same.
        words |= set() if is_oom else {"exit:unknown(adopted)"}
        self._verdicts.append((trio.current_time() + VERDICT_S, name, frozenset(words)))

    def _judge_verdicts(self, daemon: Daemon, now: float) -> None:
        due = [one for one in self._verdicts if one[0] <= now]
        if not due:
            return
        self._verdicts = [one for one in self._verdicts if one[0] > now]
        shown = {agent.name: agent.verdict for agent in daemon.fleet.statistics().agents}
        for at, name, words in due:
            if self._died_at < at - VERDICT_S and self._world.stopped_at < at - VERDICT_S and shown[name] not in words:
                self._world.broken("S2", f"{name} ended {' or '.join(sorted(words))}, and its verdict is {shown[name]}")

    def serves(self, life: Life) -> None:
        """The first status after a start shows everyone who outlived the last daemon, as he was."""
        assert life.daemon is not None
        shown = {agent.pid: agent for agent in life.daemon.fleet.statistics().agents if agent.pid is not None}
        for process in self._world.processes.alive:
            if process.is_held:
                continue  # spawned, and never let go by a daemon that died: it is no agent yet
            if process.pid not in shown:
                name = process.launch.env.get("AI_SUPERVISOR_AGENT")
                self._world.broken("S1", f"{name} outlived the last daemon as {process.pid}, and this one does not show it")

    # --- the world -----------------------------------------------------------------------------------------------------

    def daemon_died(self) -> None:
        self._died_at = trio.current_time()

    def clock_stepped(self, by_s: float) -> None:
        self._stepped_at = trio.current_time()

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


def is_streamed(shape: Shape) -> bool:
    """Whether its status is known before its end."""
    return shape in {Shape.GENERATE_STREAM, Shape.CHAT_STREAM, Shape.OPENAI_STREAM}
