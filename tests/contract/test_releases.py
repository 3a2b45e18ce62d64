"""Releases on the real disk: whole or not there, never changed, and a process stays in the one it started from."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from supervisord_ai import __version__
from supervisord_ai.errors import HostFault
from supervisord_ai.host import releases as host_releases
from supervisord_ai.host.releases import COMMAND, Release, Releases

ROOT = Path(__file__).parents[2]
SAYS = '#!/bin/sh\necho "{name}"; read -r _; exec "$(dirname -- "$0")/again"\n'


def made(releases: Releases, prefix: Path, name: str) -> Release:
    """A release without contents whose `python` says who it is, now and after a line on stdin."""
    folder = prefix / "releases" / name / "bin"
    folder.mkdir(parents=True)
    for file, text in (("ai-supervisor", COMMAND), ("python", SAYS.format(name=name)), ("again", f"#!/bin/sh\necho {name}\n")):
        (folder / file).write_text(text)
        (folder / file).chmod(0o755)
    return Release(folder.parent)


def test_what_runs_stays_in_its_release_and_what_starts_next_is_the_current_one(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    old, new = made(releases, tmp_path, "1.0-a"), made(releases, tmp_path, "1.1-b")
    releases.switch(old)
    with subprocess.Popen([releases.command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == "1.0-a\n"
        releases.switch(new)
        running.stdin.write("\n")
        running.stdin.flush()
        assert running.stdout.readline() == "1.0-a\n"  # what it loads now is still its own
    assert subprocess.run([releases.command], input="\n", capture_output=True, text=True, check=True).stdout == "1.1-b\n1.1-b\n"
    assert (releases.current(), releases.previous()) == (new, old)


def test_switching_back_and_forth_keeps_both_and_again_to_the_same_forgets_nothing(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    assert (releases.current(), releases.previous()) == (None, None)
    old, new = made(releases, tmp_path, "1.0-a"), made(releases, tmp_path, "1.1-b")
    for one in (old, new, new):
        releases.switch(one)
    assert (releases.current(), releases.previous()) == (new, old)
    releases.switch(old)
    assert (releases.current(), releases.previous()) == (old, new)
    releases.put_back(new, old)
    assert (releases.current(), releases.previous()) == (new, old)
    releases.put_back(old, None)
    assert (releases.current(), releases.previous()) == (old, None)


def test_a_release_of_what_runs_starts_by_itself_and_is_the_same_when_built_again(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    release = releases.from_running({"config/shipped.toml": b"# x\n"})
    assert (release.path / "lib").is_dir()
    said = subprocess.run(
        [release.command, "--version"], capture_output=True, text=True, check=True, cwd="/", env={"PATH": os.defpath}
    ).stdout
    assert said.startswith("ai-supervisor ")
    other = tmp_path / "other" / "supervisord_ai"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('somebody else')")
    env = {"PATH": os.defpath, "PYTHONPATH": str(other.parent)}
    again = subprocess.run([release.command, "--version"], capture_output=True, text=True, check=True, cwd="/", env=env).stdout
    assert again == said
    shutil.rmtree(other.parent)
    # What Python had compiled came along, and is still known to be of these files.
    python = [str(release.path / "bin" / "python"), "-v", "-c", "import outcome, supervisord_ai"]
    found = subprocess.run(python, capture_output=True, text=True, check=True, cwd="/", env={"PATH": os.defpath}).stderr
    assert re.search(r"__pycache__/\S+ matches \S+/outcome/__init__\.py", found)
    assert re.search(r"__pycache__/\S+ matches \S+/supervisord_ai/__init__\.py", found)
    built_at = release.command.stat().st_mtime_ns
    assert releases.from_running({"config/shipped.toml": b"# x\n"}) == release
    assert release.command.stat().st_mtime_ns == built_at  # the one that was there was not touched
    assert releases.from_running({"config/shipped.toml": b"# y\n"}) != release
    assert not [path for path in (tmp_path / "releases").iterdir() if path.name.startswith(".")]
    releases.remove()
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}/*"))


def test_what_the_next_release_has_in_common_with_the_last_is_there_once(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    first = releases.from_running({"config/shipped.toml": b"# x\n"})
    again = (
        "import sys; from pathlib import Path; from supervisord_ai.host.releases import Releases;"
        "print(Releases(Path(sys.argv[1])).from_running({'config/shipped.toml': b'# y'}).path)"
    )
    command = [str(first.path / "bin" / "python"), "-P", "-c", again, str(tmp_path)]
    second = Path(subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip())
    assert second != first.path
    (outcome,) = first.path.glob("lib/*/site-packages/outcome/__init__.py")
    site = outcome.parents[1].relative_to(first.path)
    assert (second / site / "outcome/__init__.py").samefile(outcome)
    # Its own files are its own: what is written into them must not change the other.
    for name in ("__init__.py", "config/shipped.toml"):
        assert not (second / site / "supervisord_ai" / name).samefile(first.path / site / "supervisord_ai" / name)
    assert (first.path / site / "supervisord_ai/config/shipped.toml").read_bytes() == b"# x\n"
    # All of it is compiled, also what nobody has imported yet: its owner may not write there.
    own = first.path / site / "supervisord_ai"
    assert [file for file in own.rglob("*.py") if not Path(cache_from_source(str(file))).is_file()] == []


def test_a_wheel_that_is_none_leaves_nothing(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "opt")
    (tmp_path / "x-1.0-py3-none-any.whl").write_text("no wheel")
    with pytest.raises(HostFault, match="the release cannot be built"):
        releases.from_index(str(tmp_path / "x-1.0-py3-none-any.whl"), find_links=tmp_path)
    assert list((tmp_path / "opt" / "releases").iterdir()) == []


def test_old_releases_go_and_those_in_use_stay(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    all_of_them = [made(releases, tmp_path, f"1.{number}-x") for number in range(6)]
    for number, one in enumerate(all_of_them):
        os.utime(one.path, (number, number))
    releases.switch(all_of_them[0])
    releases.switch(all_of_them[1])
    releases.prune()
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == ["1.0-x", "1.1-x", "1.3-x", "1.4-x", "1.5-x"]


# --- what is in the way --------------------------------------------------------------------------------------------------


def test_a_prefix_that_cannot_be_written_is_named_and_what_is_current_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = Releases(tmp_path)
    old, new = made(releases, tmp_path, "1.0-a"), made(releases, tmp_path, "1.1-b")
    releases.switch(old)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "symlink", refused)
    with pytest.raises(HostFault, match=rf"^{tmp_path}: Read-only file system$"):
        releases.switch(new)
    with pytest.raises(HostFault, match=rf"^{tmp_path}: Read-only file system$"):
        releases.put_back(new, old)
    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(HostFault, match=rf"^{tmp_path}: Read-only file system$"):
        releases.remove()
    assert (releases.current(), releases.previous()) == (old, None)
    Releases(tmp_path / "nowhere").remove()  # there is nothing to remove


def test_a_file_where_the_releases_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "releases").touch()
    with pytest.raises(HostFault, match=rf"^{tmp_path / 'releases'}: File exists$"):
        Releases(tmp_path).from_running({})


def test_a_release_that_may_not_be_executed_or_does_not_end_is_a_fault_and_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = Releases(tmp_path)
    release = made(releases, tmp_path, "1.0-a")
    (release.path / "bin" / "python").write_text("#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setattr(host_releases, "BUILD_S", 0.05)
    with pytest.raises(HostFault, match=r"^it says: not done within 0 s$"):
        releases.ask(release, "check-state")
    (release.path / "bin" / "ai-supervisor").chmod(0o644)  # or a disk that was mounted noexec
    with pytest.raises(HostFault, match=rf"^it says: {release.command}: Permission denied$"):
        releases.ask(release, "check-state")


def test_a_file_that_two_packages_bring_is_linked_once_and_a_disk_without_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "one.py", tmp_path / "two.py"
    source.write_text("x = 1\n")
    os.utime(source, (1_000_000_000, 1_000_000_000))
    for _ in range(2):
        host_releases._copy(str(source), str(target), link=True)
        assert target.samefile(source)

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    target.unlink()
    monkeypatch.setattr(os, "link", link)
    host_releases._copy(str(source), str(target), link=True)
    assert not target.samefile(source)
    assert target.read_text() == "x = 1\n"
    assert target.stat().st_mtime == 1_000_000_000  # Python knows by it that what it has compiled is of this file


def test_pip_is_the_releases_own_or_the_one_that_python_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    (site / "pip").mkdir(parents=True)
    assert host_releases._pip(site) == ["-m", "pip"]
    bundled = tmp_path / "ensurepip" / "_bundled"
    bundled.mkdir(parents=True)
    spec = ModuleSpec("ensurepip", None, origin=str(tmp_path / "ensurepip" / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    really = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: really(path, pattern) if path.is_relative_to(tmp_path) else iter(()))
    (site / "pip").rmdir()
    with pytest.raises(HostFault, match=r"^pip is missing: apt-get install -y python3-venv$"):
        host_releases._pip(site)
    (bundled / "pip-99.1-py3-none-any.whl").touch()
    assert host_releases._pip(site) == [f"{bundled}/pip-99.1-py3-none-any.whl/pip"]


def test_a_checkout_that_was_never_installed_takes_everything_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {found.name for found in metadata.distributions()}

    def unknown(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", unknown)
    taken = {found.name for found in host_releases._dependencies()}
    assert {"trio", "httpx", "msgspec"} <= taken
    assert installed - taken <= {"supervisord-ai", "supervisord_ai"}


@pytest.mark.slow
def test_a_wheel_becomes_a_release_without_any_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    for name in ("supervisord_ai", "systemd", "requirements"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "config.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    init = source / "supervisord_ai" / "__init__.py"
    init.write_text(init.read_text().replace(f'"{__version__}"', '"7.7.7"'))
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)], cwd=source, check=True,
                   capture_output=True)  # fmt: skip
    (wheel,) = wheels.iterdir()
    releases = Releases(tmp_path / "opt")
    release = releases.from_index(str(wheel), find_links=wheels)
    assert release.name.startswith("7.7.7-")
    releases.ask(release, "check-state", str(tmp_path), "--config", str(ROOT / "config.toml"))
    with pytest.raises(HostFault, match=r"it says: .*there is no /nowhere"):
        releases.ask(release, "check-state", str(tmp_path), "--config", "/nowhere")
    printed = subprocess.run([release.command, "install", "--print"], capture_output=True, text=True, check=False, cwd="/")
    assert "MemoryMax=" in printed.stdout, printed  # the units came with it
