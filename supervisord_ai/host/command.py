"""The door for commands of the owner that we run and wait for, such as `restart_command`. Never a shell."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence

import trio

log = logging.getLogger(__name__)

_LAST_BYTES = 500


async def run_command(argv: Sequence[str]) -> bool:
    """Run a command to its end and say whether it ended well; what it said is logged when it did not.

    Cancelled, the command is ended first (TERM, then KILL).
    """
    try:
        done = await trio.run_process(
            list(argv), stdin=subprocess.DEVNULL, capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    except OSError as exc:
        log.error("%s cannot be run: %s", argv[0], exc.strerror)
        return False
    if done.returncode != 0:
        said = done.stdout[-_LAST_BYTES:].decode("utf-8", "replace").strip()
        log.error("%s ended with %d: %s", " ".join(argv), done.returncode, said or "it said nothing")
    return done.returncode == 0
