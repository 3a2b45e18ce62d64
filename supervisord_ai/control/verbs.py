"""What the owner says: the verbs of the command line, each a POST. Every deed is in the event journal, with what it was done to.

    POST /v1/agents/{name or pattern}/start  stop  restart  release
    POST /v1/queue/pause  drain  resume      /v1/queue/{id}/cancel
    POST /v1/cache/clear?tier=all|l1|l2|l3               GET /v1/cache[?prompts=1]
    POST /v1/models/{model}/load  unload  pull  rm        GET /v1/models
    POST /v1/rollout[?pattern=P]  /v1/rollout/pause  resume  abort      GET /v1/rollout
    POST /v1/alerts/test[?name=NAME]                      GET /v1/alerts
    POST /v1/reload[?plan=1]                              GET /v1/events?n=N

Names in paths are percent-encoded. What cannot be done is 409 with the reason; what is not there is 404.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

import msgspec

from supervisord_ai.agents.view import FleetView
from supervisord_ai.control import rollout
from supervisord_ai.control.reload import Reload, plan_json
from supervisord_ai.control.report import Json, plain
from supervisord_ai.core.queue_mode import QueueMode, QueueVerb
from supervisord_ai.errors import ConfigError, HostFault, Refused, StoreFault, UpstreamFault, UsageError
from supervisord_ai.gateway.models import ModelsView
from supervisord_ai.gateway.view import CacheReport
from supervisord_ai.health.view import AlertView, TriedWay
from supervisord_ai.serve.http import Exchange
from supervisord_ai.store.rows import EventRow

log = logging.getLogger(__name__)

JSON = (("Content-Type", "application/json; charset=utf-8"), ("Cache-Control", "no-store"))
NDJSON = (("Content-Type", "application/x-ndjson"), ("Cache-Control", "no-store"))

TIERS = ("all", "l1", "l2", "l3")
EVENTS_MAX = 10_000


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
    def tail(self, count: int, *, after_seq: int = 0) -> list[EventRow]: ...


class Alerts(Protocol):
    """The alerts, as far as their owner looks at them. Raises: UsageError for a name that is none."""

    def statistics(self) -> tuple[AlertView, ...]: ...
    async def test(self, name: str | None) -> list[TriedWay]: ...


class Verbs:
    """Carries out what the owner says, through the rooms' own doors."""

    def __init__(
        self, *, agents: Agents, queue: Queue, models: Models, events: Events, reload: Reload, alerts: Alerts
    ) -> None:
        self._agents = agents
        self._queue = queue
        self._models = models
        self._events = events
        self._reload = reload
        self._alerts = alerts

    async def answer(self, exchange: Exchange) -> bool:
        """Answer a request that is one of the verbs; False, with nothing done, when it is none.

        Raises:
            Refused: it cannot be done, or is not there.
        """
        parts = [unquote(part) for part in exchange.head.path.split("/")[1:]]
        asked = {key: values[-1] for key, values in parse_qs(exchange.head.query).items()}
        match exchange.head.method, parts:
            case "POST", ["v1", "agents", name, ("start" | "stop" | "restart" | "release") as verb]:
                told = self._tell_agents(name, verb)
            case "POST", ["v1", "rollout"]:
                told = await self._roll(asked.get("pattern", "*"))
            case "POST", ["v1", "rollout", ("pause" | "resume" | "abort") as verb]:
                self._note(f"rollout.{verb}")
                told = await rollout.turn(self._agents.rollouts, verb)
            case ("GET" | "HEAD"), ["v1", "rollout"]:
                told = rollout.rollout_json(self._agents.rollouts.view())
            case "POST", ["v1", "queue", ("pause" | "drain" | "resume") as verb]:
                self._note(f"queue.{verb}")
                told = {"mode": self._queue.tell_queue(QueueVerb(verb)).value}
            case "POST", ["v1", "queue", request_id, "cancel"]:
                told = self._cancel(request_id)
            case ("GET" | "HEAD"), ["v1", "cache"]:
                told = cache_json(self._queue.cache_report(with_prompts=asked.get("prompts", "") not in {"", "0"}))
            case "POST", ["v1", "cache", "clear"]:
                told = await self._clear(asked.get("tier", "all"))
            case "POST", ["v1", "reload"]:
                await self._carry_out_reload(exchange, is_only_planned=asked.get("plan", "") not in {"", "0"})
                return True
            case "POST", ["v1", "models", model, ("load" | "unload" | "rm" | "pull") as verb]:
                await self._tell_models(exchange, model, verb)
                return True
            case "POST", ["v1", "alerts", "test"]:
                told = await self._test_alerts(asked.get("name"))
            case ("GET" | "HEAD"), ["v1", "alerts"]:
                told = {"alerts": [plain(one) for one in self._alerts.statistics()]}
            case ("GET" | "HEAD"), ["v1", "models"]:
                told = models_json(await self._models.view())
            case ("GET" | "HEAD"), ["v1", "events"]:
                told = {"events": [plain(row) for row in self._events.tail(_count(asked.get("n", "50")))]}
            case _:
                return False
        await _respond(exchange, 200, told)
        return True

    # --- agents --------------------------------------------------------------------------------------------------------

    def _named(self, pattern: str) -> list[str]:
        names = matching(pattern, [view.name for view in self._agents.statistics().agents])
        if not names:
            is_pattern = _is_pattern(pattern)
            raise Refused(404, f"no agent's name matches {pattern!r}" if is_pattern else f"there is no agent {pattern!r}")
        return names

    async def _roll(self, pattern: str) -> Json:
        told = await rollout.begin(self._agents.rollouts, self._named(pattern))
        if told["begun"]:
            self._note("rollout.begin", detail={"pattern": pattern, "agents": len(told["begun"])})
        return told

    def _tell_agents(self, pattern: str, verb: str) -> Json:
        names = self._named(pattern)
        deeds = {
            "start": self._agents.start,
            "stop": self._agents.stop,
            "restart": self._agents.restart,
            "release": self._agents.release,
        }
        done: list[str] = []
        refused: list[Json] = []
        for name in names:
            try:
                deeds[verb](name)
            except UsageError as exc:
                refused.append({"agent": name, "why": str(exc)})
            else:
                done.append(name)
                self._note(f"agent.{verb}", agent=name)
        if not done:
            raise Refused(409, "; ".join(one["why"] for one in refused[:3]) + (" ..." if len(refused) > 3 else ""))
        return {"verb": verb, "agents": done, "refused": refused}

    # --- queue and cache -----------------------------------------------------------------------------------------------

    def _cancel(self, request_id: str) -> Json:
        if not self._queue.cancel(request_id):
            raise Refused(404, f"no request {request_id[:64]!r} waits or runs")
        self._note("request.cancel", request_id=request_id)
        return {"id": request_id, "cancelled": True}

    async def _clear(self, tier: str) -> Json:
        if tier not in TIERS:
            raise Refused(400, f"there is no tier {tier[:20]!r}: {', '.join(TIERS)}")
        try:
            gone = await self._queue.clear_cache(**{one: tier in {"all", one} for one in TIERS[1:]})
        except StoreFault as exc:
            raise Refused(503, str(exc)) from exc
        self._note("cache.clear", detail={"tier": tier, "answers": gone})
        return {"tier": tier, "answers": gone}

    # --- alerts --------------------------------------------------------------------------------------------------------

    async def _test_alerts(self, name: str | None) -> Json:
        try:
            tested = await self._alerts.test(name)
        except UsageError as exc:
            raise Refused(404, str(exc)) from exc
        self._note("alert.test", detail={"alerts": [one.name for one in tested][:20]})
        return {"tested": [plain(one) for one in tested]}

    # --- reload --------------------------------------------------------------------------------------------------------

    async def _carry_out_reload(self, exchange: Exchange, *, is_only_planned: bool) -> None:
        try:
            plan = await (self._reload.plan() if is_only_planned else self._reload.carry_out())
        except ConfigError as exc:
            problems = [{"file": p.file, "line": p.line, "key": p.key, "what": p.what} for p in exc.problems]
            await _respond(exchange, 422, {"error": "the config is wrong, nothing was changed", "problems": problems})
            return
        except (UsageError, HostFault) as exc:
            raise Refused(409, str(exc)) from exc
        if not is_only_planned and plan.changes_something:
            counts = {"added": len(plan.added), "changed": len(plan.changed), "removed": len(plan.removed)}
            self._note("config.reload", detail={**counts, "refused": [one.key for one in plan.refused][:20]})
        outdated = [view.name for view in self._agents.statistics().agents if view.is_outdated]
        await _respond(exchange, 200, {"applied": not is_only_planned, **plan_json(plan), "outdated": outdated})

    # --- models --------------------------------------------------------------------------------------------------------

    async def _tell_models(self, exchange: Exchange, model: str, verb: str) -> None:
        try:
            match verb:
                case "pull":
                    self._note("model.pull", detail={"model": model})
                    await self._pull(exchange, model)
                    return
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
        await _respond(exchange, 200, {"model": model, "verb": verb})

    async def _pull(self, exchange: Exchange, model: str) -> None:
        """Pass on Ollama's own progress, line by line; its end is the end."""

        async def tell(chunk: bytes) -> None:
            if not exchange.is_started:
                await exchange.start(200, NDJSON)
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


def models_json(view: ModelsView) -> Json:
    """Return `GET /v1/models`."""
    return {"models": [plain(one) for one in view.models], "unreachable": list(view.unreachable)}


def cache_json(view: CacheReport) -> Json:
    """Return `GET /v1/cache`: the tiers and sums of `/v1/status`, and everything behind them."""
    lists = {name: [plain(one) for one in getattr(view, name)] for name in ("by_class", "by_model", "repeated")}
    return {**plain(view.cache), **{name: value for name, value in plain(view).items() if name != "cache"}, **lists}


def _is_pattern(word: str) -> bool:
    return any(char in word for char in "*?[")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text[:9]) <= EVENTS_MAX:
        raise Refused(400, f"n must be a number from 1 to {EVENTS_MAX}")
    return int(text)


async def _respond(exchange: Exchange, status: int, payload: Any) -> None:
    await exchange.respond(status, JSON, msgspec.json.encode(payload))
