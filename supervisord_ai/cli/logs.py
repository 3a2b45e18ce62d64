"""How the daemon writes its log: a line a deed on stderr, for a person at a terminal or for systemd's journal.

Under systemd each line begins with its priority (`<4>`, sd-daemon(3)), so that `journalctl -p warning` finds it. What an agent, a
model or a caller chose may stand in a line: what a terminal would obey is escaped here, once, for every line there is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class LineFormatter(logging.Formatter):
    """Formats a record; a traceback keeps its lines, each with the priority."""

    def __init__(self, *, for_journal: bool) -> None:
        super().__init__("%(name)s: %(message)s" if for_journal else "%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines, without anything that a terminal would obey."""
        lines = [escaped(line) for line in super().format(record).split("\n")]
        if self._for_journal:
            priority = PRIORITIES.get(record.levelno, 6)
            lines = [f"<{priority}>{line}" for line in lines]
        return "\n".join(lines)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the message as one line: whoever wrote a line break into it gets it shown."""
        record.message = record.message.replace("\n", "\\n")
        return super().formatMessage(record)


def escaped(text: str) -> str:
    """Return text with every character escaped that a terminal would obey; a tab stays."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode() for char in text)


def is_journal(environ: Mapping[str, str], stderr: os.stat_result) -> bool:
    """Tell whether stderr goes to systemd's journal: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    return environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
