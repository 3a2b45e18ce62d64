"""The door to the firewall: nft(8), one table of our own, put in place and removed as a whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Protocol

from supervisord_ai.errors import HostFault, UsageError

PATIENCE_S = 20.0
WANTS = '[isolation] mode = "nft"'


class Firewall(Protocol):
    """What is asked of it; `Nft` is this machine's."""

    def load(self, script: str) -> None:
        """Put a table in place, whole or not at all. Raises HostFault with what nft said."""

    def remove(self, table: str) -> None:
        """Remove a table; does nothing where there is none. Raises HostFault."""


class Nft:
    """The firewall of this machine.

    Raises (when made):
        UsageError: it cannot be changed by us; says what to do.
    """

    def __init__(self, command: str = "nft") -> None:
        if os.geteuid() != 0:
            raise UsageError(f'{WANTS} needs root: run ai-supervisor as a service of the system, or set mode = "none"')
        found = shutil.which(command, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if found is None:
            raise UsageError(f"{WANTS} needs the nft command: apt-get install -y nftables")
        self._command = found

    def __repr__(self) -> str:
        return f"<{self._command}>"

    def load(self, script: str) -> None:
        self._run(script)

    def remove(self, table: str) -> None:
        self._run(f"table inet {table}\ndelete table inet {table}\n")  # made first: what is not there cannot be deleted

    def _run(self, script: str) -> None:
        try:
            done = subprocess.run(
                [self._command, "-f", "-"], input=script, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise HostFault(f"{self._command}: {exc.strerror if isinstance(exc, OSError) else 'does not end'}") from exc
        if done.returncode != 0:
            raise HostFault(f"{WANTS}: {(done.stderr.strip() or 'nft failed').splitlines()[0]}")
