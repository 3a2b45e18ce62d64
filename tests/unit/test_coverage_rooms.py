"""The bar that coverage has to reach, room by room."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.coverage_rooms import main

HOST = "supervisord_ai/host"


def report(folder: Path, **missing_lines: int) -> str:
    """A report of two files of a hundred statements and ten branches, of which so many lines were not reached."""
    files = {
        f"supervisord_ai/{name.replace('_', '/')}.py": {
            "summary": {"num_statements": 100, "missing_lines": count, "num_branches": 10, "missing_branches": min(count, 1)},
            "missing_lines": list(range(count)),
            "missing_branches": [[1, 2]] * min(count, 1),
        }
        for name, count in missing_lines.items()
    }
    path = folder / "report.json"
    path.write_text(json.dumps({"files": files}))
    return str(path)


def test_core_and_wire_must_be_complete_and_the_others_nearly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(report(tmp_path, core_a=0, wire_b=0, gateway_c=10, daemon=10), with_others=True) == 0
    told = capsys.readouterr()
    assert "| gateway | 100 | 10 | 90.0% |" in told.out
    assert "| (the top) | 100 | 10 | 90.0% |" in told.out
    assert told.err == ""


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"core_a": 1}, "supervisord_ai/core/a.py: lines [0], branches 1->2"),
        ({"wire_a": 2}, "supervisord_ai/wire/a.py: lines [0, 1], branches 1->2"),
        ({"host_a": 11, "host_b": 50}, f"host: 71.4% is below 90%; the most is missing in {HOST}/b.py, {HOST}/a.py"),
        ({"daemon": 11}, "(the top): 89.1% is below 90%; the most is missing in supervisord_ai/daemon.py"),
    ],
)
def test_what_is_below_its_bar_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: dict[str, int], said: str
) -> None:
    assert main(report(tmp_path, **missing), with_others=True) == 1
    assert capsys.readouterr().err == said + "\n"


def test_without_the_tests_of_a_real_daemon_only_the_pure_rooms_are_judged(tmp_path: Path) -> None:
    assert main(report(tmp_path, host_a=60)) == 0
    assert main(report(tmp_path, core_a=1)) == 1
