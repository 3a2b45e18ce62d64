"""The ladder on recorded pressure: it gives the expected levels, and on noise one change a minute at most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest

from supervisord_ai.core.degradation import Change, Degradation
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.pressure import pressure_of
from supervisord_ai.core.samples import Sample
from tests import traces

POLICY = LevelsPolicy()
RESERVE = 2_000_000_000


def played(samples: Iterable[Sample], policy: LevelsPolicy = POLICY) -> list[tuple[int, Change]]:
    """The changes of a trace, each with the number of the sample that brought it."""
    ladder, changes = Degradation(policy), []
    for number, sample in enumerate(samples):
        held = ladder.step(pressure_of(sample, reserve_bytes=RESERVE), sample.at).held
        if held is not None:
            changes.append((number, held))
    return changes


def levels(changes: Sequence[tuple[int, Change]]) -> list[tuple[int, int]]:
    return [(number, int(change.after)) for number, change in changes]


@pytest.mark.parametrize(
    ("name", "expected", "causes"),
    [
        ("idle", [], []),
        ("crowded", [(49, 1)], ["cpu"]),
        ("plan", [], []),
        ("ramp", [(188, 1), (248, 2), (293, 3), (464, 2), (524, 1), (584, 0)], ["queue"] * 6),
        ("spike", [(62, 1), (65, 2), (73, 3), (133, 2), (193, 1), (253, 0)], ["memory"] * 3 + ["queue"] * 3),
        ("sensor_lost", [(34, 1), (150, 0)], ["memory", "queue"]),
        ("clock_step", [(32, 1), (103, 0)], ["queue", "queue"]),
    ],
)
def test_a_recorded_trace_gives_the_expected_levels(name: str, expected: list[tuple[int, int]], causes: list[str]) -> None:
    changes = played(traces.read(name))
    assert levels(changes) == expected
    assert [change.cause for _, change in changes] == causes


def test_a_sawtooth_around_a_threshold_changes_the_level_once_a_minute_at_most() -> None:
    changes = levels(played(traces.read("sawtooth")))
    assert {level for _, level in changes} == {0, 1}
    assert all(later - earlier >= 60 for (earlier, _), (later, _) in pairwise(changes))


def test_the_made_traces_are_those_that_are_written_down() -> None:
    for name, made in traces.MADE.items():
        assert traces.read(name) == traces.again(made()), name
