"""The owner's verbs: what each does, what it says, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from supervisord_ai.agents.rollout import RolledAgentView, RolloutView
from supervisord_ai.agents.view import FleetView
from supervisord_ai.clock import VirtualClock
from supervisord_ai.config import Config, DaemonPolicy
from supervisord_ai.control.encoding import encoded
from supervisord_ai.control.reload import Reload
from supervisord_ai.control.routes import Router, Told
from supervisord_ai.control.verbs import Verbs, matching, no_agent
from supervisord_ai.core.events import LevelChanged
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.policies import LevelsPolicy, QueuePolicy
from supervisord_ai.core.queue_mode import MODES, QueueMode, QueueVerb
from supervisord_ai.core.roster import CLASS_DEFAULTS, AgentSpec, Roster
from supervisord_ai.errors import ConfigError, Problem, Refused, StoreFault, UpstreamCut, UpstreamUnreachable, UsageError
from supervisord_ai.gateway.models import ModelsView, ModelView
from supervisord_ai.gateway.view import CacheReport
from supervisord_ai.health.ladder import Ladder
from supervisord_ai.health.view import AlertView, TriedWay
from supervisord_ai.serve.connection import memory_pair
from supervisord_ai.serve.http import Exchange, serve_connection
from supervisord_ai.store.rows import EventRow
from tests.fakes.owner_views import agent_view, cache_report, fleet_view

MODEL = ModelView("llama3.2:3b", "main", 2_000_000_000, "a80c4f17acd5", "llama", "Q4_K_M", None, None, None)


BELL = AlertView("slow", "firing", 12.0, "level > 1", 5.0, {"level": 2.0}, True, "look", "page-me", False, "ended with 1")


class Bells:
    """Alerts of which one is known."""

    def __init__(self, house: House) -> None:
        self._house = house

    def statistics(self) -> tuple[AlertView, ...]:
        return (BELL,)

    async def test(self, name: str | None) -> list[TriedWay]:
        await trio.lowlevel.checkpoint()
        if name not in {None, "slow"}:
            raise UsageError(f"there is no alert {name!r}")
        self._house._be_told("test", name)
        return [TriedWay("slow", "page-me", "")]


class House:
    """Rooms that note what they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.fault: Exception | None = None
        self.views: list[RolloutView] = []
        self.config: Config | ConfigError = config_of("a-1", "a-2")
        self.followed: list[Roster] = []
        self.reload = Reload(config_of("a-1", "a-2"), read=self._read, follow=self._follow, run_sync=self._at_once)
        self.levels: list[LevelChanged] = []
        self.ladder = Ladder(LevelsPolicy(), reserve_bytes=1, tell=self.levels.append, clock=VirtualClock())
        self.verbs = Verbs(
            agents=self,
            queue=self,
            models=Shelf(self),
            events=self,
            reload=self.reload,
            alerts=Bells(self),
            levels=self.ladder,
        )

    # Agents
    def start(self, name: str) -> None:
        self._be_told("start", name)

    def stop(self, name: str) -> None:
        self._be_told("stop", name)

    def restart(self, name: str) -> None:
        self._be_told("restart", name)

    def release(self, name: str) -> None:
        if name != "a-2":
            raise UsageError(f"{name} is not in quarantine")
        self._be_told("release", name)

    def statistics(self) -> FleetView:
        return fleet_view(agent_view("a-1"), agent_view("a-2"), agent_view("b-1"))

    @property
    def rollouts(self) -> House:
        return self

    # Rollouts
    def begin(self, names: Iterable[str]) -> tuple[str, ...]:
        self._be_told("roll", *names)
        return tuple(names)

    def pause(self) -> None:
        self._be_told("pause")

    def resume(self) -> None:
        self._be_told("resume")

    def abort(self) -> None:
        self._be_told("abort")

    async def wait_written(self) -> None:
        await trio.lowlevel.checkpoint()
        self._be_told("written")

    def view(self) -> RolloutView:
        if self.views:
            return self.views.pop(0)
        one = RolledAgentView("a-1", "rolling", "")
        return RolloutView("running", "", 2, 1, 0, ("a-1",), 1, (one,))

    # Queue
    def tell_queue(self, verb: QueueVerb) -> QueueMode:
        self._be_told(verb)
        return MODES[verb]

    def cancel(self, request_id: str) -> bool:
        self._be_told("cancel", request_id)
        return request_id == "r/1"

    def cache_report(self, *, with_prompts: bool = False) -> CacheReport:
        return cache_report(with_prompts=with_prompts)

    async def clear_cache(self, *, l1: bool = True, l2: bool = True, l3: bool = True) -> int:
        await trio.lowlevel.checkpoint()
        self._be_told("clear", l1, l2, l3)
        return 7

    # Events
    def note(
        self, kind: str, agent: str | None = None, request_id: str | None = None, detail: dict[str, Any] | None = None
    ) -> None:
        self.told.append(("event", kind, agent or request_id or detail))

    async def past(
        self, count: int, *, since_wall: float = 0.0, agent: str | None = None, kind: str | None = None
    ) -> list[EventRow]:
        await trio.lowlevel.checkpoint()
        return [EventRow(1, since_wall, kind or "agent.ready", agent or "a-1", None, {"n": count})]

    def _be_told(self, *words: object) -> None:
        if self.fault is not None:
            raise self.fault
        self.told.append(words)

    def _read(self) -> Config:
        if isinstance(self.config, ConfigError):
            raise self.config
        return self.config

    def _follow(self, roster: Roster, memory: MemoryPolicy) -> None:
        self.followed.append(roster)

    @staticmethod
    async def _at_once(read: Callable[[], Config]) -> Config:
        await trio.lowlevel.checkpoint()
        return read()


