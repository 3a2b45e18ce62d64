"""A journal of the fleet in memory: what `store.journal.FleetJournal` promises, without a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import trio

from supervisord_ai.core.adoption import Baseline, Standing
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.store.rows import AgentRecord


class MemoryJournal:
    """Outlives a fleet, as a file would: hand the same one to the next."""

    def __init__(self) -> None:
        self.records: dict[str, AgentRecord] = {}
        self.intents: list[tuple[str, int, str]] = []
        self.ends: list[tuple[str, int, str, str]] = []
        self.specs: dict[str, AgentSpec] = {}
        self.told: str | None = None

    def load(self) -> dict[str, AgentRecord]:
        return dict(self.records)

    async def next_generation(self, name: str, digest: str) -> int:
        last = self.records.get(name) or AgentRecord(name, 0, "")
        self.records[name] = AgentRecord(name, last.generation + 1, digest, standing=last.standing)  # first, as on disk
        await trio.lowlevel.checkpoint()
        return last.generation + 1

    async def started(  # noqa: PLR0917
        self,
        name: str,
        generation: int,
        pid: int,
        start_ticks: int,
        boot_id: str,
        cgroup: str | None,
        run_tag: str,
        baseline: Baseline | None = None,
    ) -> None:
        await trio.lowlevel.checkpoint()
        assert self.records[name].generation == generation
        record = dataclasses.replace(self.records[name], pid=pid, start_ticks=start_ticks, boot_id=boot_id, cgroup=cgroup)
        self.records[name] = dataclasses.replace(record, run_tag=run_tag, baseline=baseline)

    def intent(self, name: str, generation: int, reason: str) -> None:
        assert self.records[name].generation == generation
        self.intents.append((name, generation, reason))
        self.records[name] = dataclasses.replace(self.records[name], intent=reason)

    def stands(self, name: str, standing: Standing | None) -> None:
        record = self.records.get(name)
        if standing != (None if record is None else record.standing):
            self.records[name] = dataclasses.replace(record or AgentRecord(name, 0, ""), standing=standing)

    async def ended(self, name: str, generation: int, verdict: str, detail: str, peak_bytes: int | None = None) -> None:
        await trio.lowlevel.checkpoint()
        assert self.records[name].generation == generation
        self.ends.append((name, generation, verdict, detail))
        record = dataclasses.replace(self.records[name], verdict=verdict, detail=detail, peak_bytes=peak_bytes, pid=None)
        self.records[name] = dataclasses.replace(record, ended_wall=0.0)

    def keep_spec(self, spec: AgentSpec) -> None:
        self.specs.setdefault(spec.run_digest, spec)

    def spec(self, digest: str) -> AgentSpec | None:
        return self.specs.get(digest)

    def forget_specs(self, keep: Collection[str]) -> None:
        used = {record.digest for record in self.records.values()} | set(keep)
        self.specs = {digest: spec for digest, spec in self.specs.items() if digest in used}

    def rollout(self) -> str | None:
        return self.told

    async def keep_rollout(self, told: str) -> None:
        await trio.lowlevel.checkpoint()
        self.told = told

    def verdicts(self, name: str) -> list[str]:
        return [verdict for who, _, verdict, _ in self.ends if who == name]
