"""What an earlier supervisor left, before anyone is started: taken over where that is certain, ended where it is not.

    for each name that the journal or a group of ours knows
      pin its main process by pid, start time and boot; only then read who is in its group
      core/adoption decides
        Adopt          the agent's task goes on with the same process, number, token, counters, log and notify socket
        EndStrays      everyone found is ended (survivors.py); the agent is started like any other
        LostWhileDown  written down so; the agent is started like any other
        StopUnknown    nobody of this fleet: ended

Whoever does not end keeps his agent from being started: two of one name would both write and both ask.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import trio

from supervisord_ai.agents.generation import Doors, Generation, notify_socket
from supervisord_ai.agents.lifecycle import Agent
from supervisord_ai.agents.managed import ManagedEngine
from supervisord_ai.agents.survivors import Remnant
from supervisord_ai.core.adoption import Adopt, EndStrays, Found, LastRun, LostWhileDown, NothingLeft, StopUnknown, decide
from supervisord_ai.core.events import AgentEnded
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.core.serving import is_engine
from supervisord_ai.core.verdict import LOST
from supervisord_ai.errors import HostFault
from supervisord_ai.host.cgroup import Cage, Counters, Outside
from supervisord_ai.host.notify import NotifySocket
from supervisord_ai.host.process import ProcessHandle
from supervisord_ai.store.rows import AgentRecord

logger = logging.getLogger(__name__)


async def take_over(doors: Doors, agents: Mapping[str, Agent], engines: Mapping[str, ManagedEngine]) -> None:
    """Settle what an earlier supervisor left. Every agent knows afterwards what the journal says of it.

    `engines` are those that we keep beside the agents; one that is taken over goes on when its task begins.

    Raises:
        HostFault, StoreFault: who is there could not be found out, or written down.
    """
    records = {name: record for name, record in doors.journal.load().items() if record.generation}
    running = {name for name, record in records.items() if record.ended_wall is None}
    settled: dict[str, tuple[int, ...] | None] = {}  # who does not end; None: taken over

    async def settle(name: str) -> None:
        settled[name] = await _settle(doors, agents.get(name) or engines.get(name), name, records.get(name))

    async with trio.open_nursery() as nursery:
        for name in sorted(running | set(doors.cages.leftovers())):
            nursery.start_soon(settle, name)
    if adopted := sum(left is None for left in settled.values()):
        logger.info("%d agents of the last supervisor go on as they are", adopted)
    for name, record in doors.journal.load().items():
        if name in agents and settled.get(name, ()) is not None:
            agents[name].recall(record)
    for name, left in settled.items():
        if left and name in agents:
            agents[name].quarantine(f"processes {', '.join(map(str, left))} of its last run do not end when killed")


async def _settle(
    doors: Doors, agent: Agent | ManagedEngine | None, name: str, record: AgentRecord | None
) -> tuple[int, ...] | None:
    """Returns the pids that do not end, or None when it was taken over."""
    if isinstance(agent, ManagedEngine) and record is not None and not agent.is_of(record):
        agent = None  # it would be started otherwise now
    last = None if record is None else _last_run(doors, record)
    is_running = record is not None and record.ended_wall is None
    main = _main(doors, record) if record is not None and is_running else None
    cage = None
    if main is not None and agent is not None and record is not None and record.baseline is not None:
        cage = doors.cages.adopt(name, record.cgroup) if not doors.cages.why_not_outlived else None
    # Where it is as it should be, its group is all that is read: 131 of them are settled without a look at all of /proc.
    members = () if cage is None else await cage.members()
    remnant = None
    if main is None or main.pid not in members:
        remnant = await Remnant.look(doors, name, record if is_running else None)
        members = remnant.members
    found = Found(len(members), main_lives=main is not None, main_is_inside=main is not None and main.pid in members)
    decision = decide(last, found, is_in_roster=agent is not None, can_outlive_us=cage is not None)
    why = ""
    try:
        match decision:
            case Adopt(ending):
                assert agent is not None and record is not None and main is not None and cage is not None  # noqa: PT018
                if isinstance(agent, ManagedEngine):
                    agent.adopt(record, main, cage)
                    main = None
                    return None
                agent.recall(record)
                agent.adopt(_generation(doors, agent.spec, record, cage, main), record.standing, ending=ending)
                main = None  # it is the generation's now
                return None
            case NothingLeft():
                return ()
            case LostWhileDown(how):
                await _write_lost(doors, record, f"{how}{_kills(doors, name, record)}")
                return ()
            case EndStrays(reason):
                why = reason
            case StopUnknown():
                why = "no backend would start it like this now" if is_engine(name) else "it is not in the roster any more"
        if remnant is None:
            remnant = await Remnant.look(doors, name, record if is_running else None)
        logger.warning("agent %s: %d processes of the last supervisor are ended: %s", name, len(members), why)
        left = await remnant.end(main)
        if is_running:
            await _write_lost(doors, record, f"{why}; {len(members)} processes of it were still running and were ended")
        return left
    finally:
        if main is not None:
            main.close()
        if remnant is not None:
            remnant.close()


def _generation(doors: Doors, wanted: AgentSpec, record: AgentRecord, cage: Cage, main: ProcessHandle) -> Generation:
    """Return the generation that was started then, for its end to be judged by what was written down then."""
    baseline = record.baseline
    assert baseline is not None
    spec = wanted
    if record.digest != wanted.run_digest:
        spec = doors.journal.spec(record.digest) or wanted
    cap_bytes = _bound(doors, cage, baseline.cap_bytes)
    age_s = max(0.0, doors.clock.wall() - baseline.started_wall)
    generation = Generation(
        dataclasses.replace(spec, policy=dataclasses.replace(spec.policy, memory_bytes=cap_bytes)),
        record.generation,
        doors,
        cage=cage,
        handle=main,
        notify=_notify(doors, spec, baseline.uid),
        counted=(
            Counters(oom_kills=baseline.oom_kills, own_limit_hits=baseline.own_limit_hits),
            Outside(fleet_limit_hits=baseline.fleet_limit_hits, oomd_kills=baseline.oomd_kills),
        ),
        log_offset=baseline.log_offset,
        adopted_since=doors.clock.monotonic() - age_s,
    )
    generation.intent = record.intent
    cage.started(main.pid)
    generation.announce(record.run_tag or "", baseline.uid)
    return generation


def _bound(doors: Doors, cage: Cage, cap_bytes: int) -> int:
    """Have the cap of then bind, or none where caps are only observed; returns what binds, 0 for nothing.

    The supervisor in between may have been of the other mind, and the journal tells of the start alone.
    """
    try:
        cage.limit(None if doors.is_observed or not cap_bytes else cap_bytes)
    except HostFault as exc:
        logger.warning("%s goes without a cap for now: %s", cage, exc)
        return 0
    return cap_bytes


def _notify(doors: Doors, spec: AgentSpec, uid: int) -> NotifySocket | None:
    """Hear it again, at the path it knows. It runs, whether it can be heard or not."""
    try:
        return notify_socket(spec, doors, uid)
    except HostFault as exc:
        logger.warning("agent %s is not heard any more: %s", spec.name, exc)
        return None


def _main(doors: Doors, record: AgentRecord) -> ProcessHandle | None:
    if record.pid is None or record.start_ticks is None or record.boot_id is None:
        return None
    return doors.processes.find(record.pid, record.start_ticks, record.boot_id)


def _last_run(doors: Doors, record: AgentRecord) -> LastRun:
    return LastRun(
        has_ended=record.ended_wall is not None,
        is_known=record.pid is not None,
        is_this_boot=record.boot_id in {None, doors.processes.boot_id()},
        intent=record.intent,
    )


async def _write_lost(doors: Doors, record: AgentRecord | None, detail: str) -> None:
    assert record is not None
    asked = f"; it was being ended: {record.intent}" if record.intent is not None else ""
    await doors.journal.ended(record.name, record.generation, LOST, detail + asked)
    doors.tell(AgentEnded(record.name, record.generation, LOST))


def _kills(doors: Doors, name: str, record: AgentRecord | None) -> str:
    """Return what the counters of its group say of an end that nobody saw."""
    if record is None or record.baseline is None or record.boot_id != doors.processes.boot_id():
        return ""
    cage = doors.cages.adopt(name, record.cgroup)
    killed = cage is not None and cage.oom_kills() > record.baseline.oom_kills
    return "; the OOM killer took it or a part of it" if killed else ""
