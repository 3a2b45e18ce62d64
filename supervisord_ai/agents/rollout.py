"""Carries out a rollout: asks core/rollout what comes next, writes it down, and does it.

    written down (durable) -> its own calls in flight are over, or its grace is -> ended, started as what it is to become
        -> the agent tells of readiness and ends (`ready`, `ended`) -> asked again

What an agent is started as is what it is held to (`Agent.hold`): while its group has not come, and after it was put back, that is
what it was before. So one that falls by itself in the middle of a rollout does not come up as a spec that is not proved, and
after a rollback neither a crash nor a reboot brings the bad spec in: only a new rollout, or another change of the config does.

A rollout that was under way when we were killed is paused when we come back, because nobody knows why we were.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
import trio

from supervisord_ai.agents.generation import Journal
from supervisord_ai.agents.lifecycle import Agent
from supervisord_ai.clock import Clock
from supervisord_ai.core.events import Event, RolloutMoved
from supervisord_ai.core.policies import RolloutPolicy
from supervisord_ai.core.rollout import (
    End,
    Entry,
    Over,
    Record,
    Rollout,
    State,
    Step,
    TakeBack,
    TakeOn,
    WaitUntil,
    end_of,
    taken_up,
)
from supervisord_ai.core.roster import Ready
from supervisord_ai.core.verdict import Verdict
from supervisord_ai.duty import kept_up
from supervisord_ai.errors import StoreFault, UsageError

logger = logging.getLogger(__name__)

WRITE_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class RolledAgentView:
    """One agent of a rollout; `why`: how it failed."""

    name: str
    step: str
    why: str


@dataclass(frozen=True, slots=True)
class RolloutView:
    """The last rollout. `state` is "none" where there never was one; `why`: of a pause, or of going back."""

    state: str
    why: str
    total: int
    rolled: int
    failed: int
    in_hand: tuple[str, ...]
    outdated: int  # of the whole fleet, now
    agents: tuple[RolledAgentView, ...]


class Rollouts:
    """The one rollout of a fleet. `agents` is the fleet's own table; `is_busy` says who has calls in flight."""

    def __init__(
        self,
        policy: RolloutPolicy,
        *,
        agents: Mapping[str, Agent],
        journal: Journal,
        clock: Clock,
        tell: Callable[[Event], None],
        is_busy: Callable[[str], bool],
    ) -> None:
        self._policy = policy
        self._agents = agents
        self._journal = journal
        self._clock = clock
        self._tell = tell
        self._is_busy = is_busy
        self._rollout = Rollout(policy, Record(()))
        self._written = Record(())
        self._told: State | None = None
        self._since: dict[str, int] = {}  # whose generations after this number count
        self._changed = trio.Event()
        self._running = trio.CancelScope()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<rollout {self.view().state}: {dict(self._rollout.counts())}>"

    # --- what the owner says ---

    def begin(self, names: Iterable[str]) -> tuple[str, ...]:
        """Roll those of these agents that are outdated; returns who that is. Nothing is done where nobody is.

        Raises:
            UsageError: the fleet is being stopped, a rollout is under way, or what somebody was made of is not known, so that
                there would be no way back.
        """
        if self._is_closed:
            raise UsageError("the fleet is being stopped")
        if not self._rollout.is_over:
            raise UsageError(f"a rollout is {self._rollout.state} already: --status shows it, --abort takes it back")
        outdated = [agent for name in names if (agent := self._agents.get(name)) is not None and agent.is_outdated]
        held = {agent.name: self._journal.spec(agent.run_digest) for agent in outdated}
        if unknown := sorted(name for name, spec in held.items() if spec is None):
            raise UsageError(f"what {', '.join(unknown[:3])} runs as was not kept, there is no way back: use `agents restart`")
        if not outdated:
            return ()
        for agent in outdated:
            agent.hold(held[agent.name])
        self._since.clear()
        entries = tuple(_entry(agent) for agent in outdated)
        self._rollout = Rollout(self._policy, Record(entries), is_held=self._rollout.is_held)
        self._wake()
        return tuple(held)

    @property
    def is_under_way(self) -> bool:
        return not self._rollout.is_over

    def pause(self) -> None:
        """Take no further agent. Raises: UsageError, nothing is under way."""
        self._under_way().pause("by its owner")
        self._wake()

    def resume(self) -> None:
        """Go on. Raises: UsageError, nothing is under way."""
        self._under_way().resume()
        self._wake()

    def abort(self) -> None:
        """Take everyone back. Raises: UsageError, nothing is under way."""
        self._under_way().abort("by its owner")
        self._wake()

    async def wait_written(self) -> None:
        """Return when what was said last will be known to another supervisor."""
        while self._written != self._rollout.written():
            await self._changed.wait()

    def _under_way(self) -> Rollout:
        if self._rollout.is_over:
            raise UsageError("no rollout is under way")
        return self._rollout

    # --- messages ---

    def recall(self) -> None:
        """Take up what the last supervisor left, paused. Before the agents' tasks run."""
        written = self._journal.rollout()
        if written is None:
            return
        try:
            record = msgspec.json.decode(written, type=Record)
        except msgspec.DecodeError as exc:
            logger.error("the last rollout is not understood and is forgotten: %s", exc)
            return
        made_of = {name: agent.run_digest for name, agent in self._agents.items()}
        record = taken_up(record, made_of)
        self._rollout = Rollout(self._policy, record)
        self._since = dict.fromkeys(self._rollout.in_hand, 0)
        for one in record.entries:
            if one.name in self._agents and self._is_held_to(one):
                self._agents[one.name].hold(self._journal.spec(one.before))
        now = self._clock.monotonic()
        for name in self._rollout.in_hand:
            self._rollout.restarted(name, now)
            if self._agents[name].is_ready:  # it was taken over, and told of its readiness before anyone listened
                self._rollout.ready(name, now)
        if not self._rollout.is_over:
            logger.warning("a rollout was under way when the supervisor ended; it is paused: ai-supervisor rollout --status")

    def follow(self) -> None:
        """The roster is another one: who is gone is waited for no more, who is to become something else becomes that."""
        for one in self._rollout.written().entries:
            agent = self._agents.get(one.name)
            if agent is None:
                self._rollout.leave((one.name,))
            elif not self._rollout.is_over:
                self._rollout.retarget(one.name, agent.spec.run_digest)
        self._let_go()
        self._wake()

    def hold_up(self, is_held: bool) -> None:
        """The machine is under pressure, or no longer."""
        self._rollout.is_held = is_held
        self._wake()

    def ready(self, name: str) -> None:
        self._rollout.ready(name, self._clock.monotonic())
        self._wake()

    def extended(self, name: str, by_s: float) -> None:
        self._rollout.extended(name, self._clock.monotonic() + by_s)
        self._wake()

    def ended(self, name: str, generation: int, verdict: Verdict) -> None:
        if generation <= self._since.get(name, generation):
            return
        end = end_of(verdict.word, is_after_gateway=verdict.is_after_gateway)
        first_line = verdict.detail.partition("\n")[0]
        self._rollout.ended(name, end, self._clock.monotonic(), f"{verdict.word} ({first_line})" if first_line else verdict.word)
        if end is End.FAILED and self._rollout.step(name) is Step.ROLLING:
            logger.warning("rollout: agent %s failed as its new spec: %s", name, verdict.word)
        self._wake()

    def stopped(self, name: str) -> None:
        """Its owner stopped it: the rollout waits for it no more."""
        self._rollout.leave((name,))
        self._wake()

    def close(self) -> None:
        """The fleet is being stopped: nothing is begun any more, and what was begun is for the next supervisor."""
        self._is_closed = True
        self._running.cancel()

    def calls_changed(self) -> None:
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- the task ---

    async def run(self) -> None:
        """Carry out until closed, or cancelled."""
        with self._running:
            await kept_up("the rollout", self._carry_out)

    async def _carry_out(self) -> None:
        async with trio.open_nursery() as turns:
            for name, step in self._rollout.unbegun:  # of a run of this task that failed
                turns.start_soon(self._turn, name, step)
            while True:
                changed = self._changed
                deed = self._rollout.next(self._clock.monotonic())
                await self._write()  # nothing is done before another supervisor would know that it was to be done
                self._let_go()
                match deed:
                    case TakeOn(names):
                        logger.info("rollout: %d agents, %s", len(names), ", ".join(names))
                        for name in names:
                            turns.start_soon(self._turn, name, Step.ROLLING)
                    case TakeBack(names):
                        logger.warning("rollout: %d agents go back, %s", len(names), ", ".join(names))
                        for name in names:
                            turns.start_soon(self._turn, name, Step.RETURNING)
                    case WaitUntil(at):
                        with trio.move_on_at(at):
                            await changed.wait()
                    case Over():
                        self._forget()
                        await changed.wait()

    async def _turn(self, name: str, step: Step) -> None:
        """Have one agent become what it is to be, once its own calls are over or its grace is."""
        agent = self._agents.get(name)
        if agent is None:
            return
        with trio.move_on_after(agent.spec.policy.grace_s):
            while self._is_busy(name):
                await self._changed.wait()
        if self._rollout.step(name) is not step or self._agents.get(name) is not agent:
            return  # it was decided otherwise meanwhile
        if agent.is_stopped_by_owner:
            self.stopped(name)
            return
        before = next(one.before for one in self._rollout.written().entries if one.name == name)
        now = self._clock.monotonic()
        self._since[name] = agent.number
        self._rollout.restarted(name, now)
        if step is Step.RETURNING and agent.run_digest == before and agent.is_ready:  # its turn had not begun
            agent.hold(self._journal.spec(before))
            self._rollout.ready(name, now)
        else:
            agent.roll(self._journal.spec(before) if step is Step.RETURNING else None)
        self._wake()

    async def _write(self) -> None:
        record = self._rollout.written()
        while record != self._written:
            try:
                await self._journal.keep_rollout(msgspec.json.encode(record).decode())
            except StoreFault as exc:
                logger.error("the rollout waits, it could not be written down: %s", exc)
                await trio.sleep(WRITE_AGAIN_S)
            else:
                self._written = record
                self._wake()
        state = self._rollout.state
        if record.entries and state is not self._told:
            self._told = state
            counts = self._rollout.counts()
            logger.info("rollout: %s%s", state, f" ({record.why})" if record.why else "")
            self._tell(RolloutMoved(state.value, record.why, counts[Step.ROLLED], self._rollout.failures, len(record.entries)))

    def _forget(self) -> None:
        """Specs that nobody could go back to any more are not kept: they have the agents' environment in them."""
        self._journal.forget_specs({one.before for one in self._written.entries if self._is_held_to(one)})

    # --- who is held to what he was ---

    def _is_held_to(self, one: Entry) -> bool:
        """Say whether an agent is to be started as what it was before, whatever the roster says."""
        if one.step in {Step.ROLLING, Step.ROLLED, Step.LEFT}:
            return False
        agent = self._agents.get(one.name)
        return not self._rollout.is_over or (agent is not None and agent.spec.run_digest == one.after)

    def _let_go(self) -> None:
        for one in self._rollout.written().entries:
            if one.name in self._agents and not self._is_held_to(one) and one.step not in {Step.ROLLING, Step.ROLLED}:
                self._agents[one.name].hold(None)

    # --- what people see ---

    def view(self) -> RolloutView:
        record = self._rollout.written()
        counts = self._rollout.counts()
        return RolloutView(
            state=self._rollout.state.value if record.entries else "none",
            why=record.why,
            total=len(record.entries),
            rolled=counts[Step.ROLLED],
            failed=self._rollout.failures,
            in_hand=self._rollout.in_hand,
            outdated=sum(agent.is_outdated for agent in self._agents.values()),
            agents=tuple(RolledAgentView(one.name, one.step.value, one.why) for one in record.entries),
        )


def _entry(agent: Agent) -> Entry:
    is_silent = agent.spec.policy.ready is Ready.REQUEST
    return Entry(agent.name, agent.run_digest, agent.spec.run_digest, may_be_silent=is_silent)
