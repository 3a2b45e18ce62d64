"""Runs mutmut in the folder it is started in and prints what became of its mutants: `python -P within.py AT_ONCE FILE.py`.

A script, not a module of ours: mutmut reads its configuration while it is imported, and what is tested here is the copy.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import libcst as cst
from mutmut import __main__ as mutmut
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.diff_apply import read_functions_from_index
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

DEAD = {"killed", "timeout", "caught by type check", "segfault"}


def main(at_once: int, file: str) -> None:
    """Print {"mutants": N, "survivors": [[function, was, becomes], ...]}."""
    file_mutation.mutation_operators[:] = [
        (kind, without_prose if operator is mutators.operator_string else operator)
        for kind, operator in mutators.mutation_operators
    ]
    meta = Path("mutants") / f"{file}.meta"
    if meta.exists():
        forget_survivors(meta)
    Path("mutants/mutmut-stats.json").unlink(missing_ok=True)  # which test reaches what may have changed
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            mutmut._run((), at_once)
    except BaseException:
        print(said.getvalue()[-4000:], file=sys.stderr)
        raise
    codes: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
    alive = [name for name, code in codes.items() if status_by_exit_code[code] not in DEAD]
    print(json.dumps({"mutants": len(codes), "survivors": [survivor(file, name) for name in alive]}))


def without_prose(node: cst.BaseString) -> Iterable[cst.BaseString]:
    if not (isinstance(node, cst.SimpleString) and " " in node.value):
        yield from mutators.operator_string(node)


def forget_survivors(meta: Path) -> None:
    """What is killed stays killed until its function changes; the rest is tried again, before the tests of now."""
    known = json.loads(meta.read_text())
    codes: dict[str, int | None] = known["exit_code_by_key"]
    known["exit_code_by_key"] = {name: code if status_by_exit_code[code] in DEAD else None for name, code in codes.items()}
    meta.write_text(json.dumps(known))


def survivor(file: str, name: str) -> tuple[str, str, str]:
    """Return the function of a mutant, and its lines where they differ: as they were written, and as they became."""
    found = read_functions_from_index(name, file)
    assert found is not None, name
    was, becomes = (cst.Module([function]).code.splitlines() for function in found)
    lines = [line for line in difflib.ndiff(was, becomes) if line[:2] in {"- ", "+ "}]
    minus, plus = (" ".join(line[2:].strip() for line in lines if line[0] == sign) or "nothing" for sign in "-+")
    function, owner = orig_function_and_class_names_from_key(name)
    return f"{owner}.{function}" if owner else function, minus, plus


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
