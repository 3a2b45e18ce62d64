"""Watches the conditions of all alerts and tells whom they name, once when one fires and once when it is over.

    every second: figures -> core/alerts.judge -> journal, log, event
    one task for each alert: while what was told is not what is, tell; try again until it arrives

So a notice is never lost to a restart or to a receiver that is down, and never comes twice but for a crash in the one moment
between its delivery and its being written down. An alert that began and ended while nobody could be reached is not told any
more; it is in the events.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.alerts import AlertRule, AlertState, Change, Standing, judge
from supervisord_ai.core.figures import Value, Values
from supervisord_ai.duty import every, kept_up
from supervisord_ai.errors import UsageError
from supervisord_ai.health.notify import Courier, whom
from supervisord_ai.health.view import AlertView, TriedWay
from supervisord_ai.store.rows import AlertRecord

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
RETRY_FIRST_S = 5.0
RETRY_MOST_S = 300.0


class Journal(Protocol):
    """Where alerts stood."""

    def load(self) -> dict[str, AlertRecord]: ...
    def put(self, record: AlertRecord) -> None: ...
    def forget(self, name: str) -> None: ...


@dataclass(eq=False)
class _Watch:
    """One alert while it is watched."""

    rule: AlertRule
    at: Standing
    told: str = ""
    trouble: str = ""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def is_due(self) -> bool:
        """Whether what was told is not what is."""
        return self.told != self.wanted and not self.rule.notify.is_nobody

    @property
    def wanted(self) -> str:
        return "firing" if self.at.state is AlertState.FIRING else ""


class Alerts:
    """The one writer of every alert's state. `values` tells the figures; `note` writes an event for people."""

    def __init__(
        self,
        rules: Iterable[AlertRule],
        *,
        values: Callable[[], Values],
        journal: Journal,
        courier: Courier,
        clock: Clock,
        note: Callable[[str, Mapping[str, object]], None],
        host: str,
    ) -> None:
        self._values = values
        self._journal = journal
        self._courier = courier
        self._clock = clock
        self._note = note
        self._host = host
        self._now: Values = {}
        self._nursery: trio.Nursery | None = None
        self._watches: dict[str, _Watch] = {}
        self._rules = tuple(rules)

    def __repr__(self) -> str:
        return f"<Alerts {len(self._watches)}, firing: {', '.join(self.firing) or 'none'}>"

    # --- the task ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled; started when what the last life knew is known again."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.follow(self._rules)
            task_status.started()
            nursery.start_soon(every, LOOK_EVERY_S, "looking at the alerts", self._look)

    def follow(self, rules: Iterable[AlertRule]) -> None:
        """Watch these from now on. One whose condition and time are what they were stands where it stood."""
        self._rules = tuple(rules)
        if self._nursery is None:
            return
        known = self._journal.load() if not self._watches else {n: self._record(w) for n, w in self._watches.items()}
        for watch in self._watches.values():
            watch.scope.cancel()
        self._watches = {rule.name: self._take_up(rule, known.get(rule.name)) for rule in self._rules}
        for name in known.keys() - self._watches.keys():
            self._journal.forget(name)
        for watch in self._watches.values():
            self._nursery.start_soon(self._while_watched, watch)

    def _take_up(self, rule: AlertRule, record: AlertRecord | None) -> _Watch:
        now = self._clock.monotonic()
        if record is None or record.rule != _identity(rule):
            # Whoever was told that it fires is told that it is over, should it not fire any more.
            return _Watch(rule, Standing(since=now), told="" if record is None else record.told)
        ago_s = max(0.0, self._clock.wall() - record.since_wall)
        return _Watch(rule, Standing(AlertState(record.state), now - ago_s), told=record.told)

    async def _look(self) -> None:
        self._now = self._values()
        now = self._clock.monotonic()
        for watch in self._watches.values():
            rule, before = watch.rule, watch.at
            watch.at, change = judge(before, rule.condition.holds(self._now), for_s=rule.for_s, now=now)
            if watch.at.state is not before.state:
                self._journal.put(self._record(watch))
            if change is not None:
                self._tell_of(watch, change, now - before.since)
            if watch.is_due:
                watch.changed.set()

    def _tell_of(self, watch: _Watch, change: Change, lasted_s: float) -> None:
        rule = watch.rule
        figures = {name: self._now.get(name) for name in rule.condition.figures}
        if change is Change.FIRING:
            log.warning("alert %s fires: %s (%s)", rule.name, rule.condition.text, _said(figures))
        else:
            log.info("alert %s is over after %.0f s", rule.name, lasted_s)
        self._note(f"alert.{change}", {"alert": rule.name, "when": rule.condition.text, **figures})

    # --- who is told ---

    async def _while_watched(self, watch: _Watch) -> None:
        with watch.scope:
            await kept_up(f"telling of {watch.rule.name}", partial(self._keep_told, watch))

    async def _keep_told(self, watch: _Watch) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            while not watch.is_due:
                watch.changed = trio.Event()
                await watch.changed.wait()
            wanted = watch.wanted
            watch.trouble = await self._courier.carry(watch.rule.notify, self._notice(watch, wanted or "resolved"))
            if watch.trouble:
                log.error("alert %s was not told, next try in %.0f s: %s", watch.rule.name, pause_s, watch.trouble)
                await trio.sleep(pause_s)
                pause_s = min(RETRY_MOST_S, pause_s * 2)
                continue
            pause_s = RETRY_FIRST_S
            watch.told = wanted
            self._journal.put(self._record(watch))
            what = "fires" if wanted else "is over"
            log.info("alert %s: %s was told that it %s", watch.rule.name, whom(watch.rule.notify), what)

    def _notice(self, watch: _Watch, state: str) -> bytes:
        rule = watch.rule
        figures = {name: self._now.get(name) for name in rule.condition.figures}
        since_wall = self._clock.wall() - (self._clock.monotonic() - watch.at.since)
        words = {
            "firing": f"{rule.name} is firing: {rule.condition.text} ({_said(figures)})"
            + (f". {rule.advice}" if rule.advice else ""),
            "resolved": f"{rule.name} is over: {rule.condition.text} ({_said(figures)})",
            "test": f"a test of {rule.name}; nothing is wrong",
        }
        told = {
            "alert": rule.name,
            "state": state,
            # What Slack, Mattermost and Google Chat show of a message.
            "text": f"ai-supervisor on {self._host}: {words[state]}",
            "when": rule.condition.text,
            "for_s": rule.for_s,
            "since": datetime.fromtimestamp(since_wall, UTC).isoformat(timespec="seconds"),
            "values": figures,
            "advice": rule.advice,
            "host": self._host,
        }
        return json.dumps(told).encode()

    async def test(self, name: str | None) -> list[TriedWay]:
        """Send a test along the way of one alert, or of all that tell somebody; return how each went.

        Raises:
            UsageError: there is no such alert.
        """
        if name is not None and name not in self._watches:
            raise UsageError(f"there is no alert {name!r}: ai-supervisor alerts list")
        asked = [self._watches[name]] if name is not None else list(self._watches.values())
        ways: dict[object, TriedWay] = {}
        tested = []
        for watch in asked:
            notify = watch.rule.notify
            if notify.is_nobody:
                if name is not None:
                    tested.append(TriedWay(name, "", "it tells nobody: give it a `notify`, or the config a [notify]"))
                continue
            if notify not in ways:  # ten alerts that go one way are one test of it
                trouble = await self._courier.carry(notify, self._notice(watch, "test"))
                ways[notify] = TriedWay(watch.rule.name, whom(notify), trouble)
            tested.append(replace(ways[notify], name=watch.rule.name))
        return tested

    # --- looks ---

    @property
    def firing(self) -> tuple[str, ...]:
        """The names of those that fire."""
        return tuple(name for name, watch in self._watches.items() if watch.at.state is AlertState.FIRING)

    def statistics(self) -> tuple[AlertView, ...]:
        """Return every alert, those that fire first."""
        now = self._clock.monotonic()
        order = [AlertState.FIRING, AlertState.PENDING, AlertState.QUIET]
        views = [
            AlertView(
                name=name,
                state=watch.at.state.value,
                since_s=now - watch.at.since,
                when=watch.rule.condition.text,
                for_s=watch.rule.for_s,
                values={figure: self._now.get(figure) for figure in watch.rule.condition.figures},
                is_builtin=watch.rule.is_builtin,
                advice=watch.rule.advice,
                whom=whom(watch.rule.notify),
                is_told=watch.told == watch.wanted,
                trouble=watch.trouble,
            )
            for name, watch in self._watches.items()
        ]
        return tuple(sorted(views, key=lambda view: order.index(AlertState(view.state))))

    def _record(self, watch: _Watch) -> AlertRecord:
        since_wall = self._clock.wall() - (self._clock.monotonic() - watch.at.since)
        return AlertRecord(watch.rule.name, _identity(watch.rule), watch.at.state.value, since_wall, watch.told)


def _identity(rule: AlertRule) -> str:
    return f"{rule.condition.text} for {rule.for_s:g}"


def _said(figures: Mapping[str, Value | None]) -> str:
    """Return figures in words: `queue.oldest_s 183, level not known`."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in figures.items())


def _shown(value: Value | None) -> str:
    if value is None:
        return "not known"
    return value if isinstance(value, str) else f"{value:,.4g}".replace(",", "") if value < 10_000 else f"{value:.0f}"
