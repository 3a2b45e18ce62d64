"""Closes the backends' back doors to the fleet where the owner wants that, and finds who goes through one all the same.

A call that reaches Ollama without us takes a slot that nobody gave, so somebody's wait has no reason that we could name. The
connections of the machine are looked at every few seconds; whose it is, is asked only for one that was not seen before. What
began and ended between two looks is not seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.core.isolation import BackDoor, Dialled, back_doors, rules, table_name, through
from supervisord_ai.core.locate import Facts
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.health.view import BypassView
from supervisord_ai.host.firewall import Firewall
from supervisord_ai.store.disk import RunSync

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
REMEMBERED_S = 600.0


class Connections(Protocol):
    """The door to what the kernel knows of connections; the fake in the tests says what it was told to."""

    def dialled(self, ports: frozenset[int]) -> list[Dialled]:
        """Return the connections to these ports. Raises HostFault."""

    def own(self) -> frozenset[int]:
        """Return the inodes of our own sockets."""

    def holder_of(self, inode: int) -> PeerFacts | None:
        """Return the process that holds a socket. Slow."""

    def name_of(self, pid: int) -> str:
        """Return what a process is called, for people."""


@dataclass(slots=True)
class _Seen:
    """Somebody who went past us to one backend."""

    who: str
    agent: str | None
    backend: str
    connections: int
    at: float


class BackDoors:
    """Made with the fleet's cgroup; `firewall` None: nothing is closed, it is only looked."""

    def __init__(
        self,
        backends: Sequence[BackendSpec],
        *,
        facts: Callable[[], Facts],
        fleet: str | None,
        firewall: Firewall | None,
        connections: Connections,
        agent_of: Callable[[PeerFacts], str | None],
        found: Callable[[str | None, str, str], None],
        clock: Clock,
        run_sync: RunSync,
    ) -> None:
        """`found` is told of a bypass once: the agent's name or None, who it is, the backend."""
        self._backends = backends
        self._facts = facts
        self._fleet = fleet
        self._firewall = firewall
        self._connections = connections
        self._agent_of = agent_of
        self._found = found
        self._clock = clock
        self._run_sync = run_sync
        self._closed: tuple[BackDoor, ...] | None = None
        self._known: set[int] = set()  # inodes of connections past us
        self._ours: set[int] = set()  # of those to the backends
        self._seen: dict[tuple[str, str], _Seen] = {}

    def __repr__(self) -> str:
        return f"<back doors, {'closed' if self._closed is not None else 'open'}, {len(self._seen)} went through one>"

    def close(self) -> None:
        """Close them, before an agent runs; again when a backend may be elsewhere.

        Raises:
            HostFault: the firewall cannot do it; an agent must not run as if it could.
        """
        doors = back_doors(self._backends, self._facts())
        if self._firewall is None or self._fleet is None or doors == self._closed:
            return
        self._firewall.load(rules(self._fleet, doors))
        self._closed = doors
        log.info("closed to agents: %s", ", ".join(f"port {door.port} ({door.backend})" for door in doors) or "nothing")

    def open(self) -> None:
        """Open them again: no agent runs any more. Raises HostFault."""
        if self._firewall is not None and self._fleet is not None and self._closed is not None:
            self._firewall.remove(table_name(self._fleet))
            self._closed = None

    async def look(self) -> None:
        """Look once. Raises HostFault: the kernel does not tell, or the firewall refused."""
        self.close()
        doors = back_doors(self._backends, self._facts())
        if not doors:
            await trio.lowlevel.checkpoint()
            return
        found = await self._run_sync(self._dialled, doors)
        self._known &= found.keys()
        self._ours &= found.keys()
        if found.keys() - self._known - self._ours:
            # Read after the connections: one of ours that was closed in between has no holder.
            self._ours |= found.keys() & await self._run_sync(self._connections.own)
        now = self._clock.monotonic()
        for inode in sorted(found.keys() - self._known - self._ours):
            self._known.add(inode)
            self._note(found[inode], await self._run_sync(self._connections.holder_of, inode), now)
        self._seen = {key: seen for key, seen in self._seen.items() if now - seen.at < REMEMBERED_S}

    def _dialled(self, doors: Sequence[BackDoor]) -> dict[int, BackDoor]:
        """In a thread. Return the inode of each connection to a backend, and which one it goes to."""
        found = self._connections.dialled(frozenset(door.port for door in doors))
        through_one = ((one.inode, through(doors, one)) for one in found if one.inode)
        return {inode: door for inode, door in through_one if door is not None}

    def _note(self, door: BackDoor, holder: PeerFacts | None, now: float) -> None:
        if holder is None:
            return  # it has ended
        agent = self._agent_of(holder)
        who = agent or f"{self._connections.name_of(holder.pid)} (uid {holder.uid})"
        seen = self._seen.get((who, door.backend))
        if seen is None:
            seen = self._seen[who, door.backend] = _Seen(who, agent, door.backend, 0, now)
            log.warning("%s calls backend %s past the queue", who, door.backend)
            self._found(agent, who, door.backend)
        seen.connections += 1
        seen.at = now

    def statistics(self) -> tuple[BypassView, ...]:
        """Return who went past us in the last minutes, the latest first."""
        now = self._clock.monotonic()
        latest_first = sorted(self._seen.values(), key=lambda seen: -seen.at)
        return tuple(BypassView(one.who, one.agent, one.backend, one.connections, now - one.at) for one in latest_first)
