"""Carries a notice to whom an alert names: a command (JSON on standard input, no shell) and a URL (JSON by POST)."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

import trio

from supervisord_ai.core.alerts import Notify
from supervisord_ai.host.command import feed_command
from supervisord_ai.ollama.webhook import post_json

COMMAND_WITHIN_S = 30.0


class Courier(Protocol):
    """Who carries notices."""

    async def carry(self, notify: Notify, body: bytes) -> str:
        """Carry it to everybody `notify` names; return "" or who did not get it and why."""
        ...


class RealCourier:
    """The doors to commands and to URLs."""

    async def carry(self, notify: Notify, body: bytes) -> str:
        """Carry it to everybody `notify` names; return "" or who did not get it and why."""
        troubles = []
        if notify.command:
            trouble = f"it did not end within {COMMAND_WITHIN_S:.0f} s"
            with trio.move_on_after(COMMAND_WITHIN_S):
                trouble = await feed_command(notify.command, body)
            if trouble:
                troubles.append(f"{notify.command[0]} {trouble}")
        if notify.url and (trouble := await post_json(notify.url, body)):
            troubles.append(f"{place_of(notify.url)}: {trouble}")
        return "; ".join(troubles)


def place_of(url: str) -> str:
    """Return a URL without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def whom(notify: Notify) -> str:
    """Return in words who is told, "" for nobody. Arguments and paths may hold secrets."""
    return " and ".join(filter(None, (notify.command[0] if notify.command else "", place_of(notify.url) if notify.url else "")))
