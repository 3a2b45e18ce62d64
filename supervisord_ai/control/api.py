"""The owner's door: JSON over control.sock, for the command line and for scripts.

    GET  /v1/status  /v1/agents  /v1/agents/{name}  /v1/agents/{name}/environment  /v1/queue  /v1/queue/{id}  /v1/cache
         /healthz
    POST /v1/stop, and the verbs of `verbs.py`

Who connects is asked of the kernel once per connection. A peer inside the fleet is refused whatever its user id: an agent
that runs as its owner must not stop its supervisor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from supervisord_ai.agents.view import FleetView
from supervisord_ai.clock import Clock
from supervisord_ai.control import report
from supervisord_ai.control.report import Json, Moment, Usage
from supervisord_ai.control.verbs import Verbs
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

JSON = (("Content-Type", "application/json; charset=utf-8"), ("Cache-Control", "no-store"))


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
        gateway: Callable[[], GatewayView],
        explain: Callable[[str], Json | None],
        identity: Callable[[], AcceptView],
        usage: Callable[[], Usage],
        health: Callable[[], HealthView] = HealthView,
        peers: Peers,
        may_control: Callable[[PeerFacts], bool],
        environment: Callable[[AgentSpec], Mapping[str, str]],
        stop: Callable[[], None],
        verbs: Verbs | None = None,
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
        self._verbs = verbs
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
        return self.handle

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            Refused: 404, 405; the server shapes it.
        """
        self._asked += 1
        path = exchange.head.path
        if path == "/v1/stop":
            _allow(exchange, ("POST",))
            log.info("stop: asked for on control.sock")
            try:
                await _respond(exchange, 202, {"stopping": True, "pid": self._pid})
            finally:
                self._stop()  # also for a caller that did not wait for the answer
            return
        if self._verbs is not None and await self._verbs.answer(exchange):
            return
        if path.startswith("/v1/agents/"):
            _allow(exchange, ("GET", "HEAD"))
            name, _, part = path.removeprefix("/v1/agents/").partition("/")
            if part not in {"", "environment"}:
                raise Refused(404, f"control.sock has no {path}")
            await _respond(exchange, 200, self._given(unquote(name)) if part else self._agent(unquote(name)))
            return
        if path.startswith("/v1/queue/"):
            _allow(exchange, ("GET", "HEAD"))
            await _respond(exchange, 200, self._request(unquote(path.removeprefix("/v1/queue/"))))
            return
        views: dict[str, Callable[[], tuple[int, Json]]] = {
            "/healthz": self._health,
            "/v1/status": lambda: (200, report.status(self._moment())),
            "/v1/agents": lambda: (200, {"agents": self._agents()}),
            "/v1/queue": lambda: (200, report.queue(self._gateway())),
        }
        view = views.get(path)
        if view is None:
            raise Refused(404, f"control.sock has no {path}")
        _allow(exchange, ("GET", "HEAD"))
        code, payload = view()
        await _respond(exchange, code, payload)

    def _request(self, request_id: str) -> Json:
        told = self._explain(request_id)
        if told is None:
            raise Refused(404, f"there is no request {request_id[:64]!r}")
        return told

    def _moment(self) -> Moment:
        return Moment(
            version=self._version,
            pid=self._pid,
            started_wall=self._started_wall,
            now_wall=self._clock.wall(),
            fleet=self._fleet(),
            gateway=self._gateway(),
            identity=self._identity(),
            memory=self._memory,
            usage=self._usage(),
            health=self._health_view(),
        )

    def _health(self) -> tuple[int, Json]:
        found = report.reasons(self._moment())
        return (503, {"status": "degraded", "reasons": found}) if found else (200, {"status": "good", "reasons": []})

    def _agents(self) -> list[Json]:
        externals = [report.external(spec) for spec in self._roster.agents.values() if spec.external]
        return [*(report.agent(view) for view in self._fleet().agents), *externals]

    def _given(self, name: str) -> Json:
        """What an external agent is to be given by whoever starts it: its token above all."""
        spec = self._roster.agents.get(name)
        if spec is None:
            raise Refused(404, f"there is no agent {name!r}")
        if not spec.external:
            raise Refused(409, f"{name} is started by us and finds its token in its environment; another starts with each run")
        return {"name": name, "environment": dict(self._environment(spec))}

    def _agent(self, name: str) -> Json:
        spec = self._roster.agents.get(name)
        if spec is not None and spec.external:
            return {**report.external(spec), "priority": spec.policy.priority}
        for view in self._fleet().agents:
            if view.name == name:
                told: dict[str, Any] = {} if spec is None else {
                    "command": spec.command,
                    "cwd": spec.cwd,
                    "digest": spec.digest,
                    "priority": spec.policy.priority,
                    "restart": spec.policy.restart,
                }
                return {**report.agent(view), **told}
        raise Refused(404, f"there is no agent {name!r}")


def _allow(exchange: Exchange, methods: Sequence[str]) -> None:
    if exchange.head.method not in methods:
        raise Refused(405, f"{exchange.head.path} takes {methods[0]}", allow=", ".join(methods))


async def _respond(exchange: Exchange, status: int, payload: Json) -> None:
    await exchange.respond(status, JSON, msgspec.json.encode(payload))
