"""One life of an engine that is kept: what is known of its beginning, and what its end is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from supervisord_ai.agents.generation import Journal
from supervisord_ai.agents.launches import EngineLaunch
from supervisord_ai.core.adoption import Baseline
from supervisord_ai.core.verdict import Evidence, ExitStatus
from supervisord_ai.host.cgroup import Cage, Counters
from supervisord_ai.host.process import ProcessHandle


@dataclass(frozen=True, slots=True)
class Kept:
    """Where an engine that could outlive us is kept and written down: its cage, and the journal of the fleet.

    `is_only_sampled`: no group binds its memory, so its keeper has to look.
    """

    cage: Cage
    journal: Journal
    boot_id: str
    is_only_sampled: bool


@dataclass(frozen=True, slots=True)
class Life:
    """One process of an engine, with what the kernel had counted before it, and where its part of the log begins."""

    child: ProcessHandle
    before: Counters
    log_offset: int
    is_adopted: bool = False

    @classmethod
    def left(cls, child: ProcessHandle, baseline: Baseline) -> Life:
        """Return the one that an earlier supervisor began."""
        before = Counters(oom_kills=baseline.oom_kills, own_limit_hits=baseline.own_limit_hits)
        return cls(child, before, baseline.log_offset, is_adopted=True)

    def baseline(self, launch: EngineLaunch, *, wall_s: float, uid: int) -> Baseline:
        """Return what a later supervisor must know of its beginning."""
        return Baseline(
            started_wall=wall_s,
            log_offset=self.log_offset,
            cap_bytes=launch.cap_bytes or 0,
            uid=uid,
            oom_kills=self.before.oom_kills,
            own_limit_hits=self.before.own_limit_hits,
        )

    def evidence(
        self,
        status: ExitStatus,
        after: Counters,
        *,
        launch: EngineLaunch,
        intent: str | None,
        was_killed: bool,
        is_only_sampled: bool,
        last_lines: Sequence[str],
    ) -> Evidence:
        """Return what speaks for one verdict or another, now that nothing of it is left."""
        hits = None
        if after.own_limit_hits is not None and self.before.own_limit_hits is not None:
            hits = after.own_limit_hits - self.before.own_limit_hits
        return Evidence(
            status=status,
            intent=intent,
            was_killed_by_us=was_killed,
            oom_kills=after.oom_kills - self.before.oom_kills,
            own_limit_hits=hits,
            peak_bytes=after.peak_bytes,
            cap_bytes=launch.cap_bytes or 0,
            is_capped_by_rlimit=is_only_sampled,
            last_lines=tuple(last_lines),
        )
