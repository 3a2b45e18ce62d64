"""`agents scale`: how many agents an entry of the config makes.

The count is changed in the config itself, and the config is read again: there is one truth, which outlives a restart of the
daemon and is seen by whoever reads the file. Numbers begin at 1 and have no gaps, so the lowest free ones come and the highest
go; who comes back is who he was (the same name, log and generation numbers).
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import tomli

from supervisord_ai.cli.door import open_door, surroundings
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles, Instead
from supervisord_ai.cli.reload import lines_of
from supervisord_ai.config import load
from supervisord_ai.config.editing import with_agent_count
from supervisord_ai.config.templates import BadTemplate, fill
from supervisord_ai.core import places
from supervisord_ai.errors import HostFault, NotRunning, UsageError
from supervisord_ai.host.systemd import replace_file


@dataclass(frozen=True)
class _Entry:
    """One [[agents]] entry and where it stands."""

    path: str
    index: int
    name: str
    agent_class: str
    count: int

    def is_meant(self, word: str) -> bool:
        try:
            first = fill(self.name, n=1, agent_class=self.agent_class, name=None)
        except BadTemplate:
            return False
        return word in {self.name, self.agent_class, first} or fnmatchcase(first, word)


def scale(args: Namespace) -> int:
    """Change the count, have the whole config checked, write it, and have the daemon read it."""
    main = os.path.abspath(places.config_path(surroundings(), args.config))
    if not os.path.exists(main):
        raise UsageError(f"there is no {main}: write a first one with `ai-supervisor config init`")
    entries = _entries(main)
    meant = [one for one in entries if one.is_meant(args.name)]
    if len(meant) != 1:
        known = ", ".join(one.name for one in entries) or "none"
        what = "more than one entry is" if meant else "no entry is"
        raise UsageError(f"{what} meant by {args.name!r}; the entries of {main} are {known}")
    entry = meant[0]
    changed = with_agent_count(_text(entry.path), entry.index, args.count)
    load(main, Instead(entry.path, changed), surroundings())
    if args.count == entry.count:
        print(json.dumps({"entry": entry.name, "before": entry.count, "after": args.count}) if args.json else "nothing changes")
        return Exit.GOOD
    try:
        replace_file(Path(entry.path), changed.encode())
    except OSError as exc:
        raise HostFault(f"{entry.path} cannot be written: {exc.strerror}") from exc
    told = _reload(args)
    if args.json:
        said = {"entry": entry.name, "file": entry.path, "before": entry.count, "after": args.count, "reload": told}
        print(json.dumps(said, indent=2))
    else:
        print(f"{entry.name}: {entry.count} -> {args.count}, in {entry.path}")
        print("\n".join(lines_of(told)) if told is not None else "no daemon runs: the next one starts with it")
    return Exit.REFUSED if told is not None and told["refused"] else Exit.GOOD


def _reload(args: Namespace) -> Any:
    try:
        return open_door(args).post("/v1/reload")
    except NotRunning:
        return None


def _entries(main: str) -> list[_Entry]:
    """Return every entry of the config and of what it includes."""
    files = DiskFiles()
    try:
        included = tomli.loads(_text(main)).get("include", [])
        found = [main]
        for pattern in included:
            found += files.matching(os.path.join(os.path.dirname(main), pattern))
        entries = []
        for path in dict.fromkeys(found):
            for index, one in enumerate(tomli.loads(_text(path)).get("agents", [])):
                entries.append(_Entry(path, index, one["name"], one["class"], one.get("count", 1)))
    except (tomli.TOMLDecodeError, KeyError, TypeError, AttributeError) as exc:
        raise UsageError(f"the config is wrong, see `ai-supervisor config check`: {exc}") from exc
    return entries


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as exc:
        raise HostFault(f"{path} cannot be read: {exc.strerror}") from exc
