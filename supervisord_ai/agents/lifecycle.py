"""One agent, for as long as the supervisor runs: its task is the only one that moves its state.

Others send it messages (`want_up`, `want_down`, `restart`, `asked`, `measured`); each is a note and a wake-up, so stop beats
start wherever the task stands, and no command is ever refused because another one is under way.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
from typing import Protocol

import trio

from supervisord_ai.agents.generation import Doors, Generation
from supervisord_ai.agents.living import Life
from supervisord_ai.agents.view import AgentView
from supervisord_ai.core import agent_state
from supervisord_ai.core.adoption import Standing, is_standing
from supervisord_ai.core.agent_state import AgentEvent, AgentState
from supervisord_ai.core.cap import CapDeed
from supervisord_ai.core.events import AgentEnded, AgentQuarantined, AgentReady, ChildKilled
from supervisord_ai.core.liveness import Pause
from supervisord_ai.core.policies import RestartPolicy
from supervisord_ai.core.reload import needs_restart
from supervisord_ai.core.restart import Quarantine, Rest, RestartIn, RestartLedger, RunAgainIn
from supervisord_ai.core.roster import AgentSpec, Ready
from supervisord_ai.core.startup import StartGate
from supervisord_ai.core.verdict import OWN_CAP, SHED, SHUTDOWN, Verdict
from supervisord_ai.errors import HostFault, SpawnFailed, StoreFault
from supervisord_ai.store.rows import AgentRecord

logger = logging.getLogger(__name__)

RESTING = frozenset({AgentState.STOPPED, AgentState.SCHEDULED, AgentState.FINISHED, AgentState.QUARANTINED})
UP = frozenset({AgentState.STARTING, AgentState.RUNNING, AgentState.BACKOFF})
IN_TROUBLE = frozenset({AgentState.BACKOFF, AgentState.QUARANTINED, AgentState.FINISHED})
FAULT_BACKOFF_S = 10.0  # the journal or the machine failed us; the agent is not to blame


class Witness(Protocol):
    """Who is told of every start that came up and every end, also of those that no other room hears of."""

    def ready(self, name: str) -> None: ...

    def extended(self, name: str, by_s: float) -> None: ...

    def ended(self, name: str, generation: int, verdict: Verdict) -> None: ...


class Agent:
    """One agent of the roster."""

    def __init__(
        self,
        spec: AgentSpec,
        *,
        doors: Doors,
        restart: RestartPolicy,
        gate: StartGate,
        rng: random.Random,
        witness: Witness,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.state = AgentState.PENDING
        self._doors = doors
        self._clock = doors.clock
        self._gate = gate
        self._rng = rng
        self._witness = witness
        self._ledger = RestartLedger(restart, spec.policy.restart, spec.every_s)
        self._since = 0.0  # once it runs
        self._is_going_down = False  # with the supervisor
        self._down: tuple[str, float | None] = ("owner", None)  # why it is to be down, and until when
        self._is_let_be = False  # the supervisor goes, and it stays
        # messages
        self._membership = trio.CancelScope()
        self._changed = trio.Event()
        self._wish: bool | None = None  # up, down, or nobody has said anything yet
        self._is_released = False
        self.is_shed = False  # down so that its memory comes back, and nobody has said anything else since
        self._is_worth_a_try = False  # the trouble it rests in was that of another spec
        self._held: AgentSpec | None = None  # what a rollout keeps it on, while the roster says something else
        self._digest = ""  # of what its last generation was made of
        # where it stands
        self._life = Life(spec.name, doors, self)  # of the last generation, or of the next
        self._adopted: Generation | None = None  # taken over, and not lived with yet
        self._number = 0
        self._due = math.inf  # next start, in BACKOFF, SCHEDULED and QUARANTINED
        self._turn_at = math.inf  # its place at the gate, while it waits there
        self._restarts = 0
        self._verdict: Verdict | None = None
        self._reason = ""  # of a quarantine, or of a wait that is nobody's fault

    def __repr__(self) -> str:
        return f"<agent {self.name} {self.state}>"

    # --- messages ---

    @property
    def awaits_turn(self) -> bool:
        """Whether it is to be started, or started again, when a batch has room for it."""
        return self._wish is None if self.state is AgentState.PENDING else self._is_worth_a_try

    def your_turn(self) -> None:
        """Its batch has come. Says nothing where its owner has spoken already."""
        if self._wish is None:
            self.want_up()
        elif self._is_worth_a_try and not agent_state.is_alive(self.state):
            self.want_up()
            self._is_released = True  # what it did under its old spec is not held against the new one
        self._is_worth_a_try = False

    def take(self, spec: AgentSpec) -> None:
        """Be what this spec says: at once where that is possible, else with the next start. Who was stopped stays stopped."""
        if needs_restart(self.spec, spec):
            self._is_worth_a_try = self.state in IN_TROUBLE and self._wish is not False
        self.spec = spec
        self._ledger.restart, self._ledger.every_s = spec.policy.restart, spec.every_s
        self._bind_cap()

    @property
    def wanted(self) -> AgentSpec:
        """What its next generation is made of."""
        if self._held is None:
            return self.spec
        # Its cap follows the roster while it runs, so also when it is started again.
        policy = dataclasses.replace(self._held.policy, memory_bytes=self.spec.policy.memory_bytes)
        return dataclasses.replace(self._held, policy=policy)

    @property
    def number(self) -> int:
        """Its last generation's."""
        return self._number

    @property
    def since(self) -> float:
        """Since when it is in its state, on the monotonic clock."""
        return self._since

    def memory_bytes(self) -> int | None:
        """Return what it has now, None where nobody knows."""
        return None if self.generation is None else self.generation.cage.counters().memory_bytes

    @property
    def generation(self) -> Generation | None:
        """The one that runs, for whoever looks at it."""
        return self._life.generation

    @property
    def is_ready(self) -> bool:
        return self.state is AgentState.RUNNING and self._life.end_reason is None

    def age_s(self, now: float) -> float | None:
        """How long its generation has run; None where it is not ready, or is being ended."""
        return now - self.generation.started_at if self.is_ready and self.generation is not None else None

    @property
    def is_stopped_by_owner(self) -> bool:
        """Whether it was told to stay down."""
        return self._wish is False

    @property
    def run_digest(self) -> str:
        """What its last generation was made of; "" before the first."""
        return self._digest

    @property
    def is_outdated(self) -> bool:
        """Whether it is up, or about to be, and what runs is made of something else than the roster says."""
        return self.state in UP and self._digest not in {"", self.spec.run_digest} and self._wish is not False

    def hold(self, spec: AgentSpec | None) -> None:
        """Start it as this spec whatever the roster says, from its next start on; None: as the roster says."""
        self._held = spec

    def _bind_cap(self) -> None:
        self._life.bind_cap(self.spec.policy.memory_bytes)

    def want_up(self) -> None:
        """It is to run: its owner started it, or released it from quarantine."""
        self._wish = True
        self.is_shed = False
        self._is_released = self.state in RESTING
        self._wake()

    def want_down(self, reason: str, *, kill_at: float | None = None) -> None:
        """It is to end and stay down. `kill_at` is when its grace is over at the latest, on the monotonic clock."""
        if self.is_shed:
            self._reason = ""  # its owner's word now
        self._wish = self._is_released = self._is_worth_a_try = self.is_shed = False
        self._is_going_down |= reason == SHUTDOWN
        self._down = reason, kill_at
        self._end(reason, kill_at)
        self._note_standing()
        self._wake()

    @property
    def may_be_shed(self) -> bool:
        """Whether it runs, is not ending already, and is not critical."""
        if self.spec.policy.critical or self._wish is False:
            return False
        life = self._life
        is_up = self.state is AgentState.RUNNING or self.state is AgentState.STARTING
        return is_up and life.end_reason is None and life.generation is not None

    def shed(self, why: str) -> None:
        """End it so that its memory comes back; it stays down until `restore`, or until its owner says something."""
        self._reason = f"{SHED}: {why}"
        self.want_down(SHED)
        self.is_shed = True

    def restore(self) -> None:
        """It was shed, and may run again. Nothing where its owner has spoken since."""
        if self.is_shed:
            self.want_up()

    def restart(self, reason: str) -> None:
        """End it and start it again; start it if it rests."""
        self._end(reason, None)
        self.want_up()

    def roll(self, spec: AgentSpec | None) -> None:
        """End it and start it at once as this spec, None as the roster says, whatever its last ends have led to."""
        self._held = spec
        self.restart("rollout")
        self._is_released |= not agent_state.is_alive(self.state)

    def leave(self) -> None:
        """It is of the fleet no more. Once it is down."""
        self._doors.journal.stands(self.name, None)
        self._membership.cancel()

    def let_be(self) -> None:
        """When its task is cancelled, it runs on."""
        self._is_let_be = True

    def asked(self, generation: int) -> None:
        """A request of this generation was seen: readiness `request`."""
        if self.generation is None or self._number != generation:
            return
        if self.generation.spec.policy.ready is Ready.REQUEST:
            self._life.ready.set()

    def refused(self, generation: int) -> None:
        """The gateway refused a request of this generation, or cut its answer: its end may be put down to that."""
        if self.generation is not None and self._number == generation:
            self.generation.refused_at = self._clock.monotonic()

    def calls(self, generation: int, *, are_under_way: bool) -> None:
        """This generation waits for answers of ours, or no longer does."""
        if self._number == generation:
            self._life.heartbeats.excuse(Pause.CALLS, is_excused=are_under_way)

    def look(self, *, for_killed: bool) -> None:
        """See whether its cap binds by now, and whether the OOM killer took some of it, and it lives on."""
        life = self._life
        if life.generation is None or life.end_reason is not None:
            return
        life.bind_cap(self.spec.policy.memory_bytes)
        if for_killed and (killed := life.generation.children_killed()):
            logger.warning("agent %s: the OOM killer took %d processes of it, and it lives on", self.name, killed)
            self._doors.tell(ChildKilled(self.name, self._number, killed))

    def measured(self, used_bytes: int) -> None:
        """Its memory, where only looking limits it."""
        if self.generation is None:
            return
        match self.generation.measured(used_bytes):
            case CapDeed.NOTHING:
                return
            case CapDeed.END:
                self._end(OWN_CAP, None)
            case CapDeed.KILL:
                self._end(OWN_CAP, self._clock.monotonic())

    def recall(self, record: AgentRecord) -> None:
        """Know again what the journal tells of the last supervisor's time. Before its task runs."""
        self._number, self._digest = record.generation, record.digest
        if record.verdict is not None:
            detail, *last_lines = (record.detail or "").split("\n")
            self._verdict = Verdict(record.verdict, detail, tuple(last_lines), peak_bytes=record.peak_bytes)
        stood = record.standing
        if stood is not None and stood.state is AgentState.STOPPED and stood.reason.startswith(SHED):
            return  # it is as if its batch had not come yet: that begins when there is memory
        if stood is None or stood.boot_id != self._doors.processes.boot_id():
            return
        now, ago_s = self._clock.monotonic(), self._clock.wall() - self._clock.monotonic()
        self._restarts = stood.restarts
        self._ledger.restore((at - ago_s for at in stood.ends_wall), in_a_row=stood.in_a_row, trials=stood.trials)
        # What it did under another spec is not held against this one.
        if is_standing(stood.state) and not (stood.state in IN_TROUBLE and record.digest != self.spec.run_digest):
            self.state, self._reason = stood.state, stood.reason
            self._wish = stood.is_wanted if self._wish is None else self._wish
            self._since = min(now, stood.since_wall - ago_s)
            self._due = math.inf if stood.due_wall is None else stood.due_wall - ago_s

    def adopt(self, generation: Generation, stood: Standing | None, *, ending: str | None) -> None:
        """Go on with a generation that an earlier supervisor started. Before its task runs.

        `ending`: what it was being ended for. Who was ready is ready: a program says so once.
        """
        self._life.generation = self._adopted = generation
        was_told = self._wish is not None  # while we looked for it
        if not was_told:
            self._wish = ending in {None, SHED} or stood is None or stood.is_wanted is not False
        self._move(AgentEvent.ADOPT)
        if stood is not None and stood.state in {AgentState.RUNNING, AgentState.STOPPING}:
            self.became_ready()
        self._since = generation.started_at
        self._bind_cap()
        if ending is not None:
            self._end(ending, None)
        if was_told and not self._wish:
            self._end(*self._down)

    def quarantine(self, reason: str) -> None:
        """It cannot be started: processes of an earlier run of it do not end. Before its task runs."""
        self._rest_in_quarantine(reason)

    def _end(self, reason: str, kill_at: float | None) -> None:
        if agent_state.is_alive(self.state):
            self._life.end(reason, kill_at)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- for those who wait for it ---

    async def wait_settled(self) -> None:
        """Return when a batch need not wait for it any longer."""
        while not self._has_settled:
            await self._changed.wait()

    @property
    def _has_settled(self) -> bool:
        is_ending = agent_state.is_alive(self.state) and self._life.end_reason is not None
        return agent_state.has_settled(self.state) and not is_ending and not self._is_released

    async def wait_down(self) -> None:
        """Return when nothing of it is left and nothing will start."""
        while agent_state.is_alive(self.state) or self._wish:
            await self._changed.wait()

    def view(self, *, log_path: str) -> AgentView:
        """Return it as it is now; memory is read from its cage."""
        counters = None if self.generation is None else self.generation.cage.counters()
        verdict = self._verdict
        return AgentView(
            name=self.name,
            agent_class=self.spec.policy.name,
            state=self.state,
            generation=self._number,
            pid=None if self.generation is None else self.generation.handle.pid,
            since_s=self._clock.monotonic() - self._since,
            restarts=self._restarts,
            verdict=None if verdict is None else verdict.word,
            detail=self._reason or ("" if verdict is None else verdict.detail),
            memory_bytes=None if counters is None else counters.memory_bytes,
            peak_bytes=None if counters is None else counters.peak_bytes,
            cap_bytes=self.spec.policy.memory_bytes if self.generation is None else self.generation.cap_bytes,
            guarantee="observed" if self._doors.is_observed else str(self._doors.cages.guarantee),
            log_path=log_path,
            status=self._life.status,
            is_outdated=self.is_outdated,
            next_start_s=self._next_start_s,
            last_lines=() if verdict is None else verdict.last_lines,
            last_peak_bytes=None if verdict is None else verdict.peak_bytes,
            excess_bytes=None if self.generation is None else self.generation.excess.highest_bytes or None,
        )

    @property
    def _next_start_s(self) -> float | None:
        due = self._turn_at if self._turn_at < math.inf else self._due if self._is_due_later else None
        return None if due is None else max(0.0, due - self._clock.monotonic())

    # --- the task ---

    async def run(self) -> None:
        """Live until cancelled, or told to leave. Boundary: one agent; a fault of ours in here ends this agent and no other."""
        self._since = self._since or self._clock.monotonic()
        with self._membership:
            while True:
                try:
                    if self._adopted is None:
                        await self._until_due()
                    await self._live_once()
                except (HostFault, StoreFault) as exc:
                    logger.warning("agent %s: %s; next try in %.0f s", self.name, exc, FAULT_BACKOFF_S)
                    self._reason = str(exc)
                    self._back_off(FAULT_BACKOFF_S)
                except Exception as exc:
                    logger.exception("agent %s: a fault of the supervisor", self.name)
                    self._rest_in_quarantine(f"a fault of the supervisor: {exc!r}")

    async def _until_due(self) -> None:
        """Return when it is to be started, now."""
        while True:
            if self._wish is False and self.state is not AgentState.STOPPED:
                self._move(AgentEvent.GONE)
            if self._is_released:
                self._is_released = False
                self._ledger.forgive()
                self._reason = ""
                self._move(AgentEvent.RELEASE)
                if await self._passes_gate():  # one alone at once; with a hundred others it waits its turn
                    return
                continue
            match self.state:
                case AgentState.PENDING if self._wish:
                    return
                case AgentState.BACKOFF | AgentState.SCHEDULED | AgentState.QUARANTINED if self._clock.monotonic() < self._due:
                    with trio.move_on_at(self._due):
                        await self._changed.wait()
                case AgentState.BACKOFF | AgentState.SCHEDULED:
                    if await self._passes_gate():
                        return
                case AgentState.QUARANTINED:
                    logger.info("agent %s: a trial out of quarantine", self.name)
                    self._move(AgentEvent.TRIAL)
                case _:
                    await self._changed.wait()

    async def _passes_gate(self) -> bool:
        """Wait for the turn; False when it is no longer wanted then."""
        self._turn_at = self._gate.reserve(self._clock.monotonic())
        try:
            with trio.move_on_at(self._turn_at):
                while self._wish:
                    await self._changed.wait()
        finally:
            self._turn_at = math.inf
        return self._wish is True

    async def _live_once(self) -> None:
        """One generation, from the number to the decision about the next one."""
        adopted, self._adopted = self._adopted, None
        if adopted is None:
            if self.state is AgentState.BACKOFF:
                self._restarts += 1
            self._life, self._reason = Life(self.name, self._doors, self), ""
            self._is_released = self._is_worth_a_try = False
            self._move(AgentEvent.SPAWN)
        began = self._clock.monotonic() if adopted is None else adopted.started_at
        begun = adopted or await self._begin(self.wanted)
        verdict, left = (begun, ()) if isinstance(begun, Verdict) else await self._live_with(begun)
        await self._write_end(verdict)
        now = self._clock.monotonic()
        self._verdict = verdict
        self._witness.ended(self.name, self._number, verdict)
        words = verdict.word, verdict.detail
        logger.info("agent %s generation %d ended after %.1f s: %s (%s)", self.name, self._number, now - began, *words)
        if left:
            self._rest_in_quarantine(f"processes {', '.join(map(str, left))} do not end when killed")
            self._doors.tell(AgentQuarantined(self.name, self._reason))
        elif not self._wish:
            self._move(AgentEvent.GONE)
        else:
            match self._ledger.after(verdict, ran_s=now - began, now=now, draw=self._rng.random()):
                case RestartIn(delay_s):
                    self._back_off(delay_s)
                case RunAgainIn(delay_s):
                    self._due = now + delay_s
                    self._move(AgentEvent.SCHEDULE)
                case Rest():
                    self._move(AgentEvent.FINISH)
                case Quarantine(reason, trial_in_s):
                    self._due = now + trial_in_s
                    self._reason = reason
                    logger.warning("agent %s is in quarantine: %s", self.name, reason)
                    self._move(AgentEvent.QUARANTINE)
                    self._doors.tell(AgentQuarantined(self.name, reason))

    async def _begin(self, spec: AgentSpec) -> Generation | Verdict:
        """Start a generation; returns its verdict where it never ran."""
        try:
            with self._life.starting:
                self._doors.journal.keep_spec(spec)
                digest = spec.run_digest
                self._number = await self._doors.journal.next_generation(self.name, digest)
                self._digest = digest
                return await Generation.start(spec, self._number, self._doors)
            return Verdict(f"stopped:{self._life.end_reason}", "before it ran")
        except SpawnFailed as exc:
            return Verdict(exc.verdict, exc.detail)

    async def _live_with(self, generation: Generation) -> tuple[Verdict, tuple[int, ...]]:
        """Live with it, end it; returns the verdict and the pids that could not be ended."""
        life = self._life
        life.generation = generation
        self._bind_cap()  # it may have been changed while it was being started
        verdict = Verdict("stopped:abandoned")
        try:
            verdict, left = await life.live(generation)
        except BaseException:
            if self._is_let_be:
                generation.let_be()
            else:
                # Cancelled without having been stopped, or a fault of ours: the agent must not outlive its task.
                await generation.abandon()
            raise
        finally:
            life.generation, life.status = None, ""
            if not self._is_let_be:
                self._doors.tell(AgentEnded(self.name, self._number, verdict.word, verdict.peak_bytes, generation.cap_bytes))
        return verdict, left

    # --- what its generation has it do (living.Keeper) ---

    @property
    def is_starting(self) -> bool:
        return self.state is AgentState.STARTING

    @property
    def grace_s(self) -> float:
        return self.spec.policy.grace_s

    def became_ready(self) -> None:
        self._move(AgentEvent.READY)
        self._witness.ready(self.name)
        self._doors.tell(AgentReady(self.name, self._number))

    def is_being_ended(self) -> None:
        self._move(AgentEvent.END)

    def starts_longer(self, by_s: float) -> None:
        self._witness.extended(self.name, by_s)

    async def _write_end(self, verdict: Verdict) -> None:
        detail = "\n".join((verdict.detail, *verdict.last_lines))
        try:
            await self._doors.journal.ended(self.name, self._number, verdict.word, detail, verdict.peak_bytes)
        except StoreFault as exc:
            logger.error("agent %s: its end (%s) could not be written down: %s", self.name, verdict.word, exc)

    # --- moves ---

    def _move(self, event: AgentEvent) -> None:
        self.state = agent_state.next_state(self.state, event)
        self._since = self._clock.monotonic()
        self._note_standing()
        self._wake()

    @property
    def _is_due_later(self) -> bool:
        return self.state in {AgentState.BACKOFF, AgentState.SCHEDULED, AgentState.QUARANTINED} and math.isfinite(self._due)

    def _note_standing(self) -> None:
        """Have the journal say where it stands, for a supervisor that takes it over. One that went down with us starts afresh."""
        ago_s = self._clock.wall() - self._clock.monotonic()
        standing = Standing(
            self.state,
            since_wall=self._since + ago_s,
            boot_id=self._doors.processes.boot_id(),
            is_wanted=self._wish,
            due_wall=self._due + ago_s if self._is_due_later else None,
            reason=self._reason,
            restarts=self._restarts,
            in_a_row=self._ledger.in_a_row,
            trials=self._ledger.trials,
            ends_wall=tuple(at + ago_s for at in self._ledger.ends),
        )
        self._doors.journal.stands(self.name, None if self._is_going_down else standing)

    def _back_off(self, delay_s: float) -> None:
        self._due = self._clock.monotonic() + delay_s
        if self.state is not AgentState.BACKOFF:
            self._move(AgentEvent.RETRY)

    def _rest_in_quarantine(self, reason: str) -> None:
        decision = self._ledger.quarantined(reason)
        self._due = self._clock.monotonic() + decision.trial_in_s
        self._reason = reason
        self._move(AgentEvent.QUARANTINE)