class Shelf:
    """Models that note what they are told."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def view(self) -> ModelsView:
        await trio.lowlevel.checkpoint()
        return ModelsView((MODEL,), ("cpu: refused",))

    async def load(self, model: str) -> None:
        await self._be_told("load", model)

    async def unload(self, model: str) -> None:
        await self._be_told("unload", model)

    async def remove(self, model: str) -> None:
        await self._be_told("rm", model)

    async def pull(self, model: str, tell: Callable[[bytes], Awaitable[None]]) -> None:
        if self._house.fault is None or isinstance(self._house.fault, UpstreamCut):
            await tell(b'{"status":"pulling manifest"}\n')
        await self._be_told("pull", model)
        await tell(b'{"status":"success"}\n')

    async def _be_told(self, *words: object) -> None:
        await trio.lowlevel.checkpoint()
        self._house._be_told(*words)


def config_of(*agents: str, **tables: Any) -> Config:
    specs = {name: AgentSpec(name, CLASS_DEFAULTS["sonnet"], ("run",)) for name in agents}
    return Config(DaemonPolicy("/run/x", "/var/x", "/log/x"), roster=Roster(specs), **tables)


@asynccontextmanager
async def asked(house: House, method: str, target: str) -> AsyncIterator[bytes]:
    async def handle(exchange: Exchange) -> None:
        route, request = Router().find(exchange)
        handler = house.verbs.handlers().get(route.name)
        if handler is None:
            raise Refused(404, "no verb")
        told = await handler(request)
        if told is not None:
            status, answer = (told.status, told.answer) if isinstance(told, Told) else (route.status, told)
            await exchange.respond(status, (), encoded(answer))

    client, serving = memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, serving, handle)
        await client.send_all(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while chunk := await client.receive_some():
            data += chunk
        yield data
        client.close()


async def tell(house: House, target: str, method: str = "POST") -> tuple[int, Any]:
    async with asked(house, method, target) as data:
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


# --- agents -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
async def test_a_verb_reaches_the_agent_and_the_journal(autojump_clock: object, verb: str) -> None:
    house = House()
    assert await tell(house, f"/v1/agents/a-1/{verb}") == (200, {"verb": verb, "agents": ["a-1"], "refused": []})
    assert house.told == [(verb, "a-1"), ("event", f"owner.agent.{verb}", "a-1")]


async def test_a_rollout_is_answered_when_it_is_written_down(autojump_clock: object) -> None:
    house = House()
    status, told = await tell(house, "/v1/rollout?pattern=a-*")
    assert (status, told["begun"], told["state"]) == (200, ["a-1", "a-2"], "running")
    assert house.told[:2] == [("roll", "a-1", "a-2"), ("written",)]
    status, told = await tell(house, "/v1/rollout/abort")
    assert (status, house.told[-2:]) == (200, [("abort",), ("written",)])
    status, told = await tell(house, "/v1/rollout", "GET")
    assert (status, told["agents"]) == (200, [{"name": "a-1", "step": "rolling", "why": ""}])
    house.fault = UsageError("no rollout is under way")
    assert await tell(house, "/v1/rollout/pause") == (409, {"error": "no rollout is under way"})


async def test_a_pattern_means_all_whose_names_match(autojump_clock: object) -> None:
    house = House()
    status, told = await tell(house, "/v1/agents/a-%2A/stop")
    assert (status, told["agents"]) == (200, ["a-1", "a-2"])


async def test_what_one_of_many_cannot_do_is_told_and_the_others_do_it(autojump_clock: object) -> None:
    status, told = await tell(House(), "/v1/agents/a-*/release")
    assert status == 200
    assert told["agents"] == ["a-2"]
    assert told["refused"] == [{"agent": "a-1", "why": "a-1 is not in quarantine"}]


async def test_what_nobody_can_do_is_refused(autojump_clock: object) -> None:
    assert (await tell(House(), "/v1/agents/a-1/release"))[0] == 409
    assert await tell(House(), "/v1/agents/z/stop") == (404, {"error": "there is no agent 'z'"})
    assert await tell(House(), "/v1/agents/z*/stop") == (404, {"error": "no agent's name matches 'z*'"})


def test_a_name_that_is_none_comes_with_the_one_that_was_meant() -> None:
    known = [f"opus-{n:02}" for n in range(1, 37)]
    assert no_agent("opus-1", known) == "there is no agent 'opus-1'; did you mean 'opus-01'?"
    assert no_agent("opsu-07", known) == "there is no agent 'opsu-07'; did you mean 'opus-07'?"
    assert no_agent("editor", known) == "there is no agent 'editor'"


def test_a_name_is_itself_before_it_is_a_pattern() -> None:
    assert matching("a[1]", ["a[1]", "a1"]) == ["a[1]"]
    assert matching("a[1]", ["a1", "A1"]) == ["a1"]
    assert matching("a", ["ab"]) == []


# --- queue, cache, events -----------------------------------------------------------------------------------------------


async def test_the_words_about_the_queue(autojump_clock: object) -> None:
    house = House()
    modes = [(await tell(house, f"/v1/queue/{verb}"))[1]["mode"] for verb in ("pause", "drain", "resume")]
    assert modes == ["paused", "draining", "open"]
    assert [words[1] for words in house.told if words[0] == "event"] == [
        "owner.queue.pause",
        "owner.queue.drain",
        "owner.queue.resume",
    ]


async def test_a_request_is_cancelled_by_its_id(autojump_clock: object) -> None:
    assert await tell(House(), "/v1/queue/r%2F1/cancel") == (200, {"id": "r/1", "cancelled": True})
    assert (await tell(House(), "/v1/queue/r2/cancel"))[0] == 404


async def test_the_cache_is_told_of_in_full_and_prompts_only_where_they_are_asked_for(autojump_clock: object) -> None:
    house = House()
    status, told = await tell(house, "/v1/cache", "GET")
    assert (status, told["hits"], told["l3"]["entries"]) == (200, 12, 0)
    assert told["by_class"][0] == {"name": "opus", "hits": 8, "misses": 12, "stale": 0, "saved_s": 61.5}
    assert told["repeated"][0]["prompt"] is None
    assert "prompt" not in told["advice"]
    assert (await tell(house, "/v1/cache?prompts=1", "GET"))[1]["repeated"][0]["prompt"] == "what is 2+2?"


async def test_a_tier_of_the_cache_is_cleared(autojump_clock: object) -> None:
    house = House()
    assert await tell(house, "/v1/cache/clear") == (200, {"tier": "all", "answers": 7})
    await tell(house, "/v1/cache/clear?tier=l1")
    assert [words for words in house.told if words[0] == "clear"] == [("clear", True, True, True), ("clear", True, False, False)]
    assert (await tell(house, "/v1/cache/clear?tier=l9"))[0] == 400
    house.fault = StoreFault("cache.db cannot be written")
    assert await tell(house, "/v1/cache/clear") == (503, {"error": "cache.db cannot be written"})


async def test_events_are_told_as_many_as_asked(autojump_clock: object) -> None:
    status, told = await tell(House(), "/v1/journal?n=3&since=5.5&agent=a-1&kind=level", "GET")
    assert (status, told["events"][0]) == (
        200,
        {"seq": 1, "at_wall": 5.5, "kind": "level", "agent": "a-1", "request_id": None, "detail": {"n": 3}},
    )
    for wrong in ("n=0", "n=-1", "n=x", "n=1.5", "n=99999999999", "since=nan", "since=-1", "m=3", "n="):
        assert (await tell(House(), f"/v1/journal?{wrong}", "GET"))[0] == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [("/v1/queue", 405), ("/v1/agents/a-1", 405), ("/v1/queue/pause/x", 404), ("/v1/nothing", 404), ("/", 404)],
)
async def test_what_is_no_verb_is_none(autojump_clock: object, target: str, status: int) -> None:
    assert (await tell(House(), target))[0] == status


async def test_a_verb_that_is_got_does_nothing(autojump_clock: object) -> None:
    house = House()
    assert (await tell(house, "/v1/queue/pause", "GET"))[0] == 405
    assert (await tell(house, "/v1/agents/a-1/stop", "GET"))[0] == 405
    assert house.told == []


# --- models -------------------------------------------------------------------------------------------------------------


async def test_models_are_listed_with_who_could_not_be_asked(autojump_clock: object) -> None:
    status, told = await tell(House(), "/v1/models", "GET")
    assert (status, told["unreachable"]) == (200, ["cpu: refused"])
    assert told["models"][0]["name"] == "llama3.2:3b"


@pytest.mark.parametrize("verb", ["load", "unload", "rm"])
async def test_a_model_is_named_with_its_slashes_and_colons(autojump_clock: object, verb: str) -> None:
    house = House()
    name = "hf.co/a/b:Q4"
    assert await tell(house, f"/v1/models/hf.co%2Fa%2Fb%3AQ4/{verb}") == (200, {"model": name, "verb": verb})
    assert (verb, name) in house.told


async def test_ollamas_no_and_ours_are_told_apart(autojump_clock: object) -> None:
    house = House()
    house.fault = UsageError("it is not installed")
    assert await tell(house, "/v1/models/x/load") == (409, {"error": "it is not installed"})
    house.fault = UpstreamUnreachable("connection refused")
    assert (await tell(house, "/v1/models/x/load"))[0] == 502
    assert (await tell(house, "/v1/models/x/pull"))[0] == 502


async def test_a_pull_shows_its_progress_and_its_broken_end(autojump_clock: object) -> None:
    house = House()
    async with asked(house, "POST", "/v1/models/x/pull") as data:
        assert b"pulling manifest" in data
        assert b"success" in data
    house.fault = UpstreamCut(5)
    async with asked(house, "POST", "/v1/models/x/pull") as data:
        assert b"pulling manifest" in data
        assert b'{"error": "Ollama broke off' in data


# --- reload -------------------------------------------------------------------------------------------------------------


async def test_a_reload_does_what_can_be_done_and_names_what_cannot(autojump_clock: object) -> None:
    house = House()
    house.config = config_of("a-2", "a-3", queue=QueuePolicy(deadline_s=9.0))
    status, told = await tell(house, "/v1/reload")
    assert (status, told["applied"], told["added"], told["removed"]) == (200, True, ["a-3"], ["a-1"])
    assert told["refused"] == [{"key": "queue.deadline", "what": '"4m" -> "9s"'}]
    assert [list(roster.agents) for roster in house.followed] == [["a-2", "a-3"]]
    again = (await tell(house, "/v1/reload"))[1]
    assert (again["added"], again["removed"]) == ([], [])
    assert again["refused"] == told["refused"]
    assert len(house.followed) == 1


async def test_a_plan_changes_nothing(autojump_clock: object) -> None:
    house = House()
    house.config = config_of("a-2")
    _, told = await tell(house, "/v1/reload?plan=1")
    assert (told["applied"], told["removed"]) == (False, ["a-1"])
    assert house.followed == []
    assert set(house.reload.running.roster.agents) == {"a-1", "a-2"}


async def test_a_broken_config_changes_nothing_and_is_told_whole(autojump_clock: object) -> None:
    house = House()
    house.config = ConfigError((Problem("f.toml", 3, "queue.deadlin", "unknown key"), Problem("f.toml", None, "", "x")))
    status, told = await tell(house, "/v1/reload")
    assert status == 422
    assert told["problems"][0] == {"file": "f.toml", "line": 3, "key": "queue.deadlin", "what": "unknown key"}
    assert house.followed == []


async def test_a_signal_reloads_and_survives_whatever_it_finds(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    house = House()
    house.config = ConfigError((Problem("f.toml", 3, "queue.deadlin", "unknown key"),))
    await house.reload.on_signal()
    assert "f.toml:3: queue.deadlin: unknown key" in caplog.text
    assert "nothing was changed" in caplog.text
    house.config = config_of("a-1")
    await house.reload.on_signal()
    assert [list(roster.agents) for roster in house.followed] == [["a-1"]]


async def test_a_daemon_without_a_config_file_cannot_reload(autojump_clock: object) -> None:
    house = House()
    house.verbs = Verbs(
        agents=house,
        queue=house,
        levels=house.ladder,
        models=Shelf(house),
        events=house,
        reload=Reload(config_of(), read=None, follow=house._follow),
        alerts=Bells(house),
    )
    assert (await tell(house, "/v1/reload"))[0] == 409


async def test_what_binds_somebody_in_the_memory_plan_stays(autojump_clock: object) -> None:
    house = House()
    plans: list[MemoryPolicy] = []
    old = MemoryPolicy()
    wanted = config_of("a-1", memory=replace(old, agents_bytes=10**9, ollama_bytes=10**9))
    reload = Reload(
        config_of("a-1"), read=lambda: wanted, follow=lambda _, memory: plans.append(memory), run_sync=house._at_once
    )
    plan = await reload.carry_out()
    assert (plan.keys, [one.key for one in plan.refused]) == (("memory.agents",), ["memory.ollama"])
    assert plans == [replace(old, agents_bytes=10**9)]


# --- alerts -------------------------------------------------------------------------------------------------------------


async def test_alerts_are_shown_and_their_ways_tested(autojump_clock: object) -> None:
    house = House()
    code, told = await tell(house, "/v1/alerts", "GET")
    assert (code, [one["name"] for one in told["alerts"]]) == (200, ["slow"])
    assert told["alerts"][0]["values"] == {"level": 2.0}
    assert await tell(house, "/v1/alerts/test?name=slow") == (
        200,
        {"tested": [{"name": "slow", "whom": "page-me", "trouble": ""}]},
    )
    assert (await tell(house, "/v1/alerts/test?name=slwo"))[0] == 404
    assert ("test", "slow") in house.told


# --- level --------------------------------------------------------------------------------------------------------------


async def test_the_owner_pins_a_level_and_lets_go_of_it(autojump_clock: object) -> None:
    house = House()
    status, shown = await tell(house, "/v1/level", "GET")
    assert (status, shown["level"], shown["pin"]) == (200, 0, None)
    status, shown = await tell(house, "/v1/level/pin?level=2&for_s=600")
    assert (status, shown["level"], shown["pin"]["level"]) == (200, 2, 2)
    assert [int(event.after) for event in house.levels] == [2]
    assert [(await tell(house, f"/v1/level/pin?{wrong}"))[0] for wrong in ("level=9", "level=1&for_s=0", "")] == [400] * 3
    status, shown = await tell(house, "/v1/level/unpin")
    assert (status, shown["level"]) == (200, 0)
    assert [words[:2] for words in house.told] == [("event", "owner.level.pin"), ("event", "owner.level.unpin")]
