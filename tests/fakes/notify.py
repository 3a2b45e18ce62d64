"""Notify sockets that are made up: what `host.notify` promises, without a kernel."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from supervisord_ai.errors import HostFault
from supervisord_ai.host.notify import Notice, NotifySocket, parse


class FakeNotifySocket:
    """One made-up socket; `say` is what a process does with it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_closed = False
        self._send, self._heard = trio.open_memory_channel[tuple[int, bytes]](100)

    def say(self, pid: int, message: bytes) -> None:
        if self.is_closed:
            raise ConnectionRefusedError(self.path)
        self._send.send_nowait((pid, message))

    async def receive(self) -> Notice:
        pid, message = await self._heard.receive()
        return parse(message, pid)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeNotify:
    """A folder of them, by agent the newest."""

    sockets: dict[str, FakeNotifySocket] = field(default_factory=dict)
    opened: list[tuple[str, int]] = field(default_factory=list)
    is_broken: bool = False

    def open(self, name: str, *, uid: int) -> NotifySocket:
        if self.is_broken:
            raise HostFault(f"/notify/{name}: no space left on device")
        self.opened.append((name, uid))
        made = self.sockets[name] = FakeNotifySocket(f"/notify/{name}")
        return made
