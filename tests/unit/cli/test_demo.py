"""The demo's story and its arithmetic: what is asked, and what the table calls kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.cli.demo.story import AGENTS, CRASHER, HOG, QUESTIONS, STUBBORN, Kind, Role, plan_of, story
from supervisord_ai.cli.demo.table import Outcome, Seen, outcome, page, spread
from supervisord_ai.cli.demo.view import LineView, LiveView, find_view, live_page
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.engine.ledger import LedgerSummary
from tests.fakes.owner_views import agent_view, backend_view, fleet_view, gateway_view, told

ASKED = [(part, question) for part in story("m") for question in part.questions]


def test_every_agent_asks_two_questions_under_keys_of_its_own() -> None:
    assert len({part.name for part, _ in ASKED}) == AGENTS
    assert len({question.key for _, question in ASKED}) == QUESTIONS == 262


def test_at_least_150_texts_have_to_be_written_and_the_rest_is_repeats_and_embeddings() -> None:
    kinds = Counter(question.kind for _, question in ASKED)
    bodies = {json.dumps({**question.body, "stream": None}) for _, question in ASKED if question.kind is not Kind.EMBEDDING}
    assert len(bodies) == kinds[Kind.WRITING] >= 150, "a repeat is nothing new, whether it is streamed or not"
    assert kinds[Kind.REPEAT] > 40
    assert kinds[Kind.EMBEDDING] > 40


def test_every_question_may_be_answered_from_the_cache_and_wants_16_tokens_or_more() -> None:
    for _, question in ASKED:
        if question.kind is not Kind.EMBEDDING:
            options: Any = question.body["options"]
            assert options["temperature"] == 0
            assert 16 <= options["num_predict"] <= 24


def test_three_agents_misbehave() -> None:
    roles = {part.name: part.role for part in story("m") if part.role is not Role.GOOD}
    assert roles == {HOG: Role.HOG, CRASHER: Role.CRASHER, STUBBORN: Role.STUBBORN}


def test_a_plan_is_json_and_hoards_past_the_cap() -> None:
    plan = plan_of(next(part for part in story("m") if part.role is Role.HOG), Path("/demo"))
    assert json.loads(json.dumps(plan)) == plan
    assert plan["hoard_bytes"] == 3 * 256_000_000


# --- the arithmetic -------------------------------------------------------------------------------------------------------


def answers(hits: int) -> list[dict[str, Any]]:
    given = []
    for number, (part, question) in enumerate(ASKED):
        given.append(
            {
                "agent": part.name,
                "key": question.key,
                "kind": question.kind.value,
                "is_hit": number >= QUESTIONS - hits,
                "tokens": 0 if question.kind is Kind.EMBEDDING else 20,
                "timing_ms": {"queue": 1000.0},
                "engine_ms": 500.0,
                "text": f"text {number}",
            }
        )
    return given


def seen(**changes: Any) -> Seen:
    made = Seen(
        verdicts={HOG: ["oom:own-cap", "finished"], CRASHER: ["crash:SEGV", "finished"], STUBBORN: ["stopped:shutdown"]},
        is_stubborn_gone=True,
    )
    return replace(made, **changes)


def judged(hits: int = 60, calls: int = 202, peak: int = 2, given: list[dict[str, Any]] | None = None, **changes: Any) -> Outcome:
    ledger = LedgerSummary(calls=calls, ok=calls, peak_in_flight=peak)
    return outcome(answers(hits) if given is None else given, ledger, seen(**changes), engine="m", users="you")


def test_calls_and_hits_that_make_262_are_kept_promises() -> None:
    result = judged()
    assert (result.answered, result.lost, result.twice, result.hits, result.reruns) == (262, 0, 0, 60, 0)
    assert result.problems == ()
    text = page(result).text()
    assert "202 calls + 60 hits = 262 = 262 answers" in text
    assert "Everything that was promised was kept." in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_two_calls_begun_again_are_allowed_after_a_kill_only() -> None:
    assert judged(calls=204, killed_after=100).problems == ()
    assert "+ 2 begun again after the kill" in " ".join(page(judged(calls=204, killed_after=100)).text().split())
    assert judged(calls=204).problems
    assert judged(calls=205, killed_after=100).problems
    assert judged(calls=201).problems


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"peak": 3}, "the engine held 3 calls at once"),
        ({"is_stubborn_gone": False}, "outlived the daemon"),
        ({"left_behind": ("4711 sleep",)}, "left behind: 4711 sleep"),
        ({"verdicts": {}}, "was not ended for its memory"),
    ],
)
def test_what_was_not_kept_is_said(changes: dict[str, Any], problem: str) -> None:
    result = judged(**changes)
    assert any(problem in said for said in result.problems)
    assert "NOT KEPT" in page(result).text()


def test_a_question_without_an_answer_is_lost_and_one_with_two_is_twice() -> None:
    given = answers(60)
    assert judged(given=given[1:], calls=201).lost == 1
    assert "1 questions have no answer" in judged(given=given[1:], calls=201).problems
    assert judged(given=[*given, given[0]]).twice == 1


def test_spread_is_by_nearest_rank() -> None:
    assert spread([]) == spread([0.0])
    assert (spread(range(1, 101)).p50_s, spread(range(1, 101)).p95_s) == (51, 96)


# --- what is seen while it runs ---------------------------------------------------------------------------------------------


def status_of(**changes: Any) -> Any:
    agents = agent_view(), agent_view("opus-02"), agent_view("sonnet-01", state=AgentState.BACKOFF)
    return told(**{"fleet": fleet_view(*agents), **changes})


def test_the_page_shows_how_far_it_is_who_is_served_and_who_waits() -> None:
    first = backend_view().running[0]
    again = replace(first, agent="opus-02", attempt=2)
    now = status_of(gateway=gateway_view(backend_view(running=(first, again), busy=2)))
    text = live_page(75.0, 131, 30, now, [f"deed {n}" for n in range(8)]).text()
    assert text.splitlines() == [
        "131 agents, one socket, two slots, one small model   75 s",
        "█" * 20 + "░" * 20 + " 131 of 262 answered, 30 from the cache",
        "",
        "slots     2 of 2 busy",
        "  opus-01     /api/chat             priority 3  12 s",
        "  opus-02     /api/chat             priority 3  12 s, attempt 2",
        "waiting   7: 5 of priority 3, 2 of priority 5",
        "opus      2 running",
        "sonnet    1 backoff",
        "memory    daemon 45 MB, agents 36 MB",
        "",
        *(f"deed {n}" for n in range(2, 8)),
    ]


def test_while_the_daemon_is_killed_the_page_says_so_and_so_does_the_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no daemon just now" in live_page(1.0, 3, 0, None, []).text()
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    with LineView() as view:
        view.show(3, 0, None)
    assert capsys.readouterr().out == "   0.0 s    3 of 262 answered, 0 from the cache   no daemon just now\n"


def test_into_a_pipe_go_deeds_at_once_and_the_state_every_two_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    view = find_view()
    assert isinstance(view, LineView)
    view.show(1, 0, status_of())
    for now[0] in (101.0, 101.5):
        view.show(2, 0, status_of())
    view.tell("kill -9 to the daemon")
    now[0] = 102.5
    view.show(3, 1, status_of())
    assert capsys.readouterr().out.splitlines() == [
        "   0.0 s    1 of 262 answered, 0 from the cache   1 running, 7 waiting; agents: 2 running, 1 backoff",
        "   1.5 s  kill -9 to the daemon",
        "   2.5 s    3 of 262 answered, 1 from the cache   1 running, 7 waiting; agents: 2 running, 1 backoff",
    ]


def test_on_a_terminal_one_screen_is_drawn_again_in_place_and_the_deeds_stay_when_it_is_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with find_view() as view:
        assert isinstance(view, LiveView)
        view.tell("the daemon serves")
        view.show(131, 30, status_of())
    said = capsys.readouterr().out
    assert "131 of 262 answered, 30 from the cache" in said
    assert said.splitlines()[-1].endswith("  the daemon serves")
