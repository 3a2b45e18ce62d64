"""Decides what becomes of an agent that an earlier supervisor left behind: taken over as it is, ended, or only written down.

Knows nothing of processes or files. The journal says what was started, the agent's group says who is alive, and a process is
the one that was started only if pid, start time, boot and group are all the same. Taken over is only who can be watched, limited
and ended like a child of ours; anybody else would be a second copy beside the one that is started next.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.verdict import REMOVED, SHUTDOWN


@dataclass(frozen=True, slots=True)
class Baseline:
    """What must be remembered of the start of a generation, so that a later supervisor can judge its end.

    Counters as they stood then; None where the kernel does not count. `cap_bytes` is its cap, whatever the config says now; 0
    where it was only observed and bound nobody.
    """

    started_wall: float
    log_offset: int
    cap_bytes: int
    uid: int
    oom_kills: int = 0
    own_limit_hits: int | None = None
    fleet_limit_hits: int | None = None
    oomd_kills: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an agent stood, and what was on its account. Times are wall seconds; `due_wall` is its next start."""

    state: AgentState
    since_wall: float
    boot_id: str
    is_wanted: bool | None = None  # up, down, or nobody had said anything yet
    due_wall: float | None = None
    reason: str = ""
    restarts: int = 0
    in_a_row: int = 0
    trials: int = 0
    ends_wall: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the journal says of an agent's newest generation. `is_known`: the process it was is written down."""

    has_ended: bool
    is_known: bool = True
    is_this_boot: bool = True
    intent: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is there. `main_lives`: the process that was written down, and no other that has its number now."""

    members: int = 0  # of its group, the main process included
    main_lives: bool = False
    main_is_inside: bool = False


@dataclass(frozen=True, slots=True)
class Adopt:
    """It is the agent that was started: go on with it. `ending`: the reason for which it was being ended already."""

    ending: str | None = None


@dataclass(frozen=True, slots=True)
class EndStrays:
    """Processes are there that nobody can vouch for: end them, then the agent is started like any other."""

    why: str


@dataclass(frozen=True, slots=True)
class LostWhileDown:
    """It ran when it was last seen, and nothing of it is left."""

    why: str


@dataclass(frozen=True, slots=True)
class StopUnknown:
    """Processes are there of somebody who is not of this fleet: say so, and end them."""


@dataclass(frozen=True, slots=True)
class NothingLeft:
    """It had ended, and was written down so."""


Decision = Adopt | EndStrays | LostWhileDown | StopUnknown | NothingLeft


def decide(last: LastRun | None, found: Found, *, is_in_roster: bool, can_outlive_us: bool) -> Decision:
    """Return what becomes of it. `can_outlive_us`: its cage keeps and limits it without us."""
    is_there = found.members > 0 or found.main_lives
    if last is None or last.has_ended:
        if not is_there:
            return NothingLeft()
        if not is_in_roster:
            return StopUnknown()
        return EndStrays("nobody wrote down who they are" if last is None else "they outlived the end of its last generation")
    if not is_there:
        return LostWhileDown(_how_lost(last))
    if not is_in_roster:
        return StopUnknown()
    if not found.main_lives:
        return EndStrays("its main process had ended" if last.is_known else "who they are was never written down")
    if not can_outlive_us:
        return EndStrays("without a group of its own it cannot be taken over")
    if last.intent in {SHUTDOWN, REMOVED}:
        return EndStrays(f"it was being ended: {last.intent}")
    if not found.main_is_inside:
        return EndStrays("its main process has left its group")
    return Adopt(last.intent)


def _how_lost(last: LastRun) -> str:
    if not last.is_this_boot:
        return "the machine was started anew"
    return "nothing of it was running any more" if last.is_known else "it had not been started yet"


def is_standing(state: AgentState) -> bool:
    """Say whether an agent that stood so goes on standing so under the next supervisor, until its time or its owner comes."""
    return state in {
        AgentState.BACKOFF,
        AgentState.SCHEDULED,
        AgentState.FINISHED,
        AgentState.QUARANTINED,
        AgentState.STOPPED,
    }
