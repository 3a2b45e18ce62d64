"""Where each alert stood, so that a restart neither tells of it again nor forgets to tell that it is over."""

from __future__ import annotations

from dataclasses import astuple

from supervisord_ai.store.database import Database
from supervisord_ai.store.rows import AlertRecord
from supervisord_ai.store.writes import Change

__all__ = ["AlertJournal", "AlertRecord"]

_COLUMNS = "name, rule, state, since_wall, told"


class AlertJournal:
    """The table of alerts. What is put is written with the next commit: a notice told twice does less harm than a wait."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> dict[str, AlertRecord]:
        """Return what is known of every alert, by name."""
        return {row[0]: AlertRecord(*row) for row in self._database.read(f"SELECT {_COLUMNS} FROM alerts")}

    def put(self, record: AlertRecord) -> None:
        self._database.queue(Change(f"REPLACE INTO alerts({_COLUMNS}) VALUES (?,?,?,?,?)", astuple(record)))

    def forget(self, name: str) -> None:
        """It is not watched any more."""
        self._database.queue(Change("DELETE FROM alerts WHERE name = ?", (name,)))
