"""`install` and `uninstall`: ai-supervisor as a service of the system, or with --user of one user's own systemd.

    look -> the config as it will be, checked -> the agents' user -> config and owner -> a release -> units -> enabled

Nothing is changed before everything was checked. Every step looks first, so a second run does what is left to do and nothing
else. What is running goes on as it is until it is restarted, which leaves the agents where they are.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from supervisord_ai.cli.door import surroundings
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import Instead, shipped_config, shipped_unit
from supervisord_ai.cli.first import AGENTS_USER, first_config
from supervisord_ai.cli.run import check_users
from supervisord_ai.config import Config, load
from supervisord_ai.config.editing import with_owner
from supervisord_ai.config.plan import too_small
from supervisord_ai.core.memory_plan import judge_machine
from supervisord_ai.core.places import LLM_SOCKET, InstallPlaces, Surroundings, config_path, install_places
from supervisord_ai.core.takeover import DROP_IN
from supervisord_ai.core.units import HOLDER, SERVICE, SOCKETS, UNITS, Installation, fleet_bytes, has_other_users, render
from supervisord_ai.errors import ConfigError, HostFault, Problem, UsageError
from supervisord_ai.host.cgroup import parse_mounts, word
from supervisord_ai.host.memory import machine_memory
from supervisord_ai.host.releases import Release, Releases
from supervisord_ai.host.state_folder import holder_of
from supervisord_ai.host.systemd import Systemctl, UnitFiles, replace_file
from supervisord_ai.host.users import SystemUsers, Users

SUDO_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # secure_path of Debian's sudoers


class ReleaseDoor(Protocol):
    """What is asked of host/releases.py."""

    @property
    def command(self) -> Path: ...

    def current(self) -> Release | None: ...

    def from_running(self, extras: dict[str, bytes]) -> Release: ...

    def switch(self, release: Release) -> None: ...

    def remove(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ground:
    """What an installation stands on: where it goes, for whom, and the doors to the machine."""

    places: InstallPlaces
    around: Surroundings
    config: Path
    owner: str | None
    units: UnitFiles
    users: Users
    releases: ReleaseDoor
    machine_bytes: int
    say: Callable[[str], None]
    is_user: bool = False
    python: Path = Path(sys.executable)


def run(args: Namespace) -> int:
    if args.action == "install" and args.json and not args.print_units:
        raise UsageError("--json is for what --print prints")
    ground = ground_of(args)
    if args.action == "uninstall":
        uninstall(ground)
        return Exit.GOOD
    if args.print_units:
        units = {str(Path(ground.places.units) / name): text for name, text in rendered(ground, plan(ground, args))}
        print(json.dumps({"units": units}) if args.json else "\n".join(f"# {path}\n{text}" for path, text in units.items()))
        return Exit.GOOD
    install(ground, plan(ground, args), is_now=args.now)
    return Exit.GOOD


def ground_of(args: Namespace) -> Ground:
    """Look where we are.

    Raises:
        UsageError: nothing can be installed here; says what to do instead.
    """
    here = surroundings()
    verb = args.action
    only_looks = verb == "install" and args.print_units
    if not args.user and here.uid != 0 and not only_looks:
        raise UsageError(f"only root may {verb} a system's service: sudo {as_root()} {verb}, or for yourself alone: --user")
    if args.user and here.uid == 0:
        raise UsageError(f"root {verb}s a service of the system: leave --user out")
    runtime = here.env.get("XDG_RUNTIME_DIR", "")
    is_there = os.path.exists(f"{runtime}/systemd/private") if args.user else os.path.isdir("/run/systemd/system")
    if not is_there and not only_looks:
        hint = "log in as yourself (not by su or sudo)" if args.user else "on WSL2: [boot] systemd=true in /etc/wsl.conf"
        whose = "your own systemd does not run" if args.user else "this system is not run by systemd"
        raise UsageError(f"{whose}: {hint}; or start `ai-supervisor run` by what starts your programs")
    if is_there and not _has_memory_limits():
        raise UsageError(
            "the memory of services cannot be limited here, there is no cgroup v2 for it: on WSL2: wsl --update, "
            "or kernelCommandLine=cgroup_no_v1=all in .wslconfig"
        )
    # What the daemon will see, and not what this shell has: no AI_SUPERVISOR_* of somebody's session.
    around = Surroundings(here.uid, here.home, {"XDG_RUNTIME_DIR": runtime}) if args.user else Surroundings(0, "/root", {})
    places = install_places(here, is_user=args.user)
    owner = None if args.user else here.env.get("SUDO_USER")
    return Ground(
        places=places,
        around=around,
        config=Path(os.path.abspath(config_path(around, args.config))),
        owner=owner if owner != "root" else None,
        units=Systemctl(Path(places.units), ("systemctl", "--user") if args.user else ("systemctl",)),
        users=SystemUsers(),
        releases=Releases(Path(places.prefix)),
        machine_bytes=machine_memory().total_bytes,
        say=lambda line: print(line, flush=True),
        is_user=args.user,
    )


def as_root(prefix: Path = Path(sys.prefix), path: str = SUDO_PATH) -> str:
    """Return how root types our command: sudo looks in the system's folders alone, and ours may be in none of them yet."""
    own = prefix / "bin" / "ai-supervisor"
    if shutil.which("ai-supervisor", path=path) is not None:
        return "ai-supervisor"
    return shlex.quote(str(own)) if own.exists() else f"{shlex.quote(sys.executable)} -P -m supervisord_ai"


