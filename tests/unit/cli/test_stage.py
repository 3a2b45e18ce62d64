"""The demo's stage: who plays, what is said of a daemon that does not come up or does not go, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.cli.demo import play, stage, storm
from supervisord_ai.cli.demo.stage import NOBODY, Cast, Stage, find_cast, is_alive
from supervisord_ai.cli.demo.storm import AGENTS, StormStage
from supervisord_ai.cli.demo.table import Seen
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.engine.ledger import LedgerSummary
from supervisord_ai.errors import HostFault
from tests.system.harness import eventually

Caps = pytest.CaptureFixture[str]
ME = Cast("m", "http://127.0.0.1:1", None, sys.executable)


# --- who plays --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "reachable", "user", "words"),
    [
        (1000, True, None, "agents run as you"),
        (0, True, NOBODY, "agents run as nobody"),
        (0, False, "root", "agents run as root: no Python on this machine can be reached by another user"),
    ],
)
def test_as_root_the_agents_are_nobody_where_nobody_can_reach_a_python(
    monkeypatch: pytest.MonkeyPatch, uid: int, reachable: bool, user: str | None, words: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(stage, "_is_reachable", lambda _: reachable)
    cast = find_cast("m", None)
    assert (cast.user, cast.user_detail) == (user, words)


def test_a_python_below_a_folder_of_root_alone_or_that_is_none_is_not_reachable(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    python = closed / "python"
    python.write_text("#!/bin/sh\necho /usr\n")
    python.chmod(0o755)
    assert not stage._is_reachable(str(python))
    python.write_text("#!/bin/sh\nexit 1\n")
    assert not stage._is_reachable(str(python))
    assert not stage._is_reachable(f"{closed}/none")


# --- a daemon that is none ----------------------------------------------------------------------------------------------------


def daemon(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have this run in the daemon's place; it has the daemon's words as its own."""
    popen = subprocess.Popen

    def start(words: list[str], **how: Any) -> subprocess.Popen[bytes]:
        return popen(["/bin/sh", "-c", script, *words], **how)

    monkeypatch.setattr("supervisord_ai.cli.demo.stage.subprocess.Popen", start)


def test_a_daemon_that_ends_at_once_is_told_with_its_last_words_and_all_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon(monkeypatch, "for n in $(seq 20); do echo line $n; done; exit 1")
    with (
        Stage(ME, (), root=tmp_path) as made,
        pytest.raises(HostFault, match=r"(?s)the daemon has ended:\nline 6\n.*line 20$") as told,
    ):
        made.start_daemon()
    assert "line 5\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_one_that_never_answers_is_not_waited_for_for_ever_and_one_that_ignores_term_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon(monkeypatch, f"trap '' TERM; touch {tmp_path}/up; exec sleep 60")
    monkeypatch.setattr(stage, "UP_WITHIN_S", 0.05)
    monkeypatch.setattr(stage, "GONE_WITHIN_S", 0.05)
    with Stage(ME, (), root=tmp_path) as made:
        with pytest.raises(HostFault, match="the daemon did not answer within 0 s"):
            made.start_daemon()
        eventually((tmp_path / "up").exists, what="its trap")
        with pytest.raises(HostFault, match="the daemon did not end within 0 s"):
            made.stop_daemon()
        made.is_kept = True
        assert made._daemon is not None
        assert made._daemon.poll() is None
    assert made._daemon.returncode == -signal.SIGKILL
    assert made.folder.exists(), "what was written is kept where the owner is to look at it"


def test_while_nobody_answers_nothing_is_known(tmp_path: Path) -> None:
    with Stage(ME, (), root=tmp_path) as made:
        assert (made.status(), made.agents()) == (None, {})
        assert made.ledger() is None, "an Ollama of somebody else counts for somebody else"
    with Stage(Cast("m", None, None, sys.executable), (), root=tmp_path) as made:
        assert made.ledger() == LedgerSummary()


def test_a_stage_that_cannot_be_set_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "config_text", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError), Stage(ME, (), root=tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_was_left_behind_is_seen_by_its_socket_and_ended(tmp_path: Path) -> None:
    with Stage(ME, (), root=tmp_path) as made:
        environ = {**os.environ, "AI_SUPERVISOR_SOCKET": f"{made.folder}/run/llm.sock"}
        stray = subprocess.Popen(["sleep", "60"], env=environ)

        eventually(lambda: f"{stray.pid} sleep 60 " in made.left_behind(), what="the stray")
    assert stray.wait(10) == -signal.SIGKILL


def test_a_number_that_another_process_has_now_and_one_that_nobody_has_are_not_alive() -> None:
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert is_alive(os.getpid(), started)
    assert not is_alive(os.getpid(), started + 1)
    assert not is_alive(2**22 + 1, started)


# --- as typed, where it fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["demo"], ["demo", "--storm"]])
def test_the_model_of_a_foreign_ollama_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: Caps, words: list[str]) -> None:
    monkeypatch.delenv("MODEL", raising=False)
    assert main([*words, "--engine", "http://127.0.0.1:1"]) == Exit.USAGE
    assert capsys.readouterr().err == "ai-supervisor: say which model to ask: MODEL=name, or --model name\n"


