"""The double on its connections: in memory for virtual time, or on a listener for another process."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import trio

from supervisord_ai.clock import Clock, VirtualClock
from supervisord_ai.errors import PeerGone, Refused, UpstreamUnreachable
from supervisord_ai.ollama.transport import ByteStream
from supervisord_ai.serve.connection import Connection, SocketConnection, memory_pair
from supervisord_ai.serve.http import Bounds, Exchange, Handler, serve_connection
from supervisord_ai.wire.http1 import RequestHead

from . import routes
from .catalogue import ModelSpec, embedding_model
from .gojson import encode
from .machine import Ask, Machine
from .options import DoubleOptions
from .scripting import Script
from .turn import Turn
from .voices import JSON
from .wire import CuttableConnection

FOREVER_S = float("inf")
GO_BOUNDS = Bounds(
    headers_bytes=1 << 20,
    header_count=10_000,
    body_bytes=1 << 40,
    head_timeout_s=FOREVER_S,
    body_timeout_s=FOREVER_S,
    idle_s=FOREVER_S,
    write_timeout_s=FOREVER_S,
)
"""Ollama sets no timeout and bounds nothing but a head's megabyte."""

DEFAULT_MODELS = (ModelSpec("llama3.2:3b"), ModelSpec("tinyllama"), embedding_model("nomic-embed-text"))


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened so far, and what is held now."""

    in_flight: int  # calls that want a slot, wherever they wait
    peak_in_flight: int
    peak_by_model: Mapping[str, int]
    running: int  # calls that have a slot
    peak_running: int
    calls: Mapping[str, int]  # by model
    requests: Mapping[str, int]  # by "METHOD /path"
    loads: Mapping[str, int]
    aborted_loads: int
    unloads: int
    loaded: tuple[str, ...]
    loading: str | None
    pending: int  # waiting in the scheduler's queue
    lost_slots: int  # of the models loaded now
    leaked_handlers: int  # that wait for a load which nobody will do
    connections: int  # open now
    accepted: int


class Double:
    """An Ollama without models. Attributes to change while it runs: `script`, `is_refusing`, `room_bytes`."""

    def __init__(
        self,
        models: Iterable[ModelSpec] = DEFAULT_MODELS,
        options: DoubleOptions = DoubleOptions(),  # noqa: B008
        *,
        clock: Clock | None = None,
        room_bytes: int = 65536,
        fragment_bytes: int | None = None,
    ) -> None:
        self.options = options
        self.machine = Machine(models, options, clock or VirtualClock())
        self.is_refusing = False  # nobody listens: dialing fails
        self._may_answer = trio.Event()
        self._may_answer.set()
        self._nursery: trio.Nursery | None = None
        self.room_bytes = room_bytes  # what a connection in memory holds before its writer waits
        self._fragment_bytes = fragment_bytes  # answers go out in pieces of this size
        self.heads: deque[RequestHead] = deque(maxlen=1000)  # what was asked lately, as it was sent
        self._open: set[CuttableConnection] = set()
        self._accepted = 0

    # --- life ----------------------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Is an Ollama until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = self.machine.nursery = nursery
            await nursery.start(self.machine.scheduler.run)
            task_status.started()
            if self.options.silent_s:
                self.hush()
                await trio.sleep(self.options.silent_s)
                self.speak()
            await trio.sleep_forever()

    def hush(self) -> None:
        """From now on connections are accepted, requests read, and nothing is answered."""
        self._may_answer = trio.Event()

    def speak(self) -> None:
        """Ends `hush` and the silent start; what was asked meanwhile is answered now."""
        self._may_answer.set()

    def drop_connections(self) -> None:
        """Closes every connection, as a restart does."""
        for connection in list(self._open):
            connection.abort()

    def restart(self) -> None:
        """Closes every connection and forgets what was loaded."""
        self.drop_connections()
        self.machine.scheduler.forget_all()

    # --- in process ----------------------------------------------------------------------------------------------------

    async def dial(self) -> ByteStream:
        """A connection to this double; a `Dialer` for OllamaClient.

        Raises: UpstreamUnreachable while `is_refusing`, as a dialer does.
        """
        await trio.lowlevel.checkpoint()
        if self.is_refusing:
            raise UpstreamUnreachable("nobody listens")
        # Half-close is the end of a caller here, as on TCP: Go's server takes it for a disconnect on any socket.
        client, served = memory_pair("memory-tcp", room_bytes=self.room_bytes)
        assert self._nursery is not None, "Double.run() is not running"
        self._nursery.start_soon(self.serve, served)
        return client

    async def serve(self, connection: Connection) -> None:
        """Serves one connection to its end."""
        wire = CuttableConnection(connection, fragment_bytes=self._fragment_bytes)
        self._open.add(wire)
        self._accepted += 1
        try:
            await serve_connection(wire, self._handler(wire), GO_BOUNDS, shape=go_error)
        finally:
            self._open.discard(wire)

    # --- on a socket ---------------------------------------------------------------------------------------------------

    async def serve_on(self, listener: socket.socket) -> None:
        """Accepts for ever on a listening TCP or Unix socket.

        On a Unix socket a half-close is not noticed, as it would be by Go: the server we share waits for a hang-up there.
        """
        listening = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            while True:
                accepted, _ = await listening.accept()
                raw = socket.socket(fileno=accepted.detach())
                nursery.start_soon(self.serve, SocketConnection(raw, write_timeout_s=FOREVER_S))

    def _handler(self, wire: CuttableConnection) -> Handler:
        async def handle(exchange: Exchange) -> None:
            self.heads.append(exchange.head)
            if not self._may_answer.is_set():
                await self._may_answer.wait()
                with trio.move_on_after(1e-6):  # not 0: a look whose time is over before it begins sees nobody gone
                    await exchange.wait_gone()  # whoever left a hung server is not worked for when it wakes up
                    raise PeerGone
            if exchange.head.path == "/double/statistics":  # not Ollama's: for tests in another process
                await exchange.respond(200, [JSON], encode(asdict(self.statistics())))
                return
            await routes.dispatch(self.machine, Turn(exchange, wire))

        return handle

    # --- what tests look at and change ---------------------------------------------------------------------------------

    @property
    def script(self) -> Callable[[Ask], Script | None]:
        """What a model says to whom; None leaves it to the prompt's directive and the default."""
        return self.machine.script

    @script.setter
    def script(self, script: Callable[[Ask], Script | None]) -> None:
        self.machine.script = script

    def statistics(self) -> Counts:
        machine, scheduler = self.machine, self.machine.scheduler
        runners = scheduler.loaded.values()
        return Counts(
            in_flight=machine.in_flight,
            peak_in_flight=machine.peak,
            peak_by_model=dict(machine.peak_by_model),
            running=sum(runner.running for runner in runners),
            peak_running=machine.running.peak,
            calls=dict(machine.calls),
            requests=dict(machine.requests),
            loads=dict(scheduler.loads),
            aborted_loads=scheduler.aborted_loads,
            unloads=scheduler.unloads,
            loaded=tuple(runner.spec.name for runner in runners),
            loading=scheduler.loading,
            pending=scheduler.pending,
            lost_slots=sum(runner.lost for runner in runners),
            leaked_handlers=scheduler.leaked_handlers,
            connections=len(self._open),
            accepted=self._accepted,
        )


def go_error(_head: RequestHead | None, refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
    """A refusal of the server itself in the shape of a handler's: what httptools calls broken, Ollama reads as a bad body."""
    return [JSON], encode({"error": refused.message})


@asynccontextmanager
async def running(double: Double) -> AsyncIterator[Double]:
    """The double, serving while the block lasts."""
    async with trio.open_nursery() as nursery:
        await nursery.start(double.run)
        try:
            yield double
        finally:
            nursery.cancel_scope.cancel()
