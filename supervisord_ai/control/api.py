"""The owner's door: JSON over control.sock, for the command line and for scripts. `routes.py` is the list of what it answers.

Who connects is asked of the kernel once per connection. A peer inside the fleet is refused whatever its user id: an agent
that runs as its owner must not stop its supervisor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from supervisord_ai.agents.view import FleetView
from supervisord_ai.clock import Clock
from supervisord_ai.control import report
from supervisord_ai.control.answers import Agents, Caps, Environment, Explained, Healthz
from supervisord_ai.control.chronicle import Occurrence
from supervisord_ai.control.encoding import encoded, rounded
from supervisord_ai.control.exec import Wrap, board
from supervisord_ai.control.feed import Feed, Past
from supervisord_ai.control.openapi import document
from supervisord_ai.control.report import Moment, Usage
from supervisord_ai.control.routes import JSON, PROMETHEUS, ROUTES, Asked, Router, Told
from supervisord_ai.control.routes import Handler as RouteHandler
from supervisord_ai.control.scrape import Metrics
from supervisord_ai.control.told import Stopping
from supervisord_ai.control.verbs import Verbs, no_agent
from supervisord_ai.core.cap_advice import Peak, advise
from supervisord_ai.core.downtime import Downtime
from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.roster import AgentSpec, Roster
from supervisord_ai.errors import HostFault, Refused
from supervisord_ai.gateway.accept import AcceptView
from supervisord_ai.gateway.view import GatewayView
from supervisord_ai.health.view import HealthView
from supervisord_ai.host.peers import Peers
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.http import Exchange, Handler

log = logging.getLogger(__name__)

HEADERS = (("Content-Type", JSON), ("Cache-Control", "no-store"))


@dataclass(frozen=True, slots=True)
class ControlStatistics:
    """What the door has seen."""

    asked: int
    refused: int


class Control:
    """Answers the owner. Built from callables, so that it knows the rooms only by what they show of themselves."""

    def __init__(
        self,
        *,
        version: str,
        pid: int,
        clock: Clock,
        roster: Roster,
        memory: MemoryPolicy,
        fleet: Callable[[], FleetView],
        gateway: Callable[[int], GatewayView],
        explain: Callable[[str], Mapping[str, object] | None],
        identity: Callable[[], AcceptView],
        usage: Callable[[], Usage],
        health: Callable[[], HealthView] = HealthView,
        peers: Peers,
        may_control: Callable[[PeerFacts], bool],
        environment: Callable[[AgentSpec], Mapping[str, str]],
        stop: Callable[[], None],
        events: Past,
        verbs: Verbs | None = None,
        metrics: Metrics | None = None,
        down: Downtime | None = None,
        happened: Callable[[], Sequence[Occurrence]] = tuple,
        peaks: Callable[[int], Mapping[str, Peak]] = lambda _days: {},
        wrap: Wrap | None = None,
    ) -> None:
        self._version = version
        self._pid = pid
        self._clock = clock
        self._started_wall = clock.wall()
        self._roster = roster
        self._memory = memory
        self._fleet = fleet
        self._gateway = gateway
        self._explain = explain
        self._identity = identity
        self._usage = usage
        self._health_view = health
        self._peers = peers
        self._may_control = may_control
        self._environment = environment
        self._stop = stop
        self._down = down
        self._happened = happened
        self._metrics = metrics or Metrics()
        self._peaks = peaks
        self._wrap = wrap
        self.feed = Feed(events, self._look)
        self._router = Router()
        self._handlers: dict[str, RouteHandler] = {
            "health": self._health,
            "status": self._status,
            "agents": self._agents,
            "agent": self._agent,
            "agents.environment": self._given,
            "caps": self._caps,
            "exec": self._exec,
            "queue": self._queue,
            "queue.show": self._request,
            "openapi": self._openapi,
            "metrics": self._scraped,
            "stop": self._stopped,
            "events": self.feed.follow,
            **(verbs.handlers() if verbs is not None else {}),
        }
        if unknown := self._handlers.keys() - {route.name for route in ROUTES}:
            raise ValueError(f"no route leads to {', '.join(sorted(unknown))}")
        self._asked = 0
        self._refused = 0

    def __repr__(self) -> str:
        return f"<Control asked={self._asked} refused={self._refused}>"

    def follow(self, roster: Roster, memory: MemoryPolicy) -> None:
        """Tell of this roster and memory plan from now on."""
        self._roster, self._memory = roster, memory

    def statistics(self) -> ControlStatistics:
        return ControlStatistics(self._asked, self._refused)

    async def on_connection(self, connection: Connection) -> Handler:
        """Return the handler of one connection, for `serve_listener`.

        Raises:
            Refused: 403, it is not the owner's process.
        """
        facts = connection.peer.facts
        if connection.raw is not None:
            try:
                facts = self._peers.unix(connection.raw)
            except HostFault as exc:
                log.warning("control: a peer of whom the kernel says nothing was refused: %s", exc)
                facts = None
        if not isinstance(facts, PeerFacts) or not self._may_control(facts):
            self._refused += 1
            who = f"pid {facts.pid} uid {facts.uid}" if isinstance(facts, PeerFacts) else "an unknown peer"
            log.warning("control: refused %s", who)
            raise Refused(403, "control.sock is the owner's: not for agents, nor for other users")
        return partial(self.handle, peer=facts)

    async def handle(self, exchange: Exchange, peer: PeerFacts | None = None) -> None:
        """Answer one request.

        Raises:
            Refused: 404, 405, and what the route refuses; the server shapes it.
        """
        self._asked += 1
        route, asked = self._router.find(exchange)
        handler = self._handlers.get(route.name)
        if handler is None:
            raise Refused(404, f"this daemon has no {route.path}")
        told = await handler(asked if peer is None else replace(asked, peer=peer))
        match told:
            case None:
                return
            case Told(status, answer):
                await exchange.respond(status, HEADERS, encoded(answer))
            case _:
                await exchange.respond(route.status, HEADERS, encoded(told))

    # --- handlers, by the name of their route --------------------------------------------------------------------------

    async def _health(self, _asked: Asked) -> object:
        found = report.reasons(self.moment())
        return Told(503, Healthz("degraded", found)) if found else Healthz("good", [])

    async def _status(self, _asked: Asked) -> object:
        return report.status(self.moment())

    async def _queue(self, asked: Asked) -> object:
        return report.queue(self._gateway(asked.query["n"]))

    async def _request(self, asked: Asked) -> object:
        told = self._explain(asked.path["id"])
        if told is None:
            raise Refused(404, f"there is no request {asked.path['id'][:64]!r}")
        return msgspec.convert(told, Explained)

    async def _agents(self, _asked: Asked) -> object:
        externals = [report.external(spec) for spec in self._roster.agents.values() if spec.external]
        return Agents([*(report.agent(view) for view in self._fleet().agents), *externals])

    async def _agent(self, asked: Asked) -> object:
        name = asked.path["name"]
        spec = self._roster.agents.get(name)
        if spec is not None and spec.external:
            return report.shown_external(spec)
        fleet = self._fleet().agents
        for view in fleet:
            if view.name == name:
                return report.shown(view, spec)
        raise Refused(404, no_agent(name, [*self._roster.agents, *(view.name for view in fleet)]))

    async def _given(self, asked: Asked) -> object:
        """What an external agent is to be given by whoever starts it: its token above all."""
        name = asked.path["name"]
        spec = self._roster.agents.get(name)
        if spec is None:
            raise Refused(404, no_agent(name, self._roster.agents))
        if not spec.external:
            raise Refused(409, f"{name} is started by us and finds its token in its environment; another starts with each run")
        return Environment(name, dict(self._environment(spec)))

    async def _exec(self, asked: Asked) -> object:
        return await board(asked, self._roster, self._wrap, self._fleet().guarantee)

    async def _caps(self, asked: Asked) -> object:
        classes = {name: policy.memory_bytes for name, policy in self._roster.classes.items()}
        days = asked.query["days"]
        advice = advise(self._roster.agents.values(), classes, self._peaks(days))
        return Caps(days, str(self._memory.enforce), advice)

    async def _openapi(self, _asked: Asked) -> object:
        return document()

    async def _scraped(self, asked: Asked) -> object:
        text = await self._metrics.text(self.moment())
        await asked.exchange.respond(200, (("Content-Type", PROMETHEUS), ("Cache-Control", "no-store")), text)
        return None

    async def _stopped(self, asked: Asked) -> object:
        log.info("stop: asked for on control.sock")
        try:
            await asked.exchange.respond(202, HEADERS, encoded(Stopping(True, self._pid)))
        finally:
            self._stop()  # also for a caller that did not wait for the answer
        return None

    # --- looks ---------------------------------------------------------------------------------------------------------

    def moment(self, fleet: FleetView | None = None) -> Moment:
        """Return everything that a status is made of, as it is now; but for a fleet that was looked at already."""
        return Moment(
            version=self._version,
            pid=self._pid,
            started_wall=self._started_wall,
            now_wall=self._clock.wall(),
            fleet=fleet if fleet is not None else self._fleet(),
            gateway=self._gateway(0),
            identity=self._identity(),
            memory=self._memory,
            usage=self._usage(),
            health=self._health_view(),
            down=self._down,
            happened=self._happened(),
        )

    def _look(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the status and every agent, as plain values, for the feed."""
        moment = self.moment()
        agents = [report.agent(view) for view in moment.fleet.agents]
        return rounded(msgspec.to_builtins(report.status(moment))), rounded(msgspec.to_builtins(agents))
