"""`install` and `uninstall` on a made-up machine: what is made, what a second run does, what is refused, what is left."""

from __future__ import annotations

import json
import os
import pwd
from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.first import AGENTS_USER
from supervisord_ai.cli.install import Ground, as_root, install, plan, rendered, uninstall
from supervisord_ai.cli.main import main
from supervisord_ai.core.places import InstallPlaces, Surroundings, install_places
from supervisord_ai.core.units import HOLDER, SERVICE, SOCKETS, UNITS
from supervisord_ai.errors import ConfigError, HostFault, UsageError
from tests.fakes.units import FakeReleases, FakeUnits, FakeUsers

GB = 1_000_000_000
SMALL = """\
# mine
[daemon]
runtime_dir = "{root}/run"
state_dir = "{root}/state"
log_dir = "{root}/log"
[memory]
agents = "1GB"
[class.opus]
user = "ai-agents"
[[agents]]
name = "a"
class = "opus"
command = ["true"]
"""


@dataclass
class Machine:
    """A root folder with everything that an installation touches."""

    root: Path
    owner: str | None = "ada"
    memory_bytes: int = 48 * GB
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.units = FakeUnits(self.root / "etc/systemd/system")
        self.users = FakeUsers()
        self.releases = FakeReleases(self.root / "opt/ai-supervisor")
        self.config = self.root / "etc/ai-supervisor/config.toml"

    def ground(self, **changes: Any) -> Ground:
        places = InstallPlaces(str(self.units.folder), str(self.releases.prefix), str(self.root / "usr/local/bin/ai-supervisor"))
        made = Ground(
            places, Surroundings(0, "/root", {}), self.config, self.owner, self.units, self.users, self.releases,
            self.memory_bytes, self.said.append, python=Path("/usr/bin/env"),
        )  # fmt: skip
        return replace(made, **changes)

    def install(self, *, now: bool = False, accept: bool = False, **changes: Any) -> None:
        ground = self.ground(**changes)
        install(ground, plan(ground, Namespace(accept_smaller_machine=accept)), is_now=now)

    def write(self, text: str = SMALL) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text.format(root=self.root))

    def files(self) -> dict[str, str]:
        """Return every file, and where links point."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            if path.is_symlink():
                found[str(path.relative_to(self.root))] = str(path.readlink())
            elif path.is_file():
                found[str(path.relative_to(self.root))] = path.read_text()
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_bare_machine_gets_everything_and_the_owner_is_told_what_to_type(machine: Machine) -> None:
    machine.install()
    assert sorted(path.name for path in machine.units.folder.iterdir()) == sorted(UNITS)
    assert machine.users.known == {AGENTS_USER: True}
    assert machine.units.enabled == {SOCKETS, SERVICE}
    assert machine.units.deeds == ["reload"]  # nothing is started: the first config has yet to be edited
    text = machine.config.read_text()
    assert 'owner = "ada"' in text
    assert text.count('\nuser = "ai-agents"') == 2
    assert (machine.config.parent / "agents.d").is_dir()
    assert machine.files()["usr/local/bin/ai-supervisor"] == str(machine.releases.command)
    words = "next: sudo ai-supervisor agents add NAME --class opus -- CMD, then: sudo systemctl start "
    assert machine.said[-2] == words + SERVICE
    assert machine.said[-1] == "ada may use it without sudo: ai-supervisor status"


def test_a_second_run_changes_nothing(machine: Machine) -> None:
    machine.write()
    machine.install()
    before = machine.files()
    machine.said.clear()
    machine.install()
    assert machine.files() == before
    assert machine.units.deeds == ["reload", "reload"]
    assert machine.said == [
        f"{SERVICE} starts with the machine",
        f"next: sudo systemctl start {SERVICE}",
        "ada may use it without sudo: ai-supervisor status",
    ]


def test_a_config_that_is_there_keeps_its_owners_words(machine: Machine) -> None:
    machine.write()
    machine.install()
    text = machine.config.read_text()
    assert text == SMALL.format(root=machine.root).replace("[daemon]\n", '[daemon]\nowner = "ada"\n')
    assert f"{machine.config} says now that ada is the owner" in machine.said


def test_an_owner_who_is_named_stays_the_owner(machine: Machine) -> None:
    machine.write(SMALL.replace("[daemon]\n", f'[daemon]\nowner = "{pwd.getpwuid(os.geteuid()).pw_name}"\n'))
    before = machine.config.read_text()
    machine.install()
    assert machine.config.read_text() == before


def test_what_the_config_says_is_what_the_units_say(machine: Machine) -> None:
    machine.write()
    machine.install(accept=True)
    units = {name: (machine.units.folder / name).read_text() for name in UNITS}
    assert "MemoryMax=1000000000\n" in units[HOLDER]
    assert f"ListenStream={machine.root}/run/llm.sock\nListenStream=127.0.0.1:11435\n" in units[SOCKETS]
    assert f"ExecStart={machine.releases.command} run --config {machine.config} --accept-smaller-machine\n" in units[SERVICE]


def test_now_starts_it_and_an_installation_that_runs_is_restarted(machine: Machine) -> None:
    machine.write()
    machine.install(now=True)
    assert machine.units.deeds == ["reload", f"start {SERVICE}"]
    machine.releases.contents = "1.1-bbb"
    machine.install(now=True)
    assert machine.units.deeds[2:] == ["reload", f"restart {SERVICE}"]
    assert f"{SERVICE} runs, its agents stayed as they were" in machine.said
    current = machine.releases.current()
    assert current is not None
    assert current.name == "1.1-bbb"


def test_other_sockets_are_opened_by_restarting_them(machine: Machine) -> None:
    machine.write()
    machine.install(now=True)
    machine.config.write_text(machine.config.read_text() + '[listen]\ntcp = ["127.0.0.1:9999"]\n')
    machine.install(now=True)
    assert machine.units.deeds[2:] == ["reload", f"restart {SOCKETS}"]


def test_a_config_that_is_wrong_is_told_and_nothing_is_changed(machine: Machine) -> None:
    machine.write("[queue]\nnonsense = 1\n" + SMALL)
    before = machine.files()
    with pytest.raises(ConfigError, match="nonsense"):
        machine.install()
    machine.write(SMALL.replace('user = "ai-agents"', 'user = "nobody-at-all"'))
    with pytest.raises(ConfigError, match="nobody-at-all"):
        machine.install()
    assert set(machine.files()) == set(before)
    assert machine.users.known == {}


def test_a_machine_smaller_than_the_plan_is_refused_unless_accepted(machine: Machine) -> None:
    machine.write()
    machine.memory_bytes = GB
    with pytest.raises(UsageError, match="install with --accept-smaller-machine"):
        machine.install()
    machine.install(accept=True)


def test_what_fails_in_the_middle_is_finished_by_a_second_run(machine: Machine) -> None:
    machine.write()
    machine.units.fails = {"reload"}
    with pytest.raises(HostFault, match="systemd said no"):
        machine.install(now=True)
    machine.install(now=True)
    assert machine.units.active == {SERVICE, SOCKETS, HOLDER}


def test_the_units_can_be_looked_at_as_text_or_by_a_program(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.write(SMALL.replace('user = "ai-agents"', 'user = "root"'))
    words = ["install", "--print", "--accept-smaller-machine", "--config", str(machine.config)]
    assert main(words) == Exit.GOOD
    text = capsys.readouterr().out
    assert main([*words, "--json"]) == Exit.GOOD
    units = json.loads(capsys.readouterr().out)["units"]
    assert {Path(path).name for path in units} == set(UNITS)
    assert all(f"# {path}\n{unit}" in text for path, unit in units.items())
    assert main(["install", "--json"]) == Exit.USAGE


def test_an_owner_who_cannot_reach_its_python_is_told(machine: Machine) -> None:
    closed = machine.root / "root"
    (closed / "bin").mkdir(parents=True)
    (closed / "bin" / "python3").write_text("")
    closed.chmod(0o700)
    machine.write()
    machine.install(python=closed / "bin" / "python3")
    assert machine.said[-1].startswith("ada needs sudo for ai-supervisor: its Python is below /")


def test_a_command_of_somebody_else_stays(machine: Machine) -> None:
    command = machine.root / "usr/local/bin/ai-supervisor"
    command.parent.mkdir(parents=True)
    command.write_text("theirs")
    machine.write()
    machine.install()
    uninstall(machine.ground())
    assert command.read_text() == "theirs"
    assert any("is somebody else's and stays" in line for line in machine.said)


def test_uninstall_undoes_it_and_says_what_it_left(machine: Machine) -> None:
    machine.write()
    machine.install(now=True)
    (machine.root / "state").mkdir()
    (machine.root / "state" / "journal.db").write_text("x")
    uninstall(machine.ground())
    assert set(machine.files()) == {"etc/ai-supervisor/config.toml", "state/journal.db"}
    assert machine.users.known == {}
    assert machine.units.active == set()
    assert machine.units.enabled == set()
    assert machine.units.deeds[2:5] == [f"stop {SERVICE}", f"stop {SOCKETS}", f"stop {HOLDER}"]
    assert machine.said[-1] == f"left, because it is yours: {machine.config.parent}, {machine.root}/state"
    uninstall(machine.ground())  # twice is once
    assert machine.said[-1] == f"left, because it is yours: {machine.config.parent}, {machine.root}/state"


def test_a_user_that_was_there_before_us_stays(machine: Machine) -> None:
    machine.users.known[AGENTS_USER] = False
    machine.write()
    machine.install()
    uninstall(machine.ground())
    assert machine.users.known == {AGENTS_USER: False}


def test_an_ollama_behind_us_is_taken_back_first(machine: Machine) -> None:
    machine.write()
    machine.install()
    drop_in = machine.units.folder / "ollama.service.d/ai-supervisor.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("")
    with pytest.raises(UsageError, match=r"ollama\.service was moved behind us: first ai-supervisor takeover --undo"):
        uninstall(machine.ground())


def test_for_one_user_alone_nothing_of_the_system_is_touched(machine: Machine) -> None:
    around = Surroundings(1000, "/home/ada", {"XDG_RUNTIME_DIR": "/run/user/1000"})
    places = install_places(around, is_user=True)
    assert places == InstallPlaces(
        "/home/ada/.config/systemd/user", "/home/ada/.local/share/ai-supervisor", "/home/ada/.local/bin/ai-supervisor"
    )
    machine.write(SMALL.replace('user = "ai-agents"\n', ""))
    machine.owner = None
    ground = machine.ground(around=around, is_user=True)
    planned = plan(ground, Namespace(accept_smaller_machine=False))
    install(ground, planned, is_now=True)
    assert machine.users.known == {}
    assert "SocketMode=0600" in dict(rendered(ground, planned))[SOCKETS]
    assert machine.said[-1] == "to have it run while you are not logged in: loginctl enable-linger"


def test_one_that_runs_goes_on_until_its_owner_restarts_it(machine: Machine) -> None:
    machine.write()
    machine.install(now=True)
    machine.said.clear()
    machine.install()
    assert f"next: sudo systemctl restart {SERVICE} (its agents stay)" in machine.said


def test_a_daemon_that_systemd_did_not_start_is_not_started_a_second_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.write()
    monkeypatch.setattr("supervisord_ai.cli.install.holder_of", lambda _: 4711)
    with pytest.raises(UsageError, match=r"a daemon runs that systemd did not start \(pid 4711\): stop it first"):
        machine.install(now=True)
    assert machine.units.deeds == []


@pytest.mark.parametrize(
    ("blocked", "words"),
    [
        ("etc/ai-supervisor", r"etc/ai-supervisor: (File exists|Not a directory)"),
        ("usr/local/bin", r"usr/local/bin/ai-supervisor: (File exists|Not a directory)"),
        ("etc/systemd", r"etc/systemd/system/.* cannot be written: (File exists|Not a directory)"),
    ],
)
def test_a_file_where_a_folder_has_to_be_is_named(machine: Machine, blocked: str, words: str) -> None:
    path = machine.root / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    with pytest.raises((HostFault, UsageError, ConfigError), match=words):
        machine.install()


def test_a_config_that_is_no_text_is_told_and_nothing_is_done(machine: Machine) -> None:
    machine.config.parent.mkdir(parents=True)
    machine.config.write_bytes(b"# caf\xe9\n")
    with pytest.raises((ConfigError, UsageError), match="UTF-8"):
        machine.install()
    assert machine.units.deeds == []


def test_uninstall_of_what_was_only_half_there_says_that_nothing_is_left(machine: Machine) -> None:
    machine.write()
    machine.install()
    for path in sorted(machine.config.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    machine.config.parent.rmdir()
    uninstall(machine.ground())
    assert machine.said[-1] == "nothing is left"


def test_as_typed_it_is_installed_and_uninstalled(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write()
    monkeypatch.setattr("supervisord_ai.cli.install.ground_of", lambda _: machine.ground())
    assert main(["install", "--now"]) == Exit.GOOD
    assert SERVICE in machine.units.active
    assert main(["uninstall"]) == Exit.GOOD
    assert machine.units.enabled == set()


def test_who_may_not_or_cannot_is_told_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def told(uid: int, *words: str) -> str:
        monkeypatch.setattr("supervisord_ai.cli.install.surroundings", lambda: Surroundings(uid, "/home/ada", {}))
        assert main(list(words)) == Exit.USAGE
        return capsys.readouterr().err

    assert f"only root may install a system's service: sudo {as_root()} install, or for yourself alone: --user" in told(
        1000, "install"
    )
    assert "leave --user out" in told(0, "uninstall", "--user")
    assert "your own systemd does not run: log in as yourself" in told(1000, "install", "--user")
    if not os.path.isdir("/run/systemd/system"):
        assert "this system is not run by systemd: on WSL2: [boot] systemd=true" in told(0, "install")


def test_root_is_told_a_command_that_sudo_finds(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    own = tmp_path / "bin" / "ai-supervisor"
    own.write_text("")
    assert as_root(tmp_path, path="/nowhere") == str(own)
    assert as_root(tmp_path / "none", path="/nowhere").endswith(" -P -m supervisord_ai")
    own.chmod(0o755)
    assert as_root(tmp_path, path=f"/nowhere:{own.parent}") == "ai-supervisor"
