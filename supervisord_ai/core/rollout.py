"""Decides how outdated agents come to their new specs: group by group, each proved before the next, and back when too many fail.

Knows no processes, no journal and no specs. It is told what happens to the agents in hand (`restarted`, `ready`, `ended`), asked
what comes next (`next`), and may be put to paper and taken up again by another supervisor at any moment in between.

    waiting -> rolling -> rolled       an agent is in hand while it is rolling, returning or down: never more than group_size
                  |         |
                  v         v
               returning -> returned   as the spec it had before: because it failed, or because too many did
                  |            ^
                  +-- down ----+       it does not come up as what it was, either: its restart policy has it

One that fails goes back at once, alone. When more than `max_failures` have failed, all go back. A pause keeps what is in hand
from nothing: it is proved or put back, and no further agent is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from supervisord_ai.core.machine import advance
from supervisord_ai.core.policies import RolloutPolicy
from supervisord_ai.core.verdict import LOST, MAX_AGE, Blame, blame


class Step(StrEnum):
    """Where one agent of a rollout is."""

    WAITING = "waiting"  # its group has not come: it is what it was
    ROLLING = "rolling"  # in hand: being started as its new spec, and not proved yet
    ROLLED = "rolled"  # it was ready for `min_ready`
    RETURNING = "returning"  # in hand: being started as what it was before
    RETURNED = "returned"
    DOWN = "down"  # returned, and it does not come up: it stays in hand, so that no others go down beside it
    LEFT = "left"  # stopped by its owner, or no longer of the fleet: the rollout waits for it no more


class _Move(StrEnum):
    TAKE = "take"
    PROVE = "prove"
    PUT_BACK = "put back"
    GIVE_UP = "give up"
    LEAVE = "leave"


TRANSITIONS: dict[tuple[Step, _Move], Step] = {
    (Step.WAITING, _Move.TAKE): Step.ROLLING,
    (Step.ROLLING, _Move.PROVE): Step.ROLLED,
    (Step.ROLLING, _Move.PUT_BACK): Step.RETURNING,
    (Step.ROLLED, _Move.PUT_BACK): Step.RETURNING,
    (Step.RETURNING, _Move.PROVE): Step.RETURNED,
    (Step.RETURNING, _Move.GIVE_UP): Step.DOWN,
    (Step.DOWN, _Move.PROVE): Step.RETURNED,
    **{(step, _Move.LEAVE): Step.LEFT for step in Step},
}
EXTENDED_MOST = 10
OUR_RESTARTS = frozenset({LOST, "stopped:restart", "stopped:rollout", f"stopped:{MAX_AGE}"})  # it is started again after these
IN_HAND = frozenset({Step.ROLLING, Step.RETURNING, Step.DOWN})


class End(StrEnum):
    """What the end of a generation says about the spec it was made of."""

    FAILED = "failed"  # its own doing
    EXCUSED = "excused"  # the machine's, the gateway's, ours: it is started again and proves itself then
    FINISHED = "finished"  # it did what it was for
    STOPPED = "stopped"  # by its owner


class Heading(StrEnum):
    """Which way a rollout goes."""

    FORWARD = "forward"
    BACK = "back"


class State(StrEnum):
    """A rollout in one word, for people."""

    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling back"
    DONE = "done"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class Entry:
    """One agent of a rollout, as it is written down. `before` and `after` are run digests; `why`: how it failed."""

    name: str
    before: str
    after: str
    step: Step = Step.WAITING
    why: str = ""
    may_be_silent: bool = False  # it is ready with its first request, which nobody can demand


@dataclass(frozen=True, slots=True)
class Record:
    """A whole rollout, as it is written down."""

    entries: tuple[Entry, ...]
    heading: Heading = Heading.FORWARD
    is_paused: bool = False
    why: str = ""  # of a pause, or of going back


@dataclass(frozen=True, slots=True)
class TakeOn:
    """Start these as their new specs."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Start these as what they were before."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing is to be done before something is told, or this time comes."""

    at: float


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing will be done any more."""


Deed = TakeOn | TakeBack | WaitUntil | Over


@dataclass(slots=True)
class _Member:
    entry: Entry
    step: Step
    why: str
    started_at: float | None = None  # as what it is to become; None: its restart has not begun
    ready_at: float | None = None
    extended_until: float = -math.inf


