"""`upgrade`: another release takes over, the agents stay; one that cannot is not started, or is taken back.

    build beside the running one -> it reads the config and a copy of the journal, and says what units it wants -> current
      -> its units -> restart (agents stay) -> it is ready, says its version, and knows the same agents -> done

Whatever fails after the switch: the old release is current again, with its units, and is restarted, with the journal of before
if the new one had changed its tables. Nothing was promised from those in between, because who does not get ready takes no
requests.

The way back, later, is the same way with the release of before, which says its own units. A journal whose tables were changed
since is not for it: then nothing is done, and the owner is told what the journal of before would lose.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from supervisord_ai.cli.door import Door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles
from supervisord_ai.cli.install import ground_of
from supervisord_ai.config import load
from supervisord_ai.core.places import CONTROL_SOCKET
from supervisord_ai.core.units import SERVICE, SOCKETS
from supervisord_ai.errors import HostFault, SupervisorError, UsageError
from supervisord_ai.host.releases import DISTRIBUTION, Release, Releases
from supervisord_ai.host.systemd import UnitFiles, replace_file
from supervisord_ai.store import copies

READY_WITHIN_S = 60.0
PAUSE_S = 0.25
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]*")


class ReleaseDoor(Protocol):
    """What is asked of host/releases.py."""

    def current(self) -> Release | None: ...

    def previous(self) -> Release | None: ...

    def from_index(self, requirement: str, *, find_links: Path | None) -> Release: ...

    def ask(self, release: Release, *words: str) -> str: ...

    def switch(self, release: Release) -> None: ...

    def put_back(self, current: Release, previous: Release | None) -> None: ...

    def prune(self) -> None: ...


class Running(Protocol):
    """What is asked of the daemon that runs."""

    def agents(self) -> dict[str, int] | None:
        """Return the pid of every agent that has one; None while no daemon answers."""

    def version(self) -> str | None: ...

    def is_alive(self, pid: int) -> bool:
        """Tell whether an agent's process is there."""

    def wait(self, condition: Callable[[], bool], within_s: float) -> bool: ...


class Daemon:
    """The daemon of this machine."""

    def __init__(self, path: str) -> None:
        self._door = Door(path)

    def agents(self) -> dict[str, int] | None:
        try:
            told = self._door.get("/v1/agents")["agents"]
        except (SupervisorError, KeyError):
            return None
        return {one["name"]: one["pid"] for one in told if one["pid"]}

    def version(self) -> str | None:
        try:
            return str(self._door.get("/v1/status")["version"])
        except (SupervisorError, KeyError):
            return None

    def is_alive(self, pid: int) -> bool:
        return os.path.exists(f"/proc/{pid}")

    def wait(self, condition: Callable[[], bool], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_S)
        return True


def run(args: Namespace) -> int:
    if args.rollback and args.what:
        raise UsageError("--rollback goes to the release of before: leave the other away")
    if args.old_journal and not args.rollback:
        raise UsageError("--old-journal goes with --rollback")
    ground = ground_of(args)
    config = load(str(ground.config), DiskFiles(), ground.around)
    upgrade = Upgrade(
        releases=Releases(Path(ground.places.prefix)),
        units=ground.units,
        running=Daemon(f"{config.daemon.runtime_dir}/{CONTROL_SOCKET}"),
        config=str(ground.config),
        state=Path(config.daemon.state_dir),
        unit_folder=Path(ground.places.units),
        is_user=ground.is_user,
        say=ground.say,
    )
    if args.rollback:
        upgrade.back(old_journal=args.old_journal)
    else:
        upgrade.to(args.what)
    return Exit.GOOD


@dataclass(frozen=True, slots=True)
class Wanted:
    """What pip is asked for, and the folder that stands for the network."""

    requirement: str
    find_links: Path | None


def wanted(what: str | None) -> Wanted:
    """Return what a VERSION, a WHEEL or nothing (the newest) stands for.

    Raises:
        UsageError: it is neither.
    """
    if what is None:
        return Wanted(DISTRIBUTION, None)
    if what.endswith(".whl") or "/" in what:
        path = Path(what).absolute()
        if not path.is_file():
            raise UsageError(f"there is no {path}")
        return Wanted(str(path), path.parent)
    if _VERSION.fullmatch(what) is None:
        raise UsageError(f"{what} is neither a version nor a wheel: ai-supervisor upgrade 1.2.3, or ./ai_supervisor-1.2.3.whl")
    return Wanted(f"{DISTRIBUTION}=={what}", None)


