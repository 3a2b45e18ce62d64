"""A whole gateway in virtual time: the double of Ollama below it, callers in memory above it, the real journal on real files."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.effects import Level
from supervisord_ai.core.events import AgentEnded, AgentStarted, Event, LevelChanged
from supervisord_ai.core.identity import Caller, CallerKind, Proof
from supervisord_ai.core.policies import (
    BackendSpec,
    BreakerPolicy,
    CachePolicy,
    LevelsPolicy,
    LimitsPolicy,
    ModelsPolicy,
    QueuePolicy,
)
from supervisord_ai.core.roster import CLASS_DEFAULTS, AgentSpec, ClassPolicy, Roster
from supervisord_ai.errors import PeerGone, UpstreamUnreachable
from supervisord_ai.gateway.gateway import Gateway
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.ollama.transport import ByteStream
from supervisord_ai.serve.connection import MemoryClient, memory_pair
from supervisord_ai.serve.http import serve_connection
from supervisord_ai.store.disk import Disk, RunSync, inline
from supervisord_ai.store.state import State
from supervisord_ai.wire.http1 import Headers
from tests.fakes.ollama_double import Double

MODEL = "llama3.2:3b"


@dataclass(frozen=True, slots=True)
class Answered:
    """One whole answer, as the caller saw it. `at` is the virtual second of its end."""

    status: int
    headers: Headers
    body: bytes
    chunks: tuple[bytes, ...]
    at: float

    def json(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    def text(self) -> str:
        return "".join(line.get("response", "") or line.get("message", {}).get("content", "") for line in self.lines())


def roster_of(opus: int = 3, sonnet: int = 3, **changes: Any) -> Roster:
    """A fleet; `changes` go to both classes."""
    classes = dict(CLASS_DEFAULTS)
    for name in ("opus", "sonnet"):
        classes[name] = replace(classes[name], **({"rate_per_min": None} | changes))
    agents = {}
    for name, count in (("opus", opus), ("sonnet", sonnet)):
        for number in range(1, count + 1):
            agent = f"{name}-{number:02}"
            agents[agent] = AgentSpec(agent, classes[name], ("true",))
    return Roster(agents, classes)


def agent(name: str, generation: int = 1) -> Caller:
    return Caller(CallerKind.AGENT, name, name.partition("-")[0], generation, Proof.PROVED, 1000)


OWNER = Caller(CallerKind.OWNER, "owner", "owner", 0, Proof.PROVED, 0)
GUEST = Caller(CallerKind.GUEST, "guest", "guest", 0, Proof.PROVED, 1001)


@dataclass
class Bench:
    """One life of the gateway."""

    gateway: Gateway
    state: State
    double: Double
    nursery: trio.Nursery
    events: list[Event] = field(default_factory=list)

    async def connect(self, caller: Caller, *, kind: str = "memory-unix", room_bytes: int = 65536) -> MemoryClient:
        """A connection of this caller to the gateway."""
        await trio.lowlevel.checkpoint()
        client, served = memory_pair(kind, room_bytes=room_bytes)
        self.nursery.start_soon(serve_connection, served, self.gateway.handler_for(caller))
        return client

    def client_of(self, caller: Caller, **more: Any) -> OllamaClient:
        async def dial() -> ByteStream:
            return await self.connect(caller, **more)

        return OllamaClient("http://gateway", dial=dial)

    async def ask(
        self,
        caller: Caller,
        prompt: str = "[[n=3]]",
        *,
        path: str = "/api/generate",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        **fields: Any,
    ) -> Answered:
        """One request on a connection of its own, to its end. `prompt` goes to the field the path has for it.

        Raises: UpstreamCut when the answer was broken off, UpstreamUnreachable when there was none.
        """
        body = {"model": MODEL, **prompt_field(path, prompt), **fields}
        return await self.call(caller, method, path, json.dumps(body).encode(), headers)

    async def call(
        self, caller: Caller, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answered:
        client = self.client_of(caller)
        chunks: list[bytes] = []
        try:
            async with client.open(method, path, body=body, headers=list((headers or {}).items())) as reply:
                while (chunk := await reply.next_chunk()) is not None:
                    chunks.append(chunk)
                return Answered(reply.status, reply.headers, b"".join(chunks), tuple(chunks), trio.current_time())
        finally:
            await client.aclose()

    def started(self, name: str, generation: int = 1) -> None:
        self.gateway.tell(AgentStarted(name, name.partition("-")[0], generation, 1000 + generation, 1, None, "tag", 0, False))

    def level(self, level: int, cause: str = "queue") -> None:
        """Another level holds from now on."""
        self.gateway.tell(LevelChanged(Level.NORMAL, Level(level), "a test", cause, trio.current_time()))

    def ended(self, name: str, generation: int = 1) -> None:
        self.gateway.tell(AgentEnded(name, generation, "exit:0"))


def prompt_field(path: str, prompt: str) -> dict[str, Any]:
    """The prompt under the name this path has for it."""
    if path in {"/api/chat", "/v1/chat/completions"}:
        return {"messages": [{"role": "user", "content": prompt}]}
    if path == "/v1/messages":
        return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 100}
    return {"input": prompt} if "/embed" in path and path != "/api/embeddings" else {"prompt": prompt}


@asynccontextmanager
async def life(
    folder: Path,
    double: Double,
    *,
    roster: Roster | None = None,
    slots: int = 2,
    queue: QueuePolicy | None = None,
    limits: LimitsPolicy | None = None,
    cache: CachePolicy | None = None,
    classes: Sequence[ClassPolicy] = (),
    is_ready: bool = True,
    run_sync: RunSync = inline,
    disk: Disk | None = None,
    breaker: BreakerPolicy | None = None,
    levels: LevelsPolicy | None = None,
    restart: Callable[[], Awaitable[object]] | None = None,
    beside: Mapping[str, Double] | None = None,
    large_bytes: int = 0,
    cache_bytes: int = 50_000_000,
    vram: Callable[[], float | None] = lambda: None,
    notes: list[tuple[str, dict[str, object]]] | None = None,
    on_cpu: Collection[str] = (),
    clock: VirtualClock | None = None,
) -> AsyncIterator[Bench]:
    """One life of a gateway on the files of `folder`; leaving the block ends it as a crash does: nothing is said to anyone."""
    clock = clock or VirtualClock()
    state = State(folder, clock=clock, cache_bytes=cache_bytes, large_bytes=large_bytes, run_sync=run_sync, disk=disk)
    numbers = itertools.count(round(trio.current_time() * 1e9))
    events: list[Event] = []

    def client_of(one: Double) -> OllamaClient:
        async def dial() -> ByteStream:
            try:
                return await one.dial()
            except PeerGone as exc:
                raise UpstreamUnreachable("refused") from exc

        return OllamaClient("http://double", dial=dial)

    others = [
        (BackendSpec(name=name, slots=slots, device="cpu" if name in on_cpu else "gpu"), client_of(one))
        for name, one in (beside or {}).items()
    ]
    gateway = Gateway(
        roster=roster or roster_of(),
        queue=queue or QueuePolicy(),
        limits=limits or LimitsPolicy(),
        cache=cache or CachePolicy(),
        models=ModelsPolicy(),
        backends=[(BackendSpec(slots=slots), client_of(double)), *others],
        breaker=breaker,
        levels=levels,
        restarts={} if restart is None else {"main": restart},
        requests=state.requests,
        cache_file=state.cache,
        clock=clock,
        tell=events.append,
        new_id=lambda: f"{next(numbers):024x}",
        spool_dir=folder,
        run_sync=inline,
        vram=vram,
        note=lambda kind, detail: notes.append((kind, dict(detail))) if notes is not None else None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(state.run)
        await nursery.start(gateway.run)
        bench = Bench(gateway, state, double, nursery, events)
        if is_ready:
            await wait_until(lambda: all(backend.state == "ready" for backend in gateway.statistics().backends))
        yield bench
        nursery.cancel_scope.cancel()


async def wait_until(condition: Callable[[], bool], within_s: float = 60.0, every_s: float = 0.001) -> None:
    """Return when the condition holds, in virtual time."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - what is looked at is a view, which has no event
            await trio.sleep(every_s)