@dataclass(slots=True)
class Rollout:
    """One rollout. Times are seconds on one monotonic clock.

    `is_held`: the machine is under pressure, nobody is taken for as long (going back is never held up).
    """

    policy: RolloutPolicy
    record: Record
    is_held: bool = False
    ready_within_s: float = 120.0  # no key: who needs longer to be ready takes too long for the group that waits for it
    _members: dict[str, _Member] = field(init=False)
    _heading: Heading = field(init=False)
    _is_paused: bool = field(init=False)
    _why: str = field(init=False)

    def __post_init__(self) -> None:
        self._members = {one.name: _Member(one, one.step, one.why) for one in self.record.entries}
        self._heading, self._is_paused, self._why = self.record.heading, self.record.is_paused, self.record.why

    def written(self) -> Record:
        """Return where it stands, to be written down."""
        entries = tuple(
            Entry(one.entry.name, one.entry.before, one.entry.after, one.step, one.why, one.entry.may_be_silent)
            for one in self._members.values()
        )
        return Record(entries, self._heading, self._is_paused, self._why)

    @property
    def state(self) -> State:
        if self.is_over:
            return State.DONE if self._heading is Heading.FORWARD else State.ROLLED_BACK
        if self._is_paused:
            return State.PAUSED
        return State.RUNNING if self._heading is Heading.FORWARD else State.ROLLING_BACK

    @property
    def is_over(self) -> bool:
        steps = {one.step for one in self._members.values()}
        return not steps & {Step.ROLLING, Step.RETURNING, Step.WAITING if self._heading is Heading.FORWARD else Step.ROLLED}

    @property
    def failures(self) -> int:
        return sum(bool(one.why) for one in self._members.values())

    @property
    def in_hand(self) -> tuple[str, ...]:
        return tuple(name for name, one in self._members.items() if one.step in IN_HAND)

    @property
    def unbegun(self) -> tuple[tuple[str, Step], ...]:
        """Return who was taken and is not being started yet, and for what."""
        return tuple((name, self._members[name].step) for name in self.in_hand if self._members[name].started_at is None)

    def step(self, name: str) -> Step | None:
        """Return where an agent is; None: it is none of this rollout."""
        return self._members[name].step if name in self._members else None

    def counts(self) -> Counter[Step]:
        return Counter(one.step for one in self._members.values())

    # --- what happens ---

    def restarted(self, name: str, now: float) -> None:
        """An agent in hand is being started as what it is to become. What it did before this says nothing."""
        member = self._members[name]
        member.started_at, member.ready_at, member.extended_until = now, None, -math.inf

    def ready(self, name: str, now: float) -> None:
        member = self._in_hand(name)
        if member is None:
            return
        if member.step in {Step.RETURNING, Step.DOWN}:
            self._move(member, _Move.PROVE)
        elif member.ready_at is None:
            member.ready_at = now

    def extended(self, name: str, until: float) -> None:
        """An agent that is being started asks for time until then; it gets EXTENDED_MOST times what the others have."""
        member = self._in_hand(name)
        if member is not None:
            member.extended_until = max(member.extended_until, until)

    def ended(self, name: str, end: End, now: float, why: str) -> None:
        """A generation that was started since `restarted` has ended."""
        member = self._in_hand(name)
        if member is None:
            return
        match end:
            case End.STOPPED:
                self.leave((name,))
            case End.FINISHED:
                self._move(member, _Move.PROVE)
            case End.EXCUSED:
                member.started_at, member.ready_at = now, None
            case End.FAILED if member.step is Step.ROLLING:
                member.why = why
            case End.FAILED if member.step is Step.RETURNING:  # nothing is left to go back to
                self._move(member, _Move.GIVE_UP)
            case End.FAILED:
                pass
            case _:
                assert_never(end)

    def leave(self, names: Iterable[str]) -> None:
        """These are no matter of the rollout any more."""
        for name in names:
            if name in self._members and self._members[name].step not in {Step.RETURNED, Step.LEFT}:
                self._move(self._members[name], _Move.LEAVE)

    def retarget(self, name: str, after: str) -> None:
        """An agent whose group has not come is to become something else by now; its present self: then nothing is to be done."""
        member = self._members.get(name)
        if member is None or member.step is not Step.WAITING:
            return
        old = member.entry
        member.entry = Entry(name, old.before, after, may_be_silent=old.may_be_silent)
        if after == old.before:
            self._move(member, _Move.LEAVE)

    # --- what the owner says ---

    def pause(self, why: str) -> None:
        self._is_paused, self._why = True, why

    def resume(self) -> None:
        self._is_paused = False
        if self._heading is Heading.FORWARD:
            self._why = ""

    def abort(self, why: str) -> None:
        """Go back: everyone who was rolled becomes what he was."""
        self._heading, self._is_paused, self._why = Heading.BACK, False, why

    # --- what is to be done ---

    def next(self, now: float) -> Deed:
        """Return what is to be done now, and count it as being done."""
        self._judge(now)
        if self.failures > self.policy.max_failures and self._heading is Heading.FORWARD:
            self._heading = Heading.BACK
            self._why = f"{self.failures} failed, {self.policy.max_failures} may"
        is_going_back = self._heading is Heading.BACK and not self._is_paused
        members = self._members.values()
        # Who is rolling is in hand already, and down or not proved: going back costs the fleet nobody more.
        back = [one for one in members if one.step is Step.ROLLING and (one.why or is_going_back)]
        room = self.policy.group_size - len(self.in_hand)
        if is_going_back:
            back += [one for one in members if one.step is Step.ROLLED][: max(0, room)]
        if back:
            return TakeBack(self._take(back, _Move.PUT_BACK))
        is_proved = all(one.step not in {Step.ROLLING, Step.RETURNING} for one in members)
        if self._heading is Heading.FORWARD and not self._is_paused and not self.is_held and is_proved:
            group = [one for one in members if one.step is Step.WAITING][: max(0, room)]
            if group:
                return TakeOn(self._take(group, _Move.TAKE))
        if self.is_over:
            return Over()
        return WaitUntil(min((self._due(one) for one in members), default=math.inf))

    def _judge(self, now: float) -> None:
        """Move on who has proved himself by time, or has not come in time."""
        for member in self._members.values():
            if now < self._due(member):
                continue
            if member.ready_at is not None or member.entry.may_be_silent:
                self._move(member, _Move.PROVE)
            elif member.step is Step.ROLLING:
                member.why = f"not ready within {self.ready_within_s:.0f} s"
            else:
                self._move(member, _Move.GIVE_UP)

    def _due(self, member: _Member) -> float:
        has_failed = bool(member.why) and member.step is Step.ROLLING
        if member.step not in {Step.ROLLING, Step.RETURNING} or member.started_at is None or has_failed:
            return math.inf
        if member.ready_at is not None:
            return member.ready_at + self.policy.min_ready_s
        within = member.started_at + self.ready_within_s, member.started_at + EXTENDED_MOST * self.ready_within_s
        return min(max(within[0], member.extended_until), within[1])

    def _take(self, members: list[_Member], move: _Move) -> tuple[str, ...]:
        for member in members:
            self._move(member, move)
        return tuple(member.entry.name for member in members)

    def _move(self, member: _Member, move: _Move) -> None:
        member.step = advance("agent of a rollout", TRANSITIONS, member.step, move)
        if move is not _Move.GIVE_UP:
            member.started_at = member.ready_at = None

    def _in_hand(self, name: str) -> _Member | None:
        member = self._members.get(name)
        if member is None or member.step not in IN_HAND or member.started_at is None:
            return None
        return member


