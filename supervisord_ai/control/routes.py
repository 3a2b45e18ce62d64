"""Every route of control.sock: what is asked for, what may be said with it, what comes back; and how a request finds it.

The handlers are in `api.py` and `verbs.py`, by the route's name; `openapi.py` writes this table down for programs. What is not in
the table is not answered, and a handler without a route is a mistake that the daemon does not start with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from supervisord_ai.agents.rollout import RolloutView
from supervisord_ai.control import answers, told
from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.models import ModelsView
from supervisord_ai.serve.http import Exchange

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
PROMETHEUS = "text/plain; version=1.0.0; charset=utf-8"

TIERS = ("all", "l1", "l2", "l3")
EVENTS_MAX = 10_000
WAITING_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter behind the `?`. `kind` is str, int or float; numbers are bounded, words may be one of `choices`."""

    name: str
    words: str
    kind: type = str
    default: str | float | None = None
    least: float = 0
    most: float = 0
    choices: tuple[str, ...] = ()
    is_required: bool = False

    def read(self, text: str) -> str | float:
        """Return what was said.

        Raises:
            Refused: 400, it is not what can be said here.
        """
        if self.kind is str:
            if self.choices and text not in self.choices:
                raise Refused(400, f"there is no {self.name} {text[:20]!r}: {', '.join(self.choices)}")
            return text
        try:
            number: float = int(text) if self.kind is int and text.isascii() and text.isdigit() else float(text)
        except ValueError:
            number = float("nan")
        if not self.least <= number <= self.most or (self.kind is int and number != int(number)):
            raise Refused(400, f"{self.name} must be a number from {self.least:g} to {self.most:g}")
        return number


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `also`: further answers, by status; None stands for `{"error": "..."}`."""

    name: str
    method: str
    path: str
    words: str
    answer: Any = None  # None: not JSON, see `media`
    status: int = 200
    media: str = JSON
    query: tuple[Query, ...] = ()
    also: Mapping[int, Any] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/")[1:])


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has found its route: what stands in its path, decoded, and behind its `?`, with defaults."""

    exchange: Exchange
    path: Mapping[str, str]
    query: Mapping[str, Any]
    peer: PeerFacts | None = None  # who asks, as the kernel says


@dataclass(frozen=True, slots=True)
class Told:
    """An answer with another status than the route's."""

    status: int
    answer: object


# Returns the answer, or None when it has answered by itself (a stream).
Handler = Callable[[Asked], Awaitable[object | None]]

_NOT_THERE = {404: None}
_CANNOT = {404: None, 409: None}
_OLLAMA = {409: None, 502: None}


def _agents(verb: str, words: str) -> Route:
    return Route(f"agents.{verb}", "POST", f"/v1/agents/{{name}}/{verb}", words, told.AgentsTold, also=_CANNOT)


def _models(verb: str, words: str) -> Route:
    return Route(f"models.{verb}", "POST", f"/v1/models/{{model}}/{verb}", words, told.ModelTold, also=_OLLAMA)


def _queue(verb: str, words: str) -> Route:
    return Route(f"queue.{verb}", "POST", f"/v1/queue/{verb}", words, told.QueueTold)


def _rollout(verb: str, words: str) -> Route:
    return Route(f"rollout.{verb}", "POST", f"/v1/rollout/{verb}", words, RolloutView, also={409: None})


EVENT_FILTER = (
    Query("agent", "only of this agent"),
    Query("kind", "only of this kind, or of those that begin with it and a dot"),
)

