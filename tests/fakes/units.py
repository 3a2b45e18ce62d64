"""A made-up machine to install on: a systemd that reads unit files when it is told to, users, and releases without contents."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from supervisord_ai.core.units import HOLDER, SERVICE, SOCKETS
from supervisord_ai.errors import HostFault
from supervisord_ai.host.releases import Release
from supervisord_ai.store import copies


@dataclass
class FakeUnits:
    """Knows the units that were in the folder when it last read it. `deeds` are in their order."""

    folder: Path
    deeds: list[str] = field(default_factory=list)
    active: set[str] = field(default_factory=set)
    enabled: set[str] = field(default_factory=set)
    fails: set[str] = field(default_factory=set)
    _known: set[str] = field(default_factory=set)

    def reload(self) -> None:
        self._deed("reload")
        self._known = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()

    def enable(self, *units: str) -> None:
        for unit in units:
            self._need(unit, on_disk=True)
        self.enabled |= set(units)

    def disable(self, *units: str) -> None:
        self.enabled -= set(units)

    def is_active(self, unit: str) -> bool:
        return unit in self.active

    def start(self, unit: str) -> None:
        self._deed(f"start {unit}")
        self._need(unit)
        self.active |= {unit, SOCKETS, HOLDER} if unit == SERVICE else {unit}

    def stop(self, unit: str) -> None:
        self._deed(f"stop {unit}")
        self._need(unit)
        self.active -= {unit} if unit == SERVICE else {unit, SERVICE}  # who needs it goes with it

    def restart(self, unit: str) -> None:
        self._deed(f"restart {unit}")
        self._need(unit)
        self.active.add(unit)

    def leave(self, unit: str) -> None:
        self._deed(f"leave {unit}")
        self._need(unit)
        self.active.discard(unit)

    def _need(self, unit: str, *, on_disk: bool = False) -> None:
        known = {path.name for path in self.folder.iterdir()} if on_disk and self.folder.exists() else self._known
        if unit not in known:
            raise HostFault(f"systemctl: Unit {unit} could not be found.")

    def _deed(self, words: str) -> None:
        self.deeds.append(words)
        if words in self.fails:
            self.fails.discard(words)
            raise HostFault(f"{words}: systemd said no")


@dataclass
class FakeUsers:
    """Users by name; True for those that were made here."""

    known: dict[str, bool] = field(default_factory=dict)

    def exists(self, name: str) -> bool:
        return name in self.known

    def make(self, name: str) -> None:
        self.known[name] = True

    def is_ours(self, name: str) -> bool:
        return self.known.get(name, False)

    def remove(self, name: str) -> None:
        del self.known[name]


@dataclass
class FakeReleases:
    """Releases that are empty folders; `contents` is what the next one is built of.

    A release reads journals up to the schema that `reads` says, and wants the units that `units` says: none, where it says none.
    """

    prefix: Path
    contents: str = "1.0-aaa"
    refuses: set[str] = field(default_factory=set)  # releases that cannot go on from a state
    reads: dict[str, int] = field(default_factory=dict)
    units: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[tuple[str, Path | None]] = field(default_factory=list)
    told: list[tuple[str, ...]] = field(default_factory=list)
    linked: dict[str, Release] = field(default_factory=dict)

    @property
    def command(self) -> Path:
        return self.prefix / "current" / "bin" / "ai-supervisor"

    def current(self) -> Release | None:
        return self.linked.get("current")

    def previous(self) -> Release | None:
        return self.linked.get("previous")

    def from_running(self, extras: dict[str, bytes]) -> Release:
        return self._built(self.contents)

    def from_index(self, requirement: str, *, find_links: Path | None) -> Release:
        self.asked.append((requirement, find_links))
        return self._built(self.contents)

    def ask(self, release: Release, *words: str) -> str:
        self.told.append((release.name, *words))
        if words[0] == "install":
            return json.dumps({"units": {f"/units/{name}": text for name, text in self.units.get(release.name, {}).items()}})
        journal = Path(words[1], "journal.db")
        known = self.reads.get(release.name, 99)
        if release.name in self.refuses or (journal.exists() and copies.schema_of(journal) > known):
            raise HostFault("it says: the journal has schema 3, this version knows up to 2")
        return ""

    def switch(self, release: Release) -> None:
        was = self.current()
        if was is not None and was != release:
            self.linked["previous"] = was
        self.linked["current"] = release

    def put_back(self, current: Release, previous: Release | None) -> None:
        self.linked = {"current": current} if previous is None else {"current": current, "previous": previous}

    def prune(self) -> None:
        pass

    def remove(self) -> None:
        for folder in sorted(self.prefix.rglob("*"), reverse=True):
            folder.rmdir()
        self.prefix.rmdir()

    def _built(self, name: str) -> Release:
        path = self.prefix / "releases" / name
        path.mkdir(parents=True, exist_ok=True)
        return Release(path)
