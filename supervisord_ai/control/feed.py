"""What happens, told to everyone who follows it, as server-sent events.

    event: snapshot   the whole status and every agent, and the number of the last event that is in it
    event: change     what of it is different now: whole sections of the status, whole agents, names of agents that are gone
    event: event      one line of the journal of events, its number as the id; told when it is safe on disk
    : alive           nothing for a while

Who connects again with Last-Event-ID is given a snapshot, and then every event since. Frames are made once for all. A reader
that does not keep up is dropped when its queue is full: it connects again and goes on where it was, and costs nobody anything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import trio

from supervisord_ai.control.encoding import rounded
from supervisord_ai.control.routes import SSE, Asked
from supervisord_ai.duty import every, kept_up
from supervisord_ai.errors import Refused
from supervisord_ai.serve.http import Exchange
from supervisord_ai.store.rows import EventRow

log = logging.getLogger(__name__)

HEADERS = (("Content-Type", SSE), ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))
FOLLOWERS_MAX = 64
FRAMES_MAX = 100  # of one reader; a change of 131 agents is 60 KB, and shared by all readers
LOOK_EVERY_S = 1.0
ALIVE_EVERY_S = 15.0
PAGE = 500  # events read and told in one turn of the loop
CLOCKWORK = frozenset({"now_wall", "uptime_s"})  # sections that are different each second and mean nothing alone

Json = dict[str, Any]


class Past(Protocol):
    """The journal of events."""

    @property
    def last_seq(self) -> int: ...
    def after(self, seq: int, count: int) -> list[EventRow]: ...
    async def wait_after(self, seq: int) -> None: ...


class Feed:
    """Tells followers. `look` returns the status and the agents as they are now; it is asked only while somebody follows."""

    def __init__(
        self, events: Past, look: Callable[[], tuple[Json, list[Json]]], *, look_every_s: float = LOOK_EVERY_S
    ) -> None:
        self._events = events
        self._look = look
        self._look_every_s = look_every_s
        self._followers: set[_Follower] = set()
        self._told_seq = events.last_seq
        self._known: tuple[Json, dict[str, Json]] | None = None  # what the followers of changes have been told
        self._dropped = 0

    def __repr__(self) -> str:
        return f"<Feed {len(self._followers)} follow, told up to {self._told_seq}, {self._dropped} dropped>"

    async def run(self) -> None:
        """Tell what happens, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept_up, "telling events", self._tell_events)
            nursery.start_soon(every, self._look_every_s, "telling changes", self._tell_changes)
            nursery.start_soon(every, ALIVE_EVERY_S, "keeping readers of events awake", self._tell_alive)

    # --- one reader ----------------------------------------------------------------------------------------------------

    async def follow(self, asked: Asked) -> None:
        """Answer one reader until it leaves or is dropped.

        Raises:
            Refused: 400, a Last-Event-ID that is none; 503, too many follow already.
            PeerGone: it left.
        """
        exchange = asked.exchange
        seen = _resumed(exchange)
        if seen is not None and seen > self._events.last_seq:
            seen = None  # of another journal: this one begins anew for it
        if len(self._followers) >= FOLLOWERS_MAX:
            raise Refused(503, f"{FOLLOWERS_MAX} follow already", retry_after_s=5.0)
        is_whole = asked.query["only"] is None
        follower = _Follower(asked.query["agent"], asked.query["kind"], seen_seq=seen or 0, is_whole=is_whole)
        await exchange.start(200, HEADERS)
        if exchange.head.method == "HEAD":
            await exchange.finish()
            return
        # Nothing is awaited between this look and joining: what comes later is told, what came before is in the snapshot.
        upto = self._told_seq
        first = self._snapshot(upto) if follower.is_whole else b": following\n\n"
        self._followers.add(follower)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_leave_with, exchange, nursery.cancel_scope)
                follower.scope = nursery.cancel_scope
                await exchange.send(first)
                await self._catch_up(exchange, follower, seen, upto)
                async for frame in follower.frames:
                    await exchange.send(frame)
        finally:
            self._followers.discard(follower)
            if not any(one.is_whole for one in self._followers):
                self._known = None
            exchange.break_off()

    async def _catch_up(self, exchange: Exchange, follower: _Follower, seen: int | None, upto: int) -> None:
        seq = upto if seen is None else seen
        while seq < upto and (rows := [row for row in self._events.after(seq, PAGE) if row.seq <= upto]):
            seq = rows[-1].seq
            if wanted := b"".join(map(event_frame, filter(follower.wants, rows))):
                await exchange.send(wanted)

    def _snapshot(self, seq: int) -> bytes:
        status, agents = self._look()
        if self._known is None:
            self._known = status, {one["name"]: one for one in agents}
        return _frame("snapshot", {"seq": seq, "status": status, "agents": agents}, seq)

    # --- all readers ---------------------------------------------------------------------------------------------------

    async def _tell_events(self) -> None:
        while True:
            await self._events.wait_after(self._told_seq)
            rows = self._events.after(self._told_seq, PAGE)
            if not rows:  # they could not be written, which the store has said
                self._told_seq = self._events.last_seq
                continue
            self._told_seq = rows[-1].seq
            frames = [(row, event_frame(row)) for row in rows] if self._followers else []
            for follower in list(self._followers):
                if wanted := b"".join(frame for row, frame in frames if follower.wants(row)):
                    self._give(follower, wanted)
            await trio.lowlevel.checkpoint()

    async def _tell_changes(self) -> None:
        whole = [follower for follower in self._followers if follower.is_whole]
        if not whole or self._known is None:
            return
        status, agents = self._look()
        change = changed(self._known, status, agents)
        self._known = status, {one["name"]: one for one in agents}
        frame = _frame("change", change)
        for follower in whole:
            self._give(follower, frame)

    async def _tell_alive(self) -> None:
        for follower in list(self._followers):
            if not follower.is_whole:
                self._give(follower, b": alive\n\n")

    def _give(self, follower: _Follower, frame: bytes) -> None:
        try:
            follower.send.send_nowait(frame)
        except trio.WouldBlock:
            log.info("control: a reader of events does not keep up and is dropped")
            self._dropped += 1
            self._followers.discard(follower)
            if follower.scope is not None:
                follower.scope.cancel()


