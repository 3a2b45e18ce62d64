"""A reload: the config is read again, compared with what runs, and what can be carried out is.

    read (a thread: files are slow) -> problems? nothing is changed -> plan (core/reload.py) -> apply, in one turn of the loop

A config with one problem in it changes nothing. Reloads come one after the other; requests notice nothing of them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from supervisord_ai.config import Config
from supervisord_ai.config.settings import settings_of
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.reload import LIVE_TABLES, ReloadPlan, Settings, plan_reload
from supervisord_ai.core.roster import Roster
from supervisord_ai.errors import ConfigError, HostFault, UsageError

log = logging.getLogger(__name__)

Read = Callable[[], Config]


async def in_thread(read: Read) -> Config:
    return await trio.to_thread.run_sync(read)


class Reload:
    """Knows what the daemon runs with. `follow` makes the rooms go by another roster and memory plan; it must not wait.

    `follow_alerts` makes other alerts be watched, where those of the config have changed.

    `read` is None for a daemon without a config file.
    """

    def __init__(
        self,
        config: Config,
        *,
        read: Read | None,
        follow: Callable[[Roster, MemoryPolicy], None],
        follow_alerts: Callable[[Config], None] = lambda _config: None,
        run_sync: Callable[[Read], Awaitable[Config]] = in_thread,
    ) -> None:
        self._running = settings_of(config)
        self._memory = config.memory
        self._read = read
        self._follow = follow
        self._follow_alerts = follow_alerts
        self._run_sync = run_sync
        self._turn = trio.Lock()

    def __repr__(self) -> str:
        return f"<Reload {len(self._running.roster.agents)} agents>"

    @property
    def running(self) -> Settings:
        """What the daemon has now."""
        return self._running

    async def plan(self) -> ReloadPlan:
        """Return what a reload would do now.

        Raises:
            ConfigError: the config is wrong.
            UsageError: there is none.
            HostFault: it cannot be read.
        """
        async with self._turn:
            return (await self._look())[0]

    async def carry_out(self) -> ReloadPlan:
        """Reload; return what was done, and what was refused. Raises: as `plan`, with nothing changed."""
        async with self._turn:
            plan, memory, config = await self._look()
            # Nothing is awaited from here on: no request and no agent sees half of it.
            if plan.changes_something:
                self._follow(plan.settings.roster, memory)
            if any(key.partition(".")[0] in LIVE_TABLES for key in plan.keys):
                self._follow_alerts(config)
            self._running, self._memory = plan.settings, memory
        for line in plan_lines(plan):
            log.info("reload: %s", line)
        return plan

    async def on_signal(self) -> None:
        """Reload because of HUP: nobody waits for the answer, so it goes to the log."""
        try:
            await self.carry_out()
        except ConfigError as exc:
            for problem in exc.problems:
                log.error("reload: %s", problem)
            log.error("reload: nothing was changed")
        except (UsageError, HostFault) as exc:
            log.error("reload: %s; nothing was changed", exc)

    async def _look(self) -> tuple[ReloadPlan, MemoryPolicy, Config]:
        if self._read is None:
            raise UsageError("this daemon was not started from a config file")
        config = await self._run_sync(self._read)
        plan = plan_reload(self._running, settings_of(config))
        # Of the memory plan what binds somebody stays as it was.
        old = self._memory
        bound = {"ollama_bytes": old.ollama_bytes, "reserve_bytes": old.reserve_bytes, "enforce": old.enforce}
        return plan, replace(config.memory, **bound), config  # type: ignore[arg-type]


def plan_lines(plan: ReloadPlan) -> list[str]:
    """Return a plan as lines for the log."""
    counts = [(len(plan.added), "added"), (len(plan.changed), "changed"), (len(plan.removed), "removed")]
    lines = [", ".join(f"{count} agents {word}" for count, word in counts if count) or "no agent comes, goes or changes"]
    lines += [f"class {one.name}: {', '.join(one.fields)}" for one in plan.classes]
    lines += [f"{key} is in effect" for key in plan.keys]
    lines += [f"refused, needs a restart: {one.key}: {one.what}" for one in plan.refused]
    return lines
