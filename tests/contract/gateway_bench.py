"""The gateway before the double: everything real but the wires and the clock."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
import trio.testing

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.identity import Caller, CallerKind, Proof
from supervisord_ai.core.policies import BackendSpec, CachePolicy, LimitsPolicy, ModelsPolicy, QueuePolicy
from supervisord_ai.core.roster import CLASS_DEFAULTS, AgentSpec, Roster
from supervisord_ai.errors import PeerGone
from supervisord_ai.gateway.gateway import Gateway
from supervisord_ai.gateway.refusals import shape_refusal
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.serve.connection import MemoryClient, MemoryConnection, memory_pair
from supervisord_ai.serve.http import Bounds, ServeCounts, serve_connection
from supervisord_ai.store.database import Durability
from supervisord_ai.store.disk import inline
from supervisord_ai.store.state import State
from tests.fakes.ollama_double import Double, running

from .double_bench import read_all
from .golden import Answer, parse_answers
from .golden.requests import Body, http

OWNER = Caller(CallerKind.OWNER, "owner", "owner", 0, Proof.PROVED, 1000)


def agent(number: int) -> Caller:
    """One of the three agents of the bench's roster."""
    return Caller(CallerKind.AGENT, f"sonnet-{number:02}", "sonnet", 1, Proof.PROVED, 1000)


def bench_roster(**changes: Any) -> Roster:
    """Three agents of one class without a rate."""
    policy = CLASS_DEFAULTS["sonnet"]
    policy = replace(policy, rate_per_min=None, **changes)
    names = [f"sonnet-{number:02}" for number in range(1, 4)]
    agents = {name: AgentSpec(name, policy, ("true",)) for name in names}
    return Roster(agents, {**CLASS_DEFAULTS, "sonnet": policy})


class Bench:
    """A running gateway and connections to it."""

    def __init__(self, gateway: Gateway, double: Double, nursery: trio.Nursery) -> None:
        self.gateway = gateway
        self.double = double
        self.counts = ServeCounts()
        self._nursery = nursery

    def connect(self, caller: Caller = OWNER, *, kind: str = "memory-unix", room_bytes: int = 65536) -> MemoryClient:
        client, served = memory_pair(kind, room_bytes=room_bytes)
        self._nursery.start_soon(self._serve, served, caller)
        return client

    async def _serve(self, served: MemoryConnection, caller: Caller) -> None:
        handler = self.gateway.handler_for(caller)
        await serve_connection(served, handler, Bounds(), shape=shape_refusal, counts=self.counts)

    async def exchange(self, request: bytes, caller: Caller = OWNER) -> bytes:
        """The raw answer to one raw request on a connection of its own."""
        client = self.connect(caller)
        try:
            with suppress(PeerGone):  # answered, and closed, before all was sent
                await client.send_all(request)
            return (await read_all(client, quiet_s=300))[0]  # idle connections live 600 s
        finally:
            client.close()

    async def ask(self, method: str, target: str, body: Body = None, *headers: tuple[str, str], caller: Caller = OWNER) -> Answer:
        """The one answer to one well-formed request, without the word that the connection closes after it."""
        request = http(method, target, body, *headers, ("Connection", "close"))
        (answer,) = parse_answers(await self.exchange(request, caller))
        return replace(answer, headers=answer.headers - {("connection", "close")})

    async def is_well(self) -> bool:
        """Whether nothing is held, nothing failed, and the next caller is served."""
        await trio.testing.wait_all_tasks_blocked()
        view, counts = self.gateway.statistics(), self.double.statistics()
        is_idle = (view.queued, view.running, counts.in_flight, counts.running, self.counts.failed) == (0, 0, 0, 0, 0)
        return is_idle and (await self.ask("GET", "/")).body == b"Ollama is running"


@asynccontextmanager
async def gateway_before(
    double: Double,
    folder: Path,
    *,
    roster: Roster | None = None,
    slots: int = 2,
    limits: LimitsPolicy = LimitsPolicy(),  # noqa: B008
    queue: QueuePolicy = QueuePolicy(),  # noqa: B008
    models: ModelsPolicy = ModelsPolicy(),  # noqa: B008
) -> AsyncIterator[Bench]:
    """A gateway that serves while the block lasts; its files are in the folder."""
    clock = VirtualClock()
    state = State(folder, clock=clock, durability=Durability.PROCESS, cache_bytes=10_000_000, run_sync=inline)
    client = OllamaClient("http://127.0.0.1:11434", dial=double.dial)
    numbers = itertools.count(1)
    gateway = Gateway(
        roster=roster or bench_roster(),
        queue=queue,
        limits=limits,
        cache=CachePolicy(),
        models=models,
        backends=[(BackendSpec(slots=slots), client)],
        requests=state.requests,
        cache_file=state.cache,
        clock=clock,
        tell=lambda _: None,
        new_id=lambda: f"{next(numbers):032x}",
        spool_dir=folder,
        run_sync=inline,  # a thread takes real time, in which virtual time would run away
    )
    async with running(double), trio.open_nursery() as nursery:
        await nursery.start(state.run)
        await nursery.start(gateway.run)
        await trio.testing.wait_all_tasks_blocked()  # it knows its backend now
        yield Bench(gateway, double, nursery)
        nursery.cancel_scope.cancel()
    await client.aclose()


# --- answers -------------------------------------------------------------------------------------------------------------


def status_of(answer: Answer) -> int:
    return int(answer.status.split()[1])


JSON = "application/json; charset=utf-8"
TEXT = "text/plain"


def head_of(answer: Answer, name: str) -> str | None:
    return dict(answer.headers).get(name)


def error_of(answer: Answer) -> str:
    said: str = json.loads(answer.body)["error"]
    return said


def lines_of(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.body.splitlines()]
