"""One daemon, from its start to its end: the real one, on made-up doors."""

from __future__ import annotations

import itertools
import random
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from supervisord_ai.core.effects import Level
from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import BackendSpec
from supervisord_ai.daemon import Daemon, Doors, Options
from supervisord_ai.errors import PeerGone, UpstreamUnreachable
from supervisord_ai.host.signals import Asked
from supervisord_ai.ollama.transport import ByteStream, Dialer
from supervisord_ai.serve.connection import MemoryClient, memory_pair
from supervisord_ai.serve.http import serve_connection
from supervisord_ai.store.disk import inline
from tests.fakes.connections import FakeConnections
from tests.fakes.notify import FakeNotify
from tests.fakes.process import FakeCages
from tests.sim.machine import Held, SimDisk, cages_for
from tests.sim.order import Order

if TYPE_CHECKING:
    from tests.sim.world import World


class Life:
    """One daemon, from its start to its end."""

    def __init__(self, world: World, number: int, home: Path) -> None:
        self.number = number
        self.home = home
        self.is_dead = self.is_ending = False
        self.disk = SimDisk()
        self.held = Held(world.processes)
        self.is_up = trio.Event()
        self.daemon: Daemon | None = None
        self.cages: FakeCages | None = None
        self._world = world
        self._nursery: trio.Nursery | None = None  # of its connections
        self._ended = trio.Event()

    @property
    def is_over(self) -> bool:
        """Nobody is served by it any more."""
        return self.is_dead or self.is_ending

    @property
    def serves(self) -> bool:
        return not self.is_over and self.daemon is not None and self.is_up.is_set()

    async def run(self) -> None:
        """Live. Raises: StoreFault, HostFault: it cannot start here."""
        world = self._world
        numbers = itertools.count(self.number * 1_000_000)
        doors = Doors(
            clock=world.clock,
            rng=random.Random(f"{world.seed} life {self.number}"),
            new_id=lambda: f"{next(numbers):022x}",
            processes=lambda: self.held,
            cages=lambda _state_dir, form: self._make_cages(),
            notify=lambda _folder, for_others: FakeNotify(),
            dial=self._dial,
            run_sync=inline,
            read_elsewhere=inline,
            disk=self.disk,
            settle_memory=self.is_up.set,
            machine=lambda **_: world.weather.machine,
            sense=inline,
            connections=FakeConnections,
        )
        with ExitStack() as held:
            self.daemon = Daemon(world.config(self.home), Options(read_config=lambda: world.config(self.home)), held, doors)
            Order(self.daemon.gateway, trio.current_time, world.broken)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._live, self.daemon)
                nursery.start_soon(self._hold_connections)
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        self.is_dead = True

    async def _hold_connections(self) -> None:
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    async def _live(self, daemon: Daemon) -> None:
        await daemon.live()
        self.is_dead = True
        self._ended.set()

    def _make_cages(self) -> FakeCages:
        self.cages = cages_for(self.held)
        return self.cages

    def _dial(self, _spec: BackendSpec) -> Dialer:
        async def dial() -> ByteStream:
            try:
                return await self._world.upstream.double.dial()
            except PeerGone as exc:
                raise UpstreamUnreachable("refused") from exc

        return dial

    def connect(self, caller: Caller, room_bytes: int) -> MemoryClient:
        assert self._nursery is not None
        assert self.daemon is not None
        client, served = memory_pair("memory-unix", room_bytes=room_bytes)
        self._nursery.start_soon(serve_connection, served, self.daemon.gateway.handler_for(caller))
        return client

    def connect_owner(self) -> MemoryClient:
        """A connection to its control.sock."""
        assert self._nursery is not None
        assert self.daemon is not None
        client, served = memory_pair("memory-unix")
        self._nursery.start_soon(serve_connection, served, self.daemon._rooms.control.handle)
        return client

    @property
    def level(self) -> Level:
        """What its ladder holds."""
        assert self.daemon is not None
        return self.daemon._rooms._ladder.level

    @property
    def running_config(self) -> object:
        """What a reload compares with: another object after each that changed anything."""
        assert self.daemon is not None
        return self.daemon._rooms.reload.running

    def cap_of(self, name: str) -> int | None:
        """The bytes that bind an agent's group now."""
        cage = self.cages.cages.get(name) if self.cages is not None else None
        return None if cage is None else cage.cap_bytes

    async def end(self, *, leaving: bool) -> None:
        """Tell it to stop (TERM), or to leave its agents running (USR1)."""
        assert self.daemon is not None
        await self.daemon.obey(Asked.LEAVE if leaving else Asked.STOP)
        self.is_ending = True
        if self._nursery is not None:  # connections end first, as in the daemon's own nurseries
            self._nursery.cancel_scope.cancel()

    async def reload(self) -> None:
        """What HUP does."""
        assert self.daemon is not None
        await self.daemon.obey(Asked.RELOAD)

    def kill(self) -> None:
        """Nothing more that it does reaches anybody. Its files must have been copied before."""
        self.is_dead = True
        self.held.let_go_of.set()
        self._ended.set()
