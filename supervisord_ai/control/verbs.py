"""What the owner says: the verbs of the command line, each a POST. Every deed is in the event journal, with what it was done to.

Names in paths are percent-encoded. What cannot be done is 409 with the reason; what is not there is 404.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Protocol

from supervisord_ai.agents.view import FleetView
from supervisord_ai.control import level, rollout
from supervisord_ai.control.answers import Alerts as AlertsTold
from supervisord_ai.control.answers import Cache, Event, Journal
from supervisord_ai.control.encoding import fields_of
from supervisord_ai.control.level import Levels
from supervisord_ai.control.reload import Reload
from supervisord_ai.control.routes import NDJSON, TIERS, Asked, Handler, Told
from supervisord_ai.control.told import (
    AgentsTold,
    AlertsTested,
    Cancelled,
    ChangedAgent,
    ChangedClass,
    Cleared,
    ConfigProblem,
    ModelTold,
    QueueTold,
    Reason,
    RefusedKey,
    Reloaded,
    WrongConfig,
)
from supervisord_ai.core.queue_mode import QueueMode, QueueVerb
from supervisord_ai.core.reload import ReloadPlan
from supervisord_ai.errors import ConfigError, HostFault, Refused, StoreFault, UpstreamFault, UsageError
from supervisord_ai.gateway.models import ModelsView
from supervisord_ai.gateway.view import CacheReport
from supervisord_ai.health.view import AlertView, TriedWay
from supervisord_ai.serve.http import Exchange
from supervisord_ai.store.rows import EventRow

log = logging.getLogger(__name__)

Json = dict[str, Any]
_NUMBER = re.compile(r"0*(\d+)")

PROGRESS = (("Content-Type", NDJSON), ("Cache-Control", "no-store"))


class Agents(Protocol):
    """The fleet, as far as its owner commands it. Each verb raises UsageError where it cannot be done."""

    def start(self, name: str) -> None: ...
    def stop(self, name: str) -> None: ...
    def restart(self, name: str) -> None: ...
    def release(self, name: str) -> None: ...
    def statistics(self) -> FleetView: ...

    @property
    def rollouts(self) -> rollout.Rollouts: ...


class Queue(Protocol):
    """The gateway, as far as its owner commands it."""

    def tell_queue(self, verb: QueueVerb) -> QueueMode: ...
    def cancel(self, request_id: str) -> bool: ...
    def cache_report(self, *, with_prompts: bool = False) -> CacheReport: ...
    async def clear_cache(self, *, l1: bool = True, l2: bool = True, l3: bool = True) -> int: ...


class Models(Protocol):
    """The models of the backends. Each verb raises UpstreamFault, and UsageError where it cannot be done."""

    async def view(self) -> ModelsView: ...
    async def load(self, model: str) -> None: ...
    async def unload(self, model: str) -> None: ...
    async def remove(self, model: str) -> None: ...
    async def pull(self, model: str, tell: Callable[[bytes], Awaitable[None]]) -> None: ...


class Events(Protocol):
    """The journal of events."""

    def note(
        self, kind: str, agent: str | None = None, request_id: str | None = None, detail: Json | None = None
    ) -> None: ...
    async def past(
        self, count: int, *, since_wall: float = 0.0, agent: str | None = None, kind: str | None = None
    ) -> list[EventRow]: ...


class Alerts(Protocol):
    """The alerts, as far as their owner looks at them. Raises: UsageError for a name that is none."""

    def statistics(self) -> tuple[AlertView, ...]: ...
    async def test(self, name: str | None) -> list[TriedWay]: ...


class Verbs:
    """Carries out what the owner says, through the rooms' own doors."""

    def __init__(
        self,
        *,
        agents: Agents,
        queue: Queue,
        models: Models,
        events: Events,
        reload: Reload,
        alerts: Alerts,
        levels: Levels,
    ) -> None:
        self._agents = agents
        self._queue = queue
        self._models = models
        self._events = events
        self._reload = reload
        self._alerts = alerts
        self._levels = levels

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers, by the names of their routes."""
        agents = {f"agents.{verb}": partial(self._tell_agents, verb) for verb in ("start", "stop", "restart", "release")}
        queue = {f"queue.{verb}": partial(self._tell_queue, verb) for verb in QueueVerb}
        models = {f"models.{verb}": partial(self._tell_models, verb) for verb in ("load", "unload", "rm", "pull")}
        rollouts = {f"rollout.{verb}": partial(self._turn_rollout, verb) for verb in rollout.VERBS}
        return {
            **agents,
            **queue,
            **models,
            **rollouts,
            "alerts": self._list_alerts,
            "alerts.test": self._test_alerts,
            "level": self._show_level,
            "level.pin": self._pin_level,
            "level.unpin": self._unpin_level,
            "rollout": self._show_rollout,
            "rollout.begin": self._roll,
            "queue.cancel": self._cancel,
            "cache": self._cache,
            "cache.clear": self._clear,
            "models": self._list_models,
            "reload": self._carry_out_reload,
            "journal": self._past,
        }

    # --- agents --------------------------------------------------------------------------------------------------------

    def _named(self, pattern: str) -> list[str]:
        names = matching(pattern, [view.name for view in self._agents.statistics().agents])
        if not names:
            is_pattern = _is_pattern(pattern)
            known = [view.name for view in self._agents.statistics().agents]
            raise Refused(404, f"no agent's name matches {pattern!r}" if is_pattern else no_agent(pattern, known))
        return names

    async def _show_rollout(self, _asked: Asked) -> object:
        return self._agents.rollouts.view()

    async def _roll(self, asked: Asked) -> object:
        pattern = asked.query["pattern"]
        told = await rollout.begin(self._agents.rollouts, self._named(pattern))
        if told.begun:
            self._note("rollout.begin", detail={"pattern": pattern, "agents": len(told.begun)})
        return told

    async def _turn_rollout(self, verb: str, _asked: Asked) -> object:
        self._note(f"rollout.{verb}")
        return await rollout.turn(self._agents.rollouts, verb)

    async def _tell_agents(self, verb: str, asked: Asked) -> object:
        names = self._named(asked.path["name"])
        deeds = {
            "start": self._agents.start,
            "stop": self._agents.stop,
            "restart": self._agents.restart,
            "release": self._agents.release,
        }
        done: list[str] = []
        refused: list[Reason] = []
        for name in names:
            try:
                deeds[verb](name)
            except UsageError as exc:
                refused.append(Reason(name, str(exc)))
            else:
                done.append(name)
                self._note(f"agent.{verb}", agent=name)
        if not done:
            raise Refused(409, "; ".join(one.why for one in refused[:3]) + (" ..." if len(refused) > 3 else ""))
        return AgentsTold(verb, done, refused)

    # --- queue and cache -----------------------------------------------------------------------------------------------

    async def _tell_queue(self, verb: str, _asked: Asked) -> object:
        self._note(f"queue.{verb}")
        return QueueTold(self._queue.tell_queue(QueueVerb(verb)).value)

    async def _cancel(self, asked: Asked) -> object:
        request_id = asked.path["id"]
        if not self._queue.cancel(request_id):
            raise Refused(404, f"no request {request_id[:64]!r} waits or runs")
        self._note("request.cancel", request_id=request_id)
        return Cancelled(request_id, cancelled=True)

    async def _cache(self, asked: Asked) -> object:
        report = self._queue.cache_report(with_prompts=asked.query["prompts"] == 1)
        return Cache(**fields_of(Cache, report, report.cache))

    async def _clear(self, asked: Asked) -> object:
        tier = asked.query["tier"]
        try:
            gone = await self._queue.clear_cache(**{one: tier in {"all", one} for one in TIERS[1:]})
        except StoreFault as exc:
            raise Refused(503, str(exc)) from exc
        self._note("cache.clear", detail={"tier": tier, "answers": gone})
        return Cleared(tier, gone)

    # --- alerts --------------------------------------------------------------------------------------------------------

    async def _list_alerts(self, _asked: Asked) -> object:
        return AlertsTold(self._alerts.statistics())

    async def _test_alerts(self, asked: Asked) -> object:
        try:
            tested = await self._alerts.test(asked.query["name"])
        except UsageError as exc:
            raise Refused(404, str(exc)) from exc
        self._note("alert.test", detail={"alerts": [one.name for one in tested][:20]})
        return AlertsTested(tested)

    # --- level ---------------------------------------------------------------------------------------------------------

    async def _show_level(self, _asked: Asked) -> object:
        return level.shown(self._levels.statistics())

    async def _pin_level(self, asked: Asked) -> object:
        wanted, for_s = level.read_pin(asked.query)
        self._note("level.pin", detail={"level": int(wanted), "for_s": for_s})
        self._levels.pin(wanted, for_s)
        return level.shown(self._levels.statistics())

    async def _unpin_level(self, _asked: Asked) -> object:
        self._note("level.unpin")
        self._levels.unpin()
        return level.shown(self._levels.statistics())

    # --- reload --------------------------------------------------------------------------------------------------------

    async def _carry_out_reload(self, asked: Asked) -> object:
        is_only_planned = asked.query["plan"] == 1
        try:
            plan = await (self._reload.plan() if is_only_planned else self._reload.carry_out())
        except ConfigError as exc:
            problems = [ConfigProblem(p.file, p.line, p.key, p.what) for p in exc.problems]
            return Told(422, WrongConfig("the config is wrong, nothing was changed", problems))
        except (UsageError, HostFault) as exc:
            raise Refused(409, str(exc)) from exc
        if not is_only_planned and plan.changes_something:
            counts = {"added": len(plan.added), "changed": len(plan.changed), "removed": len(plan.removed)}
            self._note("config.reload", detail={**counts, "refused": [one.key for one in plan.refused][:20]})
        outdated = [view.name for view in self._agents.statistics().agents if view.is_outdated]
        return reloaded(plan, outdated, applied=not is_only_planned)

    # --- events --------------------------------------------------------------------------------------------------------

    async def _past(self, asked: Asked) -> object:
        query = asked.query
        rows = await self._events.past(query["n"], since_wall=query["since"], agent=query["agent"], kind=query["kind"])
        return Journal([Event(row.seq, row.at_wall, row.kind, row.agent, row.request_id, row.detail) for row in rows])

    # --- models --------------------------------------------------------------------------------------------------------

    async def _list_models(self, _asked: Asked) -> object:
        return await self._models.view()

    async def _tell_models(self, verb: str, asked: Asked) -> object:
        model = asked.path["model"]
        try:
            match verb:
                case "pull":
                    self._note("model.pull", detail={"model": model})
                    await self._pull(asked.exchange, model)
                    return None
                case "load":
                    await self._models.load(model)
                case "unload":
                    await self._models.unload(model)
                case _:
                    await self._models.remove(model)
        except UsageError as exc:
            raise Refused(409, str(exc)) from exc
        except UpstreamFault as exc:
            raise Refused(502, f"Ollama did not do it: {exc}") from exc
        self._note(f"model.{verb}", detail={"model": model})
        return ModelTold(model, verb)

    async def _pull(self, exchange: Exchange, model: str) -> None:
        """Pass on Ollama's own progress, line by line; its end is the end."""

        async def tell(chunk: bytes) -> None:
            if not exchange.is_started:
                await exchange.start(200, PROGRESS)
            await exchange.send(chunk)

        try:
            await self._models.pull(model, tell)
        except UpstreamFault as exc:
            if not exchange.is_started:
                raise
            await exchange.send(json.dumps({"error": f"Ollama broke off: {exc}"}).encode() + b"\n")
        await exchange.finish()

    def _note(self, kind: str, agent: str | None = None, request_id: str | None = None, detail: Json | None = None) -> None:
        log.info("owner: %s %s", kind, agent or request_id or detail or "")
        self._events.note(f"owner.{kind}", agent, request_id, detail)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a word of the owner means: the one, or all that match its `*`, `?` and `[...]`."""
    known = list(names)
    return [pattern] if pattern in known else [name for name in known if _is_pattern(pattern) and fnmatchcase(name, pattern)]


def no_agent(name: str, known: Iterable[str]) -> str:
    """Say that there is no such agent, and which name was probably meant."""
    names = list(known)
    # opus-1 means opus-01, and not opus-31, which differs from it by one letter too.
    near = [one for one in names if _NUMBER.sub(r"\1", one) == _NUMBER.sub(r"\1", name[:64])]
    near = near or difflib.get_close_matches(name[:64], names, n=1, cutoff=0.6)
    return f"there is no agent {name[:64]!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _is_pattern(word: str) -> bool:
    return any(char in word for char in "*?[")


def reloaded(plan: ReloadPlan, outdated: list[str], *, applied: bool) -> Reloaded:
    """Return a plan as it is told."""
    return Reloaded(
        applied=applied,
        added=list(plan.added),
        changed=[ChangedAgent(one.agent, one.how.value, list(one.fields)) for one in plan.changed],
        removed=list(plan.removed),
        classes=[ChangedClass(one.name, list(one.fields)) for one in plan.classes],
        keys=list(plan.keys),
        refused=[RefusedKey(one.key, one.what) for one in plan.refused],
        outdated=outdated,
    )
