"""The page on loopback: static files of ours, one stream of what changes, an hour of history, and the metrics. Read-only.

    GET /              the page, and its files
    GET /events        server-sent events: a snapshot, then what changes (feed.py)
    GET /history       the last hour, a column a figure
    GET /metrics       for Prometheus
    GET /healthz       good or degraded

Whoever may connect to loopback may read it, so it shows nothing but what glance.py names. What a page from elsewhere might send
through the owner's browser is refused: a Host that is not this machine (DNS rebinding), an Origin or a site that is not ours. The
page asks nobody else: its policy allows no other host, no inline script and no inline style.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from supervisord_ai.agents.view import FleetView
from supervisord_ai.control import report
from supervisord_ai.control.answers import Healthz
from supervisord_ai.control.encoding import encoded
from supervisord_ai.control.feed import Feed
from supervisord_ai.control.glance import agent, glance, response_times
from supervisord_ai.control.history import EVERY_S, History
from supervisord_ai.control.report import Moment
from supervisord_ai.control.routes import JSON, PROMETHEUS, Asked
from supervisord_ai.control.scrape import Counted, Metrics
from supervisord_ai.duty import every
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.measures import Took
from supervisord_ai.gateway.view import LedgerView
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.exchange import Exchange, Handler
from supervisord_ai.store.rows import EventRow
from supervisord_ai.wire.http1 import RequestHead

FOLDER = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
TIMES_OVER_S = 900.0
LOOK_EVERY_S = 2.0
AGENTS_EVERY_S = 4.0  # a look at 131 of them reads 131 files of the kernel, and is half of what the page costs

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _File:
    kind: str
    body: bytes


class _NoJournal:
    """The page tells what happened in words of its own; the journal of events is for the owner's door."""

    last_seq = 0

    def after(self, _seq: int, _count: int) -> list[EventRow]:
        return []

    async def wait_after(self, _seq: int) -> None:
        await trio.sleep_forever()


class Web:
    """Answers browsers and Prometheus. `check` raises Refused for a Host or an Origin that is not this machine."""

    def __init__(
        self,
        *,
        moment: Callable[[FleetView | None], Moment],
        fleet: Callable[[], FleetView],
        counted: Callable[[], Counted],
        took: Callable[[float], list[Took]],
        now: Callable[[], float],
        history: History,
        metrics: Metrics,
        check: Callable[[RequestHead], None],
    ) -> None:
        self._moment = moment
        self._fleet = fleet
        self._counted = counted
        self._took = took
        self._now = now
        self._history = history
        self._metrics = metrics
        self._check = check
        self._files = {
            f"/{path.name}": _File(KINDS[path.suffix], path.read_bytes()) for path in FOLDER.iterdir() if path.suffix in KINDS
        }
        self._files["/"] = self._files.pop("/index.html")
        self._seen_at = float("-inf")  # when the fleet was looked at last
        self._seen = FleetView((), "", "")
        self._agents: list[Json] = []
        self._times: Json = {}
        self._feed = Feed(_NoJournal(), self._look, look_every_s=LOOK_EVERY_S)

    def __repr__(self) -> str:
        return f"<Web {self._feed!r}>"

    async def run(self) -> None:
        """Keep the history, and tell those who look, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(every, EVERY_S, "noting the history", self._history.note)
            nursery.start_soon(self._feed.run)

    async def on_connection(self, _connection: Connection) -> Handler:
        """Return the handler of one connection, for `serve_listener`."""
        await trio.lowlevel.checkpoint()
        return self.handle

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            Refused: 403, it comes from elsewhere; 404, 405.
        """
        head = exchange.head
        self._check(head)
        if not head.headers.get("Host") and head.version != "1.0":
            raise Refused(403, "no Host was said")
        if head.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"} and head.path != "/":
            raise Refused(403, "another site may not ask")
        if head.method not in {"GET", "HEAD"}:
            raise Refused(405, "the page is read-only", allow="GET, HEAD")
        if (file := self._files.get(head.path)) is not None:
            await exchange.respond(200, (("Content-Type", file.kind), *HEADERS), file.body)
            return
        match head.path:
            case "/events":
                await self._feed.follow(Asked(exchange, {}, {"only": None, "agent": None, "kind": None}))
            case "/history":
                body = json.dumps({"every_s": EVERY_S, "columns": self._history.columns()}, separators=(",", ":")).encode()
                await exchange.respond(200, (("Content-Type", JSON), *HEADERS), body)
            case "/metrics":
                body = await self._metrics.text(self._moment(None))
                await exchange.respond(200, (("Content-Type", PROMETHEUS), *HEADERS), body)
            case "/healthz":
                found = report.reasons(self._moment(None))
                told = Healthz("degraded", found) if found else Healthz("good", [])
                await exchange.respond(503 if found else 200, (("Content-Type", JSON), *HEADERS), encoded(told))
            case _:
                raise Refused(404, "there is no such page")

    # --- what those who look are told ------------------------------------------------------------------------------------

    def _look(self) -> tuple[Json, list[Json]]:
        now, counted = self._now(), self._counted()
        if now - self._seen_at >= AGENTS_EVERY_S:
            nothing = LedgerView()
            self._seen_at, self._seen = now, self._fleet()
            self._agents = [agent(view, counted.ledger.get(view.name, nothing)) for view in self._seen.agents]
            self._times = response_times(self._took(now - TIMES_OVER_S), counted.measures)
        seen = glance(self._moment(self._seen), counted.ended)
        plain: Json = msgspec.to_builtins({**seen, "times": self._times, "point": self._history.last})
        return plain, self._agents
