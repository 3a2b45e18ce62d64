"""What `config suggest` shows where there is little to show, and much."""

from __future__ import annotations

from typing import Any

from supervisord_ai.cli.caps import page

MB = 1_000_000


def line(**changes: object) -> dict[str, Any]:
    plain = {"agent_class": "a-class-of-a-long-name", "of_class": True, "agents": ["an-agent-of-a-long-name-01"] * 95, "seen": 95}
    plain |= {"cap_bytes": 256 * MB, "highest": "an-agent-of-a-long-name-01", "needed_bytes": 100 * MB, "kills": 0, "days": 7}
    return {**plain, "suggested_bytes": 128 * MB, **changes}


def test_without_agents_it_says_how_to_have_some() -> None:
    assert page({"days": 7, "enforce": "hard", "caps": []}) == [
        "there are no agents: ai-supervisor agents add NAME --class CLASS -- CMD"
    ]


def test_it_fits_into_80_columns_and_says_that_caps_are_observed() -> None:
    told = {"days": 7, "enforce": "observe", "caps": [line(), line(suggested_bytes=None, seen=0, highest="", days=0)]}
    lines = page(told)
    assert max(map(len, lines[:3])) <= 80
    assert any('they bind nobody: enforce = "observe"' in one for one in lines)
    assert lines.count("[class.a-class-of-a-long-name]") == 1  # nobody is advised about whom nobody saw


def test_a_cap_of_some_agents_names_three_of_them() -> None:
    names = [f"x-{n}" for n in range(5)]
    (comment,) = (one for one in page({"days": 7, "enforce": "hard", "caps": [line(of_class=False, agents=names)]}) if "#" in one)
    assert comment == "# in the [[agents]] of x-0, x-1, x-2 ..."
