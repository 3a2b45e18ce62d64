"""The door to systemd: tells it how far we are (sd_notify(3)), and changes the services of others when their owner says so."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import stat
import subprocess
from collections.abc import MutableMapping
from pathlib import Path
from typing import Protocol

from supervisord_ai.core.takeover import UnitFacts
from supervisord_ai.errors import HostFault


class Notifier:
    """Where `NOTIFY_SOCKET` points; does nothing where nobody asked to be told.

    The variables are taken out of the environment: no child of ours may speak for us. `watchdog_s` is how long systemd waits
    for `alive` before it ends this process, None where it does not.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_watched = bool(self._address) and usec.isdecimal() and int(usec) > 0 and pid in {"", str(os.getpid())}
        self.watchdog_s = int(usec) / 1e6 if is_watched else None

    def __repr__(self) -> str:
        return f"<notifier {self._address or 'nobody'}>"

    def ready(self, status: str) -> None:
        """The sockets serve."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """Progress was made."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        """Raises HostFault when somebody asked to be told and cannot be reached."""
        if not self._address:
            return
        # "@" stands for the NUL of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(message.encode(), address)
            except OSError as exc:
                raise HostFault(f"NOTIFY_SOCKET {self._address}: {exc.strerror}") from exc


UNITS = Path("/etc/systemd/system")
SHOW_S = 10.0
SYSTEMCTL_S = 120.0  # systemd itself gives up a start or a stop after 90 s


class UnitFiles(Protocol):
    """What an installer asks of systemd about its own units; `Systemctl` is the machine's, `tests/fakes/units.py` is made up."""

    def reload(self) -> None:
        """Have systemd read its unit files again."""

    def enable(self, *units: str) -> None:
        """Have units started with the machine (or the user's session)."""

    def disable(self, *units: str) -> None:
        """Undo `enable`; units that are not enabled are left as they are."""

    def is_active(self, unit: str) -> bool: ...

    def start(self, unit: str) -> None: ...

    def stop(self, unit: str) -> None: ...

    def restart(self, unit: str) -> None: ...

    def leave(self, unit: str) -> None:
        """Tell the main process of our own unit to go and leave its agents (SIGUSR1); returns at once."""


class Services(Protocol):
    """What is asked of the system's services; `Systemctl` is the machine's, `tests/fakes/services.py` is made up."""

    def facts(self, unit: str) -> UnitFacts:
        """Return what systemd says of a service, drop-ins applied."""

    def start(self, unit: str) -> None: ...

    def stop(self, unit: str) -> None: ...

    def restart(self, unit: str) -> None: ...

    def drop_in(self, unit: str, name: str) -> str | None:
        """Return the text of a drop-in, None where there is none."""

    def write_drop_in(self, unit: str, name: str, text: str) -> None:
        """Write a drop-in whole or not at all, and have systemd read it."""

    def remove_drop_in(self, unit: str, name: str) -> None:
        """Remove a drop-in, and its folder if that was all, and have systemd read it."""


class Systemctl:
    """The services of this machine, by systemctl(1). Everything raises HostFault with what systemctl said."""

    def __init__(self, units: Path = UNITS, command: tuple[str, ...] = ("systemctl",)) -> None:
        self._units = units
        self._command = command

    def __repr__(self) -> str:
        return f"<systemctl {self._units}>"

    def facts(self, unit: str) -> UnitFacts:
        text = self._run("show", "--property=LoadState,ActiveState,Environment", unit)
        said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        try:
            words = shlex.split(said.get("Environment", ""))
        except ValueError as exc:
            raise HostFault(f"systemctl show {unit}: Environment cannot be read: {exc}") from exc
        environment = dict(word.split("=", 1) for word in words if "=" in word)
        state = said.get("ActiveState")
        return UnitFacts(said.get("LoadState") == "loaded", state == "active", environment, has_failed=state == "failed")

    def reload(self) -> None:
        self._run("daemon-reload")

    def enable(self, *units: str) -> None:
        self._run("enable", "--quiet", *units)

    def disable(self, *units: str) -> None:
        self._run("disable", "--quiet", *units)

    def is_active(self, unit: str) -> bool:
        return self.facts(unit).is_active

    def start(self, unit: str) -> None:
        self._run("start", unit)

    def stop(self, unit: str) -> None:
        self._run("stop", unit)

    def restart(self, unit: str) -> None:
        self._run("restart", unit)

    def leave(self, unit: str) -> None:
        self._run("kill", "--signal=SIGUSR1", "--kill-who=main", unit)

    def drop_in(self, unit: str, name: str) -> str | None:
        try:
            return self._path(unit, name).read_text()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise HostFault(f"{self._path(unit, name)}: {exc.strerror}") from exc

    def write_drop_in(self, unit: str, name: str, text: str) -> None:
        path = self._path(unit, name)
        try:
            path.parent.mkdir(mode=0o755, exist_ok=True)
            replace_file(path, text.encode(), mode=0o644)
        except OSError as exc:
            raise HostFault(f"{path}: {exc.strerror}") from exc
        self.reload()

    def remove_drop_in(self, unit: str, name: str) -> None:
        path = self._path(unit, name)
        try:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the owner's own drop-ins are in it
                path.parent.rmdir()
        except OSError as exc:
            raise HostFault(f"{path}: {exc.strerror}") from exc
        self.reload()

    def _path(self, unit: str, name: str) -> Path:
        return self._units / f"{unit}.d" / name

    def _run(self, *words: str) -> str:
        command = [*self._command, *words]
        environ = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SYSTEMCTL_S, env=environ, check=False
            )
        except OSError as exc:
            raise HostFault(f"{command[0]}: {exc.strerror}") from exc
        except subprocess.TimeoutExpired as exc:
            raise HostFault(f"{' '.join(command)}: not done within {SYSTEMCTL_S:.0f} s") from exc
        if done.returncode != 0:
            raise HostFault(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.stdout


def control_group(unit: str, command: tuple[str, ...] = ("systemctl",)) -> str:
    """Return the group of a running unit, as /proc/PID/cgroup shows it.

    Raises:
        HostFault: systemd cannot be asked, or the unit has none: it does not run.
    """
    words = [*command, *(() if os.geteuid() == 0 else ("--user",)), "show", "-p", "ControlGroup", "--value", "--", unit]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SHOW_S, check=False)
    except OSError as exc:
        raise HostFault(f"{words[0]}: {exc.strerror}") from exc
    except subprocess.TimeoutExpired as exc:
        raise HostFault(f"{' '.join(words)}: no answer within {SHOW_S:.0f} s") from exc
    if done.returncode != 0:
        raise HostFault(f"{' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    group = done.stdout.strip()
    if not group.startswith("/") or group == "/":  # empty where it does not run: that must not become the root
        raise HostFault(f"{unit} has no control group")
    return group


def replace_file(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file whole or not at all; one that is there keeps its owner and mode, unless `mode` says otherwise.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    new = path.with_name(f".{path.name}.new")
    old = path.stat() if path.exists() else None
    try:
        with new.open("wb") as file:
            file.write(content)
            if old is not None:
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), mode if mode is not None else stat.S_IMODE(old.st_mode) if old is not None else 0o644)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
