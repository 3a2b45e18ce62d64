"""Following what happens: a snapshot, what changes, events; going on after a gap; readers that do not keep up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from supervisord_ai.control.feed import FOLLOWERS_MAX, FRAMES_MAX
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.serve.connection import MemoryClient
from tests.fakes.owner_views import agent_view, fleet_view
from tests.shell.test_control import House, answer, connected


class Reader:
    """Reads a stream of events from a connection."""

    def __init__(self, client: MemoryClient) -> None:
        self.client = client
        self._rest = b""
        self._is_begun = False

    async def frame(self) -> tuple[str, int | None, Any]:
        """Return the next frame: what it is, its number, its data; comments are passed over."""
        while True:
            while b"\n\n" not in self._rest:
                data = await self.client.receive_some()
                if not data:
                    raise EOFError
                self._rest += data
                if not self._is_begun and b"\r\n\r\n" in self._rest:
                    head, _, self._rest = self._rest.partition(b"\r\n\r\n")
                    assert b"200 OK" in head, head
                    assert b"text/event-stream" in head
                    self._is_begun = True
                self._rest = unchunked(self._rest)
            text, _, self._rest = self._rest.partition(b"\n\n")
            fields = dict(line.split(b": ", 1) for line in text.split(b"\n") if not line.startswith(b":"))
            if b"data" in fields:
                number = int(fields[b"id"]) if b"id" in fields else None
                return fields[b"event"].decode(), number, json.loads(fields[b"data"])


def unchunked(data: bytes) -> bytes:
    """Take the sizes of chunks out: no frame of these tests has a line that looks like one."""
    lines = data.split(b"\r\n")
    return b"".join(line for line in lines if not (0 < len(line) < 7 and all(char in b"0123456789abcdef" for char in line)))


@asynccontextmanager
async def following(house: House, query: str = "", last: int | None = None) -> AsyncIterator[Reader]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.control.feed.run)
        async with connected(house) as client:
            again = f"Last-Event-ID: {last}\r\n" if last is not None else ""
            await client.send_all(f"GET /v1/events{query} HTTP/1.1\r\nHost: x\r\n{again}\r\n".encode())
            yield Reader(client)
            client.close()
        nursery.cancel_scope.cancel()


async def test_first_comes_a_snapshot_and_then_what_changes(autojump_clock: object) -> None:
    house = House()
    house.fleet = fleet_view(agent_view("opus-01"), agent_view("opus-02"))
    async with following(house) as reader:
        kind, number, told = await reader.frame()
        assert (kind, number, told["seq"]) == ("snapshot", 0, 0)
        assert told["status"]["version"] == "9.9.9"
        assert [one["name"] for one in told["agents"]] == ["opus-01", "opus-02"]
        house.fleet = fleet_view(agent_view("opus-01", state=AgentState.BACKOFF, since_s=0.0))
        while True:
            kind, number, told = await reader.frame()
            if told["agents"]:
                break
        assert (kind, number) == ("change", None)
        assert [(one["name"], one["state"]) for one in told["agents"]] == [("opus-01", "backoff")]
        assert told["gone"] == ["opus-02"]
        assert told["status"]["agents"]["total"] == 1
        assert "cache" not in told["status"]  # it is as it was
        kind, _, told = await reader.frame()
        assert (kind, told["agents"], told["gone"], set(told["status"])) == ("change", [], [], {"now_wall", "uptime_s"})


async def test_an_event_is_told_at_once_with_its_number(autojump_clock: object) -> None:
    house = House()
    async with following(house, "?only=events") as reader:
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        house.events.note("agent.ended", "opus-01", detail={"verdict": "exit:1"})
        kind, number, told = await reader.frame()
        assert trio.current_time() == before
        assert (kind, number, told["kind"], told["agent"], told["detail"]) == (
            "event",
            1,
            "agent.ended",
            "opus-01",
            {"verdict": "exit:1"},
        )


async def test_who_comes_back_is_told_what_it_missed_and_nothing_twice(autojump_clock: object) -> None:
    house = House()
    for number in range(1200):
        house.events.note("one" if number % 2 else "two", f"a-{number}")
    async with following(house, "?only=events", last=3) as reader:
        seen = [(await reader.frame())[1] for _ in range(1197)]
        assert seen == list(range(4, 1201))
        house.events.note("three")
        assert (await reader.frame())[1] == 1201


async def test_a_reader_sees_only_what_it_asked_for(autojump_clock: object) -> None:
    house = House()
    async with following(house, "?only=events&kind=agent&agent=a-1", last=0) as reader:
        for kind, agent in (("agentless", "a-1"), ("agent.ended", "a-2"), ("agent.ended", "a-1"), ("agent", "a-1")):
            house.events.note(kind, agent)
        assert [(await reader.frame())[1] for _ in range(2)] == [3, 4]


async def test_a_reader_that_does_not_keep_up_is_dropped_and_costs_nobody_anything(autojump_clock: object) -> None:
    house = House()
    async with following(house, "?only=events") as slow:
        await trio.testing.wait_all_tasks_blocked()
        async with connected(house) as client:
            await client.send_all(b"GET /v1/events?only=events HTTP/1.1\r\nHost: x\r\n\r\n")
            quick = Reader(client)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(FRAMES_MAX * 3):
                house.events.note("one", detail={"text": "x" * 3000})
                assert (await quick.frame())[1] == number + 1
            assert "1 follow" in repr(house.control.feed)
            assert "1 dropped" in repr(house.control.feed)
            client.close()
        seen = 0
        try:
            while True:
                seen = (await slow.frame())[1] or 0
        except EOFError:
            pass
        assert 0 < seen < FRAMES_MAX * 3


async def test_not_everybody_can_follow_at_once(autojump_clock: object) -> None:
    house = House()
    async with trio.open_nursery() as nursery:
        clients = []
        for _ in range(FOLLOWERS_MAX + 1):
            context = connected(house)
            client = await nursery.start(held, context)
            await client.send_all(b"GET /v1/events?only=events HTTP/1.1\r\nHost: x\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            clients.append(client)
        assert (await answer(clients[-1]))[0] == 503
        nursery.cancel_scope.cancel()


async def held(context: Any, *, task_status: trio.TaskStatus[MemoryClient] = trio.TASK_STATUS_IGNORED) -> None:
    async with context as client:
        task_status.started(client)
        await trio.sleep_forever()


async def test_a_number_that_is_none_is_refused_and_nobody_looks_while_nobody_follows(autojump_clock: object) -> None:
    house = House()
    async with connected(house) as client:
        await client.send_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: -1\r\n\r\n")
        assert (await answer(client))[0] == 400
    looks = 0

    def look() -> Any:
        nonlocal looks
        looks += 1
        return fleet_view()

    house.control._fleet = look
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.control.feed.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert looks == 0
