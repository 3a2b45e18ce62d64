"""The owner's verbs as typed, before a real control socket, with rooms behind it that note what they are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord_ai.agents.rollout import RolledAgentView, RolloutView
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.cli.models import progress
from supervisord_ai.cli.reload import lines_of
from supervisord_ai.core.own_unit import Unit
from supervisord_ai.core.policies import QueuePolicy
from supervisord_ai.errors import ConfigError, Problem, UpstreamCut, UsageError
from tests.fakes.owner_views import gateway_view
from tests.shell.test_cli import Daemon, err, from_json, out
from tests.shell.test_control_verbs import House, config_of

Caps = pytest.CaptureFixture[str]


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, house: House) -> Iterator[Daemon]:
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    running = Daemon(tmp_path, house.verbs)
    try:
        yield running
    finally:
        running.end()


def test_agents_are_told_by_name_and_by_pattern(daemon: Daemon, house: House, capsys: Caps) -> None:
    assert out(capsys, "agents", "stop", "a-1") == "stop: a-1\n"
    assert out(capsys, "agents", "restart", "a-*") == "restart: a-1, a-2\n"
    assert [words for words in house.told if words[0] != "event"] == [("stop", "a-1"), ("restart", "a-1"), ("restart", "a-2")]


def test_what_only_some_can_do_is_exit_code_four(daemon: Daemon, capsys: Caps) -> None:
    assert out(capsys, "agents", "release", "a-*", code=Exit.REFUSED) == "release: a-2\nrefused: a-1 is not in quarantine\n"
    assert err(capsys, "agents", "release", "a-1", code=Exit.REFUSED) == "ai-supervisor: a-1 is not in quarantine\n"
    assert err(capsys, "agents", "stop", "x-*", code=Exit.USAGE) == "ai-supervisor: no agent's name matches 'x-*'\n"


def test_a_rollout_is_begun_followed_and_turned(daemon: Daemon, house: House, capsys: Caps) -> None:
    house.views = [house.view(), replace(house.view(), state="done", rolled=2, in_hand=())]
    assert out(capsys, "rollout", "a-*").splitlines() == [
        "running: 1 of 2 rolled, in hand a-1",
        "done: 2 of 2 rolled",
    ]
    assert house.told[0] == ("roll", "a-1", "a-2")
    assert out(capsys, "rollout", "--pause") == "running: 1 of 2 rolled, in hand a-1\n"
    assert out(capsys, "rollout", "--status") == "running: 1 of 2 rolled, in hand a-1\n"
    assert "no agent's name matches" in err(capsys, "rollout", "z*", code=Exit.USAGE)


def test_a_rollout_that_failed_is_exit_code_one_and_says_who_and_how(daemon: Daemon, house: House, capsys: Caps) -> None:
    failed = RolledAgentView("a-1", "returned", "exit:1 (boom)")
    last = RolloutView("rolled back", "2 failed, 1 may", 2, 0, 2, (), 2, (failed,))
    house.views = [house.view(), last]
    text = out(capsys, "rollout", code=Exit.NO)
    assert text.splitlines()[1] == "rolled back: 0 of 2 rolled, 2 failed (2 failed, 1 may)"
    assert "a-1     returned  exit:1 (boom)" in text
    house.views = [last, last]
    assert "2 agents run as something else" in out(capsys, "rollout", "--status", code=Exit.NO)
    house.fault = UsageError("a rollout is running already")
    assert "already" in err(capsys, "rollout", code=Exit.REFUSED)


def test_a_plan_tells_a_script_whether_anything_would_change(daemon: Daemon, house: House, capsys: Caps) -> None:
    assert out(capsys, "config", "plan", "--exit-code") == "nothing has changed\n"
    house.config = config_of("a-1", "a-2", "a-3")
    assert out(capsys, "config", "plan", "--exit-code", code=Exit.NO) == "add      a-3\n"
    assert out(capsys, "config", "plan") == "add      a-3\n"


def test_the_queue_is_paused_drained_and_resumed(daemon: Daemon, capsys: Caps) -> None:
    assert out(capsys, "queue", "pause").startswith("the queue is paused: ")
    assert out(capsys, "queue", "resume") == "the queue is open\n"
    assert from_json(capsys, "queue", "drain") == {"mode": "draining"}
    daemon.gateway = replace(gateway_view(), queued=0, running=0)
    assert from_json(capsys, "queue", "drain", "--wait") == {"mode": "draining", "queued": 0, "running": 0}


def test_a_queue_that_is_not_open_says_so_wherever_it_is_looked_at(daemon: Daemon, capsys: Caps) -> None:
    daemon.gateway = replace(gateway_view(), mode="paused")
    assert out(capsys, "queue", "list").startswith("the queue is paused: requests are taken in and wait, nothing starts;")
    assert out(capsys, "health", code=Exit.NO).startswith("degraded\n  the queue is paused\n")
    text = out(capsys, "status")
    assert "7 waiting, 1 running   paused" in text
    assert "type       ai-supervisor queue resume" in text


def test_a_request_is_cancelled(daemon: Daemon, capsys: Caps) -> None:
    assert out(capsys, "queue", "cancel", "r/1") == "r/1 is cancelled\n"
    assert "no request 'zz' waits or runs" in err(capsys, "queue", "cancel", "zz", code=Exit.USAGE)


def test_models_are_listed_and_what_could_not_be_asked_is_said(daemon: Daemon, capsys: Caps) -> None:
    assert main(["models", "list"]) == Exit.NO
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split() == ["llama3.2:3b", "main", "2,000", "MB", "llama", "Q4_K_M", "-", "-"]
    assert said.err == "not asked: cpu: refused\n"
    assert main(["models", "loaded"]) == Exit.NO
    assert capsys.readouterr().out == "no model is loaded\n"


def test_a_model_is_loaded_and_deleted_only_when_that_is_meant(daemon: Daemon, house: House, capsys: Caps) -> None:
    assert out(capsys, "models", "load", "hf.co/a/b:Q4") == "hf.co/a/b:Q4 is loaded\n"
    assert "say --yes" in err(capsys, "models", "rm", "x", code=Exit.USAGE)
    assert out(capsys, "models", "rm", "x", "--yes") == "x is deleted\n"
    assert [words for words in house.told if words[0] != "event"] == [("load", "hf.co/a/b:Q4"), ("rm", "x")]


def test_a_pull_shows_each_step_and_fails_with_ollamas_words(daemon: Daemon, house: House, capsys: Caps) -> None:
    assert out(capsys, "models", "pull", "x") == "pulling manifest\nsuccess\n"
    house.fault = UpstreamCut(5)
    assert main(["models", "pull", "x"]) == Exit.REFUSED
    assert "Ollama broke off" in capsys.readouterr().err
    house.fault = UsageError("x would leave this machine")
    assert err(capsys, "models", "pull", "x", code=Exit.REFUSED) == "ai-supervisor: x would leave this machine\n"


def test_progress_is_told_in_words() -> None:
    assert progress({"status": "pulling a8", "total": 20_000_000, "completed": 5_000_000}) == "pulling a8  5.0 MB of 20 MB, 25%"
    assert progress({"status": "bad \x1b[31m"}) == "bad \\x1b[31m"


def test_the_cache_is_shown_and_cleared(daemon: Daemon, capsys: Caps) -> None:
    lines = out(capsys, "cache", "stats").splitlines()
    assert lines[0] == "12 hits, 21 misses, 36%; 9 answers stored since the start"
    assert lines[4].split() == ["l1", "memory", "4", "1.0", "MB", "256", "MB", "10", "0"]
    assert max(map(len, lines)) <= 80
    assert ["opus", "8", "12", "40%", "62", "s"] in [line.split() for line in lines]
    assert from_json(capsys, "cache", "stats")["by_model"][0]["name"] == "llama3.2:3b"
    assert out(capsys, "cache", "clear", "--tier", "l1") == "7 answers are forgotten\n"


def test_the_cache_is_analyzed_in_a_sentence_and_prompts_are_hashes_unless_asked_for(daemon: Daemon, capsys: Caps) -> None:
    text = out(capsys, "cache", "analyze")
    assert text.startswith("The cache answers 36% of what it may, and saved 92 s of the model's time: leave\nit as it is.\n")
    assert "0123456789ab" in text
    assert "2+2" not in text
    assert "3  no fixed seed, and the temperature is above 0" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "what is 2+2?" in out(capsys, "cache", "analyze", "--prompts")
    assert from_json(capsys, "cache", "analyze")["advice"].startswith("The cache answers")


def test_events_are_shown_one_a_line(daemon: Daemon, capsys: Caps) -> None:
    assert out(capsys, "events", "-n", "3").rstrip().endswith("agent.ready           a-1  n=3")
    assert from_json(capsys, "events")[0]["detail"] == {"n": 50}
    said = out(capsys, "events", "--since", "10m", "--agent", "a-2", "--kind", "level")
    assert said.endswith("level                 a-2  n=10000\n")
    assert "is no time" in err(capsys, "events", "--since", "yesterday", code=Exit.USAGE)


def test_a_reload_says_what_it_did_and_four_where_something_was_refused(daemon: Daemon, house: House, capsys: Caps) -> None:
    assert out(capsys, "reload") == "nothing has changed\n"
    house.config = config_of("a-2", "a-3", *(f"c-{n}" for n in range(9)), queue=QueuePolicy(deadline_s=9.0))
    wanted = [
        "add      a-3, c-0, c-1, c-2, c-3 and 5 more",
        "remove   a-1",
        'refused  queue.deadline: "4m" -> "9s"',
        "what is refused needs a restart: ai-supervisor stop, then ai-supervisor run",
    ]
    assert out(capsys, "config", "plan").splitlines() == wanted
    assert house.followed == []
    assert out(capsys, "reload", code=Exit.REFUSED).splitlines() == wanted
    assert len(house.followed) == 1


def test_what_a_reload_refuses_is_brought_by_a_restart_in_the_words_of_whoever_runs_it() -> None:
    told = {"refused": [{"key": "queue.deadline", "what": "x"}], "applied": True, "outdated": []}
    told |= {key: [] for key in ("added", "changed", "removed", "classes", "keys")}
    unit = Unit("ai-supervisor.service", "systemctl --user")
    assert lines_of(told, unit)[-1].endswith(": systemctl --user restart ai-supervisor (agents stay)")


def test_a_broken_config_is_told_with_every_problem_and_exit_code_two(daemon: Daemon, house: House, capsys: Caps) -> None:
    house.config = ConfigError((Problem("f.toml", 3, "queue.deadlin", "unknown key"), Problem("f.toml", 9, "x", "y")))
    first, second, then = err(capsys, "reload", code=Exit.USAGE).splitlines()
    assert (first, second) == ("f.toml:3: queue.deadlin: unknown key", "f.toml:9: x: y")
    assert then.endswith("once it is mended: ai-supervisor reload")
    assert house.followed == []
