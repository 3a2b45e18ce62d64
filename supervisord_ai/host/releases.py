"""Builds releases beside the one that runs, and switches between them.

    PREFIX/releases/VERSION-DIGEST/   one release: an environment of its own, never changed once it has its name
    PREFIX/current                    a link to the one that starts next
    PREFIX/previous                   a link to the one that was current before

A daemon loads modules for as long as it lives, so what it runs from must not change: `bin/ai-supervisor` of a release follows
the link once, and then runs from the release's own folder. The name holds a digest of everything in it, so a version that was
built again with other contents is another release.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import supervisord_ai
from supervisord_ai.errors import HostFault

log = logging.getLogger(__name__)

DISTRIBUTION = "supervisord-ai"
COMMAND = """\
#!/bin/sh
# Follows the links that led here once, so that a release that becomes current later changes nothing for this process; nor does
# a PYTHONPATH of whoever calls.
exec "$(dirname -- "$(readlink -f -- "$0")")/python" -I -m supervisord_ai "$@"
"""
KEPT = 3
BUILD_S = 900.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOW_IT_CAME = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})  # not what it is


@dataclass(frozen=True, slots=True)
class Release:
    """One built release."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def command(self) -> Path:
        return self.path / "bin" / "ai-supervisor"


class Releases:
    """The releases of one installation. Everything raises HostFault with what went wrong; a release is there whole or not."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._all = prefix / "releases"

    def __repr__(self) -> str:
        return f"<releases in {self._prefix}>"

    @property
    def command(self) -> Path:
        """The command of whichever release is current."""
        return self._prefix / "current" / "bin" / "ai-supervisor"

    def current(self) -> Release | None:
        return self._linked("current")

    def previous(self) -> Release | None:
        return self._linked("previous")

    def from_running(self, extras: dict[str, bytes]) -> Release:
        """Build a release of what runs now; `extras` are files of the package that a checkout has elsewhere."""

        def fill(site: Path) -> None:
            self._take_dependencies(site)
            own = site / "supervisord_ai"
            _copy_tree(Path(supervisord_ai.__file__).parent, own)
            for name, content in extras.items():
                (own / name).parent.mkdir(exist_ok=True)
                (own / name).write_bytes(content)

        return self._build(fill)

    def from_index(self, requirement: str, *, find_links: Path | None) -> Release:
        """Build a release of a wheel, or of a version from the package index.

        With `find_links` no network is used: what it needs is in the running release already, or lies in that folder.
        """

        def fill(site: Path) -> None:
            self._take_dependencies(site)
            offline = [] if find_links is None else ["--no-index", "--find-links", str(find_links)]
            python = site.parent.parent.parent / "bin" / "python"
            _run([str(python), *_pip(site), "install", "--quiet", "--disable-pip-version-check", "--no-compile", *offline,
                  "--no-warn-script-location", requirement], "the release cannot be built")  # fmt: skip

        return self._build(fill)

    def ask(self, release: Release, *words: str) -> str:
        """Run a command of a release to its end, which must be a good one; returns what it printed."""
        return _run([str(release.command), *words], "it says")

    def switch(self, release: Release) -> None:
        """Make it the current one; the one that was becomes the previous."""
        was = self.current()
        try:
            if was is not None and was != release:
                self._link("previous", was)
            self._link("current", release)
        except OSError as exc:
            raise HostFault(f"{self._prefix}: {exc.strerror}") from exc

    def put_back(self, current: Release, previous: Release | None) -> None:
        """Undo a switch: both are again what they were before it."""
        try:
            self._link("current", current)
            if previous is not None:
                self._link("previous", previous)
            else:
                (self._prefix / "previous").unlink(missing_ok=True)
        except OSError as exc:
            raise HostFault(f"{self._prefix}: {exc.strerror}") from exc

    def prune(self) -> None:
        """Remove the oldest releases; the last few, the current and the previous one stay."""
        stay = {release.path for release in (self.current(), self.previous()) if release is not None}
        built = sorted((path for path in self._all.iterdir() if not path.name.startswith(".")), key=lambda p: p.stat().st_mtime)
        for path in [path for path in built[:-KEPT] if path not in stay]:
            shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        """Remove all of it."""
        try:
            if self._prefix.exists():
                shutil.rmtree(self._prefix)
        except OSError as exc:
            raise HostFault(f"{self._prefix}: {exc.strerror}") from exc

    # --- building ---------------------------------------------------------------------------------------------------------

    def _build(self, fill: Callable[[Path], None]) -> Release:
        draft = self._all / f".new-{os.getpid()}"
        before = os.umask(0o022)  # who may not change it may run it
        try:
            self._all.mkdir(parents=True, exist_ok=True)
            venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(draft)
            (site,) = (draft / "lib").glob("python*/site-packages")
            fill(site)
            for script in (draft / "bin").iterdir():
                if not script.name.startswith("python"):
                    script.unlink()  # they name the draft's folder
            (draft / "bin" / "ai-supervisor").write_text(COMMAND)
            (draft / "bin" / "ai-supervisor").chmod(0o755)
            said = _run([str(draft / "bin" / "ai-supervisor"), "--version"], "the release does not start")
            release = Release(self._all / f"{said.split()[-1]}-{_digest(site)}")
            if not release.path.exists():
                # Its owner may run it and may not write in it: without this each of his commands would compile it anew.
                compiling = [str(draft / "bin" / "python"), "-m", "compileall", "-q", "-s", str(draft), "-p", str(release.path)]
                _run([*compiling, str(site / "supervisord_ai")], "the release cannot be compiled")
                draft.rename(release.path)
            os.utime(release.path)
        except OSError as exc:
            raise HostFault(f"{exc.filename or self._all}: {exc.strerror}") from exc
        finally:
            os.umask(before)
            shutil.rmtree(draft, ignore_errors=True)
        return release

    def _take_dependencies(self, site: Path) -> None:
        """Bring what the running package needs. A release never changes, so what lies in one is linked: most of the next."""
        made: set[str] = set()
        for found in _dependencies():
            for file in found.files or ():
                source, target = str(found.locate_file(file)), str(site.joinpath(*file.parts))
                if ".." in file.parts or file.is_absolute() or "__pycache__" in file.parts or not os.path.isfile(source):
                    continue  # scripts name the environment they were installed in
                folder = os.path.dirname(target)
                if folder not in made:
                    os.makedirs(folder, exist_ok=True)
                    made.add(folder)
                _copy(source, target, link=source.startswith(f"{self._all}/"))

    def _linked(self, name: str) -> Release | None:
        link = self._prefix / name
        return Release(link.resolve()) if link.is_symlink() and link.exists() else None

    def _link(self, name: str, release: Release) -> None:
        new = self._prefix / f".{name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(Path("releases") / release.name)
        new.replace(self._prefix / name)


# --- what a release is made of ------------------------------------------------------------------------------------------


def _dependencies() -> Iterator[metadata.Distribution]:
    """Yield what the running package needs, as far as it is installed: pip and the engine's packages too.

    A checkout that was never installed cannot say what it needs: then everything beside it is.
    """
    try:
        own = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield from (found for found in metadata.distributions() if _key(found.name) != DISTRIBUTION)
        return
    seen: set[str] = {DISTRIBUTION}
    wanted = ["pip", *_engine_packages(), *(_required(own))]
    while wanted:
        name = wanted.pop()
        if _key(name) in seen:
            continue
        seen.add(_key(name))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another Python, or an extra that nobody asked for
        wanted += _required(found)
        yield found


def _required(found: metadata.Distribution) -> list[str]:
    return [match[0] for line in found.requires or () if (match := _NAME.match(line)) and "extra ==" not in line]


def _engine_packages() -> list[str]:
    lock = Path(supervisord_ai.__file__).parent / "engine" / "embedded.lock"
    return re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), re.MULTILINE) if lock.is_file() else []


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _copy_tree(source: Path, target: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, target, ignore=ignore, copy_function=_copy, dirs_exist_ok=True)


def _copy(source: str, target: str, *, link: bool = False) -> None:
    """Copy or link a file, and the bytecode that Python has of it, which it knows to be of this file by its time."""
    _copy_one(source, target, link=link)
    if not source.endswith(".py"):
        return
    compiled, wanted = (importlib.util.cache_from_source(path) for path in (source, target))
    if os.path.isfile(compiled):
        os.makedirs(os.path.dirname(wanted), exist_ok=True)
        _copy_one(compiled, wanted, link=link)


def _copy_one(source: str, target: str, *, link: bool) -> None:
    if link:
        try:
            os.link(source, target)
        except FileExistsError:  # two packages name it
            return
        except OSError:  # not every file system has links
            log.debug("%s cannot be linked", source)
        else:
            return
    shutil.copyfile(source, target)
    times = os.stat(source)
    os.utime(target, ns=(times.st_mtime_ns, times.st_mtime_ns))


def _digest(site: Path) -> str:
    total = hashlib.sha256()
    for folder, folders, files in os.walk(site):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(set(files) - _HOW_IT_CAME):
            path = os.path.join(folder, name)
            total.update(f"{os.path.relpath(path, site)}\0{os.path.getsize(path)}\0".encode())
            with open(path, "rb") as file:
                total.update(file.read())
    return total.hexdigest()[:12]


def _pip(site: Path) -> list[str]:
    """Return how pip is run: the release's own, else the one that Python brings for new environments."""
    if (site / "pip").is_dir():
        return ["-m", "pip"]
    ensurepip = importlib.util.find_spec("ensurepip")  # Debian has it in python3-venv, and its wheels elsewhere
    folders = [Path(ensurepip.origin).parent / "_bundled"] if ensurepip is not None and ensurepip.origin else []
    for wheel in sorted(wheel for folder in [*folders, Path("/usr/share/python-wheels")] for wheel in folder.glob("pip-*.whl")):
        return [f"{wheel}/pip"]
    raise HostFault("pip is missing: apt-get install -y python3-venv")


def _run(command: list[str], otherwise: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_S, env=environ, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired as exc:
        raise HostFault(f"{otherwise}: not done within {BUILD_S:.0f} s") from exc
    except OSError as exc:
        raise HostFault(f"{otherwise}: {command[0]}: {exc.strerror}") from exc
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise HostFault(f"{otherwise}: {'; '.join(line.removeprefix('ERROR: ') for line in said[-3:])}")
    return done.stdout


__all__ = ["Release", "Releases"]
