"""The door to systemd: tells it how far we are (sd_notify(3)). Does nothing where nobody asked to be told."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from supervisord_ai.errors import HostFault


class Notifier:
    """Where `NOTIFY_SOCKET` points. The variable is taken out of the environment: no child of ours may speak for us."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.pop("NOTIFY_SOCKET", "")

    def __repr__(self) -> str:
        return f"<notifier {self._address or 'nobody'}>"

    def ready(self, status: str) -> None:
        """The sockets serve."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={status}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        """Raises HostFault when somebody asked to be told and cannot be reached."""
        if not self._address:
            return
        # "@" stands for the NUL of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(message.encode(), address)
            except OSError as exc:
                raise HostFault(f"NOTIFY_SOCKET {self._address}: {exc.strerror}") from exc
