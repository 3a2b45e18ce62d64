"""Ends what the last supervisor left behind, before anyone is started.

A supervisor that was killed leaves its agents running, without a parent and, until the new one knows them, without an identity.
They are found three ways: by the groups below our own folder, by the journal (pid, start ticks and boot id name one process
for ever), and by the tag in their environment. Whoever does not end keeps his agent from being started: two of one name would
both write and both ask.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import trio

from supervisord_ai.agents.generation import KILL_S, Doors
from supervisord_ai.core.events import AgentEnded
from supervisord_ai.core.verdict import LOST
from supervisord_ai.host import signals
from supervisord_ai.store.rows import AgentRecord

logger = logging.getLogger(__name__)

GRACE_S = 2.0


async def end_survivors(doors: Doors) -> Mapping[str, tuple[int, ...]]:
    """End everyone of an earlier supervisor; returns, by agent, the pids that do not end. Takes GRACE_S and KILL_S at most."""
    records = {name: record for name, record in doors.journal.load().items() if record.ended_wall is None and record.generation}
    names = sorted(records.keys() | set(doors.cages.leftovers()))
    stuck: dict[str, tuple[int, ...]] = {}

    async def end_one(name: str) -> None:
        found, left = await _end(doors, name, records.get(name))
        if left:
            stuck[name] = left
        if name in records:
            what = f"{found} processes of it were still running and were ended" if found else "nothing of it was running any more"
            asked = f"; it was being ended: {records[name].intent}" if records[name].intent is not None else ""
            await doors.journal.ended(name, records[name].generation, LOST, what + asked)
            doors.tell(AgentEnded(name, records[name].generation, LOST))

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(end_one, name)
    return stuck


async def _end(doors: Doors, name: str, record: AgentRecord | None) -> tuple[int, tuple[int, ...]]:
    """Returns how many processes were found and which of them do not end."""
    same_boot = record is not None and record.boot_id == doors.processes.boot_id()
    tag = record.run_tag if record is not None and same_boot else None
    cages = doors.cages.recorded(name, record.cgroup if record is not None and same_boot else None, tag)
    main = None
    if record is not None and record.pid is not None and record.start_ticks is not None and record.boot_id is not None:
        main = doors.processes.find(record.pid, record.start_ticks, record.boot_id)
    try:
        found = {pid for cage in cages for pid in await cage.members()} | ({main.pid} if main is not None else set())
        if not found:
            return 0, ()
        logger.warning("agent %s: ending %d processes of the last supervisor", name, len(found))
        if main is not None:
            main.signal(signals.TERM)
        for cage in cages:
            await cage.signal(signals.TERM)
            await cage.signal(signals.CONT)
        with trio.move_on_after(GRACE_S):
            for cage in cages:
                while await cage.members():  # noqa: ASYNC110 - the kernel of v1 tells nobody
                    await trio.sleep(0.05)
            if main is not None:
                await main.wait()
        if main is not None:
            main.signal(signals.KILL)
        left = {pid for cage in cages for pid in await cage.kill(within_s=KILL_S)}
        if main is not None:
            with trio.move_on_after(KILL_S) as scope:
                await main.wait()
            if scope.cancelled_caught:
                left.add(main.pid)
        return len(found), tuple(sorted(left))
    finally:
        if main is not None:
            main.close()
        for cage in cages:
            cage.remove()
