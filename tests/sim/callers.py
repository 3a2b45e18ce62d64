"""What agents do all day: ask, now and then leave, read slowly, lie; and come back when we died.

Whoever has a key comes back with it until there is an answer. Of the others most come back a few times with the same body, as
the SDKs of OpenAI and Anthropic do; a few never do, and what they lost is lost.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import trio

from supervisord_ai.core.identity import Caller, CallerKind, Proof
from supervisord_ai.errors import PeerGone
from supervisord_ai.gateway.request import End as GatewayEnd
from tests.sim.asks import EMBEDDER, MODEL, OTHER_MODEL, Asked, End, Shape, read
from tests.sim.line import POLITE, Answered, CutShort, Manner, call

if TYPE_CHECKING:
    from tests.sim.world import World

INFINITY = float("inf")
TOPICS = 60  # questions that many ask; the rest is asked once
COMES_BACK_WITH_KEY = 25
COMES_BACK_WITHOUT = 4
NEVER_COMES_BACK = 0.04
LEAVES = 0.03
ASKS_AGAIN = 0.05  # of those with a key: once more, after the answer, and must be told the same
SHAPES = list(Shape)
SHAPE_WEIGHTS = (30, 12, 12, 10, 10, 8, 18)
COMMON = {  # the share of them that asks what many ask, with temperature 0
    Shape.GENERATE_STREAM: 0.5, Shape.GENERATE: 0.5, Shape.CHAT_STREAM: 0.35, Shape.OPENAI: 0.25, Shape.OPENAI_STREAM: 0.25,
    Shape.ANTHROPIC: 0.0, Shape.EMBED: 0.5,
}  # fmt: skip
COUNTS = (1, 2, 3, 4, 6, 12)
COUNT_WEIGHTS = (25, 25, 20, 15, 10, 5)
DEADLINES_S = (30.0, 60.0, 120.0, 240.0)
DEADLINE_WEIGHTS = (5, 10, 25, 60)
SLOW = Manner(pause_s=1.0, room_bytes=2048)
HALF = Manner(half_closes=True)
ASKS_PRIORITY = 0.15  # any of the ten, whatever its class may have
WANTS_OPTIONS = 0.2  # of those whose question is theirs alone: a context of its own, or the model unloaded afterwards
OWN_OPTIONS: tuple[dict[str, Any], ...] = (
    *({"options": {"num_ctx": 1024 * (n + 1)}} for n in range(20)), *({"keep_alive": 0},) * 5,
)  # fmt: skip
ENDS_AFTER_REFUSAL = 0.02  # an agent that takes a refusal for a reason to die


class Agent:
    """One running agent process."""

    def __init__(
        self, world: World, name: str, generation: int, nursery: trio.Nursery, caller: Caller | None = None
    ) -> None:
        self.name = name
        self.generation = generation
        self._world = world
        self._rng = random.Random(f"{world.seed} {name} {generation}")
        self._nursery = nursery
        self._keys = 0
        agent_class = "opus" if name.startswith("opus") else "sonnet"
        self._caller = caller or Caller(CallerKind.AGENT, name, agent_class, generation, Proof.PROVED, 1000)

    def __repr__(self) -> str:
        return f"<agent {self.name}#{self.generation}>"

    def ask(self, count: int = 1, *, leaves: bool = False, manner: Manner = POLITE, model: str | None = None) -> None:
        """Ask so many things at once."""
        for _ in range(count):
            asked = self._something()
            if model is not None and asked.shape is not Shape.EMBED and asked.topic is None:
                asked.model = model
            if leaves or self._rng.random() < LEAVES:
                self._nursery.start_soon(self._leave_early, asked)
            else:
                self._nursery.start_soon(self._see_through, asked, manner)

    def lie(self, count: int) -> None:
        """Send so many requests that are none, or that are not an agent's to send."""
        for _ in range(count):
            self._nursery.start_soon(self._lie, self._rng.choice(LIES))

    def be_wrong(self) -> None:
        """Ask for what is not there: that is no fault of the engine's."""
        self._nursery.start_soon(self._lie, NOT_THERE)

    # --- what ----------------------------------------------------------------------------------------------------------

    def _something(self) -> Asked:
        rng, world = self._rng, self._world
        (shape,) = rng.choices(SHAPES, SHAPE_WEIGHTS)
        is_common = rng.random() < COMMON[shape] and self._caller.kind is CallerKind.AGENT  # guests share with nobody
        topic = min(int(rng.paretovariate(0.9)), TOPICS) if is_common else None
        model = EMBEDDER if shape is Shape.EMBED else OTHER_MODEL if topic is None and rng.random() < 0.03 else MODEL
        count = rng.randint(1, 3) if shape is Shape.EMBED else rng.choices(COUNTS, COUNT_WEIGHTS)[0]
        if topic is not None:
            count = 1 + topic % 7
            if shape is Shape.EMBED:  # they have topics of their own
                topic, count = topic + 1000, 1 + topic % 3
        is_async = topic is None and rng.random() < 0.08
        priority = rng.randint(1, 10) if rng.random() < ASKS_PRIORITY else None
        options = OWN_OPTIONS[rng.randrange(len(OWN_OPTIONS))] if topic is None and rng.random() < WANTS_OPTIONS else {}
        key = None
        if is_async or (topic is None and rng.random() < 0.6):
            self._keys += 1
            key = f"{self.generation}-{self._keys}"
        return world.note(
            Asked(
                number=world.next_number(), agent=self.name, generation=self.generation, shape=shape, model=model,
                at=trio.current_time(), count=count, deadline_s=rng.choices(DEADLINES_S, DEADLINE_WEIGHTS)[0], topic=topic,
                key=key, is_async=is_async, priority=priority, options=options,
            )
        )  # fmt: skip

    # --- how -----------------------------------------------------------------------------------------------------------

    async def _see_through(self, asked: Asked, manner: Manner = POLITE) -> None:
        """Ask until there is an answer, or nothing more to hope for."""
        with _Leaving(self._world, asked):
            for _ in range(self._patience(asked)):
                life = await self._world.up()
                try:
                    end, detail = await self._ask_once(asked, manner)
                except CutShort as cut:
                    if life is self._world.life and not life.is_over:
                        self._world.broken("G12", f"{asked} was cut off ({cut}) by a daemon that lives")
                    continue
                self._world.over(asked, end, detail)
                break
            else:
                self._world.over(asked, End.BROKEN, "the daemon died, and its caller did not come back")
        if asked.end is End.WHOLE and asked.key is not None and self._rng.random() < ASKS_AGAIN:
            await self._ask_again(asked)
        if asked.end is End.REFUSED and self._rng.random() < ENDS_AFTER_REFUSAL:
            self._world.ends_after_refusal(self.name, self.generation)

    def _patience(self, asked: Asked) -> int:
        if asked.key is not None:
            return COMES_BACK_WITH_KEY
        return 1 if self._rng.random() < NEVER_COMES_BACK else COMES_BACK_WITHOUT

    async def _leave_early(self, asked: Asked) -> None:
        """Ask, and be gone before the answer is."""
        if asked.is_async:
            await self._see_through(asked)
            return
        with _Leaving(self._world, asked):
            await self._world.up()
            patience_s = self._rng.choice((0.0, 0.05, 0.5, 3.0, 20.0))
            manner = SLOW if self._rng.random() < 0.3 else POLITE
            end: tuple[End, str] | None = None
            left_at = None
            with trio.move_on_after(patience_s):
                try:
                    end = await self._ask_once(asked, manner)
                except CutShort:
                    left_at = INFINITY  # nobody was there to see it leave: its row is as good as that of one who comes back
                    end = End.LEFT, "the daemon died before it left"
            self._world.over(asked, *(end or (End.LEFT, f"after {patience_s:g} s")), left_at=left_at)

    async def _ask_once(self, asked: Asked, manner: Manner) -> tuple[End, str]:
        if asked.is_async:
            return await self._in_the_background(asked)
        return self._judged(asked, await self._send(asked, manner))

    async def _send(self, asked: Asked, manner: Manner = POLITE) -> Answered:
        path, fields = asked.request()
        return await self._exchange("POST", path, json.dumps(fields).encode(), asked, manner)

    def _judged(self, asked: Asked, answer: Answered) -> tuple[End, str]:
        try:
            end, detail, said = read(asked, answer.status, answer.body)
        except (AssertionError, ValueError, KeyError, IndexError) as exc:
            self._world.broken("G12", f"{asked}: {exc}")
            return End.FAILED, str(exc)
        if end is End.WHOLE:
            if asked.said not in {None, said} and not self._world.watch.stepped_since(asked.ended_at):
                self._world.broken("G5", f"{asked} was answered {asked.said!r}, and then {said!r}")
            asked.said = said
            served = self._world.upstream.served_by(said)
            if served not in {None, asked.model} and answer.headers.get("x-ai-degraded") is None:
                self._world.broken("G9", f"{asked} was answered by {served}, and nobody said so")
        return end, detail

    async def _ask_again(self, asked: Asked) -> None:
        """An answer is kept: whoever asks again with the same key is told the same, another body under it is refused."""
        self._world.counts["asked again"] += 1
        await trio.sleep(self._rng.uniform(0, 200))
        calls = len(asked.starts)
        life = await self._world.up()
        if self._world.watch.stepped_since(asked.ended_at):
            return
        try:
            if asked.is_async:
                answer = await self._exchange("GET", f"/supervisor/v1/requests/{asked.id}", b"", asked)
                told = json.loads(answer.body)
                if answer.status != 200 or "answer" not in told:
                    self._world.broken("G5", f"{asked} was answered, and is {answer.status} {told} when it is asked for again")
                body = told["answer"]["body"].encode()
                self._judged(asked, Answered(told["answer"]["status"], answer.headers, body))
            else:
                self._judged(asked, await self._send(asked))
        except CutShort:
            return
        if self._world.watch.stepped_since(asked.ended_at):
            return
        if len(asked.starts) != calls and life is self._world.life and life.disk.was_always_well:
            self._world.broken("G5", f"{asked} was answered, and was worked for again")

    async def _in_the_background(self, asked: Asked) -> tuple[End, str]:
        """Have it acknowledged, then ask for it by its id, over as many lives of the daemon as it takes."""
        if asked.id is None:
            answer = await self._send(asked)
            if answer.status != 202:  # refused, or it came back to an answer that was there
                return self._judged(asked, answer)
            asked.id = json.loads(answer.body)["id"]
            self._world.acknowledged(asked)
        while True:
            polled_at = trio.current_time()
            answer = await self._exchange("GET", f"/supervisor/v1/requests/{asked.id}?wait=60", b"", asked)
            told = json.loads(answer.body)
            if answer.status != 200:
                self._world.broken("D1", f"{asked} was acknowledged, and is answered {answer.status} {told}")
                return End.FAILED, "forgotten"
            if "answer" in told:
                kept = told["answer"]
                return self._judged(asked, Answered(kept["status"], answer.headers, kept["body"].encode()))
            if told["state"] == "cancelled":
                reason = str(told.get("reason"))
                if not reason or reason in set(GatewayEnd):
                    self._world.broken("D1", f"{asked} was acknowledged, and is cancelled because it is {reason!r}")
                return (End.REFUSED if reason.startswith("no slot came free") else End.FAILED), f"cancelled: {reason!r}"
            if trio.current_time() < polled_at + 1:  # its end is not in the journal yet, and nobody else knows it
                await trio.sleep(1)

    async def _exchange(self, method: str, path: str, body: bytes, asked: Asked, manner: Manner = POLITE) -> Answered:
        client = await self._world.connect(self._caller, room_bytes=manner.room_bytes)
        return await call(client, (method, path), list(asked.headers().items()), body, manner)

    # --- lies ----------------------------------------------------------------------------------------------------------

    async def _lie(self, lie: tuple[str, bytes]) -> None:
        """Whatever it is, the engine never sees it, and it is answered by a 4xx or by the end of the connection."""
        what, data = lie
        self._world.counts["lies"] += 1
        life = await self._world.up()
        client = await self._world.connect(self._caller, room_bytes=65536)
        got = b""
        try:
            with trio.move_on_after(90):
                await client.send_all(data)
                client.half_close()
                while part := await client.receive_some():
                    got += part
        except PeerGone:
            pass
        finally:
            client.close()
        status = got[9:12]
        is_refused = (not got) or status[:1] in {b"3", b"4"} or status == b"503"
        if not is_refused and life is self._world.life and not life.is_over:
            self._world.broken("G14", f"{what} of {self.name} was answered {got[:60]!r}")