ROUTES: tuple[Route, ...] = (
    Route("health", "GET", "/healthz", "Whether all is well, in one word", answers.Healthz, also={503: answers.Healthz}),
    Route("status", "GET", "/v1/status", "Everything on one screen", answers.Status),
    Route("agents", "GET", "/v1/agents", "Every agent as it is now", answers.Agents),
    Route("agent", "GET", "/v1/agents/{name}", "One agent, with what the config says of it", answers.ShownAgent, also=_NOT_THERE),
    Route(
        "agents.environment",
        "GET",
        "/v1/agents/{name}/environment",
        "What an external agent is to be given",
        answers.Environment,
        also=_CANNOT,
    ),
    Route(
        "caps",
        "GET",
        "/v1/caps",
        "The memory caps of now beside what agents needed, and what to give them",
        answers.Caps,
        query=(Query("days", "of how many days, today included", int, 7, 1, 366),),
    ),
    Route(
        "exec",
        "POST",
        "/v1/exec",
        "Make the process that asks one of the fleet, before it executes its command",
        answers.Wrapped,
        query=(Query("name", "who it is: an external agent, or with a class any name"), Query("class", "its class")),
        also=_CANNOT,
    ),
    _agents("start", "Start agents that rest; a name, or a pattern such as sonnet-*"),
    _agents("stop", "End agents and leave them down"),
    _agents("restart", "End agents and start them again"),
    _agents("release", "Let agents out of quarantine"),
    Route(
        "queue",
        "GET",
        "/v1/queue",
        "Who runs, and who waits in which order and why",
        answers.Queue,
        query=(Query("n", "how many of those who wait", int, 1000, 0, WAITING_MAX),),
    ),
    Route("queue.show", "GET", "/v1/queue/{id}", "Why one request waits, or how it ended", answers.Explained, also=_NOT_THERE),
    Route("alerts", "GET", "/v1/alerts", "Every alert and how it stands", answers.Alerts),
    Route(
        "alerts.test",
        "POST",
        "/v1/alerts/test",
        "Send a notice as if it fired, to see that it arrives",
        told.AlertsTested,
        query=(Query("name", "of this alert alone"),),
        also=_NOT_THERE,
    ),
    Route("rollout", "GET", "/v1/rollout", "How the last rollout stands", RolloutView),
    Route(
        "rollout.begin",
        "POST",
        "/v1/rollout",
        "Start again, group by group, who runs with an older spec than the config's",
        told.Begun,
        query=(Query("pattern", "whose names", default="*"),),
        also=_CANNOT,
    ),
    _rollout("pause", "Roll nobody more"),
    _rollout("resume", "Go on with a rollout that was paused"),
    _rollout("abort", "Go back to what ran before"),
    _queue("pause", "Start nothing more; callers wait"),
    _queue("drain", "Take in nothing more; work off what waits"),
    _queue("resume", "End a pause or a drain"),
    Route("queue.cancel", "POST", "/v1/queue/{id}/cancel", "Take a request out", told.Cancelled, also=_NOT_THERE),
    Route(
        "cache",
        "GET",
        "/v1/cache",
        "What the cache of answers holds and was good for",
        answers.Cache,
        query=(Query("prompts", "1: with the beginnings of what is asked again and again", int, 0, 0, 1),),
    ),
    Route(
        "cache.clear",
        "POST",
        "/v1/cache/clear",
        "Forget answers",
        told.Cleared,
        query=(Query("tier", "which tier", default="all", choices=TIERS),),
        also={503: None},
    ),
    Route("models", "GET", "/v1/models", "The models of every Ollama", ModelsView),
    _models("load", "Load a model; answered when it is loaded"),
    _models("unload", "Let its calls end, then unload a model; answered when it is gone"),
    _models("rm", "Delete a model from the disk"),
    Route(
        "models.pull",
        "POST",
        "/v1/models/{model}/pull",
        "Download a model; Ollama's own progress, a JSON object a line",
        media=NDJSON,
        also=_OLLAMA,
    ),
    Route("level", "GET", "/v1/level", "How much service is degraded now, why, and what each level changes", answers.ShownLevel),
    Route(
        "level.pin",
        "POST",
        "/v1/level/pin",
        "Hold a level whatever the machine says",
        answers.ShownLevel,
        query=(
            Query("level", "0 normal, 1 minor, 2 major, 3 critical", int, None, 0, 3, is_required=True),
            Query("for_s", "let go by itself after so many seconds", float, None, 1, 7 * 86_400),
        ),
    ),
    Route("level.unpin", "POST", "/v1/level/unpin", "Go by what the machine says again", answers.ShownLevel),
    Route(
        "reload",
        "POST",
        "/v1/reload",
        "Read the config again and do what changed",
        told.Reloaded,
        query=(Query("plan", "1: only say what would be done", int, 0, 0, 1),),
        also={409: None, 422: told.WrongConfig},
    ),
    Route(
        "journal",
        "GET",
        "/v1/journal",
        "Events that are past, oldest first",
        answers.Journal,
        query=(
            Query("n", "the last so many", int, 50, 1, EVENTS_MAX),
            Query("since", "only from this time on, in seconds since 1970", float, 0.0, 0, 1e11),
            *EVENT_FILTER,
        ),
    ),
    Route(
        "events",
        "GET",
        "/v1/events",
        "Server-sent events: a snapshot, then what changes, each second and as it happens. Goes on after Last-Event-ID",
        media=SSE,
        query=(Query("only", "events: the journal alone, without a snapshot", choices=("events",)), *EVENT_FILTER),
        also={503: None},
    ),
    Route("metrics", "GET", "/metrics", "What Prometheus scrapes, in its text format", media=PROMETHEUS),
    Route("openapi", "GET", "/v1/openapi.json", "This description", dict[str, Any]),
    Route("stop", "POST", "/v1/stop", "Stop the fleet and the daemon", told.Stopping, 202),
)


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Sequence[Route] = ROUTES) -> None:
        self._by_length: dict[int, list[Route]] = {}
        # Words before placeholders.
        for route in sorted(routes, key=lambda route: route.path.count("{")):
            self._by_length.setdefault(len(route.parts), []).append(route)

    def find(self, exchange: Exchange) -> tuple[Route, Asked]:
        """Return the route of a request, and the request as the route understands it.

        Raises:
            Refused: 404, 405, and 400 for what is behind its `?`.
        """
        head = exchange.head
        method = "GET" if head.method == "HEAD" else head.method
        parts = [unquote(part) for part in head.path.split("/")[1:]]
        path: str | None = None  # the first that fits is meant, and no other: /v1/queue/pause is no request's id
        others: list[str] = []
        for route in self._by_length.get(len(parts), ()):
            found = _matched(route.parts, parts) if path in {None, route.path} else None
            if found is None:
                continue
            path = route.path
            if route.method == method:
                return route, Asked(exchange, found, _queried(route, head.query))
            others += ("GET", "HEAD") if route.method == "GET" else (route.method,)
        if others:
            raise Refused(405, f"{head.path} takes {others[0]}", allow=", ".join(others))
        raise Refused(404, f"control.sock has no {head.path}")


def _matched(template: Sequence[str], parts: Sequence[str]) -> dict[str, str] | None:
    found = {}
    for word, part in zip(template, parts, strict=True):
        if word.startswith("{") and part:
            found[word[1:-1]] = part
        elif word != part:
            return None
    return found


def _queried(route: Route, query: str) -> dict[str, Any]:
    known = {one.name: one for one in route.query}
    said: dict[str, Any] = {one.name: one.default for one in route.query}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise Refused(400, f"{route.path} has no parameter {name[:20]!r}: {takes}")
        said[name] = known[name].read(text)
    return said