@pytest.mark.parametrize("words", [["demo"], ["demo", "--storm"]])
def test_where_it_fails_what_was_written_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Caps, words: list[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    daemon(monkeypatch, "echo no memory left; exit 1")
    assert main([*words, "--engine", "http://127.0.0.1:1", "--model", "m"]) == Exit.NO
    told = capsys.readouterr()
    (kept,) = tmp_path.iterdir()
    assert f"what was written is kept in {kept}\n" in told.out
    assert told.err == "ai-supervisor: the daemon has ended:\nno memory left\n"


# --- the storm, before a daemon that does as it is told -------------------------------------------------------------------------


class Weather(StormStage):
    """A stage whose daemon is at the level that so many askers make, up to `highest`, and comes back if it `calms`."""

    def __init__(self, folder: Path, *, highest: int = 3, calms: bool = True, comes_up: bool = True) -> None:
        super().__init__(ME, root=folder)
        self.highest, self.calms, self.comes_up = highest, calms, comes_up
        self.askers = 0
        self.peak = 0
        self.looks = 0

    def start_daemon(self) -> float:
        return 0.1

    def check_daemon(self) -> None:
        """It runs."""

    def stop_daemon(self) -> float:
        return 0.1

    def weather(self, askers: int) -> None:
        self.askers = askers
        self.peak = max(self.peak, askers)

    def status(self) -> dict[str, Any] | None:
        self.looks += 1
        if self.looks % 5 == 0:
            return None  # it is busy, and did not answer in time
        level = min(self.askers // 24, self.highest)
        if not self.askers and not self.calms:
            level = self.highest
        running = AGENTS if self.comes_up else AGENTS - 1
        return {
            "agents": {"by_class": [{"states": {"running": running}}]},
            "level": {"level": level, "name": f"name-{level}", "reason": "the queue"},
            "queue": {"queued": 0},
        }


@pytest.fixture
def _virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))


def played(monkeypatch: pytest.MonkeyPatch, made: Callable[[], Weather], *words: str) -> int:
    monkeypatch.setattr(storm, "StormStage", lambda _cast: made())
    return main(["demo", "--storm", "--engine", "http://127.0.0.1:1", "--model", "m", *words])


@pytest.mark.usefixtures("_virtual")
def test_the_storm_rises_until_each_level_holds_and_what_was_decided_is_printed_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Caps
) -> None:
    weather = Weather(tmp_path)
    played(monkeypatch, lambda: weather)
    lines = capsys.readouterr().out.splitlines()
    assert weather.peak == 72, "no more than level 3 takes"
    decided = [line.partition("level ")[2] for line in lines if "the queue" in line and "name-" in line]
    assert [words[0] for words in decided] == ["1", "2", "3", "0"]
    assert any("nobody asks any more" in line for line in lines)
    # Nobody answered in this storm, which proves nothing, and that is said.
    assert any(line.startswith("BROKEN") and "nothing is proved" in line for line in lines)
    assert f"what was written is kept in {weather.folder}" in lines


@pytest.mark.usefixtures("_virtual")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"highest": 2}, "level 3 was not reached"), ({"calms": False}, "it did not come back to level 0")],
)
def test_a_level_that_is_not_reached_or_not_left_is_a_broken_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Caps, changes: dict[str, Any], problem: str
) -> None:
    assert played(monkeypatch, lambda: Weather(tmp_path, **changes), "--json") == Exit.NO
    assert problem in json.loads(capsys.readouterr().out)["problems"]


@pytest.mark.usefixtures("_virtual")
def test_agents_that_do_not_come_up_end_the_storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Caps) -> None:
    assert played(monkeypatch, lambda: Weather(tmp_path, comes_up=False)) == Exit.NO
    assert "the agents did not come up within 60 s" in capsys.readouterr().err


# --- the play ---------------------------------------------------------------------------------------------------------------


def test_many_that_end_alike_are_one_line_and_a_verdict_is_told_once(tmp_path: Path) -> None:
    class Heard:
        def __init__(self) -> None:
            self.deeds: list[str] = []

        def tell(self, deed: str) -> None:
            self.deeds.append(deed)

    def ended(name: str, verdict: str, restarts: int = 1) -> dict[str, Any]:
        return {"name": name, "state": "running", "restarts": restarts, "verdict": verdict, "detail": "signal 9\nmore"}

    view = Heard()
    watch = play._Watch(Stage(ME, (), root=tmp_path), view, Seen())  # type: ignore[arg-type]
    agents = {f"a-{n}": ended(f"a-{n}", "crash:KILL") for n in range(6)} | {"b": ended("b", "oom:own-cap")}
    agents["c"] = ended("c", "finished")
    for _ in range(2):
        watch._tell_ends(agents)
    watch._tell_ends({"b": ended("b", "oom:own-cap", restarts=2)})
    assert view.deeds == ["6 agents ended: crash:KILL", *["b ended: oom:own-cap (signal 9)"] * 2]
    assert watch.have_ended("b", "c")
    assert not watch.have_ended("b", "d")
