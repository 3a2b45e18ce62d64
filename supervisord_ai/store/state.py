"""Everything the daemon keeps on disk, opened together in the state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.store.cache import CacheFile, CacheFileView
from supervisord_ai.store.database import Database, DatabaseView, Durability
from supervisord_ai.store.disk import Disk, RunSync, in_thread
from supervisord_ai.store.journal import EventJournal, FleetJournal
from supervisord_ai.store.requests import Requests, RequestsView
from supervisord_ai.store.schema import JOURNAL


@dataclass(frozen=True, slots=True)
class StateView:
    """What the files hold and have done."""

    journal: DatabaseView
    requests: RequestsView
    cache: CacheFileView


class State:
    """`journal.db` and `cache.db` of one folder. Make it, `run` it in the outermost nursery, use its parts.

    The folder must exist and be held by this process alone (`host/state_folder.py`).

    Raises (when made):
        SchemaTooNew, StoreFault: the journal cannot be used. The cache never is a reason not to start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        durability: Durability = Durability.POWER,
        cache_bytes: int,
        large_bytes: int = 0,
        run_sync: RunSync = in_thread,
        disk: Disk | None = None,
    ) -> None:
        self.database = Database(folder / "journal.db", JOURNAL, durability=durability, run_sync=run_sync, disk=disk)
        self.requests = Requests(self.database, clock)
        self.fleet = FleetJournal(self.database, clock)
        self.events = EventJournal(self.database, clock)
        self.cache = CacheFile(folder / "cache.db", cache_bytes, large_bytes=large_bytes, run_sync=run_sync, disk=disk)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit until cancelled; then write what is left and close both files."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.database.run)
            await nursery.start(self.cache.run)
            task_status.started()

    def statistics(self) -> StateView:
        return StateView(self.database.statistics(), self.requests.statistics(), self.cache.statistics())
