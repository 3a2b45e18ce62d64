"""The owner's door: who may come in, what it answers, what it does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from supervisord_ai.agents.view import AgentView, FleetView
from supervisord_ai.clock import VirtualClock
from supervisord_ai.control.api import Control
from supervisord_ai.control.report import Usage
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.effects import Level
from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.roster import CLASS_DEFAULTS, AgentSpec, Roster
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.view import GatewayView
from supervisord_ai.health.view import BypassView, HealthView, LevelView
from supervisord_ai.host.peers import KernelPeers
from supervisord_ai.serve.connection import MemoryClient, memory_pair
from supervisord_ai.serve.http import serve_connection
from tests.fakes.event_journal import FakeEventJournal
from tests.fakes.owner_views import agent_view, backend_view, fleet_view, gateway_view, identity_view

OWNER = PeerFacts(pid=50, uid=1000, gid=1000)
AGENT = PeerFacts(pid=51, uid=1000, gid=1000, run_tag="t")


class House:
    """A control door over made-up rooms."""

    def __init__(self) -> None:
        self.fleet: FleetView = fleet_view()
        self.gateway: GatewayView = gateway_view()
        self.events = FakeEventJournal()
        self.stops = 0
        self.health = HealthView()
        spec = AgentSpec("opus-01", CLASS_DEFAULTS["opus"], ("run", "it"), cwd="/srv")
        self.roster = Roster({"opus-01": spec})
        self.control = Control(
            version="9.9.9",
            pid=99,
            clock=VirtualClock(epoch=1000.0),
            roster=self.roster,
            memory=MemoryPolicy(),
            fleet=lambda: self.fleet,
            gateway=lambda _waiting_max: self.gateway,
            explain={"q1": {"id": "q1", "state": "queued", "attempt": 1, "position": 3, "reason": "all slots are busy"}}.get,
            identity=identity_view,
            usage=lambda: Usage(45_000_000, 1.23456),
            health=lambda: self.health,
            peers=KernelPeers(),
            environment=lambda spec: {"AI_SUPERVISOR_TOKEN": f"token of {spec.name}"},
            may_control=lambda facts: facts.uid == 1000 and facts.run_tag is None,
            stop=self._stop,
            events=self.events,
        )

    def _stop(self) -> None:
        self.stops += 1


@asynccontextmanager
async def connected(house: House, facts: PeerFacts = OWNER) -> AsyncIterator[MemoryClient]:
    client, serving = memory_pair(facts=facts)
    handler = await house.control.on_connection(serving)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, serving, handler)
        yield client
        client.close()


async def answer(client: MemoryClient) -> tuple[int, dict[str, str], Any]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await client.receive_some()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += await client.receive_some()
    return int(first.split()[1]), headers, json.loads(body) if body else None


async def ask(house: House, target: str, method: str = "GET") -> tuple[int, dict[str, str], Any]:
    async with connected(house) as client:
        await client.send_all(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return await answer(client)


def set_backend(house: House, state: str) -> None:
    house.gateway = gateway_view(backend_view(state=state, detail="connection refused"))


def set_agent(house: House, state: AgentState) -> None:
    house.fleet = fleet_view(agent_view(state=state))


# --- who ----------------------------------------------------------------------------------------------------------------


async def test_a_process_of_the_fleet_is_refused_whatever_its_user(autojump_clock: object) -> None:
    house = House()
    with pytest.raises(Refused) as caught:
        async with connected(house, AGENT):
            pass
    assert caught.value.status == 403
    assert house.control.statistics().refused == 1
    assert house.control.statistics().asked == 0


async def test_a_peer_of_whom_nothing_is_known_is_refused(autojump_clock: object) -> None:
    _client, serving = memory_pair(facts=None)
    with pytest.raises(Refused):
        await House().control.on_connection(serving)


# --- what ---------------------------------------------------------------------------------------------------------------


async def test_status_has_everything_that_scripts_rely_on(autojump_clock: object) -> None:
    house = House()
    await trio.sleep(5)
    status, headers, told = await ask(house, "/v1/status")
    assert status == 200
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert told["version"] == "9.9.9"
    assert (told["pid"], told["started_at"], told["uptime_s"]) == (99, pytest.approx(1000, abs=1e-6), 5.0)
    assert (told["level"]["level"], told["level"]["name"]) == (0, "normal")
    backend = told["backends"][0]
    assert {key: backend[key] for key in ("name", "url", "state", "detail", "slots", "busy")} == {
        "name": "main",
        "url": "http://127.0.0.1:11434",
        "state": "ready",
        "detail": "",
        "slots": 2,
        "busy": 1,
    }
    assert backend["running"] == [
        {
            "id": "r1",
            "agent": "opus-01",
            "model": "llama3.2:3b",
            "path": "/api/chat",
            "since_s": 12.346,
            "priority": 3,
            "attempt": 1,
            "tokens": None,
        }
    ]
    assert told["queue"] == {
        "mode": "open",
        "queued": 7,
        "running": 1,
        "by_priority": [
            {"priority": 3, "queued": 5, "oldest_s": 1.234, "estimate_s": None},
            {"priority": 5, "queued": 2, "oldest_s": 40.0, "estimate_s": 12.5},
        ],
    }
    assert told["agents"] == {
        "total": 1,
        "by_class": [{"class": "opus", "total": 1, "states": {"running": 1}}],
        "attention": [],
    }
    assert told["identity"] == {"level": "proved", "detail": "by cgroup"}
    assert told["guarantee"] == {"level": "hard", "detail": "cgroup v2 at /sys/fs/cgroup/ai"}
    assert told["cache"]["l1"] == {"entries": 4, "bytes": 1_000_000, "hits": 10, "cap_bytes": 256_000_000, "evicted": 0}
    assert {"name": "agents", "bytes": 35_200_000_000, "used_bytes": 12_000_000} in told["memory"]["plan"]
    assert (told["memory"]["daemon_rss_bytes"], told["memory"]["daemon_cpu_s"]) == (45_000_000, 1.235)
    assert told["totals"]["asked"] == 33


async def test_agents_are_listed_and_one_is_shown_with_its_command(autojump_clock: object) -> None:
    house = House()
    _, _, told = await ask(house, "/v1/agents")
    (listed,) = told["agents"]
    assert (listed["name"], listed["class"], listed["state"], listed["since_s"]) == ("opus-01", "opus", "running", 1234.568)
    _, _, shown = await ask(house, "/v1/agents/opus%2D01")
    assert listed.items() <= shown.items()
    assert shown["command"] == ["run", "it"]
    assert shown["restart"] == "on-failure"


async def test_the_queue_shows_who_runs_and_who_waits_and_why(autojump_clock: object) -> None:
    _, _, told = await ask(House(), "/v1/queue")
    assert told["active"][0]["backend"] == "main"
    assert told["waiting"][0]["reason"] == "all slots are busy"


async def test_a_head_request_has_the_head_only(autojump_clock: object) -> None:
    async with connected(House()) as client:
        await client.send_all(b"HEAD /v1/queue HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while b'"good"' not in data:
            data += await client.receive_some()
        assert data.count(b"HTTP/1.1 200 OK") == 2
        assert b"entries" not in data


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("GET", "/v1/nothing", 404, None),
        ("GET", "/v1/agents/nobody", 404, None),
        ("GET", "/v1/queue/nothing", 404, None),
        ("GET", "/", 404, None),
        ("POST", "/v1/status", 405, "GET, HEAD"),
        ("DELETE", "/v1/agents/opus-01", 405, "GET, HEAD"),
        ("GET", "/v1/stop", 405, "POST"),
    ],
)
async def test_what_is_not_there_is_said_in_json(
    autojump_clock: object, method: str, target: str, status: int, allow: str | None
) -> None:
    house = House()
    found, headers, told = await ask(house, target, method)
    assert (found, headers.get("allow")) == (status, allow)
    assert told["error"]
    assert house.stops == 0


# --- health -------------------------------------------------------------------------------------------------------------


async def test_all_well_is_200(autojump_clock: object) -> None:
    assert (await ask(House(), "/healthz"))[::2] == (200, {"status": "good", "reasons": []})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda house: set_backend(house, "unreachable"), "backend main is unreachable"),
        (lambda house: set_agent(house, AgentState.QUARANTINED), "1 in quarantine: opus-01"),
        (lambda house: set_agent(house, AgentState.BACKOFF), "1 waiting to be started again"),
    ],
)
async def test_what_is_not_well_is_503_with_its_reason(
    autojump_clock: object, spoil: Callable[[House], None], reason: str
) -> None:
    house = House()
    spoil(house)
    status, _, told = await ask(house, "/healthz")
    assert status == 503
    assert told["status"] == "degraded"
    assert told["reasons"][0].startswith(reason)
    assert (await ask(house, "/v1/status"))[2]["health"] == {"is_good": False, "reasons": told["reasons"]}


async def test_attention_goes_to_those_in_trouble_the_worst_first(autojump_clock: object) -> None:
    house = House()
    house.fleet = fleet_view(
        agent_view("opus-01"),
        agent_view("opus-02", verdict="finished", state=AgentState.FINISHED, since_s=1.0),
        agent_view("opus-03", verdict="crash:SEGV", since_s=5.0, restarts=1),
        agent_view("opus-04", verdict="crash:SEGV", since_s=5000.0, restarts=1),
        agent_view("opus-05", verdict="oom:own-cap", state=AgentState.BACKOFF, since_s=2.0),
        agent_view("opus-06", verdict="exit:1", state=AgentState.QUARANTINED, since_s=9000.0),
        agent_view("opus-07", verdict="stopped:shutdown", since_s=1.0),
    )
    _, _, told = await ask(house, "/v1/status")
    assert [one["agent"] for one in told["agents"]["attention"]] == ["opus-06", "opus-05", "opus-03"]


async def next_steps(*agents: AgentView) -> list[tuple[str, str]]:
    house = House()
    house.fleet = fleet_view(*agents)
    return [(step["command"], step["why"]) for step in (await ask(house, "/v1/status"))[2]["next"]]


async def test_who_waits_to_be_started_again_has_a_command_that_says_why(autojump_clock: object) -> None:
    failing = agent_view("opus-05", verdict="exit:1", state=AgentState.BACKOFF)
    assert await next_steps(failing) == [("ai-supervisor agents show opus-05", "why it ended: exit:1, and its last words")]


async def test_a_level_that_takes_something_away_has_a_command_that_says_what(autojump_clock: object) -> None:
    house = House()
    for number, commands in ((1, []), (2, ["ai-supervisor level show"]), (3, ["ai-supervisor level show"])):
        held = LevelView(Level(number), Level(number), 0.9, "queue pressure", "", (), None, False, (), None, None)  # type: ignore[arg-type]
        house.health = HealthView(level=held)
        assert [step["command"] for step in (await ask(house, "/v1/status"))[2]["next"]] == commands


@pytest.mark.parametrize("verdict", ["oom:own-cap", "oom:rlimit(likely)"])
async def test_who_needs_more_than_his_cap_has_a_command_that_says_how_much(verdict: str, autojump_clock: object) -> None:
    resting = agent_view("opus-05", verdict=verdict, state=AgentState.QUARANTINED)
    assert [command for command, _ in await next_steps(resting)] == [
        "ai-supervisor config suggest",
        "ai-supervisor agents logs opus-05",
        "ai-supervisor agents release opus-05",
    ]


# --- stop ---------------------------------------------------------------------------------------------------------------


async def test_stop_is_answered_and_then_done(autojump_clock: object) -> None:
    house = House()
    status, _, told = await ask(house, "/v1/stop", "POST")
    assert (status, told) == (202, {"stopping": True, "pid": 99})
    assert house.stops == 1


async def test_stop_is_done_also_for_a_caller_that_does_not_wait_for_the_answer(autojump_clock: object) -> None:
    house = House()
    async with connected(house) as client:
        await client.send_all(b"POST /v1/stop HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert house.stops == 1


# --- external agents ----------------------------------------------------------------------------------------------------


def with_an_external_agent() -> House:
    house = House()
    house.roster.agents["editor"] = AgentSpec("editor", CLASS_DEFAULTS["sonnet"], (), external=True)
    return house


async def test_an_external_agent_is_shown_with_the_fields_of_the_others(autojump_clock: object) -> None:
    house = with_an_external_agent()
    agents = {one["name"]: one for one in (await ask(house, "/v1/agents"))[2]["agents"]}
    assert agents["editor"].keys() == agents["opus-01"].keys()
    assert (agents["editor"]["class"], agents["editor"]["state"], agents["editor"]["pid"]) == ("sonnet", "external", None)
    status, _, one = await ask(house, "/v1/agents/editor")
    assert (status, one["state"], one["priority"]) == (200, "external", 5)


async def test_only_an_external_agent_has_something_to_be_given(autojump_clock: object) -> None:
    house = with_an_external_agent()
    status, headers, told = await ask(house, "/v1/agents/editor/environment")
    assert (status, told["environment"]) == (200, {"AI_SUPERVISOR_TOKEN": "token of editor"})
    assert headers["cache-control"] == "no-store"
    status, _, told = await ask(house, "/v1/agents/opus-01/environment")
    assert (status, "started by us" in told["error"]) == (409, True)
    assert (await ask(house, "/v1/agents/nobody/environment"))[0] == 404
    assert (await ask(house, "/v1/agents/editor/secrets"))[0] == 404


async def test_one_request_is_explained(autojump_clock: object) -> None:
    status, _, told = await ask(House(), "/v1/queue/q1")
    assert (status, told["position"], told["reason"]) == (200, 3, "all slots are busy")


async def test_an_agent_that_calls_a_backend_itself_is_named_and_a_program_of_the_owner_is_only_shown() -> None:
    house = House()
    house.health = HealthView(
        bypasses=(BypassView("sonnet-07", "sonnet-07", "main", 3, 4.0), BypassView("curl 77 (uid 1000)", None, "main", 1, 9.0))
    )
    _, _, told = await ask(house, "/v1/status")
    assert told["bypasses"][1] == {
        "who": "curl 77 (uid 1000)", "agent": None, "backend": "main", "connections": 1, "ago_s": 9.0,
    }  # fmt: skip
    assert told["health"]["reasons"] == ["agent sonnet-07 calls backend main itself, past the queue"]
    assert any(step["why"].startswith("sonnet-07 is to call OLLAMA_HOST") for step in told["next"])