def end_of(word: str, *, is_after_gateway: bool) -> End:
    """Return what a verdict says about the spec of the generation that it is about."""
    match blame(word):
        case Blame.NOBODY:
            return End.FINISHED
        case Blame.OURS:
            return End.EXCUSED if word in OUR_RESTARTS else End.STOPPED
        case Blame.MACHINE:
            return End.EXCUSED
        case Blame.ITSELF:
            return End.EXCUSED if is_after_gateway else End.FAILED
        case other:
            assert_never(other)


def taken_up(record: Record, digests: dict[str, str]) -> Record:
    """Return what another supervisor goes on with: paused, and without steps that were written down and not begun.

    `digests`: what the last generation of each agent that is still there was made of.
    """
    entries = []
    for one in record.entries:
        step, made_of = one.step, digests.get(one.name)
        if made_of is None:
            step = Step.LEFT
        elif step is Step.ROLLING and made_of == one.before:
            step = Step.WAITING
        elif step in {Step.RETURNING, Step.DOWN} and made_of != one.before:
            step = Step.ROLLING
        entries.append(Entry(one.name, one.before, one.after, step, one.why, one.may_be_silent))
    again = Record(tuple(entries), record.heading, record.is_paused, record.why)
    if Rollout(RolloutPolicy(), again).is_over or record.is_paused:
        return again
    return Record(again.entries, again.heading, is_paused=True, why="the supervisor was started anew")
