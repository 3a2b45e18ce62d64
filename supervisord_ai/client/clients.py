"""The few lines every agent would write: where the socket is, and clients made for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import httpx

from supervisord_ai.client.transport import Transport

if TYPE_CHECKING:
    import ollama as ollama_package

VARIABLE = "AI_SUPERVISOR_SOCKET"
TOKEN_VARIABLE = "AI_SUPERVISOR_TOKEN"  # noqa: S105 - a name, not a secret
BASE_URL = "http://localhost"  # a client wants a host; over a Unix socket nobody looks it up

# An answer may be minutes away, since it waits in line first: the supervisor says when there is no hope, not the clock here.
TIMEOUT = httpx.Timeout(10.0, read=None)


class NoSocketError(LookupError):
    """Nobody says where the supervisor's socket is: no argument, and no AI_SUPERVISOR_SOCKET."""

    def __init__(self) -> None:
        super().__init__(f"{VARIABLE} is not set: this process is no agent's; name the socket")


def socket_path(socket: str | None = None) -> str:
    """Return the path of the supervisor's socket: the one given, else the one in the environment.

    Raises:
        NoSocketError: there is neither.
    """
    path = socket or os.environ.get(VARIABLE)
    if not path:
        raise NoSocketError
    return path


def http(socket: str | None = None, *, timeout: httpx.Timeout = TIMEOUT) -> httpx.AsyncClient:
    """Return an httpx client for the supervisor; its paths begin with `/api/` or `/v1/`.

    Raises:
        NoSocketError: nobody says where the socket is.
    """
    transport = Transport(socket_path(socket))
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=_token(), timeout=timeout, trust_env=False)


def ollama(socket: str | None = None, *, timeout: httpx.Timeout = TIMEOUT) -> ollama_package.AsyncClient:
    """Return an `ollama.AsyncClient` for the supervisor; it runs on trio too.

    Raises:
        NoSocketError: nobody says where the socket is.
        ImportError: the package `ollama` is not installed.
    """
    import ollama as package  # noqa: PLC0415 - the agent's own dependency, not ours

    transport = Transport(socket_path(socket))
    return package.AsyncClient(host=BASE_URL, transport=transport, headers=_token(), timeout=timeout, trust_env=False)


def _token() -> dict[str, str]:
    """Return the header by which an external agent is known; the others are known by the kernel."""
    token = os.environ.get(TOKEN_VARIABLE)
    return {"Authorization": f"Bearer {token}"} if token else {}


def sync_transport(socket: str | None = None) -> httpx.HTTPTransport:
    """Return a transport for synchronous clients (`ollama.Client(host="http://localhost", transport=...)`). It sends once.

    Raises:
        NoSocketError: nobody says where the socket is.
    """
    return httpx.HTTPTransport(uds=socket_path(socket))
