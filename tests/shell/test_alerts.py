"""Alerts in virtual time: who is told what, once, over restarts and while nobody can be reached."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervisord_ai.clock import VirtualClock
from supervisord_ai.core.alerts import AlertSpec, Notify, rules_of
from supervisord_ai.core.figures import Value
from supervisord_ai.errors import UsageError
from supervisord_ai.health.alerts import Alerts
from supervisord_ai.store.alerts import AlertJournal
from supervisord_ai.store.database import Database, Durability
from supervisord_ai.store.disk import inline
from supervisord_ai.store.schema import JOURNAL

NOBODY = Notify()
PAGER = Notify(command=("page-me", "--secret=x"))
HOOK = Notify(url="https://hooks.example/services/SECRET")
SLOW = AlertSpec("slow", "queue.oldest_s > 60", 30.0, PAGER)


@dataclass
class FakeCourier:
    """Writes down what it would carry; carries nothing while it is `down`."""

    clock: VirtualClock
    carried: list[tuple[float, Notify, dict[str, Any]]] = field(default_factory=list)
    tries: int = 0
    down: str = ""

    async def carry(self, notify: Notify, body: bytes) -> str:
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if not self.down:
            self.carried.append((self.clock.monotonic(), notify, json.loads(body)))
        return self.down

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(notice["alert"], notice["state"]) for _, _, notice in self.carried]


@dataclass
class World:
    """One life of the alerts after another, on one journal."""

    path: Path
    clock: VirtualClock
    courier: FakeCourier
    values: dict[str, Value | None]
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    @asynccontextmanager
    async def life(self, *specs: AlertSpec, usual: Notify = NOBODY) -> AsyncIterator[Alerts]:
        database = Database(self.path, JOURNAL, durability=Durability.PROCESS, run_sync=inline)
        alerts = Alerts(
            rules_of(specs, usual, ["main"]),
            values=lambda: dict(self.values),
            journal=AlertJournal(database),
            courier=self.courier,
            clock=self.clock,
            note=self._note,
            host="box",
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(database.run)
            await nursery.start(alerts.run)
            yield alerts
            nursery.cancel_scope.cancel()
        database.close()

    def _note(self, kind: str, detail: Mapping[str, object]) -> None:
        self.events.append((kind, dict(detail)))


def firing(alerts: Alerts) -> list[str]:
    return list(alerts.firing)


@pytest.fixture
def world(tmp_path: Path) -> World:
    clock = VirtualClock()
    return World(tmp_path / "journal.db", clock, FakeCourier(clock), {"queue.oldest_s": 10.0})


async def test_an_alert_that_holds_is_told_once_and_its_end_once(world: World, autojump_clock: MockClock) -> None:
    async with world.life(SLOW) as alerts:
        world.values["queue.oldest_s"] = 90.0
        await trio.sleep(600)
        assert firing(alerts) == ["slow"]
        world.values["queue.oldest_s"] = 0.0
        await trio.sleep(600)
        assert firing(alerts) == []
    assert world.courier.told == [("slow", "firing"), ("slow", "resolved")]
    at, notify, notice = world.courier.carried[0]
    assert 30 <= at <= 32
    assert notify == PAGER
    assert notice["text"] == "ai-supervisor on box: slow is firing: queue.oldest_s > 60 (queue.oldest_s 90)"
    assert notice["values"] == {"queue.oldest_s": 90.0}
    assert [kind for kind, _ in world.events] == ["alert.firing", "alert.resolved"]
    assert world.events[0][1] == {"alert": "slow", "when": "queue.oldest_s > 60", "queue.oldest_s": 90.0}


async def test_a_receiver_that_is_down_is_told_when_it_is_back(world: World, autojump_clock: MockClock) -> None:
    world.courier.down = "nobody answers"
    async with world.life(SLOW) as alerts:
        world.values["queue.oldest_s"] = 90.0
        await trio.sleep(1000)
        (slow,) = [view for view in alerts.statistics() if view.name == "slow"]
        assert (slow.is_told, slow.trouble, slow.whom) == (False, "nobody answers", "page-me")
        assert 5 <= world.courier.tries <= 10, "it is asked less and less often"
        world.courier.down = ""
        await trio.sleep(301)
    assert world.courier.told == [("slow", "firing")]


async def test_a_restart_tells_nothing_again_and_forgets_no_end(world: World, autojump_clock: MockClock) -> None:
    async with world.life(SLOW):
        world.values["queue.oldest_s"] = 90.0
        await trio.sleep(60)
    async with world.life(SLOW) as alerts:
        await trio.sleep(300)
        assert alerts.firing == ("slow",)
        assert world.courier.told == [("slow", "firing")]
    async with world.life(SLOW):
        world.values["queue.oldest_s"] = 0.0
        await trio.sleep(60)
    assert world.courier.told == [("slow", "firing"), ("slow", "resolved")]


async def test_a_notice_that_had_not_arrived_arrives_after_a_restart(world: World, autojump_clock: MockClock) -> None:
    world.courier.down = "no network"
    async with world.life(SLOW):
        world.values["queue.oldest_s"] = 90.0
        await trio.sleep(60)
    world.courier.down = ""
    async with world.life(SLOW):
        await trio.sleep(5)
    assert world.courier.told == [("slow", "firing")]


async def test_the_time_that_a_condition_has_held_survives_a_restart(world: World, autojump_clock: MockClock) -> None:
    world.values["queue.oldest_s"] = 90.0
    async with world.life(SLOW):
        await trio.sleep(20)
    async with world.life(SLOW) as alerts:
        await trio.sleep(15)
        assert alerts.firing == ("slow",)


async def test_a_changed_condition_begins_anew_and_the_old_one_is_told_over(world: World, autojump_clock: MockClock) -> None:
    world.values["queue.oldest_s"] = 90.0
    async with world.life(SLOW) as alerts:
        await trio.sleep(60)
        alerts.follow(rules_of([AlertSpec("slow", "queue.oldest_s > 1000", 30.0, PAGER)], Notify(), ["main"]))
        await trio.sleep(60)
        assert alerts.firing == ()
    assert world.courier.told == [("slow", "firing"), ("slow", "resolved")]


async def test_an_alert_that_a_reload_leaves_as_it_is_stands_where_it_stood(world: World, autojump_clock: MockClock) -> None:
    world.values["queue.oldest_s"] = 90.0
    async with world.life(SLOW) as alerts:
        await trio.sleep(60)
        alerts.follow(rules_of([SLOW, AlertSpec("more", "level > 2")], Notify(), ["main"]))
        await trio.sleep(60)
        assert alerts.firing == ("slow",)
    assert world.courier.told == [("slow", "firing")]


async def test_built_in_alerts_tell_nobody_until_the_config_says_whom(world: World, autojump_clock: MockClock) -> None:
    world.values["agents.quarantined"] = 2.0
    async with world.life() as alerts:
        await trio.sleep(60)
        assert alerts.firing == ("agents-quarantined",)
        assert world.courier.carried == []
        alerts.follow(rules_of([], HOOK, ["main"]))
        await trio.sleep(5)
    assert world.courier.told == [("agents-quarantined", "firing")]
    assert world.courier.carried[0][1] == HOOK


async def test_a_test_goes_along_each_way_once_and_says_how_it_went(world: World, autojump_clock: MockClock) -> None:
    async with world.life(SLOW, usual=HOOK) as alerts:
        tested = await alerts.test(None)
        assert world.courier.tries == 2
        assert {one.whom for one in tested} == {"https://hooks.example", "page-me"}
        assert not any(one.trouble for one in tested)
        assert {state for _, state in world.courier.told} == {"test"}
        world.courier.down = "it answered 404"
        assert [one.trouble for one in await alerts.test("slow")] == ["it answered 404"]
        with pytest.raises(UsageError):
            await alerts.test("slwo")
    async with world.life() as alerts:
        assert await alerts.test(None) == []
        assert "tells nobody" in (await alerts.test("queue-slow"))[0].trouble


async def test_no_secret_of_an_address_is_shown(world: World, autojump_clock: MockClock) -> None:
    async with world.life(SLOW, usual=HOOK) as alerts:
        assert "SECRET" not in repr(alerts.statistics())
        assert "secret" not in repr(alerts.statistics())
