"""Asks Ollama: streamed calls for the relay, small JSON calls for what is known of models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import trio

from supervisord_ai.errors import UpstreamCut, UpstreamStalled, UpstreamUnreachable
from supervisord_ai.ollama.transport import METADATA_BYTES, Dialer, HttpTransport, Reply, TransportStatistics, dial_tcp, dial_unix

__all__ = ["OllamaClient", "Reply"]

METADATA_S = 10.0  # version, tags, ps and show answer in milliseconds, also while a model loads


class OllamaClient:
    """One backend. Deadlines are the caller's cancel scopes, except for connecting (5 s).

    `url` is `http://host:port` or `unix:///path`; with a `dial` of the caller's it may be any word, and `where` says in words
    where that leads at present, or who keeps it. `secret` is sent as a bearer token.
    Raises: ValueError for another kind of URL.
    """

    def __init__(
        self,
        url: str,
        *,
        dial: Dialer | None = None,
        connections: int = 10,
        secret: str | None = None,
        where: Callable[[], str] | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._prefix = ""
        if parts.scheme == "http" and parts.hostname and not parts.query and not parts.fragment:
            known = dial_tcp(parts.hostname, parts.port or 11434)
            self._prefix = parts.path.rstrip("/")
        elif parts.scheme == "unix" and parts.path and not parts.netloc:
            known = dial_unix(parts.path)
        elif dial is not None:
            known = dial
        else:
            raise ValueError(f"{url!r} is neither http://host:port nor unix:///path")
        self.url = url
        self._where = where
        self._transport = HttpTransport(dial or known, connections=connections, secret=secret)
        self._http = httpx.AsyncClient(
            transport=self._transport,
            trust_env=False,  # a proxy of the environment is no way to an Ollama of this machine
            timeout=None,  # noqa: S113 - see request_json
            headers=dict(_METADATA),
        )

    def __repr__(self) -> str:
        return f"<OllamaClient {self.url} {self.statistics()}>"

    def where(self) -> str:
        """Return in words what its address does not say: which one was found, who keeps it. "" where there is nothing to say."""
        return "" if self._where is None else self._where()

    def statistics(self) -> TransportStatistics:
        return self._transport.statistics()

    def has_ended(self) -> bool:
        """Whether Ollama has closed a connection that nobody uses now: it does so when it ends. Costs a look, and no call."""
        return self._transport.has_ended()

    def open(
        self, method: str, path: str, *, body: bytes | Sequence[bytes] = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> AbstractAsyncContextManager[Reply]:
        """Send one call. Entering the block waits for the head of the answer; leaving it never waits.

        Leaving the block before the end of the answer closes the connection at once. `path` may have a query; a body may come in
        pieces.
        Raises: UpstreamUnreachable when nothing came, UpstreamCut.
        """
        return self._open(method, path, body, headers)

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, body: bytes | Sequence[bytes], headers: Sequence[tuple[str, str]]
    ) -> AsyncIterator[Reply]:
        content_type = () if any(name.lower() == "content-type" for name, _ in headers) else (_JSON,)
        pieces = (body,) if isinstance(body, bytes) else body
        reply = await self._transport.begin(method, self._prefix + path, [*content_type, *headers], pieces)
        try:
            yield reply
        finally:
            await reply.aclose()

    async def request_json(
        self, method: str, path: str, payload: dict[str, Any] | None = None, *, timeout_s: float
    ) -> tuple[int, dict[str, Any]]:
        """Make one small call; return its status and the JSON object it answered with.

        An error that is plain text comes as `{"error": text}`.
        Raises: UpstreamUnreachable, UpstreamCut (also for what is no JSON object, or above 16 MB), UpstreamStalled after
        `timeout_s`.
        """
        content = None if payload is None else json.dumps(payload).encode()
        url = f"http://backend{self._prefix}{quote(path, safe='/%:?=&')}"
        response: httpx.Response | None = None
        with trio.move_on_after(timeout_s):
            response = await self._http.request(method, url, content=content, headers=[_JSON])
        if response is None:
            raise UpstreamStalled(timeout_s)
        return self._object(response.status_code, response.content)

    def _object(self, status: int, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            answer = json.loads(body) if body else {}
        except ValueError as exc:
            if status < 400:
                raise UpstreamCut(len(body)) from exc
            answer = {"error": body[:500].decode("utf-8", "replace").strip()}
        if not isinstance(answer, dict):
            raise UpstreamCut(len(body))
        return status, answer

    async def version(self) -> str:
        """Ollama's version. Raises: as request_json, and UpstreamUnreachable when it answers with an error."""
        return str((await self._metadata("GET", "/api/version")).get("version", ""))

    async def tags(self) -> list[dict[str, Any]]:
        """The installed models, as `/api/tags` lists them. Raises: as version.

        It is asked beside most requests, to know that their model is still the same, so it goes the relay's way, at a third of
        what httpx takes for it.
        """
        answer = None
        with trio.move_on_after(METADATA_S):
            answer = await self._read("/api/tags")
        if answer is None:
            raise UpstreamStalled(METADATA_S)
        return list(_only_if_well("/api/tags", *answer).get("models") or [])

    async def _read(self, path: str) -> tuple[int, dict[str, Any]]:
        parts: list[bytes] = []
        async with self.open("GET", path, headers=_METADATA) as reply:
            while (part := await reply.next_chunk()) is not None:
                parts.append(part)
                if reply.seen_bytes > METADATA_BYTES:
                    raise UpstreamCut(reply.seen_bytes)
        return self._object(reply.status, b"".join(parts))

    async def ps(self) -> list[dict[str, Any]]:
        """The loaded models, as `/api/ps` lists them. Raises: as version."""
        return list((await self._metadata("GET", "/api/ps")).get("models") or [])

    async def show(self, model: str) -> dict[str, Any] | None:
        """What Ollama knows of one model, None when it has it not. Raises: as version."""
        status, answer = await self.request_json("POST", "/api/show", {"model": model}, timeout_s=METADATA_S)
        if status == 404:
            return None
        if status != 200:
            raise UpstreamUnreachable(f"/api/show answered {status}: {answer.get('error', '')}")
        return answer

    async def _metadata(self, method: str, path: str) -> dict[str, Any]:
        return _only_if_well(path, *await self.request_json(method, path, timeout_s=METADATA_S))

    async def aclose(self) -> None:
        """Close every connection that is kept; calls in flight end as they would."""
        await self._http.aclose()


def _only_if_well(path: str, status: int, answer: dict[str, Any]) -> dict[str, Any]:
    if status != 200:
        raise UpstreamUnreachable(f"{path} answered {status}: {answer.get('error', '')}")
    return answer


_JSON = ("Content-Type", "application/json")
_METADATA = (("User-Agent", "ai-supervisor"), ("Accept", "application/json"), ("Accept-Encoding", "identity"))
