"""Streams of bytes to Ollama: what a dialer gives, and the two kinds of socket it dials."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from supervisord_ai.errors import PeerGone, UpstreamUnreachable

CONNECT_S = 5.0  # a listener on this machine takes a connection at once or not at all


class ByteStream(Protocol):
    """One connection to Ollama. Raises errors.PeerGone for what a socket calls reset, broken pipe or closed."""

    async def send_all(self, data: bytes) -> None:
        """Hand every byte to the transport."""

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Return what is there, waiting for the first byte; b"" at the end."""

    def has_input(self) -> bool:
        """Whether bytes, or the end, are there to be read: a kept connection with either carries no further call."""

    async def aclose(self) -> None:
        """Close at once; never waits."""


Dialer = Callable[[], Awaitable[ByteStream]]


class RawStream:
    """A connected non-blocking socket. One task sends, one receives."""

    def __init__(self, raw: socket.socket) -> None:
        raw.setblocking(False)
        self._socket = raw

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_writable)
            except OSError as exc:
                raise PeerGone(str(exc)) from exc

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        while True:
            await self._wait(trio.lowlevel.wait_readable)
            try:
                return self._socket.recv(max_bytes)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise PeerGone(str(exc)) from exc

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        if self._socket.fileno() < 0:
            raise PeerGone("closed on this side")
        try:
            await wait(self._socket)
        except (OSError, trio.ClosedResourceError) as exc:
            raise PeerGone(str(exc)) from exc

    def has_input(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a reset is an end
        return True

    async def aclose(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def dial_tcp(host: str, port: int) -> Dialer:
    """Return a dialer of this TCP address. It raises UpstreamUnreachable, after at most 5 s."""

    async def dial() -> ByteStream:
        try:
            with trio.fail_after(CONNECT_S):
                # As bytes: Python would take a str through the idna codec, whose import takes 4 ms of every start.
                stream = await trio.open_tcp_stream(host.encode() if host.isascii() else host, port)
        except trio.TooSlowError as exc:
            raise UpstreamUnreachable(f"{host}:{port}: no connection within {CONNECT_S:.0f} s") from exc
        except OSError as exc:
            raise UpstreamUnreachable(f"{host}:{port}: {_why(exc)}") from exc
        # trio's stream has done its work: connecting to whichever address of the name answers. It has set TCP_NODELAY too.
        return RawStream(socket.socket(fileno=stream.socket.detach()))

    return dial


def _why(error: OSError) -> str:
    """Return the kernel's words: trio says only that every attempt failed, and keeps what each said as its cause."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno is not None else str(error)


def dial_unix(path: str) -> Dialer:
    """Return a dialer of this Unix socket. It raises UpstreamUnreachable."""

    async def dial() -> ByteStream:
        await trio.lowlevel.checkpoint_if_cancelled()
        raw = socket.socket(socket.AF_UNIX)
        try:
            raw.setblocking(False)
            raw.connect(path)  # at once or not at all: a full backlog is EAGAIN (unix(7))
        except OSError as exc:
            raw.close()
            raise UpstreamUnreachable(f"{path}: {exc.strerror or exc}") from exc
        return RawStream(raw)

    return dial
