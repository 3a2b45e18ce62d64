"""Lives the rooms that `rooms.py` built: the nurseries. Their nesting of the nurseries is the order of shutdown.

    store       the journal and the cache: the last to close, so that whatever ends can still be written down
      agents    the fleet; inside it the engines we keep, which outlive the agents and end before their cages are given back
        requests  the gateway: recovery, slots, relays
          accept    llm.sock, the loopback face, control.sock

Starting goes inward: the sockets are bound first (a caller who is early waits in the kernel's backlog), the agents of a daemon
that was killed are taken over, or ended where that is not certain, the journal is recovered, and then callers are let in while
the other agents start in batches. Stopping goes outward: nobody new is let in, work in hand is dropped (its rows stay, and are
answered after the next start), the agents are ended, the files are closed. All of it fits into 8 seconds, because WSL cuts the
power after 10. Told to leave (USR1), or brought down by a fault of ours, it does the same within 2 seconds and leaves the agents
running.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from typing import assert_never

import trio

from supervisord_ai import __version__
from supervisord_ai.agents.fleet import Fleet
from supervisord_ai.config import Config
from supervisord_ai.core.crowd import connections_most
from supervisord_ai.core.progress import Signs
from supervisord_ai.doors import Doors, Options
from supervisord_ai.duty import every, kept_up
from supervisord_ai.errors import SupervisorError
from supervisord_ai.gateway.gateway import Gateway
from supervisord_ai.gateway.refusals import shape_refusal
from supervisord_ai.health.alive import stay_alive
from supervisord_ai.health.back_doors import LOOK_EVERY_S
from supervisord_ai.health.sampler import EVERY_S
from supervisord_ai.host.heap import keep_large_blocks_apart
from supervisord_ai.host.process import allow_open_files, open_files
from supervisord_ai.host.signals import Asked, signals_asked
from supervisord_ai.host.systemd import Notifier
from supervisord_ai.listeners import url_of
from supervisord_ai.rooms import Rooms
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.http import Bounds, Handler, OpenConnections, serve_listener

__all__ = ["Daemon", "Doors", "Options", "run"]

log = logging.getLogger(__name__)

RETENTION_EVERY_S = 3600.0
ALIVE_EVERY_S = 10.0
STOP_AGENTS_WITHIN_S = 7.0  # the rest of the 8 s is for the files


def run(config: Config, options: Options) -> int:
    """Run the daemon until it is told to stop; return its exit code.

    Raises:
        AlreadyRunning, UsageError, HostFault, StoreFault: it cannot start here; nothing was started.
    """
    # A thread that wants the interpreter back gets it within 0.1 ms: behind a busy loop the default of 5 ms makes an
    # acknowledgement wait for its fdatasync's thread for up to seconds.
    sys.setswitchinterval(1e-4)
    keep_large_blocks_apart()
    allow_open_files()
    with ExitStack() as held:
        daemon = Daemon(config, options, held)
        try:
            trio.run(daemon.main, strict_exception_groups=True)
        except BaseExceptionGroup as group:
            told = _only(group)
            if told is None:
                raise
            raise told from group
    return 0


def _only(group: BaseExceptionGroup[BaseException]) -> SupervisorError | None:
    """Return the one error of ours that ended everything, so that people read one line; None when it is anything else."""
    while len(group.exceptions) == 1:
        (inner,) = group.exceptions
        if not isinstance(inner, BaseExceptionGroup):
            return inner if isinstance(inner, SupervisorError) else None
        group = inner
    return None


class Daemon:
    """One daemon: built from a config, lived by `main`. What it takes before the loop runs is given back by `held`."""

    def __init__(self, config: Config, options: Options, held: ExitStack, doors: Doors | None = None) -> None:
        doors = doors if doors is not None else Doors()
        self._config = config
        self._clock = doors.clock
        self._settle_memory = doors.settle_memory
        self._notifier = Notifier()
        self._stop_asked = trio.Event()
        self._is_leaving = False  # and the agents stay
        self._stop_why = ""
        self._rooms = Rooms(config, options, doors, held, stop=self.stop)

    def __repr__(self) -> str:
        return f"<daemon {self._rooms!r}>"

    @property
    def fleet(self) -> Fleet:
        """The agents, for whoever looks."""
        return self._rooms.fleet

    @property
    def gateway(self) -> Gateway:
        """The path of a request; a simulation hands it connections."""
        return self._rooms.gateway

    def stop(self, why: str = "it was stopped") -> None:
        """Have `live` end, outward."""
        self._stop_why = self._stop_why or why
        self._stop_asked.set()

    async def main(self) -> None:
        """Start inward, wait, stop outward."""
        # Before the first agent: a TERM that nobody catches would end us and leave them running.
        with signals_asked() as signals:
            async with trio.open_nursery() as watch:
                watch.start_soon(self._watch_signals, signals)
                await self.live()
                watch.cancel_scope.cancel()
        log.info("stopped")

    async def live(self) -> None:
        """Live without ears for signals: `stop` ends it."""
        rooms = self._rooms
        async with trio.open_nursery() as store:
            await store.start(rooms.journal.run)
            await store.start(rooms.cache_file.run)
            store.start_soon(every, RETENTION_EVERY_S, "forgetting old events", self._forget_events)
            rooms.back_doors.close()
            store.start_soon(every, ALIVE_EVERY_S, "leaving a sign of life", self._mark_alive)
            async with trio.open_nursery() as agents:
                await agents.start(rooms.fleet.run)
                # The last daemon's agents are settled now; an Ollama among them had the address of ours.
                async with trio.open_nursery() as engines:
                    for one in rooms.upstreams:
                        if one.engine is not None:
                            engines.start_soon(one.engine.run, one.client.version)
                    try:
                        await self._serve()
                    finally:
                        await self._end_agents_or_leave_them()
                    engines.cancel_scope.cancel()
                agents.cancel_scope.cancel()
            for one in rooms.upstreams:
                await one.client.aclose()
            store.cancel_scope.cancel()

    async def _serve(self) -> None:
        rooms = self._rooms
        async with trio.open_nursery() as requests:
            await requests.start(rooms.gateway.run)
            requests.start_soon(every, EVERY_S, "sampling", rooms.sampler.sample)
            requests.start_soon(every, LOOK_EVERY_S, "looking at the back doors", rooms.back_doors.look)
            await requests.start(rooms.alerts.run)
            if (within_s := self._notifier.watchdog_s) is not None:
                feed = partial(stay_alive, self._notifier.alive, within_s, look=self._signs, nudge=rooms.gateway.nudge)
                requests.start_soon(kept_up, "feeding the watchdog", feed)
            async with trio.open_nursery() as accept:
                self._let_callers_in(accept)
                self._settle_memory()
                self._say_that_we_serve()
                await self._stop_asked.wait()
                rooms.chronicle.ends(self._stop_why)
                self._notifier.stopping()
                accept.cancel_scope.cancel()
            requests.cancel_scope.cancel()

    def _let_callers_in(self, accept: trio.Nursery) -> None:
        rooms, limits = self._rooms, self._config.limits
        bounds = Bounds(headers_bytes=limits.headers_bytes, body_bytes=limits.body_bytes, idle_s=limits.idle_s)
        crowd = OpenConnections(connections_most(open_files()))
        for_callers = partial(serve_listener, bounds=bounds, shape=shape_refusal, crowd=crowd)
        for_owner = partial(serve_listener, bounds=Bounds(), crowd=crowd)
        accept.start_soon(partial(for_callers, rooms.listeners.llm.socket, self._on_llm, kind="unix"))
        for listener in rooms.listeners.tcp:
            accept.start_soon(partial(for_callers, listener, self._on_tcp, kind="tcp"))
        accept.start_soon(partial(for_owner, rooms.listeners.owner, rooms.control.on_connection, kind="unix"))
        accept.start_soon(rooms.control.feed.run)
        if rooms.listeners.page is not None:
            web = rooms.page()
            accept.start_soon(web.run)
            accept.start_soon(partial(for_owner, rooms.listeners.page, web.on_connection, kind="web"))
            log.info("the page is at %s", url_of(rooms.listeners.page.getsockname()))

    def _say_that_we_serve(self) -> None:
        rooms = self._rooms
        log.info("serving on %s", ", ".join([str(rooms.listeners.llm.path), *rooms.listeners.urls]))
        if rooms.down is not None:
            log.info("nobody supervised for %.0f s: %s", rooms.down.to_wall - rooms.down.from_wall, rooms.down.why)
        rooms.chronicle.began(__version__, os.getpid(), rooms.boot_id, rooms.down)
        self._notifier.ready(f"serving {len(self._config.roster.agents)} agents")

    async def _on_llm(self, connection: Connection) -> Handler:
        return await self._rooms.accept.unix_handler(connection, self.gateway.handler_for)

    async def _on_tcp(self, connection: Connection) -> Handler:
        return await self._rooms.accept.tcp_handler(connection, self.gateway.handler_for)

    async def _end_agents_or_leave_them(self) -> None:
        rooms = self._rooms
        # A fault of ours is no reason to end anybody: the next daemon takes the agents over.
        if self._is_leaving or not (self._stop_asked.is_set() or rooms.cages.why_not_outlived):
            log.info("leaving: agents go on")
            rooms.fleet.leave()
            for one in rooms.upstreams:
                if one.engine is not None:
                    one.engine.let_be()
            return
        log.info("stopping: agents have %.0f s", STOP_AGENTS_WITHIN_S)
        with trio.CancelScope(shield=True):
            await rooms.fleet.stop_all(within_s=STOP_AGENTS_WITHIN_S)
        rooms.back_doors.open()

    async def _mark_alive(self) -> None:
        self._rooms.state.mark_alive(self._clock.wall())

    async def _forget_events(self) -> None:
        before_wall = self._clock.wall() - self._config.retention_events_s
        await self._rooms.events.forget(before_wall)
        await self._rooms.peaks.forget(before_wall)

    def _signs(self) -> Signs:
        journal = self._rooms.journal.statistics()
        return Signs(journal.commits + journal.syncs + journal.failures, journal.waiting, self.gateway.turns)

    async def _watch_signals(self, signals: AsyncIterator[Asked]) -> None:
        async for asked in signals:
            await self.obey(asked)

    async def obey(self, asked: Asked) -> None:
        """Do what a signal asks."""
        match asked:
            case Asked.STOP:
                log.info("stop: asked for by a signal")
                self.stop("a signal told it to (TERM or INT)")
            case Asked.RELOAD:
                await self._rooms.reload.on_signal()
            case Asked.LEAVE:
                if why_not := self._rooms.cages.why_not_outlived:
                    log.warning("agents cannot outlive this daemon, they are stopped: %s", why_not)
                else:
                    log.info("leaving: asked for by a signal; agents stay, and are taken over by the next daemon")
                    self._is_leaving = True
                self.stop("it was restarted or upgraded (USR1)")
            case _:
                assert_never(asked)
