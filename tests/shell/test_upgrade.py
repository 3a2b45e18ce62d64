"""`upgrade` on a made-up machine: there, back, and what happens to one that cannot."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from supervisord_ai.cli import upgrade as command
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.cli.upgrade import Upgrade, Wanted, wanted
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.units import HOLDER, SERVICE, SOCKETS
from supervisord_ai.errors import HostFault, UsageError
from tests.fakes.owner_views import agent_view, fleet_view
from tests.fakes.units import FakeReleases, FakeUnits
from tests.shell.test_cli import Daemon as Running
from tests.shell.test_install import Machine

AGENTS = {"a": 100, "b": 101}


class World:
    """An installation whose daemon is whatever release is current when its unit was last started."""

    def __init__(self, root: Path) -> None:
        self.units = FakeUnits(root / "units")
        self.units.folder.mkdir()
        (self.units.folder / SERVICE).write_text("")
        self.units.reload()
        self.releases = FakeReleases(root / "opt")
        self.releases.switch(self.releases.from_running({}))
        self.units.active.add(SERVICE)
        self.state = root / "state"
        self.state.mkdir()
        self.said: list[str] = []
        self.dead: set[str] = set()  # releases that never answer
        self.forgets: set[str] = set()  # releases that start the agents anew
        self.alive = set(AGENTS.values())

    def current(self) -> str:
        found = self.releases.current()
        assert found is not None
        return found.name

    def agents(self) -> dict[str, int] | None:
        if SERVICE not in self.units.active or self.current() in self.dead:
            return None
        return {name: pid + 1000 for name, pid in AGENTS.items()} if self.current() in self.forgets else dict(AGENTS)

    def version(self) -> str | None:
        return self.current().partition("-")[0]

    def is_alive(self, pid: int) -> bool:
        return pid in self.alive

    def wait(self, condition: Callable[[], bool], within_s: float) -> bool:
        return condition()

    def upgrade(self) -> Upgrade:
        return Upgrade(
            releases=self.releases,
            units=self.units,
            running=self,
            config="/c.toml",
            state=self.state,
            unit_folder=self.units.folder,
            say=self.said.append,
        )

    def journal(self, text: str, *, schema: int = 2, file: str = "journal.db") -> None:
        with closing(sqlite3.connect(self.state / file)) as conn, conn:
            conn.execute("CREATE TABLE IF NOT EXISTS said (text)")
            conn.execute("INSERT INTO said VALUES (?)", (text,))
            conn.execute(f"PRAGMA user_version = {schema}")

    def unit(self, name: str = SERVICE) -> str:
        return (self.units.folder / name).read_text()

    def told(self) -> list[str]:
        with closing(sqlite3.connect(self.state / "journal.db")) as conn:
            return [text for (text,) in conn.execute("SELECT text FROM said")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.releases.contents = "1.1-bbb"
    return made


def test_another_release_takes_over_and_the_agents_stay(world: World) -> None:
    world.upgrade().to("1.1")
    assert world.current() == "1.1-bbb"
    assert world.units.deeds[1:] == [f"restart {SERVICE}"]
    assert world.releases.asked == [("supervisord-ai==1.1", None)]
    assert world.said[-2:] == [
        "1.1-bbb runs, with the same 2 agents",
        "to take it back: ai-supervisor upgrade --rollback",
    ]


def test_and_back(world: World) -> None:
    world.upgrade().to("1.1")
    world.upgrade().back()
    assert world.current() == "1.0-aaa"
    assert world.said[-1] == "1.0-aaa runs, with the same 2 agents"


def test_there_is_no_way_back_from_the_first(world: World) -> None:
    with pytest.raises(UsageError, match=r"there is no release before 1\.0-aaa"):
        world.upgrade().back()


def test_the_same_again_is_nothing_to_do(world: World) -> None:
    world.releases.contents = "1.0-aaa"
    world.upgrade().to(None)
    assert world.said == ["1.0-aaa is current already"]
    assert world.units.deeds == ["reload"]


def test_one_that_cannot_read_the_state_is_never_started(world: World) -> None:
    world.releases.refuses = {"1.1-bbb"}
    with pytest.raises(HostFault, match=r"1\.1-bbb cannot go on from this state: .*schema 3.*; 1\.0-aaa stays"):
        world.upgrade().to("1.1")
    assert world.current() == "1.0-aaa"
    assert world.units.deeds == ["reload"]


def test_the_check_gets_a_copy_that_is_ours_alone_and_the_journal_is_not_touched(world: World) -> None:
    world.journal("x")
    world.upgrade().to("1.1")
    copy = world.state / "upgrade" / "journal.db"
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as conn:
        assert conn.execute("SELECT text FROM said").fetchall() == [("x",)]
    assert world.told() == ["x"]


@pytest.mark.parametrize("how", ["does not start", "does not answer", "forgets"])
def test_one_that_does_not_come_up_or_loses_the_agents_is_taken_back(world: World, how: str) -> None:
    if how == "does not start":
        world.units.fails = {f"restart {SERVICE}"}
    elif how == "does not answer":
        world.dead = {"1.1-bbb"}
    else:
        world.forgets = {"1.1-bbb"}
    with pytest.raises(HostFault, match=r"1\.1-bbb: .*; 1\.0-aaa runs again"):
        world.upgrade().to("1.1")
    assert world.current() == "1.0-aaa"
    assert world.agents() == AGENTS
    assert f"stop {SERVICE}" not in world.units.deeds  # that would end the agents


def test_the_way_back_leads_past_one_that_failed(world: World) -> None:
    world.upgrade().to("1.1")
    world.releases.contents = "1.2-ccc"
    world.dead = {"1.2-ccc"}
    with pytest.raises(HostFault, match=r"1\.1-bbb runs again"):
        world.upgrade().to("1.2")
    world.upgrade().back()
    assert world.current() == "1.0-aaa"


def test_an_agent_that_ended_meanwhile_is_nobodys_fault(world: World) -> None:
    world.forgets = {"1.1-bbb"}
    world.alive = set()
    world.upgrade().to("1.1")
    assert world.current() == "1.1-bbb"


def test_the_journal_of_before_is_put_back_where_the_old_release_cannot_read_the_changed_one(world: World) -> None:
    world.journal("before", file="journal.db.schema-2")
    world.journal("changed", schema=3)
    world.dead = {"1.1-bbb"}
    world.releases.reads = {"1.0-aaa": 2}
    with pytest.raises(HostFault, match=r"1\.0-aaa runs again"):
        world.upgrade().to("1.1")
    assert world.told() == ["before"]
    assert world.units.deeds[1:] == [f"restart {SERVICE}", f"leave {SERVICE}", f"stop {SERVICE}", f"restart {SERVICE}"]
    assert f"the journal of before is back; the changed one is {world.state / 'journal.db.migrated'}" in world.said


@pytest.fixture
def migrated(world: World) -> World:
    """1.1 runs, and has changed the tables; the copy of before is there."""
    world.upgrade().to("1.1")
    world.journal("before", file="journal.db.schema-2")
    world.journal("changed", schema=3)
    world.releases.reads = {"1.0-aaa": 2}
    world.units.deeds.clear()
    world.said.clear()
    return world


def test_a_way_back_that_loses_something_is_refused_and_says_what_and_how(migrated: World) -> None:
    lost = r"1\.0-aaa cannot read this journal: .*schema 3.*nothing was changed.*: ai-supervisor upgrade --rollback --old-journal"
    with pytest.raises(UsageError, match=lost):
        migrated.upgrade().back()
    assert (migrated.current(), migrated.told(), migrated.units.deeds) == ("1.1-bbb", ["changed"], [])


def test_and_is_taken_with_the_journal_of_before_where_the_owner_says_so(migrated: World) -> None:
    migrated.upgrade().back(old_journal=True)
    assert (migrated.current(), migrated.told()) == ("1.0-aaa", ["before"])
    # Who runs leaves its agents and lets go of the file before it is exchanged.
    assert migrated.units.deeds == [f"leave {SERVICE}", f"stop {SERVICE}", f"restart {SERVICE}"]
    assert (migrated.state / "journal.db.schema-2").exists()  # until the next change of the tables
    assert migrated.said[1:] == [
        f"the journal of before is back; the changed one is {migrated.state / 'journal.db.migrated'}",
        "1.0-aaa runs, with the same 2 agents",
    ]


def test_a_way_back_that_fails_leads_to_the_newer_one_with_its_own_journal(migrated: World) -> None:
    migrated.dead = {"1.0-aaa"}
    with pytest.raises(HostFault, match=r"1\.0-aaa: it does not answer .*; 1\.1-bbb runs again"):
        migrated.upgrade().back(old_journal=True)
    assert (migrated.current(), migrated.told()) == ("1.1-bbb", ["changed"])
    with pytest.raises(UsageError, match="--old-journal"):  # and the way back is still there
        migrated.upgrade().back()


def test_an_older_journal_is_not_taken_without_need(world: World) -> None:
    world.upgrade().to("1.1")
    world.journal("x")
    with pytest.raises(UsageError, match=r"1\.0-aaa can read the journal as it is: leave --old-journal out"):
        world.upgrade().back(old_journal=True)
    assert world.current() == "1.1-bbb"


def test_without_a_copy_there_is_no_way_back_across_a_change_of_the_tables(migrated: World) -> None:
    (migrated.state / "journal.db.schema-2").unlink()
    with pytest.raises(HostFault, match=r"1\.0-aaa cannot go on from this state: .*; 1\.1-bbb stays"):
        migrated.upgrade().back(old_journal=True)


OLD_UNITS = {SERVICE: "old\n", HOLDER: "same\n"}
NEW_UNITS = {SERVICE: "new\n", HOLDER: "same\n", "ai-more.timer": "more\n"}


@pytest.fixture
def with_units(world: World) -> World:
    world.releases.units = {"1.0-aaa": OLD_UNITS, "1.1-bbb": NEW_UNITS}
    for name, text in OLD_UNITS.items():
        (world.units.folder / name).write_text(text)
    return world


def test_a_release_brings_its_units_before_it_is_started(with_units: World) -> None:
    with_units.upgrade().to("1.1")
    assert with_units.units.deeds[1:] == ["reload", f"restart {SERVICE}"]
    assert {name: with_units.unit(name) for name in NEW_UNITS} == NEW_UNITS
    assert f"wrote {with_units.units.folder / SERVICE}" in with_units.said
    assert f"wrote {with_units.units.folder / HOLDER}" not in with_units.said  # it says that already


def test_the_way_back_brings_those_of_before(with_units: World) -> None:
    with_units.upgrade().to("1.1")
    with_units.upgrade().back()
    assert with_units.unit() == "old\n"


@pytest.mark.parametrize("is_active", [True, False])
def test_one_that_is_taken_back_leaves_none_of_its_units(with_units: World, is_active: bool) -> None:
    if is_active:
        with_units.dead = {"1.1-bbb"}
    else:
        with_units.units.active.clear()
        with_units.units.fails = {"reload"}
    with pytest.raises(HostFault, match=r"1\.0-aaa runs again" if is_active else r"1\.0-aaa is current again"):
        with_units.upgrade().to("1.1")
    assert {path.name: path.read_text() for path in with_units.units.folder.iterdir()} == OLD_UNITS
    assert (SERVICE in with_units.units.active) is is_active


def test_what_the_installation_accepted_is_said_to_the_release(with_units: World) -> None:
    with_units.upgrade().to("1.1")
    first = with_units.releases.told[-1]
    assert first == ("1.1-bbb", "install", "--print", "--json", "--config", "/c.toml")
    (with_units.units.folder / SERVICE).write_text("ExecStart=x run --config /c.toml --accept-smaller-machine\n")
    with_units.upgrade().back()
    assert with_units.releases.told[-1][-1] == "--accept-smaller-machine"


def test_other_sockets_are_not_opened_behind_the_callers_backs(with_units: World) -> None:
    with_units.releases.units["1.1-bbb"] = {**NEW_UNITS, SOCKETS: "more\n"}
    with_units.upgrade().to("1.1")
    assert f"restart {SOCKETS}" not in with_units.units.deeds
    assert with_units.said[-2].endswith(f"which callers notice: systemctl restart {SOCKETS}")


def test_where_both_fail_the_owner_hears_of_both(world: World) -> None:
    world.dead = {"1.1-bbb", "1.0-aaa"}
    world.units.active.add(SERVICE)
    with pytest.raises(HostFault, match=r"1\.1-bbb: it does not answer .*; then 1\.0-aaa did not come back: it does not answer"):
        world.upgrade().to("1.1")


def test_a_service_that_does_not_run_is_not_started(world: World) -> None:
    world.units.active.clear()
    world.upgrade().to("1.1")
    assert world.units.deeds == ["reload"]
    assert f"1.1-bbb is current; {SERVICE} is not running" in world.said


def test_an_interrupt_takes_it_back_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "version", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        world.upgrade().to("1.1")
    assert world.current() == "1.0-aaa"


def test_what_may_be_asked_for(tmp_path: Path) -> None:
    wheel = tmp_path / "supervisord_ai-1.1-py3-none-any.whl"
    wheel.write_text("")
    assert wanted(None) == Wanted("supervisord-ai", None)
    assert wanted("1.1rc1") == Wanted("supervisord-ai==1.1rc1", None)
    assert wanted(str(wheel)) == Wanted(str(wheel), tmp_path)  # no network: what it needs lies beside it, or is there already
    with pytest.raises(UsageError, match=r"there is no /nowhere/x\.whl"):
        wanted("/nowhere/x.whl")
    with pytest.raises(UsageError, match="neither a version nor a wheel"):
        wanted("--pre")


def test_who_may_not_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisord_ai.cli.install.surroundings", lambda: Surroundings(1000, "/home/ada", {}))
    assert main(["upgrade", "1.1"]) == Exit.USAGE
    said = capsys.readouterr().err
    assert "only root may upgrade a system's service: sudo " in said
    assert "ai-supervisor upgrade, or for yourself alone: --user" in said
    assert main(["upgrade", "1.1", "--rollback"]) == Exit.USAGE


# --- what can go wrong around it --------------------------------------------------------------------------------------------


def test_what_was_never_installed_has_nothing_to_go_back_to(world: World) -> None:
    world.releases.linked.clear()
    with pytest.raises(UsageError, match="it was not installed as a service: ai-supervisor install does that"):
        world.upgrade().to("1.1")
    assert world.releases.asked == []


def test_one_that_was_installed_and_has_not_run_yet_can_be_upgraded(world: World) -> None:
    world.units.active.clear()
    world.state.rmdir()
    world.upgrade().to("1.1")
    assert world.current() == "1.1-bbb"
    assert world.state.stat().st_mode & 0o777 == 0o700


def test_a_state_folder_that_cannot_be_written_leaves_the_old_release(world: World) -> None:
    world.state.rmdir()
    world.state.write_text("a file")
    with pytest.raises(HostFault, match=r"state/upgrade: (File exists|Not a directory); 1\.0-aaa stays"):
        world.upgrade().to("1.1")


def test_another_version_that_answers_is_taken_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "version", lambda: "1.0")
    with pytest.raises(HostFault, match=r"1\.1-bbb: version 1\.0 answers instead; 1\.0-aaa runs again"):
        world.upgrade().to("1.1")


@pytest.mark.parametrize("said", ["", "{}", "not JSON"])
def test_a_release_that_does_not_say_what_units_it_wants_is_not_installed(
    world: World, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr(world.releases, "ask", lambda *_: said)
    with pytest.raises(HostFault, match="it does not say what units it wants"):
        world.upgrade().to("1.1")
    assert world.current() == "1.0-aaa"


def test_units_that_cannot_be_written_are_all_put_back(with_units: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes, mode: int | None = None) -> None:
        if b"more" in data:
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(command, "replace_file", refuse)
    with pytest.raises(HostFault, match="cannot be written: No space left on device"):
        with_units.upgrade().to("1.1")
    assert with_units.current() == "1.0-aaa"
    assert {path.name: path.read_text() for path in with_units.units.folder.iterdir()} == OLD_UNITS


# --- this machine, and as typed ---------------------------------------------------------------------------------------------


def test_what_runs_is_asked_of_the_daemon_and_nothing_is_known_while_none_answers(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    running = Running(tmp_path / "run")
    running.fleet = fleet_view(agent_view("one", pid=4711), agent_view("two", pid=None))
    daemon = command.Daemon(f"{tmp_path}/run/control.sock")
    try:
        assert (daemon.agents(), daemon.version()) == ({"one": 4711}, "9.9.9")
    finally:
        running.end()
    assert (daemon.agents(), daemon.version()) == (None, None)
    assert daemon.is_alive(os.getpid())
    assert not daemon.is_alive(2**22 + 1)  # more than there can be


def test_what_does_not_come_up_is_waited_for_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    daemon = command.Daemon("/nowhere/control.sock")
    assert not daemon.wait(lambda: False, 5.0)
    assert now[0] == pytest.approx(105.0, abs=2 * command.PAUSE_S)
    assert daemon.wait(lambda: now[0] > 107.0, 5.0)


def test_as_typed_it_goes_there_and_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(tmp_path / "machine")
    machine.write()
    monkeypatch.setattr(command, "ground_of", lambda _: machine.ground(units=world.units))
    monkeypatch.setattr(command, "Releases", lambda _: world.releases)
    monkeypatch.setattr(command, "Daemon", lambda _: world)
    assert main(["upgrade", "1.1"]) == Exit.GOOD
    assert world.current() == "1.1-bbb"
    assert main(["upgrade", "--rollback"]) == Exit.GOOD
    assert world.current() == "1.0-aaa"
    assert machine.said[-1] == "1.0-aaa runs, with the same 2 agents"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("1.1", "--rollback"), "--rollback goes to the release of before: leave the other away"),
        (("1.1", "--old-journal"), "--old-journal goes with --rollback"),
    ],
)
def test_what_cannot_be_meant_together_is_said(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", *words]) == Exit.USAGE
    assert capsys.readouterr().err == f"ai-supervisor: {said}\n"
