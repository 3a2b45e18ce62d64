"""Reads `[[alerts]]` and `[notify]`: a condition that cannot be read is a problem on its line, like any other key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from supervisord_ai.config.reading import Entry, Reader
from supervisord_ai.config.schema import AlertTable, NotifyTable
from supervisord_ai.config.units import shown
from supervisord_ai.core.alerts import AlertSpec, Notify, rule_of
from supervisord_ai.core.conditions import BadCondition

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URL = re.compile(r"https?://[^/\s]+\S*")


def read_notify(reader: Reader, entry: Entry | None) -> Notify:
    """Return whom alerts tell that name nobody themselves."""
    return Notify() if entry is None else _notify(reader, entry, reader.table(NotifyTable, entry, {}, "notify"))


def read_alerts(reader: Reader, entries: Sequence[Entry], backends: Sequence[str]) -> tuple[AlertSpec, ...]:
    """Return every entry that is good. `backends` are the names that a condition may speak of."""
    alerts: dict[str, AlertSpec] = {}
    for entry in entries:
        values = reader.table(AlertTable, entry, {}, "alerts")
        raw = entry.raw if isinstance(entry.raw, dict) else {}
        command, url = values.pop("command", ()), values.pop("url", "")
        if isinstance(raw.get("notify"), dict):
            values["notify"] = _notify(reader, entry.under("notify", raw["notify"]), {"command": command, "url": url})
        name = values.get("name")
        if name is None:
            if raw and "name" not in raw:
                reader.problem(entry.document, (*entry.path, "name"), "is missing")
        elif NAME.fullmatch(name) is None:
            reader.problem(entry.document, (*entry.path, "name"), "is not a name: letters, digits, `.`, `_` and `-`, at most 64")
        elif name in alerts:
            reader.problem(entry.document, (*entry.path, "name"), f"{shown(name)} is the name of another")
        elif "when" in values or "when" not in raw:
            spec = AlertSpec(**values)
            try:
                rule_of(spec, Notify(), backends)
            except BadCondition as exc:
                reader.problem(entry.document, (*entry.path, "when"), str(exc))
            else:
                alerts[name] = spec
    return tuple(alerts.values())


def _notify(reader: Reader, entry: Entry, values: dict[str, Any]) -> Notify:
    notify = Notify(**values)
    if notify.url and _URL.fullmatch(notify.url) is None:
        what = f'must begin with "https://" or "http://", not {shown(notify.url[:12])}'
        reader.problem(entry.document, (*entry.path, "url"), what)
        notify = replace(notify, url="")
    if notify.command and not notify.command[0]:
        reader.problem(entry.document, (*entry.path, "command"), 'must begin with a program, such as ["notify-send", "ai"]')
        notify = replace(notify, command=())
    return notify
