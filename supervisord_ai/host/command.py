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
    trouble = await feed_command(argv, None)
    if trouble:
        log.error("%s %s", " ".join(argv), trouble)
    return not trouble


async def feed_command(argv: Sequence[str], data: bytes | None) -> str:
    """Run a command to its end with this on its standard input (None: nothing); return "" or what went wrong, in words.

    Cancelled, the command is ended first (TERM, then KILL).
    """
    stdin = subprocess.DEVNULL if data is None else data
    try:
        done = await trio.run_process(list(argv), stdin=stdin, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    except OSError as exc:
        return f"cannot be run: {exc.strerror}"
    if done.returncode == 0:
        return ""
    said = done.stdout[-_LAST_BYTES:].decode("utf-8", "replace").strip()
    return f"ended with {done.returncode}: {said or 'it said nothing'}"
