"""Changes the decisions of core one by one and looks whether a test notices: `python -m tests.mutate [MODULE...]`.

scripts/mutate runs it in an environment that has mutmut. Each module is tried in a folder of its own under build/mutate, with
nothing but the unit tests that tell of it (`selection.py`), and without the long ones: one of ten thousand random histories may
notice, but it tells no story. What is killed stays killed until its function changes; what survived is tried again each time.
Exits with 1 where a survivor has no reason in docs/mutation.md, or a reason no survivor.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.mutate.ledger import LEDGER, Outcome, Survivor, explained, with_outcome
from tests.mutate.selection import ROOT, asked_about, modules

WORK = ROOT / "build" / "mutate"
WITHIN = Path(__file__).parent / "within.py"
COPIED = (
    *("supervisord_ai", "pyproject.toml", "config.toml", "systemd", "docs"),
    *("tests/__init__.py", "tests/conftest.py", "tests/unit", "tests/fakes", "tests/traces"),
)

# Without warn_unreachable and its kin: that a condition has become true for ever is for a test to find out.
MYPY = """[mypy]
strict = True
warn_unused_ignores = False
warn_redundant_casts = False
follow_imports = silent
ignore_missing_imports = True
"""
SETUP = """[mutmut]
source_paths = supervisord_ai
only_mutate = supervisord_ai/core/{module}.py
do_not_mutate_patterns = assert_never
use_git_change_detection = False
also_copy =
  config.toml
  systemd
  docs
timeout_multiplier = 5
pytest_add_cli_args =
  -p
  no:cacheprovider
  -m
  not long
pytest_add_cli_args_test_selection =
  {tests}
type_check_command =
  {python}
  -m
  mypy
  --output
  json
  --config-file
  ../mypy.ini
  --cache-dir
  ../../mypy-cache
  supervisord_ai/core/{module}.py
"""


def main(arguments: list[str]) -> int:
    """Try the modules named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description="Changes decisions and looks whether a test notices.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="breaker, doctor/wsl ... (default: all of core)")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="how many mutants are tried at the same time")
    parser.add_argument("--fresh", action="store_true", help="forget what was killed before")
    asked = parser.parse_args(arguments)
    unknown = sorted(set(asked.modules) - set(modules()))
    if unknown:
        print(f"core has no module {', '.join(unknown)}", file=sys.stderr)
        return 2
    outcomes = []
    for module in asked.modules or modules():
        if asked.fresh:
            shutil.rmtree(WORK / module, ignore_errors=True)
        outcome = tried(module, asked.at_once)
        if outcome is None:
            return 2
        outcomes.append(judged(outcome))
    return 0 if all(outcomes) else 1


def tried(module: str, at_once: int) -> Outcome | None:
    """Make all mutants of a module and run its tests on each. None: mutmut could not; it has said why."""
    place = WORK / module
    for name in COPIED:
        source, target = ROOT / name, place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    (place / "mypy.ini").write_text(MYPY)
    (place / "setup.cfg").write_text(SETUP.format(module=module, tests="\n  ".join(asked_about(module)), python=sys.executable))
    command = [sys.executable, "-P", str(WITHIN), str(at_once), f"supervisord_ai/core/{module}.py"]
    environment = os.environ | {"CI": "1"}  # hypothesis: the same examples for each mutant
    done = subprocess.run(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        print(f"{module}: mutmut failed", file=sys.stderr)
        return None
    told = json.loads(done.stdout.splitlines()[-1])
    survivors = [Survivor(f"{module}.{function}", was, becomes) for function, was, becomes in told["survivors"]]
    return Outcome(module, told["mutants"], tuple(survivors))


def judged(outcome: Outcome) -> bool:
    """Write down what became of a module, and say what nobody has explained. Returns whether all is explained."""
    text = LEDGER.read_text()
    LEDGER.write_text(with_outcome(text, outcome))
    reasons = explained(text)
    print(outcome)
    loose = [each for each in dict.fromkeys(outcome.survivors) if each not in reasons]
    stale = [each for each in reasons if each.module == outcome.module and each not in outcome.survivors]
    for each in loose:
        print(f"{each} survived, and nobody says why |")
    for each in stale:
        print(f"{each} explained, but killed by now |")
    sys.stdout.flush()
    return not loose and not stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
