"""The journal of the fleet: which generation of each agent was started and how it ended, and the events people read.

A generation number is durable before anything is spawned under it, so that after a crash no number is given twice and
whatever runs under an old one can be recognised. `pid`, `start_ticks` and `boot_id` name a process for ever: a pid alone may
by then be somebody else's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec
import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.adoption import Baseline, Standing
from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.store.database import Database
from supervisord_ai.store.rows import AgentRecord, EventRow
from supervisord_ai.store.writes import Change, Insert, Value

__all__ = ["AgentRecord", "EventJournal", "EventRow", "FleetJournal"]

_COLUMNS = tuple(field.name for field in fields(AgentRecord))
_AGENT_COLUMNS = ", ".join(_COLUMNS)
_PUT_AGENT = f"REPLACE INTO agents({_AGENT_COLUMNS}) VALUES ({','.join('?' * len(_COLUMNS))})"
_JSON_COLUMNS: dict[str, type[Baseline | Standing]] = {"baseline": Baseline, "standing": Standing}
_DETAIL_CHARS = 16_000  # 20 lines of stderr and some room
_FORGET_AT_ONCE = 1000
_EVENTS = "SELECT seq, at_wall, kind, agent, request_id, detail FROM events"
_LOOKED_AT_ONCE = 2000
_LOOKED_BACK = 50_000


class FleetJournal:
    """Generations, intents and verdicts, so that the next supervisor knows what the last one started.

    Memory holds every record; a change replaces the whole row. What concerns a generation that is no longer the newest is
    not written: the newer one has taken its place.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._records = {row[0]: _record(row) for row in database.read(f"SELECT {_AGENT_COLUMNS} FROM agents")}
        self._kept = {str(row[0]) for row in database.read("SELECT digest FROM specs")}

    def load(self) -> dict[str, AgentRecord]:
        """Return what is known of every agent, by name."""
        return dict(self._records)

    async def next_generation(self, name: str, digest: str) -> int:
        """Return a generation number never given before for this agent; durable before it returns, so before the spawn.

        Raises:
            StoreFault: it could not be written; nothing may be started.
        """
        last = self._records.get(name)
        if last is None:
            record = AgentRecord(name, 1, digest)
        else:
            record = AgentRecord(name, last.generation + 1, digest, restarts=last.restarts + 1, standing=last.standing)
        await self._put(record)
        return record.generation

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
        """Write which process this generation is, and what its end will be compared with; durable.

        Raises:
            StoreFault: it could not be written.
        """
        record = self._newest(name, generation)
        if record is not None:
            facts = {"pid": pid, "start_ticks": start_ticks, "boot_id": boot_id, "cgroup": cgroup}
            await self._put(replace(record, **facts, run_tag=run_tag, baseline=baseline))  # type: ignore[arg-type]

    def intent(self, name: str, generation: int, reason: str) -> None:
        """Write, with the next commit, why we are about to end it."""
        record = self._newest(name, generation)
        if record is not None:
            self._records[name] = replace(record, intent=reason)
            self._database.queue(_put_agent(self._records[name]))

    def stands(self, name: str, standing: Standing | None) -> None:
        """Write, with the next commit, where an agent stands; None: where it stood is not to be known again."""
        record = self._records.get(name)
        if standing == (None if record is None else record.standing):
            return
        self._records[name] = replace(record or AgentRecord(name, 0, ""), standing=standing)
        self._database.queue(_put_agent(self._records[name]))

    async def ended(self, name: str, generation: int, verdict: str, detail: str, peak_bytes: int | None = None) -> None:
        """Write how it ended; durable. The process it was is forgotten.

        Raises:
            StoreFault: it could not be written.
        """
        record = self._newest(name, generation)
        if record is not None:
            how = replace(record, verdict=verdict, detail=detail[:_DETAIL_CHARS], peak_bytes=peak_bytes)
            await self._put(replace(how, ended_wall=self._clock.wall(), pid=None))

    # --- what generations were made of ---

    def keep_spec(self, spec: AgentSpec) -> None:
        """Write, with the next commit, what generations with this spec's `run_digest` are made of."""
        digest = spec.run_digest
        if digest not in self._kept:
            self._kept.add(digest)
            written = msgspec.json.encode(spec).decode()
            self._database.queue(Change("REPLACE INTO specs VALUES (?, ?)", (digest, written)))

    def spec(self, digest: str) -> AgentSpec | None:
        """Return what was kept under a `run_digest`; None where nothing is, or a version wrote it that we do not understand."""
        found = self._database.read("SELECT spec FROM specs WHERE digest = ?", (digest,))
        try:
            return msgspec.json.decode(found[0][0], type=AgentSpec) if found else None
        except msgspec.ValidationError:
            return None

    def forget_specs(self, keep: Collection[str]) -> None:
        """Delete, with the next commit, every spec that no agent's last generation was made of and that is not in `keep`."""
        used = {record.digest for record in self._records.values()} | set(keep)
        for digest in sorted(self._kept - used):
            self._kept.discard(digest)
            self._database.queue(Change("DELETE FROM specs WHERE digest = ?", (digest,)))

    # --- the rollout ---

    def rollout(self) -> str | None:
        """Return what was last written of a rollout."""
        found = self._database.read("SELECT told FROM rollout")
        return str(found[0][0]) if found else None

    async def keep_rollout(self, told: str) -> None:
        """Write where a rollout stands, in place of what was written before; durable.

        Raises:
            StoreFault: it could not be written.
        """
        await self._database.commit(Change("REPLACE INTO rollout VALUES (1, ?)", (told,)))

    def _newest(self, name: str, generation: int) -> AgentRecord | None:
        record = self._records.get(name)
        return record if record is not None and record.generation == generation else None

    async def _put(self, record: AgentRecord) -> None:
        # Memory first: two calls in one turn of the loop must not get one number. A number that was not written is skipped.
        self._records[record.name] = record
        await self._database.commit(_put_agent(record))


