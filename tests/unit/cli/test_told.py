"""What people read of an answer of the daemon, verb by verb: each test gives the answer and looks at the words."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.cli import agents, alerts, models, queue, rollout, stop
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main

Caps = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


class Told:
    """A daemon with one answer to everything. `stays`: so often it is still there after it was told to stop."""

    def __init__(self, answer: Any = None, *, stays: int = 0) -> None:
        self.answer = answer
        self.stays = stays
        self.asked: list[str] = []

    def get(self, target: str) -> Any:
        self.asked.append(target)
        return self.answer

    def post(self, target: str, *, within_s: float | None = None) -> Any:
        return self.get(target)

    def agent(self, name: str) -> Any:
        return self.get(f"/v1/agents/{name}")

    def unit(self) -> None:
        return None

    def stop(self) -> int:
        return 2**22 + 1  # no process has that number

    def is_open(self) -> bool:
        self.stays -= 1
        return self.stays >= 0


def of(monkeypatch: Patch, module: Any, door: Told) -> Told:
    monkeypatch.setattr(module, "open_door", lambda _: door)
    return door


# --- alerts -----------------------------------------------------------------------------------------------------------------


def alert(name: str, state: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "name": name, "state": state, "since_s": 75.0, "when": "queue.oldest_s > 60", "for_s": 30.0, "is_builtin": False,
        "values": {"queue.oldest_s": 61.5, "level": None}, "advice": "", "whom": "", "is_told": False, "trouble": "",
    }  # fmt: skip
    return {**plain, **changes}


def test_alerts_are_listed_with_what_they_look_at_and_whether_somebody_knows(monkeypatch: Patch, capsys: Caps) -> None:
    told = [
        alert("slow", "firing", advice="look at the queue", whom="page-me", is_told=True),
        alert("down", "firing", whom="hook", trouble="ended with 1"),
        alert("soon", "pending", is_builtin=True),
        alert("calm", "quiet", whom="page-me"),
    ]
    of(monkeypatch, alerts, Told({"alerts": told}))
    assert main(["alerts", "list"]) == Exit.GOOD
    assert capsys.readouterr().out.splitlines() == [
        "firing  slow                 queue.oldest_s > 60 for 30 s",
        "        queue.oldest_s 61.5, level not known, firing for 75 s",
        "        look at the queue",
        "        page-me was told",
        "firing  down                 queue.oldest_s > 60 for 30 s",
        "        queue.oldest_s 61.5, level not known, firing for 75 s",
        "        hook is not told yet: ended with 1",
        "pending soon                 queue.oldest_s > 60 for 30 s  (built in)",
        "        queue.oldest_s 61.5, level not known, pending for 75 s",
        "quiet   calm                 queue.oldest_s > 60 for 30 s",
    ]
    assert main(["alerts", "list", "--json"]) == Exit.GOOD
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["slow", "down", "soon", "calm"]


def test_where_nobody_is_told_the_lines_that_change_it_are_said(monkeypatch: Patch, capsys: Caps) -> None:
    of(monkeypatch, alerts, Told({"alerts": [alert("calm", "quiet")]}))
    assert main(["alerts", "list"]) == Exit.GOOD
    text = capsys.readouterr().out
    assert "nobody is told: say whom in the config, then type: ai-supervisor alerts test\n    [notify]\n" in text


def test_a_test_of_the_ways_says_for_each_whether_it_works_and_ends_with_one_where_any_does_not(
    monkeypatch: Patch, capsys: Caps
) -> None:
    tested = [{"name": "slow", "whom": "page-me", "trouble": ""}, {"name": "down", "whom": "page-me", "trouble": ""}]
    door = of(monkeypatch, alerts, Told({"tested": tested}))
    assert main(["alerts", "test"]) == Exit.GOOD
    assert capsys.readouterr().out == "page-me was told\n    for slow, down\n"
    tested.append({"name": "mute", "whom": "", "trouble": "it has nobody to tell"})
    assert main(["alerts", "test", "a/b"]) == Exit.NO
    assert capsys.readouterr().out.splitlines()[-1] == "mute not told: it has nobody to tell"
    assert door.asked == ["/v1/alerts/test", "/v1/alerts/test?name=a%2Fb"]
    assert main(["alerts", "test", "--json"]) == Exit.NO
    assert json.loads(capsys.readouterr().out) == tested


def test_a_test_that_tells_nobody_is_no_success(monkeypatch: Patch, capsys: Caps) -> None:
    of(monkeypatch, alerts, Told({"tested": []}))
    assert main(["alerts", "test"]) == Exit.NO
    assert "the config has neither [notify] nor [[alerts]] with `notify`" in capsys.readouterr().out


# --- stop -------------------------------------------------------------------------------------------------------------------


def test_who_does_not_want_to_wait_does_not(monkeypatch: Patch, capsys: Caps) -> None:
    of(monkeypatch, stop, Told(stays=1_000_000))
    assert main(["stop", "--no-wait"]) == Exit.GOOD
    assert capsys.readouterr().out == "stopping\n"


def test_a_daemon_that_takes_its_time_is_waited_for_and_one_that_stays_comes_with_the_last_resort(
    monkeypatch: Patch, capsys: Caps
) -> None:
    now = [100.0]
    monkeypatch.setattr("supervisord_ai.cli.stop.time.monotonic", lambda: now[0])
    monkeypatch.setattr("supervisord_ai.cli.stop.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    of(monkeypatch, stop, Told(stays=100))
    assert main(["stop"]) == Exit.GOOD
    assert capsys.readouterr().out == "stopped\n"
    assert now[0] == pytest.approx(105.0)
    of(monkeypatch, stop, Told(stays=1_000_000))
    assert main(["stop"]) == Exit.NO
    said = f"still not gone after 20 s (pid {2**22 + 1}): see its log; at worst: kill -9 {2**22 + 1}\n"
    assert capsys.readouterr().out == said


# --- agents, models, rollouts, one request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "next_line"),
    [
        ("quarantined", "once it is mended: ai-supervisor agents release one"),
        ("backoff", "once it is mended: ai-supervisor agents restart one"),
        ("running", None),
    ],
)
def test_an_agent_that_rests_comes_with_what_starts_it_again(
    monkeypatch: Patch, capsys: Caps, state: str, next_line: str | None
) -> None:
    numbers = ("pid", "since_s", "next_start_s", "memory_bytes", "peak_bytes", "cap_bytes", "last_peak_bytes", "excess_bytes")
    told = dict.fromkeys((*numbers, "verdict", "max_age_s", "age_s", "uptime_s", "lease"), None)
    words = {"name": "one", "class": "opus", "state": state, "generation": 1, "guarantee": "hard", "restarts": 5}
    told |= {**words, "status": "", "log_path": "/l", "detail": "", "outdated": False}
    of(monkeypatch, agents, Told(told))
    assert main(["agents", "show", "one"]) == Exit.GOOD
    text = capsys.readouterr().out
    assert (next_line is None) == ("once it is mended" not in text)
    assert next_line is None or next_line in text
    assert "all it said:       ai-supervisor agents logs one" in text or next_line is None


def test_where_no_backend_can_be_asked_no_model_is_said_to_be_missing(monkeypatch: Patch, capsys: Caps) -> None:
    door = of(monkeypatch, models, Told({"models": [], "unreachable": ["main: connection refused"]}))
    assert main(["models", "list"]) == Exit.NO
    assert capsys.readouterr() == ("", "not asked: main: connection refused\n")
    door.answer = {"models": [], "unreachable": []}
    assert main(["models", "list"]) == Exit.GOOD
    assert capsys.readouterr().out == "no model is installed: ai-supervisor models pull NAME\n"
    assert main(["models", "loaded"]) == Exit.GOOD
    assert capsys.readouterr().out == "no model is loaded\n"


@pytest.mark.parametrize(
    ("outdated", "words"),
    [
        (0, "there was no rollout yet, and nobody is outdated"),
        (1, "1 agent runs as something else than the config says: ai-supervisor rollout"),
        (2, "2 agents run as something else than the config says: ai-supervisor rollout"),
    ],
)
def test_without_a_rollout_it_is_said_whether_one_is_due(monkeypatch: Patch, capsys: Caps, outdated: int, words: str) -> None:
    told = {"state": "none", "outdated": outdated, "agents": []}
    of(monkeypatch, rollout, Told(told))
    assert main(["rollout", "--status"]) == Exit.GOOD
    assert capsys.readouterr().out == words + "\n"


def test_why_a_request_waits_comes_with_the_command_that_shows_more(monkeypatch: Patch, capsys: Caps) -> None:
    cause, more = next(iter(queue.WHY_MORE.items()))
    told = {"id": "q1", "state": "queued", "waits_for": cause, "waited_s": 75.0, "reason": "because", "model": None}
    of(monkeypatch, queue, Told(told))
    assert main(["queue", "show", "q1"]) == Exit.GOOD
    lines = capsys.readouterr().out.splitlines()
    assert "waited       75 s" in lines
    assert lines[-1] == f"type         ai-supervisor {more}"
    assert not any(line.startswith("model") for line in lines)


# --- files ------------------------------------------------------------------------------------------------------------------


def test_dashboards_and_rules_are_written_into_a_folder_and_each_is_named(tmp_path: Path, capsys: Caps) -> None:
    folder = tmp_path / "new" / "folder"
    assert main(["dashboards", "export", str(folder)]) == Exit.GOOD
    *named, last = capsys.readouterr().out.splitlines()
    assert sorted(named) == sorted(map(str, folder.iterdir()))
    assert f"{folder}/alerts.rules.yml" in named
    assert last.startswith("import the .json files in Grafana")
    assert all(json.loads(Path(path).read_text())["panels"] for path in named if path.endswith(".json"))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: Caps) -> None:
    (tmp_path / "file").write_text("")
    assert main(["dashboards", "export", f"{tmp_path}/file"]) == Exit.USAGE
    assert capsys.readouterr().err == f"ai-supervisor: {tmp_path}/file: File exists\n"


def test_a_release_says_whether_it_can_go_on_from_a_state(tmp_path: Path, capsys: Caps) -> None:
    config = tmp_path / "c.toml"
    config.write_text("")
    assert main(["check-state", str(tmp_path), "--config", str(config)]) == Exit.GOOD
    assert f"can go on from {tmp_path}" in capsys.readouterr().out
    with closing(sqlite3.connect(tmp_path / "journal.db")) as conn:
        conn.execute("PRAGMA user_version = 9999")
    assert main(["check-state", str(tmp_path), "--config", str(config)]) == Exit.NO
    assert "9999" in capsys.readouterr().err
