"""The exit codes, the same for every command."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a shell script may rely on."""

    GOOD = 0
    NO = 1  # degraded, or the answer is no
    USAGE = 2  # the command or the config is wrong; nothing was done
    NOT_RUNNING = 3
    REFUSED = 4  # the daemon said no
    INTERRUPTED = 130  # as a shell reports SIGINT
