"""What is left of an agent whose supervisor is gone: everyone who belonged to it, found and ended.

They are found three ways: by the groups below our own folder, by the journal (pid, start ticks and boot id name one process for
ever), and by the tag in their environment.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from supervisord_ai.agents.generation import KILL_S, Doors
from supervisord_ai.host import signals
from supervisord_ai.host.cgroup import Cage
from supervisord_ai.host.process import ProcessHandle
from supervisord_ai.store.rows import AgentRecord

GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Remnant:
    """The places where processes of one agent may be, and who was seen there."""

    cages: tuple[Cage, ...]
    members: tuple[int, ...]

    @classmethod
    async def look(cls, doors: Doors, name: str, record: AgentRecord | None) -> Remnant:
        """Look where the journal says it was, and where its name would be."""
        is_this_boot = record is not None and record.boot_id == doors.processes.boot_id()
        where, tag = (record.cgroup, record.run_tag) if record is not None and is_this_boot else (None, None)
        cages = doors.cages.recorded(name, where, tag)
        return cls(cages, tuple(sorted({pid for cage in cages for pid in await cage.members()})))

    async def end(self, main: ProcessHandle | None) -> tuple[int, ...]:
        """End everyone, and the main process wherever it is; returns who does not end. Takes GRACE_S and KILL_S at most."""
        if main is not None:
            main.signal(signals.TERM)
        for cage in self.cages:
            await cage.signal(signals.TERM)
            await cage.signal(signals.CONT)
        with trio.move_on_after(GRACE_S):
            for cage in self.cages:
                while await cage.members():  # noqa: ASYNC110 - the kernel of v1 tells nobody
                    await trio.sleep(0.05)
            if main is not None:
                await main.wait()
        if main is not None:
            main.signal(signals.KILL)
        left = {pid for cage in self.cages for pid in await cage.kill(within_s=KILL_S)}
        if main is not None:
            with trio.move_on_after(KILL_S) as scope:
                await main.wait()
            if scope.cancelled_caught:
                left.add(main.pid)
        return tuple(sorted(left))

    def close(self) -> None:
        """Give the places back where nobody is left in them."""
        for cage in self.cages:
            cage.remove()
