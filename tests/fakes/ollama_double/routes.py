"""The route table and gin's manners: 404, 405 with Allow, redirects to the clean path, Host and Origin checks."""

from __future__ import annotations

import functools
import ipaddress
import posixpath
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from . import answers, metadata
from .machine import Machine
from .turn import Turn

Answer = Callable[[Machine, Turn], Awaitable[None]]
TEXT = ("Content-Type", "text/plain")
HTML = ("Content-Type", "text/html; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Route:
    """One path: its methods in the order of Allow, since which release, and who answers."""

    methods: tuple[str, ...]
    answer: Answer
    since: tuple[int, ...] = ()


READ = ("HEAD", "GET")
ROUTES: dict[str, Route] = {
    "/": Route(READ, metadata.root),
    "/api/version": Route(READ, metadata.version),
    "/api/status": Route(("GET",), metadata.status, since=(0, 16, 2)),
    "/api/tags": Route(READ, metadata.tags),
    "/api/ps": Route(("GET",), metadata.ps),
    "/api/show": Route(("POST",), metadata.show),
    "/api/generate": Route(("POST",), answers.generate),
    "/api/chat": Route(("POST",), answers.chat),
    "/api/embed": Route(("POST",), answers.embed),
    "/api/embeddings": Route(("POST",), answers.embeddings),
    "/api/pull": Route(("POST",), metadata.pull),
    "/api/push": Route(("POST",), metadata.push),
    "/api/create": Route(("POST",), metadata.create),
    "/api/delete": Route(("DELETE",), metadata.delete),
    "/api/copy": Route(("POST",), metadata.copy),
    "/api/me": Route(("POST",), metadata.me),
    "/api/signout": Route(("POST",), metadata.signout),
    "/api/experimental/web_search": Route(("POST",), metadata.web_search),
    "/api/experimental/web_fetch": Route(("POST",), metadata.web_fetch),
    "/api/experimental/model-recommendations": Route(("GET",), metadata.recommendations),
    "/v1/chat/completions": Route(("POST",), answers.chat_completions),
    "/v1/completions": Route(("POST",), answers.completions),
    "/v1/embeddings": Route(("POST",), answers.openai_embeddings),
    "/v1/models": Route(("GET",), metadata.openai_models),
    "/v1/responses": Route(("POST",), answers.responses, since=(0, 13, 3)),
    "/v1/messages": Route(("POST",), answers.messages, since=(0, 14, 0)),
    "/v1/audio/transcriptions": Route(("POST",), answers.transcriptions, since=(0, 20, 0)),
}

_CORS = [
    (
        "Access-Control-Allow-Headers",
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
        "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,"
        "X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout",
    ),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
]


def _route_of(machine: Machine, path: str) -> Route | None:
    if path in ROUTES:
        route = ROUTES[path]
        return route if machine.options.is_at_least(*route.since) else None
    for prefix, methods, answer in (
        ("/api/blobs/", ("HEAD", "POST"), metadata.blob),
        ("/v1/models/", ("GET",), metadata.openai_model),
    ):
        rest = path.removeprefix(prefix)
        if path.startswith(prefix) and rest and "/" not in rest and "%2f" not in rest.lower():

            async def answer_rest(
                machine: Machine,
                turn: Turn,
                rest: str = rest,
                answer: Callable[[Machine, Turn, str], Awaitable[None]] = answer,
            ) -> None:
                await answer(machine, turn, rest)

            return Route(methods, answer_rest)
    return None


async def dispatch(machine: Machine, turn: Turn) -> None:
    """Answers one request as the server's outermost layers do: Host, Origin, the clean path, the table."""
    head = turn.head
    path = urlsplit(head.target).path if "://" in head.target else head.path
    if not _is_host_allowed(head.headers.get("Host", "") or ""):
        return await turn.respond(403, [])
    origin = head.headers.get("Origin")
    if origin is not None and not _is_origin_allowed(origin):
        return await turn.respond(403, [])
    clean = posixpath.normpath(path) if path else "/"
    if path.startswith("//") or (clean.rstrip("/") != path.rstrip("/")):
        return await _redirect(turn, 307, "/" + clean.lstrip("/"))

    route = _route_of(machine, path)
    if route is None:
        other = path.rstrip("/") if path.endswith("/") else path + "/"
        if path != "/" and other in ROUTES and head.method in ROUTES[other].methods:
            return await _redirect(turn, 301 if head.method == "GET" else 307, other)
        return await turn.respond(404, [TEXT], b"404 page not found")
    cors = [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")] if origin is not None else []
    allow = ("Allow", ", ".join(route.methods))
    if head.method == "OPTIONS":
        return await turn.respond(204, [allow, *(_preflight(cors) if cors else [])])
    if head.method not in route.methods:
        return await turn.respond(405, [allow, TEXT, *cors], b"405 method not allowed")
    machine.requests[f"{head.method} {path}"] += 1
    turn.extra_headers = cors
    return await route.answer(machine, turn)


def _preflight(cors: list[tuple[str, str]]) -> list[tuple[str, str]]:
    asked = [("Vary", "Access-Control-Request-Method"), ("Vary", "Access-Control-Request-Headers")]
    return [*_CORS, *cors, *asked]


async def _redirect(turn: Turn, status: int, location: str) -> None:
    reason = {301: "Moved Permanently", 307: "Temporary Redirect"}[status]
    if turn.head.method not in {"GET", "HEAD"}:
        return await turn.respond(status, [("Location", location)])
    page = f'<a href="{location}">{reason}</a>.\n\n'
    return await turn.respond(status, [HTML, ("Location", location)], page.encode())


@functools.cache
def _is_host_allowed(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower().rstrip(".")
    if name in {"", "localhost", socket.gethostname().lower()} or name.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private


def _is_origin_allowed(origin: str) -> bool:
    if origin.startswith(("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")):
        return True
    return urlsplit(origin).hostname in {"localhost", "127.0.0.1", "0.0.0.0"}