@dataclass(frozen=True, slots=True)
class Was:
    """What an upgrade that failed goes back to."""

    current: Release
    previous: Release | None
    units: Mapping[str, str | None]
    is_active: bool


class Upgrade:
    """One change of the release that runs."""

    def __init__(
        self,
        *,
        releases: ReleaseDoor,
        units: UnitFiles,
        running: Running,
        config: str,
        state: Path,
        unit_folder: Path,
        say: Callable[[str], None],
        is_user: bool = False,
    ) -> None:
        self._releases = releases
        self._units = units
        self._running = running
        self._config = config
        self._state = state
        self._unit_folder = unit_folder
        self._is_user = is_user
        self._say = say
        self._has_old_journal = False

    def to(self, what: str | None) -> None:
        """Change to a version or a wheel.

        Raises:
            UsageError: it is not installed, or that is no release; nothing was changed.
            HostFault: it failed; the text says what runs now.
        """
        old = self._current()
        asked = wanted(what)
        new = self._releases.from_index(asked.requirement, find_links=asked.find_links)
        if new == old:
            self._say(f"{old.name} is current already")
            return
        self._say(f"built {new.path}")
        self._change(old, new)
        self._releases.prune()
        self._say("to take it back: ai-supervisor upgrade --rollback")

    def back(self, *, old_journal: bool = False) -> None:
        """Change to the release of before, with the journal that it last could read if it is to be so. Raises: as `to`."""
        old, new = self._current(), self._releases.previous()
        if new is None:
            raise UsageError(f"there is no release before {old.name}")
        journal = self._state / copies.JOURNAL_FILE
        copied = copies.before_last_migration(journal)
        try:
            self._check(new, journal)
        except SupervisorError as exc:
            if copied is None:
                raise HostFault(_cannot(new, exc, old)) from exc
            if not old_journal:
                raise UsageError(_would_lose(new, exc, copied)) from exc
            self._change(old, new, copied)
            return
        if old_journal:
            raise UsageError(f"{new.name} can read the journal as it is: leave --old-journal out")
        self._change(old, new)

    def _current(self) -> Release:
        current = self._releases.current()
        if current is None:
            raise UsageError("it was not installed as a service: ai-supervisor install does that, with a release to go back to")
        return current

    def _change(self, old: Release, new: Release, old_journal: Path | None = None) -> None:
        """`old_journal`: the copy that takes the journal's place."""
        try:
            self._check(new, old_journal or self._state / copies.JOURNAL_FILE)
            wanted_units = self._units_of(new)
        except SupervisorError as exc:
            raise HostFault(_cannot(new, exc, old)) from exc
        self._say(f"{new.name} reads the config and a copy of the journal")
        is_active = self._units.is_active(SERVICE)
        before = self._running.agents() if is_active else None
        was = Was(old, self._releases.previous(), self._read_units(wanted_units), is_active)
        self._releases.switch(new)
        try:
            changed = self._put_units(wanted_units)
            if old_journal is not None:
                self._take_old_journal()
            if is_active:
                self._units.restart(SERVICE)
                self._look(new, before or {})
        except SupervisorError as exc:
            self._take_back(was, why=f"{new.name}: {exc}")
        except BaseException:
            self._take_back_quietly(was)
            raise
        if not is_active:
            self._say(f"{new.name} is current; {SERVICE} is not running")
            return
        self._say(f"{new.name} runs, with the same {len(before or {})} agents")
        if SOCKETS in changed:
            systemctl = "systemctl --user" if self._is_user else "systemctl"
            self._say(f"{SOCKETS} is as before until it is restarted, which callers notice: {systemctl} restart {SOCKETS}")

    def _look(self, new: Release, before: dict[str, int]) -> None:
        """Believe that it runs. An agent may have ended meanwhile; one that lives must be known by its pid."""
        running = self._running
        if not running.wait(lambda: running.agents() is not None, READY_WITHIN_S):
            raise HostFault(f"it does not answer within {READY_WITHIN_S:.0f} s: see journalctl -u {SERVICE}")
        version = running.version()
        if version is None or not new.name.startswith(f"{version}-"):
            raise HostFault(f"version {version} answers instead")
        after = running.agents() or {}
        lost = [name for name, pid in before.items() if after.get(name) != pid and running.is_alive(pid)]
        if lost:
            raise HostFault(f"it does not know {len(lost)} agents that run, such as {lost[0]}")

    def _check(self, release: Release, journal: Path) -> None:
        """Have a release read the config and a copy of the journal; the copy stays until the next check."""
        folder = self._state / "upgrade"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)  # it was installed and has not run yet
            folder.mkdir(mode=0o700)
            copies.copy(journal, folder / copies.JOURNAL_FILE)
            self._releases.ask(release, "check-state", str(folder), "--config", self._config)
        except OSError as exc:
            raise HostFault(f"{folder}: {exc.strerror}") from exc

    # --- its units --------------------------------------------------------------------------------------------------------

    def _units_of(self, release: Release) -> dict[str, str]:
        """Return each unit's text as a release wants it: it knows its own templates, and what its daemon is to be told."""
        words = ["install", "--print", "--json", "--config", self._config]
        words += ["--user"] if self._is_user else []
        service = self._unit_folder / SERVICE
        accepted = "--accept-smaller-machine"  # said at the installation, and since then by the unit alone
        words += [accepted] if service.exists() and accepted in service.read_text() else []
        try:
            return {Path(path).name: text for path, text in json.loads(self._releases.ask(release, *words))["units"].items()}
        except (ValueError, KeyError) as exc:
            raise HostFault(f"it does not say what units it wants: {exc}") from exc

    def _read_units(self, names: Mapping[str, str]) -> dict[str, str | None]:
        paths = {name: self._unit_folder / name for name in names}
        return {name: path.read_text() if path.exists() else None for name, path in paths.items()}

    def _put_units(self, texts: Mapping[str, str | None]) -> list[str]:
        """Have these units, None: not have it; returns the names of those that were others. Drop-ins are the owner's."""
        changed = [name for name, text in self._read_units(dict.fromkeys(texts, "")).items() if text != texts[name]]
        try:
            for name in changed:
                path, text = self._unit_folder / name, texts[name]
                if text is None:
                    path.unlink()
                else:
                    replace_file(path, text.encode(), mode=None if path.exists() else 0o644)
                self._say(f"{'removed' if text is None else 'wrote'} {path}")
        except OSError as exc:
            raise HostFault(f"{self._unit_folder} cannot be written: {exc.strerror}") from exc
        if changed:
            self._units.reload()
        return changed

    # --- the way back -----------------------------------------------------------------------------------------------------

    def _take_back(self, was: Was, *, why: str) -> NoReturn:
        """Have the old release run again, and say so.

        Raises:
            HostFault: always; with what runs now.
        """
        self._say(f"it did not work: {was.current.name} comes back")
        try:
            self._restore(was)
        except SupervisorError as exc:
            raise HostFault(f"{why}; then {was.current.name} did not come back: {exc}") from exc
        raise HostFault(f"{why}; {was.current.name} {'runs again' if was.is_active else 'is current again'}")

    def _take_back_quietly(self, was: Was) -> None:
        try:
            self._restore(was)
        except SupervisorError as exc:
            self._say(f"{was.current.name} did not come back: {exc}")

    def _restore(self, was: Was) -> None:
        self._releases.put_back(was.current, was.previous)  # who failed is nothing to go back to
        self._put_units(was.units)
        journal = self._state / copies.JOURNAL_FILE
        if self._has_old_journal:
            self._let_go()
            copies.undo_put_back(journal)
        if not was.is_active:
            return
        try:
            self._check(was.current, journal)
        except SupervisorError:
            if copies.before_last_migration(journal) is None:
                raise
            self._take_old_journal()
        self._units.restart(SERVICE)
        if not self._running.wait(lambda: self._running.agents() is not None, READY_WITHIN_S):
            raise HostFault(f"it does not answer: see journalctl -u {SERVICE}")

    def _take_old_journal(self) -> None:
        self._let_go()
        aside = copies.put_back(self._state / copies.JOURNAL_FILE)
        self._has_old_journal = True
        self._say(f"the journal of before is back; the changed one is {aside}")

    def _let_go(self) -> None:
        """Have nobody hold the journal: who runs goes and leaves its agents, who does not get ready is not tried again."""
        if self._units.is_active(SERVICE):
            self._units.leave(SERVICE)
            self._running.wait(lambda: not self._units.is_active(SERVICE), READY_WITHIN_S)
        self._units.stop(SERVICE)


def _cannot(new: Release, why: SupervisorError, old: Release) -> str:
    return f"{new.name} cannot go on from this state: {why}; {old.name} stays"


def _would_lose(new: Release, why: SupervisorError, copied: Path) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(copied.stat().st_mtime))
    return (
        f"{new.name} cannot read this journal: {why}; nothing was changed. It can have the one of {since}, from before the "
        "upgrade, which knows nothing that was asked, answered or started since: ai-supervisor upgrade --rollback --old-journal"
    )


__all__ = ["Upgrade", "run"]
