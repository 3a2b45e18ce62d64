"""What the rooms tell, written down for people: one event of the journal for each fact that a person may ask about later.

What it counts since the daemon began is what `status` calls "happened". An agent that is started, is ready and ends when it
was told to is written down and not counted: that is the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol, assert_never

from supervisord_ai.clock import Clock
from supervisord_ai.core.downtime import Downtime, LastLife
from supervisord_ai.core.events import (
    AgentAsked,
    AgentCalls,
    AgentEnded,
    AgentQuarantined,
    AgentReady,
    AgentRestored,
    AgentShed,
    AgentStarted,
    AgentWouldExceed,
    BackendChanged,
    BreakerChanged,
    ChildKilled,
    EngineRestarted,
    Event,
    GatewayRefused,
    LevelChanged,
    ReliefDecided,
    RequestLost,
    RequestPoisoned,
    RequestsRecovered,
    RolloutMoved,
    SlotLost,
)
from supervisord_ai.core.relief import RestoreAgent, ShedAgents
from supervisord_ai.store.journal import EventJournal

QUIET_VERDICTS = ("stopped", "finished")


class Notes(Protocol):
    """The journal of events."""

    def note(
        self, kind: str, agent: str | None = None, request_id: str | None = None, detail: Mapping[str, object] | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happened since the daemon began: how often, when last, and what, in words."""

    kind: str
    count: int
    last_wall: float
    what: str


class Chronicle:
    """Writes events; one for the daemon."""

    def __init__(self, journal: Notes, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._happened: dict[tuple[str, str], Occurrence] = {}

    def __repr__(self) -> str:
        return f"<Chronicle of {sum(one.count for one in self._happened.values())}>"

    @property
    def happened(self) -> list[Occurrence]:
        """What a person should know of since the daemon began, the latest first."""
        return sorted(self._happened.values(), key=lambda one: one.last_wall, reverse=True)

    # --- the daemon itself ---------------------------------------------------------------------------------------------

    def began(self, version: str, pid: int, boot_id: str, down: Downtime | None) -> None:
        """The daemon serves."""
        detail: dict[str, object] = {"version": version, "pid": pid, "boot_id": boot_id}
        if down is not None:
            detail |= {"down_from": round(down.from_wall, 3), "down_to": round(down.to_wall, 3), "why": down.why}
        self._journal.note("daemon.started", detail=detail)

    def ends(self, why: str) -> None:
        """The daemon is being stopped."""
        self._journal.note("daemon.stopped", detail={"why": why})

    # --- the rooms -----------------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:  # noqa: PLR0915 - one table of facts
        """Write down what a person may ask about."""
        match event:
            case AgentStarted(agent=agent, generation=generation, pid=pid, is_adopted=is_adopted):
                self._note("agent.adopted" if is_adopted else "agent.started", agent, {"generation": generation, "pid": pid})
            case AgentReady(agent, generation):
                self._note("agent.ready", agent, {"generation": generation})
            case AgentEnded(agent, generation, verdict, peak_bytes, cap_bytes):
                memory = {"peak_bytes": peak_bytes, "cap_bytes": cap_bytes} if peak_bytes is not None else {}
                self._note("agent.ended", agent, {"generation": generation, "verdict": verdict, **memory})
                if not verdict.startswith(QUIET_VERDICTS):
                    self._count("agent.ended", verdict, f"agent ended: {verdict}")
            case ChildKilled(agent, generation, kills):
                self._note("agent.child-killed", agent, {"generation": generation, "kills": kills})
                self._count("agent.child-killed", "", "a process inside an agent was killed at its cap")
            case AgentWouldExceed(agent, generation, needed_bytes, cap_bytes):
                over = {"generation": generation, "needed_bytes": needed_bytes, "cap_bytes": cap_bytes}
                self._note("agent.would-exceed", agent, over)
                self._count("agent.would-exceed", "", "agent needed more than its cap, which is only observed")
            case AgentQuarantined(agent, reason):
                self._note("agent.quarantined", agent, {"reason": reason})
                self._count("agent.quarantined", "", "agent went into quarantine")
            case AgentShed() | AgentRestored() | ReliefDecided():
                self._tell_of_memory(event)
            case BackendChanged(backend, state, detail):
                self._note(f"backend.{state}", None, {"backend": backend, "detail": detail})
                if state != "ready":
                    self._count(f"backend.{state}", backend, f"backend {backend} was {state}")
            case BreakerChanged(backend, state):
                self._note(f"breaker.{state}", None, {"backend": backend})
                if state == "open":
                    self._count("breaker.open", backend, f"the breaker of {backend} opened")
            case EngineRestarted(backend):
                self._note("backend.restarted", None, {"backend": backend})
                self._count("backend.restarted", backend, f"backend {backend} hung and was restarted")
            case SlotLost(backend, model):
                self._note("backend.slot-lost", None, {"backend": backend, "model": model})
                self._count("backend.slot-lost", backend, f"backend {backend} had perhaps lost a slot")
            case RequestLost(agent, request_id, why):
                self._note("request.lost", agent, {"why": why}, request_id)
                self._count("request.lost", "", "accepted request was lost")
            case RequestPoisoned(agent, request_id, why):
                self._note("request.poisoned", agent, {"why": why}, request_id)
                self._count("request.poisoned", "", "request was given up: it ended whoever ran it")
            case LevelChanged(before=before, after=after, reason=reason, cause=cause):
                self._note("level.changed", None, {"before": int(before), "after": int(after), "cause": cause, "reason": reason})
                self._count("level.changed", str(int(after)), f"the level became {int(after)}")
            case RequestsRecovered(count):
                self._note("request.recovered", None, {"count": count})
            case RolloutMoved(state=state):
                self._note(f"rollout.{state.replace(' ', '-')}", None, asdict(event))
            case AgentAsked() | AgentCalls() | GatewayRefused():
                pass  # many a second, and counted where they happen
            case _:
                assert_never(event)

    def _tell_of_memory(self, event: AgentShed | AgentRestored | ReliefDecided) -> None:
        match event:
            case AgentShed(agent, generation, reason, idle_s, freed_bytes):
                detail = {"generation": generation, "reason": reason, "idle_s": round(idle_s, 1), "bytes": freed_bytes}
                self._note("agent.shed", agent, detail)
                self._count("agent.shed", "", "agent was stopped to give memory back")
            case AgentRestored(agent):
                self._note("agent.restored", agent, {})
            case ReliefDecided(deed=ShedAgents() | RestoreAgent()):
                pass  # whom it met tells more
            case ReliefDecided(deed, reason, available_bytes):
                self._note(f"memory.{deed.word}", None, {"reason": reason, "available_bytes": available_bytes})

    def _note(self, kind: str, agent: str | None, detail: Mapping[str, object], request_id: str | None = None) -> None:
        self._journal.note(kind, agent, request_id, detail)

    def _count(self, kind: str, apart: str, what: str) -> None:
        known = self._happened.get((kind, apart))
        self._happened[kind, apart] = Occurrence(kind, 1 if known is None else known.count + 1, self._clock.wall(), what)


def last_life(alive_wall: float | None, events: EventJournal) -> LastLife | None:
    """Return what is known of the daemon before this one; None when there was none."""
    started, stopped = events.last("daemon.started"), events.last("daemon.stopped")
    if alive_wall is None or started is None:
        return None
    boot_id = str(started.detail.get("boot_id", ""))
    if stopped is None or stopped.seq < started.seq:
        return LastLife(alive_wall, boot_id)
    return LastLife(alive_wall, boot_id, stopped.at_wall, str(stopped.detail.get("why", "")))
