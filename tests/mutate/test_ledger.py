"""The ledger of mutation testing, and that no decision is left without tests that are asked about it."""

from __future__ import annotations

from tests.mutate.ledger import LEDGER, Outcome, Survivor, explained, table, with_outcome
from tests.mutate.selection import BESIDE, CORE, ROOT, asked_about, modules

ONE = Survivor("breaker.Breaker.fault", "if a | b:", "if a & b:")
TEXT = f"""# Mutation testing

| module | mutants | killed | survive |
| --- | ---: | ---: | ---: |
| `doctor/wsl` | 1,200 | 1,199 | 1 |

## Survivors

| where | was | becomes | why it may |
| --- | --- | --- | --- |
{ONE} equal for every value there is |
"""


def test_every_module_that_decides_anything_has_tests_that_are_asked_about_it() -> None:
    without = {module for module in modules() if not asked_about(module)}
    assert without == {module for module in without if "def " not in (CORE / f"{module}.py").read_text()}
    assert set(BESIDE) <= set(modules())
    assert [path for module in modules() for path in asked_about(module) if not (ROOT / path).exists()] == []


def test_a_survivor_is_known_again_by_what_was_written_and_what_became_of_it() -> None:
    assert explained(TEXT) == {ONE: "equal for every value there is"}
    assert explained(TEXT.replace("equal for every value there is", "")) == {}, "a reason is wanted"


def test_what_became_of_a_module_replaces_what_was_known_of_it() -> None:
    once = with_outcome(TEXT, Outcome("breaker", 55, (ONE,)))
    rows = [line for line in once.splitlines() if line.startswith("| `") and "Breaker" not in line]
    assert rows == ["| `breaker` | 55 | 54 | 1 |", "| `doctor/wsl` | 1,200 | 1,199 | 1 |"]
    assert with_outcome(once, Outcome("breaker", 60, ())) == once.replace("| 55 | 54 | 1 |", "| 60 | 60 | 0 |")
    assert explained(once) == explained(TEXT)


def test_the_ledger_knows_only_modules_that_there_are_and_each_once() -> None:
    rows = table(LEDGER.read_text())
    assert {each.module for each in explained(LEDGER.read_text())} <= set(rows) <= set(modules())
    assert rows == sorted(set(rows)), "in order and each once; a merge may keep both sides"
