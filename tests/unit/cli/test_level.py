"""What the owner is told of the level, and how it looks in 80 columns."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from supervisord_ai.cli import level as cli
from supervisord_ai.control.encoding import rounded
from supervisord_ai.control.level import read_pin, shown
from supervisord_ai.core.effects import Level
from supervisord_ai.core.policies import LevelsPolicy
from supervisord_ai.core.samples import Load, Machine, Sample
from supervisord_ai.errors import Refused
from supervisord_ai.health.ladder import Ladder
from supervisord_ai.health.view import LevelView
from tests.fakes.clock import StillClock

GB = 1_000_000_000


def level_json(view: LevelView) -> Any:
    return msgspec.json.decode(msgspec.json.encode(rounded(shown(view))))


def squeezed(seconds: int = 30, policy: LevelsPolicy | None = None) -> Ladder:
    """A ladder after so many seconds of too little memory."""
    clock = StillClock()
    ladder = Ladder(policy or LevelsPolicy(), reserve_bytes=2 * GB, tell=lambda _event: None, clock=clock)
    machine = Machine(cores=8, runnable=3, total_bytes=48 * GB, available_bytes=round(1.2 * GB))
    for second in range(seconds):
        clock.now = float(second)
        ladder.take(Sample(clock.now, 0.0, machine, Load(queued=12, running=2, slots=2, wait_s=60.0, wait_share=0.25)))
    return ladder


def test_the_owner_sees_what_is_pressed_what_holds_and_what_brings_it_down() -> None:
    told = level_json(squeezed().statistics())
    assert (told["level"], told["name"], told["cause"]) == (2, "major", "memory")
    assert told["reason"].endswith("1,200 MB available, 0.6 times the reserve of 2,000 MB")
    assert told["comes_down"].startswith("one level when every component is below 0.70, at the earliest in 38 s")
    assert [one["name"] for one in told["components"]] == ["queue", "memory", "cpu"]
    assert told["components"][0]["why"] == "12 waiting, about 60 s for one who comes now: 25% of the time there is"
    assert told["levels"][3] == {
        "level": 3,
        "name": "critical",
        "enters_at": 0.95,
        "leaves_below": 0.85,
        "changes": ["kept answers are good for 24 times as long", "only priorities up to 3 are let in"],
    }


def test_it_fits_80_columns() -> None:
    text = cli.screen(level_json(squeezed().statistics())).text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[0].startswith("level 2 major   for ")
    assert "memory     0.9" in text
    assert "* 2 major" in text
    assert "  3 critical" in text


def test_a_pin_and_shadow_mode_are_said_with_what_would_hold() -> None:
    ladder = squeezed()
    ladder.pin(Level.NORMAL, for_s=600)
    told = level_json(ladder.statistics())
    assert (told["level"], told["decided"], told["pin"]) == (0, 2, {"level": 0, "left_s": 600.0})
    assert told["comes_down"] == "its pin ends in 600 s"
    text = cli.screen(told).text()
    assert "pinned" in text
    assert "level 2 would hold" in text
    shadow = level_json(squeezed(policy=LevelsPolicy(shadow=True)).statistics())
    assert (shadow["level"], shadow["decided"], shadow["is_shadow"], shadow["comes_down"]) == (0, 2, True, "")


def test_effects_that_are_turned_off_are_not_promised() -> None:
    policy = LevelsPolicy(num_predict=0, ttl_factor=(1.0, 1.0, 1.0, 1.0), light_model="", stale=False, pause_starts=False)
    told = level_json(squeezed(policy=policy).statistics())
    assert [step["changes"] for step in told["levels"]] == [[], [], [], ["only priorities up to 3 are let in"]]


def test_a_pin_is_a_level_and_perhaps_a_time() -> None:
    assert read_pin({"level": 2, "for_s": None}) == (Level.MAJOR, None)
    assert read_pin({"level": 0, "for_s": 600.0}) == (Level.NORMAL, 600.0)
    with pytest.raises(Refused, match="level is missing"):
        read_pin({"level": None, "for_s": None})
