"""Asks Ollama: streamed calls for the relay, small JSON calls for what is known of models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from supervisord_ai.ollama.transport import Dialer
from supervisord_ai.wire.http1 import Headers


class Reply:
    """One answer of Ollama, while it comes."""

    status: int
    headers: Headers

    async def next_chunk(self) -> bytes | None:
        """Return the next bytes of the body as soon as there are any; None at its clean end. Raises: UpstreamCut."""
        raise NotImplementedError


class OllamaClient:
    """One backend. Deadlines are the caller's cancel scopes, except for connecting (5 s)."""

    def __init__(self, url: str, *, dial: Dialer | None = None, connections: int = 10, secret: str | None = None) -> None:
        self.url = url

    def open(
        self, method: str, path: str, *, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> AbstractAsyncContextManager[Reply]:
        """Send one call; the block is entered when the head of the answer is there.

        Leaving the block before the end of the answer closes the connection at once.
        Raises: UpstreamUnreachable when nothing came, UpstreamCut.
        """
        raise NotImplementedError

    async def request_json(
        self, method: str, path: str, payload: dict[str, Any] | None = None, *, timeout_s: float
    ) -> tuple[int, dict[str, Any]]:
        """Make one small call. Raises: UpstreamUnreachable, UpstreamCut, UpstreamStalled after `timeout_s`."""
        raise NotImplementedError

    async def version(self) -> str:
        raise NotImplementedError

    async def tags(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    async def ps(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    async def show(self, model: str) -> dict[str, Any] | None:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close every connection that is kept."""
        raise NotImplementedError
