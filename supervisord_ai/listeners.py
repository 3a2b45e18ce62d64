"""Every socket of the daemon, bound before anything is started: a taken port or a second daemon changes nothing."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from supervisord_ai.core.places import CONTROL_SOCKET, LLM_SOCKET
from supervisord_ai.errors import HostFault
from supervisord_ai.host import sockets
from supervisord_ai.host.activation import PassedSockets

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listeners:
    """`llm`: the agents' door; `tcp`: its loopback face; `owner`: control.sock; `page`: None where there is none."""

    llm: sockets.UnixListener
    tcp: tuple[socket.socket, ...]
    owner: socket.socket
    page: socket.socket | None

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where the loopback face is, as a caller sees it."""
        return tuple(listener.getsockname()[:2] for listener in self.tcp)

    @property
    def urls(self) -> list[str]:
        """The addresses of the loopback face, as one types them."""
        return [url_of(address) for address in self.addresses]


def bind(runtime_dir: Path, tcp: Sequence[str], page: str, *, owner_uid: int, is_shared: bool, held: ExitStack) -> Listeners:
    """Take what systemd passed, bind the rest; `held` gives it back. `is_shared`: whether other users' agents connect.

    Raises:
        AlreadyRunning, HostFault: an address is not to be had.
    """
    passed = PassedSockets()
    held.callback(passed.close)
    # Who may call is decided by the kernel's word on each connection, not by the mode of a file.
    llm_path, mode = runtime_dir / LLM_SOCKET, 0o666 if is_shared else 0o600
    llm = passed.unix(llm_path) or sockets.bind_unix(llm_path, mode=mode)
    held.callback(llm.close)
    owner = sockets.bind_unix(runtime_dir / CONTROL_SOCKET, mode=0o600, uid=owner_uid)
    held.callback(owner.close)
    faces: list[socket.socket] = []
    for where in tcp:
        faces.append(passed.tcp(where) or sockets.bind_tcp(where))
        held.callback(faces[-1].close)
    passed.close()
    page_door = _bound_page(page)
    if page_door is not None:
        held.callback(page_door.close)
    return Listeners(llm, tuple(faces), owner.socket, page_door)


def _bound_page(where: str) -> socket.socket | None:
    """Return the page's listener. A taken port costs the page, not the daemon."""
    if not where:
        return None
    try:
        return sockets.bind_tcp(where)
    except HostFault as exc:
        log.warning("no page: [web] listen: %s", exc)
        return None


def url_of(address: tuple[str, int]) -> str:
    """Return an address as one types it."""
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
