"""The house rules that import-linter cannot express: one catcher per boundary, small files, no forbidden words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "supervisord_ai"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# The four boundaries (ARCHITECTURE.md, "Errors"), by file and function. A fifth is a design decision, not a convenience.
BROAD_CATCHES = {
    "agents/lifecycle.py": "one agent",
    "duty.py": "one periodic duty",
    "gateway/dispatch.py": "one slot job",
    "serve/http.py": "one connection",
}

PURE = [p for p in SOURCES if p.relative_to(PACKAGE).parts[0] in {"core", "wire"}]


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def broad_catches(tree: ast.AST) -> list[int]:
    """Lines of `except:`, `except Exception` and `except BaseException` that do not re-raise as their last statement."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type is not None else {"BaseException"}
        re_raises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        if names & {"Exception", "BaseException"} and not re_raises:
            found.append(node.lineno)
    return found


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 40
    assert len(PURE) > 10


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_exceptions_are_caught_broadly_at_the_four_boundaries_only(path: Path) -> None:
    lines = broad_catches(ast.parse(path.read_text()))
    if relative(path) in BROAD_CATCHES:
        assert len(lines) == 1, f"{relative(path)} is a boundary ({BROAD_CATCHES[relative(path)]}) and has one broad catch"
    else:
        assert not lines, f"broad except at {relative(path)}:{lines}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{relative(path)} has no docstring"


@pytest.mark.parametrize("path", PURE, ids=relative)
def test_cores_and_bytes_have_no_explicit_any_and_read_no_clock(path: Path) -> None:
    names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
    assert "Any" not in names
    assert not names & {"open", "print", "input"}


def test_no_death_signal_and_no_code_between_fork_and_exec() -> None:
    """trio starts children from a thread that idles out after 10 s; the kernel sends PDEATHSIG when that *thread* ends."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} | {
            k.arg for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords if k.arg
        }
        assert not names & {"preexec_fn", "PR_SET_PDEATHSIG"}, relative(path)


def test_no_file_is_a_drawer_for_everything() -> None:
    assert not [relative(p) for p in SOURCES if p.stem in {"utils", "util", "helpers", "common", "misc"}]


def test_locks_have_hashes_and_name_no_host() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.lock")):
        text = lock.read_text()
        assert "://" not in text, f"{lock.name} names a host"
        assert "--index-url" not in text
        pins = re.findall(r"^[a-z0-9][a-z0-9._-]*==", text, flags=re.MULTILINE)
        assert pins
        blocks = re.split(r"^(?=[a-z0-9][a-z0-9._-]*==)", text, flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in block for block in blocks), f"{lock.name}: a pin without a hash"


def test_the_shell_scripts_are_posix() -> None:
    for name in ("test", "demo"):
        assert (ROOT / "scripts" / name).read_text().startswith("#!/bin/sh\n")
