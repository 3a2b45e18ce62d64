"""When an alert fires and when it is over, in made-up time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.alerts import BUILTIN, AlertSpec, AlertState, Change, Notify, Standing, judge, rules_of
from supervisord_ai.core.conditions import BadCondition
from supervisord_ai.core.figures import FIGURES, Values

HEALTHY: Values = {
    "level": 0.0,
    "queue.oldest_s": 20.0,
    "agents.quarantined": 0.0,
    "agents.shed": 0.0,
    "backends.down": 0.0,
    "models.on_cpu": 0.0,
    "models.slow": 0.0,
    "memory.of_reserve": 3.0,
    "gpu.vram_used": 0.875,
    "disk.free_mb": 50_000.0,
}


def changes(told: Sequence[bool | None], *, for_s: float, every_s: float = 1.0) -> list[tuple[int, Change]]:
    """Look once for each of these facts; return after how many looks what was told."""
    at = Standing()
    found = []
    for number, holds in enumerate(told):
        at, change = judge(at, holds, for_s=for_s, now=number * every_s)
        if change is not None:
            found.append((number, change))
    return found


def test_it_fires_once_its_condition_has_held_for_its_time() -> None:
    assert changes([True] * 100, for_s=30) == [(30, Change.FIRING)]


def test_without_a_time_it_fires_at_once() -> None:
    assert changes([False, True, True], for_s=0) == [(1, Change.FIRING)]


def test_a_condition_that_comes_and_goes_does_not_fire() -> None:
    assert changes(([True] * 29 + [False]) * 20, for_s=30) == []


def test_it_is_over_when_its_condition_has_not_held_for_as_long_as_it_took_to_fire() -> None:
    assert changes([True] * 31 + [False] * 60, for_s=30) == [(30, Change.FIRING), (61, Change.RESOLVED)]


def test_it_is_over_after_a_minute_at_the_latest() -> None:
    assert changes([True] * 601 + [False] * 600, for_s=600) == [(600, Change.FIRING), (661, Change.RESOLVED)]


def test_one_that_comes_and_goes_while_it_fires_is_one_alert() -> None:
    assert changes([True] * 31 + ([False] * 29 + [True]) * 20, for_s=30) == [(30, Change.FIRING)]


def test_what_is_not_known_fires_nothing_and_ends_nothing() -> None:
    assert changes([None] * 100, for_s=0) == []
    assert changes([True] * 29 + [None] + [True] * 29, for_s=30) == []
    assert changes([True] * 31 + [None] * 1000, for_s=30) == [(30, Change.FIRING)]


@given(st.lists(st.sampled_from([True, False, None]), max_size=200), st.sampled_from([0.0, 1.0, 7.0, 200.0]))
def test_firing_and_over_take_turns_and_each_has_its_proof(told: list[bool | None], for_s: float) -> None:
    found = changes(told, for_s=for_s)
    assert [change for _, change in found] == [Change.FIRING, Change.RESOLVED] * (len(found) // 2) + [Change.FIRING] * (
        len(found) % 2
    )
    for number, change in found:
        span = int(min(for_s, 60.0) if change is Change.RESOLVED else for_s)
        before = told[max(0, number - span) : number + 1]
        assert len(before) == span + 1
        if change is Change.FIRING:
            assert all(before)
        else:
            assert not any(before)


# --- rules --------------------------------------------------------------------------------------------------------------


def test_the_built_in_alerts_are_quiet_on_a_machine_that_runs_its_plan() -> None:
    rules = rules_of((), Notify(), ["main"])
    assert [rule.name for rule in rules] == list(BUILTIN)
    for rule in rules:
        assert rule.is_builtin
        assert rule.advice
        assert rule.condition.holds(HEALTHY) is False, rule.name


def test_each_built_in_alert_has_something_that_fires_it() -> None:
    counts = ("backends.down", "agents.shed", "agents.quarantined", "models.on_cpu", "models.slow")
    trouble: Values = {
        **dict.fromkeys(counts, 1.0),
        "level": 2.0,
        "queue.oldest_s": 121.0,
        "memory.of_reserve": 0.9,
        "disk.free_mb": 10.0,
    }
    assert all(rule.condition.holds(trouble) for rule in rules_of((), Notify(), ["main"]))


def test_an_entry_changes_the_built_in_alert_of_its_name_in_what_it_says() -> None:
    own = Notify(command=("page-me",))
    rules = {rule.name: rule for rule in rules_of([AlertSpec("queue-slow", for_s=5.0, notify=own)], Notify(url="u"), ["main"])}
    changed = rules["queue-slow"]
    assert (changed.for_s, changed.notify, changed.condition.text) == (5.0, own, BUILTIN["queue-slow"].when)
    assert rules["level-high"].notify == Notify(url="u")


def test_an_entry_without_a_condition_turns_a_built_in_alert_off() -> None:
    names = [rule.name for rule in rules_of([AlertSpec("queue-slow", when="")], Notify(), ["main"])]
    assert names == [name for name in BUILTIN if name != "queue-slow"]


def test_an_alert_of_the_owner_needs_a_condition() -> None:
    for when in (None, " "):
        with pytest.raises(BadCondition, match="did you mean `queue-slow`"):
            rules_of([AlertSpec("queue-slo", when=when)], Notify(), ["main"])


def test_an_alert_of_the_owner_comes_after_the_built_in_ones() -> None:
    rules = rules_of([AlertSpec("mine", "level >= 3")], Notify(url="u"), ["main"])
    mine = rules[-1]
    assert (mine.name, mine.is_builtin, mine.for_s, mine.advice, mine.notify) == ("mine", False, 30.0, "", Notify(url="u"))


def test_a_built_in_alert_keeps_its_time_where_an_entry_says_none() -> None:
    rules = {rule.name: rule for rule in rules_of([AlertSpec("disk-low", when="disk.free_mb < 5")], Notify(), ["main"])}
    assert {name: rule.for_s for name, rule in rules.items()} == {name: one.for_s for name, one in BUILTIN.items()}
    assert rules["disk-low"].advice == ""  # what helps was said of another condition


def test_since_when_an_alert_is_as_it_is_is_known() -> None:
    at, since = Standing(), list[float]()
    for number, holds in enumerate([True, False, True, True, True, False, False, False]):
        at, _ = judge(at, holds, for_s=2.0, now=100.0 + number)
        since.append(at.since - 100.0)
    assert since == [0.0, 1.0, 2.0, 2.0, 4.0, 4.0, 4.0, 7.0]
    assert judge(Standing(), True, for_s=0.0, now=5.0)[0] == Standing(AlertState.FIRING, 5.0)


def test_an_alert_begins_quiet() -> None:
    assert Standing().state is AlertState.QUIET


# --- the document -------------------------------------------------------------------------------------------------------

DOCUMENT = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text()


def rows(heading: str) -> list[list[str]]:
    section = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_document_names_every_figure_with_its_unit_and_meaning() -> None:
    told = {row[0].strip("`"): (row[1], row[2]) for row in rows("Figures")}
    words = {figure.name: ", ".join(f'"{word}"' for word in figure.words) for figure in FIGURES}
    assert told == {
        figure.name: (figure.unit, figure.meaning + (f": {words[figure.name]}" if figure.words else "")) for figure in FIGURES
    }


def test_the_document_names_every_built_in_alert() -> None:
    told = [(row[0].strip("`"), row[1].strip("`"), row[2], row[3]) for row in rows("Built-in alerts")]
    assert told == [(name, one.when, f"{one.for_s:g} s", one.advice) for name, one in BUILTIN.items()]