class _Leaving:
    """Whatever ends the block before the request is over has left it."""

    def __init__(self, world: World, asked: Asked) -> None:
        self._world = world
        self._asked = asked

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._asked.end is None:
            # With the power its daemon goes too: nobody sees it leave, and its row is as good as that of one who lives.
            left_at = None if self._world.watch.sees_who_leaves else INFINITY
            self._world.over(self._asked, End.LEFT, "its process ended", left_at=left_at)


def _post(path: str, body: str, *more: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: supervisor", f"Content-Length: {len(body.encode())}", *more]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body.encode()


# All of them name no request, so that the double would know them for what they are.
NOT_THERE = ("a model that is not there", _post("/api/generate", '{"model": "not-there", "prompt": "lie"}'))
LIES: tuple[tuple[str, bytes], ...] = (
    ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20),
    ("no request line", b"\r\n\r\nwhat\r\n\r\n"),
    ("a body that is no JSON", _post("/api/generate", "{model:")),
    NOT_THERE,
    ("no model", _post("/api/chat", '{"messages": []}')),
    ("a cloud name", _post("/api/generate", '{"model": "gpt-oss:120b-cloud", "prompt": "lie"}')),
    ("a deletion", b'DELETE /api/delete HTTP/1.1\r\nHost: supervisor\r\nContent-Length: 21\r\n\r\n{"model":"tinyllama"}'),
    ("a pull", _post("/api/pull", '{"model": "llama3.2:3b"}')),
    ("two lengths", _post("/api/generate", '{"model": "llama3.2:3b", "prompt": "lie"}', "Content-Length: 3")),
    ("a length and chunks", _post("/api/generate", "0\r\n\r\n", "Transfer-Encoding: chunked")),
    ("a path that climbs", b"GET /../../etc/passwd HTTP/1.1\r\nHost: supervisor\r\n\r\n"),
    ("a request of somebody else", b"GET /supervisor/v1/requests/0000000000000000000007 HTTP/1.1\r\nHost: supervisor\r\n\r\n"),
    ("a head without an end", b"GET /api/tags HTTP/1.1\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n"),
    ("many fields", b"GET /api/tags HTTP/1.1\r\nHost: supervisor\r\n" + b"X-A: b\r\n" * 400 + b"\r\n"),
)
