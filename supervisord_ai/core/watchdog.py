"""Decides when an Ollama is to be doubted: that it has lost a slot, or that it hangs. Knows nothing of calls' contents.

**A lost slot.** Ollama hands its slots out in the order of arrival and says nothing when one is gone (ollama#17131). What can be
seen: of two calls that could run together, the second has its first byte just when the first has ended, again and again; or a
call has no byte at all until its patience ends. Either may have innocent reasons, so this only suspects. The proof takes as
many probes at once as there are slots, on a backend where nothing else runs: they must all be speaking at one moment.

**All slots of a model.** Then nobody's call ever ends. A stream is given up after three minutes, and that is a doubt; an answer
that comes in one piece is silent by nature, and has ten. So where no call streams, a model is doubted as soon as all its slots
were taken for five minutes, which is when most callers give up, and not one byte came, whoever left meanwhile; where answers take
long, after four times the longest. Its calls are broken off then, for the good of those who wait. Where the proof finds all slots
they were only slow, and whoever comes next has all his patience.

**A hung engine** accepts connections and answers nothing, not even its version. One that refuses connections is not hung: it was
stopped, perhaps on purpose, and whoever starts it is not us.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WatchdogPolicy:
    """The numbers of both watchdogs.

    `turn_s`: how soon after another call's end a first byte must come to look as if it had waited for it.
    `waited_s`: calls that waited less say nothing. `turns`: how often in a row before it is a suspicion.
    `proof_within_s`: the limit of the probes. `idle_within_s`: how long the backend is held for them while calls make progress.
    `mute_s`, `mute_times` the longest wait for a first byte: after so long without a byte of any call, none of which streams, all
    slots of a model are doubted; `mute_least_s`: the last call must be so old.
    `again_after_s`: a model that was doubted for nothing is not doubted again sooner.
    `silent_s`, `starting_s`: silence after which an engine that has answered, or has never yet, is restarted; Ollama looks for
    GPUs for up to 30 s after its start, and answers nothing meanwhile. `restart_again_s`: at most one restart in this time.
    """

    turn_s: float = 0.25
    waited_s: float = 1.0
    turns: int = 3
    proof_within_s: float = 30.0
    idle_within_s: float = 60.0
    mute_s: float = 300.0
    mute_times: float = 4.0
    mute_least_s: float = 30.0
    again_after_s: float = 300.0
    silent_s: float = 10.0
    starting_s: float = 60.0
    restart_again_s: float = 120.0


@dataclass(slots=True)
class _Running:
    model: str
    started_at: float
    is_streamed: bool = True
    has_spoken: bool = False


@dataclass(slots=True)
class _Model:
    turns: int = 0
    ended_at: float = -math.inf  # of the last call that had spoken
    ended_started_at: float = math.inf
    doubted_at: float = -math.inf
    unheard_since: float | None = None  # somebody is called, and nobody was heard
    left_at: float = -math.inf  # the last call ended, however
    longest_s: float = 0.0  # until a first byte
    is_only_slow: bool = False  # all slots were found, and nobody was heard since
    running: dict[str, _Running] = field(default_factory=dict)


class SlotWatch:
    """Watches the calls of one backend. Told of each start, first byte and end; says which model is to be proved."""

    def __init__(self, policy: WatchdogPolicy | None = None) -> None:
        self.policy = policy if policy is not None else WatchdogPolicy()
        self._models: dict[str, _Model] = {}

    def __repr__(self) -> str:
        return f"<SlotWatch {({name: model.turns for name, model in self._models.items() if model.turns})}>"

    def started(self, call: str, model: str, now: float, *, is_streamed: bool = True) -> None:
        """A call was handed to Ollama."""
        known = self._models.setdefault(model, _Model())
        was_quiet = not known.running and now > known.left_at + self.policy.waited_s
        if known.unheard_since is None or was_quiet:
            known.unheard_since = now
        known.running[call] = _Running(model, now, is_streamed)

    def spoke(self, call: str, model: str, slots: int, now: float) -> bool:
        """The first byte of a call is here. True: this model has perhaps lost one of its slots."""
        known = self._models.setdefault(model, _Model())
        mine = known.running.get(call)
        if mine is None:
            return False
        mine.has_spoken, known.unheard_since, known.is_only_slow = True, None, False
        known.longest_s = max(known.longest_s, now - mine.started_at)
        if sum(other.has_spoken for other in known.running.values()) >= slots:
            known.turns = 0  # they speak together: every slot is there
            return False
        has_waited = now - mine.started_at >= self.policy.waited_s
        # The other was there before this one, and ended just now: this one seems to have waited for it.
        in_turn = known.ended_started_at <= mine.started_at < known.ended_at <= now <= known.ended_at + self.policy.turn_s
        if not (has_waited and in_turn):
            return False
        known.turns += 1
        return known.turns >= self.policy.turns and self._doubt(known, now)

    def ended(self, call: str, model: str, now: float, *, was_silent: bool = False) -> bool:
        """A call is over; `was_silent`: it was given up, with or without a byte: a runner may be stuck. True: as for `spoke`."""
        known = self._models.setdefault(model, _Model())
        mine = known.running.pop(call, None)
        if mine is not None and mine.has_spoken:
            known.ended_at, known.ended_started_at = now, mine.started_at
            known.unheard_since = now
        known.left_at = now
        return was_silent and self._doubt(known, now)

    def is_mute(self, model: str, slots: int, now: float) -> bool:
        """Tell whether all slots of a model are taken and silent for too long. True is a doubt, as of `spoke`."""
        known = self._models.get(model)
        if known is None or known.unheard_since is None or known.is_only_slow or len(known.running) < slots:
            return False
        if any(call.has_spoken or call.is_streamed for call in known.running.values()):
            return False
        patience_s = max(self.policy.mute_s, self.policy.mute_times * known.longest_s)
        youngest_at = max(call.started_at for call in known.running.values())
        is_silent = now - known.unheard_since >= patience_s and now - youngest_at >= self.policy.mute_least_s
        return is_silent and self._doubt(known, now)

    def proved(self, model: str, *, was_right: bool) -> None:
        """The proof is done: what was seen so far counts no more. A doubt that was right may be had again at once."""
        known = self._models.setdefault(model, _Model())
        known.turns = 0
        known.is_only_slow = not was_right
        if was_right:
            known.doubted_at = -math.inf

    def _doubt(self, known: _Model, now: float) -> bool:
        if now < known.doubted_at + self.policy.again_after_s:
            return False
        known.doubted_at = now
        return True


@dataclass(frozen=True, slots=True)
class Probed:
    """One probe: when its first byte came (None: it did not) and when it ended."""

    spoke_at: float | None
    ended_at: float


def most_at_once(probes: Iterable[Probed]) -> int:
    """Return how many probes were speaking at one moment: so many slots are there."""
    spoken = [(probe.spoke_at, probe.ended_at) for probe in probes if probe.spoke_at is not None]
    return max((sum(begun <= at <= ended for begun, ended in spoken) for at, _ in spoken), default=0)


class HangWatch:
    """Watches whether one engine answers small calls; says when it is to be restarted."""

    def __init__(self, policy: WatchdogPolicy | None = None) -> None:
        self.policy = policy if policy is not None else WatchdogPolicy()
        self._silent_since: float | None = None
        self._has_answered = False
        self._restarted_at = -math.inf

    def __repr__(self) -> str:
        return f"<HangWatch silent since {self._silent_since}>"

    def answered(self) -> None:
        """It answered, whatever it said; or it refused the connection: it does not hang."""
        self._silent_since = None
        self._has_answered = True

    def refused(self) -> None:
        """Nobody listens: it is gone, and comes back as one that starts."""
        self._silent_since = None
        self._has_answered = False

    def silent(self, since: float, now: float) -> bool:
        """It took a call at `since` and has not answered by now. True: restart it, now."""
        if self._silent_since is None:
            self._silent_since = since
        patience_s = self.policy.silent_s if self._has_answered else self.policy.starting_s
        if now - self._silent_since < patience_s or now - self._restarted_at < self.policy.restart_again_s:
            return False
        self._restarted_at = now
        self._silent_since = None
        self._has_answered = False
        return True