class _Follower:
    """One reader: what it wants, and what it has not read yet."""

    def __init__(self, agent: str | None, kind: str | None, *, seen_seq: int, is_whole: bool) -> None:
        self.is_whole = is_whole
        self._seen_seq = seen_seq
        self.scope: trio.CancelScope | None = None
        self._agent = agent
        self._kind = kind
        self.send, self.frames = trio.open_memory_channel[bytes](FRAMES_MAX)

    def wants(self, row: EventRow) -> bool:
        is_kind = self._kind is None or row.kind == self._kind or row.kind.startswith(f"{self._kind}.")
        return is_kind and row.seq > self._seen_seq and self._agent in {None, row.agent}


def changed(known: tuple[Json, dict[str, Json]], status: Json, agents: Sequence[Json]) -> Json:
    """Return what is different now: sections of the status, agents (but for the time they are in a state), and who is gone."""
    before, agents_before = known
    now = {one["name"] for one in agents}
    return {
        "status": {key: value for key, value in status.items() if key in CLOCKWORK or before.get(key) != value},
        "agents": [one for one in agents if not _is_same(one, agents_before.get(one["name"]))],
        "gone": [name for name in agents_before if name not in now],
    }


def _is_same(one: Json, before: Json | None) -> bool:
    return before is not None and {**before, "since_s": None} == {**one, "since_s": None}


def event_frame(row: EventRow) -> bytes:
    """Return one event as it is told."""
    return _frame("event", msgspec.to_builtins(row), row.seq)


def _frame(kind: str, data: Json, seq: int | None = None) -> bytes:
    number = f"id: {seq}\n" if seq is not None else ""
    return f"{number}event: {kind}\ndata: ".encode() + msgspec.json.encode(rounded(data)) + b"\n\n"


def _resumed(exchange: Exchange) -> int | None:
    text = exchange.head.headers.get("last-event-id")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > math.log10(2**63):
        raise Refused(400, "Last-Event-ID must be the number of an event")
    return int(text)


async def _leave_with(exchange: Exchange, scope: trio.CancelScope) -> None:
    await exchange.wait_gone()
    scope.cancel()
