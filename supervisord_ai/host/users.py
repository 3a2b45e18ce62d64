"""Makes and removes the system user that agents run as, by useradd(8) and userdel(8)."""

from __future__ import annotations

import pwd
import subprocess
from typing import Protocol

from supervisord_ai.errors import HostFault

PATIENCE_S = 60.0
_COMMENT = "agents of ai-supervisor"  # how we know one that we made


class Users(Protocol):
    """The users of a system; `SystemUsers` are this machine's."""

    def exists(self, name: str) -> bool: ...

    def make(self, name: str) -> None:
        """Make a user without a password, a shell or a home of its own. Raises HostFault."""

    def is_ours(self, name: str) -> bool:
        """Tell whether it is there and `make` made it."""

    def remove(self, name: str) -> None:
        """Remove it. Raises HostFault: it has processes, or is not there."""


class SystemUsers:
    """The users of this machine."""

    def exists(self, name: str) -> bool:
        try:
            pwd.getpwnam(name)
        except KeyError:
            return False
        return True

    def make(self, name: str) -> None:
        _run(["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
              "--shell", "/usr/sbin/nologin", "--comment", _COMMENT, name])  # fmt: skip

    def is_ours(self, name: str) -> bool:
        return self.exists(name) and pwd.getpwnam(name).pw_gecos == _COMMENT

    def remove(self, name: str) -> None:
        _run(["userdel", name])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise HostFault(f"{command[0]}: {exc.strerror if isinstance(exc, OSError) else 'does not end'}") from exc
    if done.returncode != 0:
        raise HostFault(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