def _has_memory_limits() -> bool:
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    return any(mount.is_v2 and "memory" in word(mount.point / "cgroup.controllers").split() for mount in mounts)


# --- what is to be ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be installed: the config as it will be, and whether it is a first one that its owner has yet to edit."""

    config: Config
    text: str
    is_first: bool
    accepts_smaller_machine: bool


def plan(ground: Ground, args: Namespace) -> Plan:
    """Return what will be, or refuse it.

    Raises:
        ConfigError, UsageError: everything that is wrong with the config; nothing was changed.
    """
    is_first = not ground.config.exists()
    text = first_config(ground.machine_bytes, has_agents_user=not ground.is_user) if is_first else _text_of(ground.config)
    if ground.owner is not None:
        text = with_owner(text, ground.owner)
    config = load(str(ground.config), Instead(str(ground.config), text), ground.around)
    problems = tuple(_user_problems(config, ground))
    if problems:
        raise ConfigError(problems)
    small = judge_machine(config.memory, ground.machine_bytes)
    if small is not None and not is_first and not args.accept_smaller_machine:
        raise UsageError(too_small(small).replace("run with", "install with"))
    return Plan(config, text, is_first, args.accept_smaller_machine)


def _user_problems(config: Config, ground: Ground) -> Iterator[Problem]:
    for problem in check_users(config, ground.around.uid):
        if f"no user '{AGENTS_USER}'" in problem.what and not ground.is_user:
            continue  # it will be made
        yield problem


def rendered(ground: Ground, planned: Plan) -> list[tuple[str, str]]:
    """Return each unit's name and text."""
    config = planned.config
    one = Installation(
        program=str(ground.releases.command),
        config=str(ground.config),
        llm_socket=f"{config.daemon.runtime_dir}/{LLM_SOCKET}",
        tcp=config.listen.tcp,
        fleet_bytes=fleet_bytes(config.memory, keeps_engine=any(backend.command for backend in config.backends)),
        is_shared=has_other_users(config.roster, ground.around.uid),
        is_user=ground.is_user,
        accepts_smaller_machine=planned.accepts_smaller_machine,
    )
    return [(name, render(shipped_unit(name), one)) for name in UNITS]


# --- doing it -----------------------------------------------------------------------------------------------------------


def install(ground: Ground, planned: Plan, *, is_now: bool) -> None:
    """Do what is left to do.

    Raises:
        UsageError: something is in the way.
        HostFault: the machine said no; what was done before stays, and a second run goes on from there.
    """
    say, places = ground.say, ground.places
    was_active = ground.units.is_active(SERVICE)
    if is_now and not was_active and (pid := holder_of(Path(planned.config.daemon.state_dir))) is not None:
        raise UsageError(f"a daemon runs that systemd did not start (pid {pid}): stop it first (ai-supervisor stop)")
    if not ground.is_user and not ground.users.exists(AGENTS_USER):
        ground.users.make(AGENTS_USER)
        say(f"made the user {AGENTS_USER}, for agents")
    _write_config(ground, planned)
    release = ground.releases.from_running(_extras())
    if ground.releases.current() != release:
        ground.releases.switch(release)
        say(f"built {release.path}")
    _link_command(ground)
    changed = [name for name, text in rendered(ground, planned) if _write(Path(places.units) / name, text, say)]
    ground.units.reload()  # also where nothing changed: a first run may have ended just before
    ground.units.enable(SOCKETS, SERVICE)
    say(f"{SERVICE} starts with {'your session' if ground.is_user else 'the machine'}")
    if is_now:
        _start(ground, was_active=was_active, has_new_sockets=SOCKETS in changed)
    for line in _next(ground, planned, was_active=was_active, is_now=is_now):
        say(line)


def _start(ground: Ground, *, was_active: bool, has_new_sockets: bool) -> None:
    if was_active and has_new_sockets:
        ground.units.restart(SOCKETS)  # the service needs them, and is restarted with them
    elif was_active:
        ground.units.restart(SERVICE)
    else:
        ground.units.start(SERVICE)
    ground.say(f"{SERVICE} runs" + (", its agents stayed as they were" if was_active else ""))


