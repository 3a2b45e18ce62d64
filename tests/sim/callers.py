"""What agents do all day: think, ask, now and then leave, read slowly, flood; and come back with their key when we died."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from supervisord_ai.core.identity import Caller, CallerKind, Proof
from supervisord_ai.errors import PeerGone, UpstreamFault
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.ollama.transport import ByteStream
from tests.sim.asks import EMBEDDER, MODEL, OTHER_MODEL, Asked, End, Shape, read

if TYPE_CHECKING:
    from tests.sim.world import World

TOPICS = 40  # questions that many ask; the rest is asked once
COMES_BACK = 25  # times at most, with its key


class CutShort(Exception):  # noqa: N818
    """The connection ended before the answer did."""


class Agent:
    """One running agent process."""

    def __init__(self, world: World, name: str, generation: int) -> None:
        self.name = name
        self.generation = generation
        self._world = world
        self._rng = random.Random(f"{world.seed} {name} {generation}")
        self._nursery: trio.Nursery | None = None
        self._keys = itertools.count()
        self._is_silent = False

    def silence(self) -> None:
        """Ask nothing more; what was asked is seen through."""
        self._is_silent = True

    async def live(self) -> None:
        """Until cancelled: its process is then gone, and everything it asked is left."""
        await trio.sleep(self._rng.uniform(0, self._world.think_s))
        async with trio.open_nursery() as self._nursery:
            while True:
                self.ask()
                await trio.sleep(self._rng.expovariate(1 / self._world.think_s))

    def ask(self, count: int = 1, *, leaves: bool = False) -> None:
        """Ask so many things at once."""
        if self._nursery is None or self._is_silent:
            return
        for _ in range(count):
            asked = self._something()
            behaviour = self._leave_early if leaves or self._rng.random() < 0.05 else self._see_through
            self._nursery.start_soon(behaviour, asked)

    # --- what ----------------------------------------------------------------------------------------------------------

    def _something(self) -> Asked:
        rng, world = self._rng, self._world
        shape = rng.choices(list(Shape), (30, 12, 12, 10, 10, 8, 18))[0]
        topic = None
        if shape in {Shape.GENERATE, Shape.GENERATE_STREAM} and rng.random() < 0.3:
            topic = min(int(rng.paretovariate(1.1)), TOPICS)
        model = EMBEDDER if shape is Shape.EMBED else OTHER_MODEL if topic is None and rng.random() < 0.05 else MODEL
        count = 1 + topic % 7 if topic is not None else rng.randint(1, 3) if shape is Shape.EMBED else rng.randint(1, 20)
        is_async = topic is None and rng.random() < 0.08
        key = f"{self.generation}-{next(self._keys)}" if is_async or (topic is None and rng.random() < 0.6) else None
        return world.note(
            Asked(
                number=world.next_number(), agent=self.name, generation=self.generation, shape=shape, model=model,
                at=trio.current_time(), count=count, deadline_s=float(rng.choice((30, 60, 120, 240))), topic=topic, key=key,
                is_async=is_async,
            )
        )  # fmt: skip

    # --- how -----------------------------------------------------------------------------------------------------------

    async def _see_through(self, asked: Asked) -> None:
        """Ask until there is an answer, or nothing more to hope for."""
        with self._gone_with_me(asked):
            for _ in range(COMES_BACK if asked.key is not None else 1):
                life = await self._world.up()
                try:
                    end, detail = await (self._in_the_background(asked) if asked.is_async else self._in_one_call(asked))
                except CutShort as cut:
                    if life is self._world.life and not life.is_dead:
                        self._world.broken("G12", f"{asked} was cut off ({cut}) by a daemon that lives")
                    continue
                self._world.over(asked, end, detail)
                return
            self._world.over(asked, End.BROKEN, "the daemon died")

    def _gone_with_me(self, asked: Asked) -> _Leaving:
        return _Leaving(self._world, asked)

    async def _leave_early(self, asked: Asked) -> None:
        """Ask, and be gone before the answer is."""
        if asked.is_async:
            await self._see_through(asked)
            return
        with self._gone_with_me(asked):
            await self._world.up()
            patience_s = self._rng.choice((0.0, 0.05, 0.5, 3.0, 20.0))
            is_slow = self._rng.random() < 0.3
            end: tuple[End, str] | None = None
            with trio.move_on_after(patience_s):
                try:
                    end = await self._in_one_call(asked, pause_s=1.0 if is_slow else 0.0)
                except CutShort:
                    end = End.BROKEN, "the daemon died"
            self._world.over(asked, *(end or (End.LEFT, f"after {patience_s:g} s")))

    async def _in_one_call(self, asked: Asked, *, pause_s: float = 0.0) -> tuple[End, str]:
        path, fields = asked.request()
        status, body = await self._exchange("POST", path, json.dumps(fields).encode(), asked, pause_s=pause_s)
        return self._judged(asked, status, body)

    def _judged(self, asked: Asked, status: int, body: bytes) -> tuple[End, str]:
        try:
            return read(asked, status, body)
        except (AssertionError, ValueError, KeyError, IndexError) as exc:
            self._world.broken("G12", f"{asked}: {exc}")
            return End.FAILED, str(exc)

    async def _in_the_background(self, asked: Asked) -> tuple[End, str]:
        """Have it acknowledged, then ask for it by its id, over as many lives of the daemon as it takes."""
        if asked.id is None:
            path, fields = asked.request()
            status, body = await self._exchange("POST", path, json.dumps(fields).encode(), asked)
            if status != 202:  # refused, or it came back to an answer that was there
                return self._judged(asked, status, body)
            asked.id = json.loads(body)["id"]
            asked.promised_at = trio.current_time()
        while True:
            status, body = await self._exchange("GET", f"/supervisor/v1/requests/{asked.id}?wait=60", b"", asked)
            told = json.loads(body)
            if status != 200:
                self._world.broken("D1", f"{asked} was acknowledged, and is answered {status} {told}")
                return End.FAILED, "forgotten"
            if "answer" in told:
                answer = told["answer"]
                return self._judged(asked, answer["status"], answer["body"].encode())
            if told["state"] == "cancelled":
                reason = str(told.get("reason"))
                return (End.REFUSED if reason.startswith("no slot came free") else End.FAILED), f"cancelled: {reason!r}"

    async def _exchange(
        self, method: str, path: str, body: bytes, asked: Asked, *, pause_s: float = 0.0
    ) -> tuple[int, bytes]:
        world = self._world
        caller = Caller(CallerKind.AGENT, self.name, self.name.partition("-")[0], self.generation, Proof.PROVED, 1000)

        async def dial() -> ByteStream:
            return await world.connect(caller, room_bytes=2048 if pause_s else 65536)

        client = OllamaClient("http://supervisor", dial=dial)
        try:
            async with client.open(method, path, body=body, headers=list(asked.headers().items())) as reply:
                parts = []
                while (part := await reply.next_chunk()) is not None:
                    parts.append(part)
                    if b": queued" in part and asked.key is not None:
                        asked.promised_at = asked.promised_at or trio.current_time()
                    if pause_s:
                        await trio.sleep(pause_s)
                return reply.status, b"".join(parts)
        except (UpstreamFault, PeerGone) as exc:
            raise CutShort(str(exc)) from exc
        finally:
            await client.aclose()


class _Leaving:
    """Whatever ends the block before the request is over has left it."""

    def __init__(self, world: World, asked: Asked) -> None:
        self._world = world
        self._asked = asked

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._asked.end is None:
            self._world.over(self._asked, End.LEFT, "its process ended")


Made = Callable[[str, int], Agent]
