"""`upgrade`: another release takes over, the agents stay; one that cannot is not started, or is taken back.

    build beside the running one -> it reads the config and a copy of the journal -> current -> restart (agents stay)
      -> it is ready, says its version, and knows the same agents -> done

Whatever fails after the switch: the old release is current again and is restarted, with the journal of before if the new one
had changed its tables. Nothing was promised from those in between, because who does not get ready takes no requests.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from supervisord_ai.cli.door import Door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles
from supervisord_ai.cli.install import ground_of
from supervisord_ai.config import load
from supervisord_ai.core.places import CONTROL_SOCKET
from supervisord_ai.core.units import SERVICE
from supervisord_ai.errors import HostFault, SupervisorError, UsageError
from supervisord_ai.host.releases import DISTRIBUTION, Release, Releases
from supervisord_ai.host.systemd import UnitFiles
from supervisord_ai.store import copies

READY_WITHIN_S = 60.0
PAUSE_S = 0.25
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]*")


class ReleaseDoor(Protocol):
    """What is asked of host/releases.py."""

    def current(self) -> Release | None: ...

    def previous(self) -> Release | None: ...

    def from_index(self, requirement: str, *, find_links: Path | None) -> Release: ...

    def check(self, release: Release, *words: str) -> None: ...

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
    ground = ground_of(args)
    config = load(str(ground.config), DiskFiles(), ground.around)
    upgrade = Upgrade(
        releases=Releases(Path(ground.places.prefix)),
        units=ground.units,
        running=Daemon(f"{config.daemon.runtime_dir}/{CONTROL_SOCKET}"),
        config=str(ground.config),
        state=Path(config.daemon.state_dir),
        say=ground.say,
    )
    if args.rollback:
        upgrade.back()
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
        say: Callable[[str], None],
    ) -> None:
        self._releases = releases
        self._units = units
        self._running = running
        self._config = config
        self._state = state
        self._say = say

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

    def back(self) -> None:
        """Change to the release of before. Raises: as `to`."""
        old, new = self._current(), self._releases.previous()
        if new is None:
            raise UsageError(f"there is no release before {old.name}")
        self._change(old, new)

    def _current(self) -> Release:
        current = self._releases.current()
        if current is None:
            raise UsageError("it was not installed as a service: ai-supervisor install does that, with a release to go back to")
        return current

    def _change(self, old: Release, new: Release) -> None:
        try:
            self._check(new)
        except SupervisorError as exc:
            raise HostFault(f"{new.name} cannot go on from this state: {exc}; {old.name} stays") from exc
        self._say(f"{new.name} reads the config and a copy of the journal")
        is_active = self._units.is_active(SERVICE)
        before = self._running.agents() if is_active else None
        older = self._releases.previous()
        self._releases.switch(new)
        if not is_active:
            self._say(f"{new.name} is current; {SERVICE} is not running")
            return
        try:
            self._units.restart(SERVICE)
            self._look(new, before or {})
        except SupervisorError as exc:
            self._take_back(old, older, why=f"{new.name}: {exc}")
        except BaseException:
            self._take_back_quietly(old, older)
            raise
        self._say(f"{new.name} runs, with the same {len(before or {})} agents")

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

    def _check(self, release: Release) -> None:
        """Have a release read the config and a copy of the journal; the copy stays until the next check."""
        folder = self._state / "upgrade"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            copies.copy(self._state / copies.JOURNAL_FILE, folder / copies.JOURNAL_FILE)
            self._releases.check(release, "check-state", str(folder), "--config", self._config)
        except OSError as exc:
            raise HostFault(f"{folder}: {exc.strerror}") from exc

    # --- the way back -----------------------------------------------------------------------------------------------------

    def _take_back(self, old: Release, older: Release | None, *, why: str) -> None:
        """Have the old release run again, and say so.

        Raises:
            HostFault: always; with what runs now.
        """
        self._say(f"it did not work: {old.name} comes back")
        try:
            self._restore(old, older)
        except SupervisorError as exc:
            raise HostFault(f"{why}; then {old.name} did not come back: {exc}") from exc
        raise HostFault(f"{why}; {old.name} runs again")

    def _take_back_quietly(self, old: Release, older: Release | None) -> None:
        try:
            self._restore(old, older)
        except SupervisorError as exc:
            self._say(f"{old.name} did not come back: {exc}")

    def _restore(self, old: Release, older: Release | None) -> None:
        self._releases.put_back(old, older)  # who failed is nothing to go back to
        try:
            self._check(old)
        except SupervisorError:
            # The new one changed the tables, and holds the file while it runs or systemd tries it again and again.
            if self._units.is_active(SERVICE):
                self._units.leave(SERVICE)
                self._running.wait(lambda: not self._units.is_active(SERVICE), READY_WITHIN_S)
            self._units.stop(SERVICE)
            aside = copies.put_back(self._state / copies.JOURNAL_FILE)
            if aside is None:
                raise
            self._say(f"the journal of before is back; the changed one is {aside}")
        self._units.restart(SERVICE)
        if not self._running.wait(lambda: self._running.agents() is not None, READY_WITHIN_S):
            raise HostFault(f"it does not answer: see journalctl -u {SERVICE}")


__all__ = ["Upgrade", "run"]
