"""The shipped dashboards and rules, held against what is scraped. What Prometheus itself says of them is in scripts/test-prom."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric

from supervisord_ai.control.dashboards import DASHBOARDS, FOLDER, RULES, files
from supervisord_ai.control.metrics import families
from supervisord_ai.control.scrape import Counted
from tests.shell.test_control import House

PROM = Path(__file__).parent.parent.parent / "prom"
NAME = re.compile(r"\bai_supervisor_[a-z0-9_]+")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def scraped() -> set[str]:
    """Every name that a scrape can have."""
    known: list[Metric] = list(families(House().control.moment(), Counted()))
    return {family.name + suffix for family in known for suffix in SUFFIXES[family.type]}


def panels(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())["panels"]
    return found


def expressions(name: str) -> Iterator[str]:
    for panel in panels(name):
        for target in panel["targets"]:
            yield target["expr"]


def test_the_shipped_files_are_what_the_code_says() -> None:
    made = files()
    assert {path.name for path in FOLDER.iterdir()} == {*made}
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text, "python -m supervisord_ai.control.dashboards supervisord_ai/dashboards"


@pytest.mark.parametrize("name", DASHBOARDS)
async def test_every_metric_of_a_panel_is_one_that_is_scraped(autojump_clock: object, name: str) -> None:
    known = scraped()
    asked = [found for expr in expressions(name) for found in NAME.findall(expr)]
    assert asked
    assert {one for one in asked if one not in known} == set()


async def test_every_metric_of_a_rule_is_one_that_is_scraped(autojump_clock: object) -> None:
    asked = NAME.findall((FOLDER / RULES).read_text())
    assert len(asked) > 8
    assert {one for one in asked if one not in scraped()} == set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_lies_on_another(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(name):
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels(name)}) == len(panels(name))


def test_dashboards_are_told_apart_and_take_any_data_source() -> None:
    boards = [json.loads((FOLDER / f"{name}.json").read_text()) for name in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == 3
    for board in boards:
        assert board["templating"]["list"][0]["type"] == "datasource"
        assert {target["datasource"]["uid"] for panel in board["panels"] for target in panel["targets"]} == {"${datasource}"}


def test_each_alert_is_tested_firing_and_not_firing() -> None:
    alerts = re.findall(r"- alert: (\w+)", (FOLDER / RULES).read_text())
    tested = (PROM / "alerts.test.yml").read_text()
    assert len(alerts) == 10
    for alert in alerts:
        assert f"name: {alert} fires\n" in tested
        assert f"name: {alert} does not fire\n" in tested
