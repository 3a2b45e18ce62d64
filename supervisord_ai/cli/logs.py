"""How the daemon writes its log: a line a deed on stderr, for a person at a terminal or for systemd's journal.

Under systemd a line is an entry of the journal with fields: PRIORITY (`journalctl -p warning`), and AGENT, REQUEST_ID and CAUSE
where it has them (`journalctl AGENT=sonnet-07`). Where journald takes no entry it is a line on stderr with its priority before it
(`<4>`, sd-daemon(3)). What an agent, a model or a caller chose may stand in a line: what a terminal would obey is escaped here,
once, for every line there is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Protocol

from supervisord_ai.errors import HostFault

IDENTIFIER = "ai-supervisor"
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Journal(Protocol):
    """Where entries go: host/journald.py."""

    def send(self, fields: Mapping[str, str]) -> None:
        """Raises HostFault where nobody took it."""


class LineFormatter(logging.Formatter):
    """Formats a record; a traceback keeps its lines, each with the priority."""

    def __init__(self, *, for_journal: bool, pattern: str | None = None) -> None:
        usual = "%(name)s: %(message)s" if for_journal else "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        super().__init__(pattern or usual)
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


class JournalHandler(logging.Handler):
    """Sends each record to journald as an entry of its own; what journald does not take goes another way."""

    def __init__(self, journal: Journal, otherwise: logging.Handler) -> None:
        super().__init__()
        self._journal = journal
        self._otherwise = otherwise
        self.setFormatter(LineFormatter(for_journal=False, pattern="%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._journal.send({"MESSAGE": self.format(record), **fields_of(record)})
        except HostFault:
            self._otherwise.handle(record)


# How our lines begin says whose deed they tell: a rule of the house, so that no call has to say it twice.
_WHOSE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("request %s of %s", ("REQUEST_ID", "AGENT")),
    ("agent %s", ("AGENT",)),
    ("%s refused: ", ("AGENT",)),
)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Return what a record says beside its text, as fields of the journal. A line that ends with ": %s" ends with its cause."""
    fields = {"PRIORITY": str(PRIORITIES.get(record.levelno, 6)), "SYSLOG_IDENTIFIER": IDENTIFIER, "LOGGER": record.name}
    said = record.args if isinstance(record.args, tuple) else ()
    for beginning, names in _WHOSE:
        if isinstance(record.msg, str) and record.msg.startswith(beginning):
            fields |= {name: escaped(str(value)) for name, value in zip(names, said, strict=False)}
            break
    if isinstance(record.msg, str) and record.msg.endswith(": %s") and said:
        fields["CAUSE"] = escaped(str(said[-1]))
    return fields


def escaped(text: str) -> str:
    """Return text with every character escaped that a terminal would obey; a tab stays."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode() for char in text)


def is_journal(environ: Mapping[str, str], stderr: os.stat_result) -> bool:
    """Tell whether stderr goes to systemd's journal: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    return environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