def _put_agent(record: AgentRecord) -> Change:
    values = ((name, getattr(record, name)) for name in _COLUMNS)
    return Change(
        _PUT_AGENT,
        tuple(msgspec.json.encode(v).decode() if name in _JSON_COLUMNS and v is not None else v for name, v in values),
    )


def _record(row: tuple[Any, ...]) -> AgentRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name, kind in _JSON_COLUMNS.items():
        if values[name] is not None:
            values[name] = msgspec.json.decode(values[name], type=kind)
    return AgentRecord(**values)


class EventJournal:
    """What happened, in order, for people and for `events`. Numbers are given by memory and only grow."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._last_seq = int(database.read("SELECT coalesce(max(seq), 0) FROM events")[0][0])
        self._news = trio.Event()

    @property
    def last_seq(self) -> int:
        """The number of the last event, written or about to be."""
        return self._last_seq

    def note(
        self,
        kind: str,
        agent: str | None = None,
        request_id: str | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Write one event with the next commit. `detail` must be JSON."""
        self._last_seq += 1
        self._database.queue(
            Insert(
                "INSERT INTO events(seq, at_wall, kind, agent, request_id, detail)",
                (self._last_seq, self._clock.wall(), kind, agent, request_id, json.dumps(dict(detail or {}))),
            )
        )
        self._news.set()
        self._news = trio.Event()

    async def wait_after(self, seq: int) -> None:
        """Return when every event there is has been written, and there is one after `seq`.

        Raises:
            StoreFault: the file cannot be written.
        """
        while self._last_seq <= seq:
            await self._news.wait()
        await self._database.commit()  # what was queued before is written before this, or with it

    def after(self, seq: int, count: int) -> list[EventRow]:
        """Return at most `count` events that are committed and come after `seq`, oldest first."""
        return _rows(self._database.read(f"{_EVENTS} WHERE seq > ? ORDER BY seq LIMIT ?", (seq, count)))

    def last(self, kind: str) -> EventRow | None:
        """Return the last event of a kind; looks back over a bounded number of events."""
        low = self._last_seq - _LOOKED_BACK
        found = _rows(
            self._database.read(f"{_EVENTS} WHERE seq > ? AND kind = ? ORDER BY seq DESC LIMIT 1", (low, kind))
        )
        return found[0] if found else None

    async def past(
        self, count: int, *, since_wall: float = 0.0, agent: str | None = None, kind: str | None = None
    ) -> list[EventRow]:
        """Return the last events that are committed, oldest first: at most `count`, of that agent, of that kind or below it."""
        where = "seq > ? AND seq <= ? AND at_wall >= ?"
        values: list[Value] = [since_wall]
        if agent is not None:
            where += " AND agent = ?"
            values.append(agent)
        if kind is not None:
            where += " AND (kind = ? OR substr(kind, 1, ?) = ?)"
            values += [kind, len(kind) + 1, f"{kind}."]
        found: list[EventRow] = []
        high = self._last_seq
        # In steps of a fraction of a millisecond: a filter that finds little looks at everything.
        while high > 0 and len(found) < count:
            low = max(0, high - _LOOKED_AT_ONCE)
            sql = f"{_EVENTS} WHERE {where} ORDER BY seq DESC LIMIT ?"
            found += _rows(self._database.read(sql, (low, high, *values, count - len(found))))
            oldest = self._database.read("SELECT at_wall FROM events WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (low,))
            if not oldest or oldest[0][0] < since_wall:
                break
            high = low
            await trio.lowlevel.checkpoint()
        return found[::-1]

    async def forget(self, before_wall: float) -> int:
        """Delete events from before that time; returns how many.

        Raises:
            StoreFault: the file could not be written.
        """
        forgotten = 0
        while True:
            # By seq, which has an index, up to the first event that is young enough. A clock that stepped back leaves some
            # old ones behind it until they are reached.
            found = self._database.read("SELECT seq, at_wall FROM events ORDER BY seq LIMIT ?", (_FORGET_AT_ONCE,))
            old = 0
            last = 0
            for seq, at_wall in found:
                if at_wall >= before_wall:
                    break
                old, last = old + 1, seq
            if old == 0:
                return forgotten
            await self._database.commit(Change("DELETE FROM events WHERE seq <= ?", (last,)))
            forgotten += old


def _rows(found: Sequence[tuple[Any, ...]]) -> list[EventRow]:
    return [EventRow(seq, at, kind, agent, rid, json.loads(detail)) for seq, at, kind, agent, rid, detail in found]