def _next(ground: Ground, planned: Plan, *, was_active: bool, is_now: bool) -> Iterator[str]:
    systemctl = "systemctl --user" if ground.is_user else "sudo systemctl"
    if planned.is_first and not is_now:
        sudo = "" if ground.is_user else "sudo "
        yield f"next: {sudo}ai-supervisor agents add NAME --class opus -- CMD, then: {systemctl} start {SERVICE}"
    elif was_active and not is_now:
        yield f"next: {systemctl} restart {SERVICE} (its agents stay)"
    elif not is_now:
        yield f"next: {systemctl} start {SERVICE}"
    else:
        yield "next: ai-supervisor status"
    if ground.is_user:
        yield "to have it run while you are not logged in: loginctl enable-linger"
    elif ground.owner is not None and (closed := closed_to_others(ground.python)) is not None:
        yield f"{ground.owner} needs sudo for ai-supervisor: its Python is below {closed}, which only root may enter"
    elif ground.owner is not None:
        yield f"{ground.owner} may use it without sudo: ai-supervisor status"


def closed_to_others(python: Path) -> Path | None:
    """Return the folder that keeps other users from a Python, if there is one: a release has links to it, not a copy."""
    parents = [*reversed(python.resolve().parents)]
    return next((folder for folder in parents if not folder.stat().st_mode & 0o001), None)


def _write_config(ground: Ground, planned: Plan) -> None:
    folder = ground.config.parent
    try:
        for made in (folder, folder / "agents.d"):
            made.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as exc:
        raise HostFault(f"{folder}: {exc.strerror}") from exc
    if planned.is_first:
        _write(ground.config, planned.text, ground.say)
    elif planned.text != _text_of(ground.config):
        _write(ground.config, planned.text, lambda _: ground.say(f"{ground.config} says now that {ground.owner} is the owner"))


def _link_command(ground: Ground) -> None:
    link, command = Path(ground.places.command), ground.releases.command
    if link.is_symlink() and Path(os.readlink(link)) == command:
        return
    if link.exists() or link.is_symlink():
        ground.say(f"{link} is somebody else's and stays: the command of this installation is {command}")
        return
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(command)
    except OSError as exc:
        raise HostFault(f"{link}: {exc.strerror}") from exc
    ground.say(f"the command is {link}")


def _write(path: Path, text: str, say: Callable[[str], None]) -> bool:
    """Write a file unless it says that already; returns whether it did not."""
    try:
        if path.is_file() and path.read_bytes() == text.encode():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode(), mode=None if path.exists() else 0o644)
    except OSError as exc:
        raise HostFault(f"{path} cannot be written: {exc.strerror}") from exc
    say(f"wrote {path}")
    return True


def _extras() -> dict[str, bytes]:
    """Return what a checkout has outside the package and a release has inside."""
    return {"config/shipped.toml": shipped_config(), **{f"units/{name}": shipped_unit(name).encode() for name in UNITS}}


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror if isinstance(exc, OSError) else 'it is not UTF-8'}") from exc


# --- undoing it ---------------------------------------------------------------------------------------------------------


def uninstall(ground: Ground) -> None:
    """Undo everything but what is the owner's: config, state and logs stay.

    Raises:
        UsageError: an Ollama still listens behind us.
        HostFault: the machine said no; a second run goes on from there.
    """
    places, say = ground.places, ground.say
    moved = next(Path(places.units).glob(f"*.d/{DROP_IN}"), None)
    if moved is not None:
        raise UsageError(f"{moved.parent.name.removesuffix('.d')} was moved behind us: first ai-supervisor takeover --undo")
    files = [Path(places.units) / name for name in UNITS]
    if any(file.exists() for file in files):
        for unit in (SERVICE, SOCKETS, HOLDER):
            if ground.units.is_active(unit):
                ground.units.stop(unit)
                say(f"stopped {unit}")
        ground.units.disable(SOCKETS, SERVICE)
        for file in files:
            _remove(file, say)
        ground.units.reload()
    link = Path(places.command)
    if link.is_symlink() and Path(os.readlink(link)) == ground.releases.command:
        _remove(link, say)
    if Path(places.prefix).exists():
        ground.releases.remove()
        say(f"removed {places.prefix}")
    if not ground.is_user and ground.users.is_ours(AGENTS_USER):
        ground.users.remove(AGENTS_USER)
        say(f"removed the user {AGENTS_USER}")
    for line in _left(ground):
        say(line)


def _left(ground: Ground) -> Iterator[str]:
    left = [ground.config.parent] if ground.config.exists() else []
    try:
        where = load(str(ground.config), Instead(str(ground.config), _text_of(ground.config)), ground.around).daemon
        left += [path for path in (Path(where.state_dir), Path(where.log_dir)) if path.exists()]
    except (ConfigError, UsageError):
        pass
    if left:
        yield "left, because it is yours: " + ", ".join(map(str, left))
    else:
        yield "nothing is left"


def _remove(path: Path, say: Callable[[str], None]) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise HostFault(f"{path}: {exc.strerror}") from exc
    say(f"removed {path}")


__all__ = ["Ground", "Plan", "ground_of", "install", "run", "uninstall"]
