"""The line of every key, for problems that people can find."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.config.lines import Path, key_lines
from supervisord_ai.config.writing import text as toml_text

HARD = '''# a comment with [brackets] and "quotes"
include = ["a", # x = 1
  "b]",
]

[daemon]
path = """
 x = 1
[no]
ends with quotes"""""
"a \\u00e9.b".'c.d' = {x = 1, "y" = [1,2,{z=3}], w = 'it # is'}
[class . opus]
memory = '300MB' # [x]
\tlong = \'\'\'
y = 2
\'\'\'
[[agents]]
name = "x\\"=\\""
env.FOO = "1"
when = 1979-05-27T07:32:00Z
[agents.env.deep]
A = 1
[[agents]]
name="y"
[agents.env]
A="1"
[[agents.list]]
k = 1
[[agents.list]]
k = 2
[models."q:3b"]
num_ctx = -3e2'''


def paths_of(value: Any, at: Path = ()) -> set[Path]:
    """Every path a parser's result can be indexed by."""
    found = {at} if at else set()
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        found |= paths_of(one, (*at, key))
    return found


def test_lines_of_a_text_with_every_trap() -> None:
    lines = key_lines(HARD)
    wanted: dict[Path, int] = {
        ("include",): 2,
        ("include", 1): 3,
        ("daemon",): 6,
        ("daemon", "path"): 7,
        ("daemon", "a é.b", "c.d", "y", 2, "z"): 11,
        ("class", "opus", "memory"): 13,
        ("class", "opus", "long"): 14,
        ("agents", 0): 17,
        ("agents", 0, "name"): 18,
        ("agents", 0, "env", "FOO"): 19,
        ("agents", 0, "env", "deep", "A"): 22,
        ("agents", 1): 23,
        ("agents", 1, "env", "A"): 26,
        ("agents", 1, "list", 1, "k"): 30,
        ("models", "q:3b", "num_ctx"): 32,
    }
    assert {path: lines.get(path) for path in wanted} == wanted


def test_the_scanner_finds_exactly_what_the_parser_finds() -> None:
    assert set(key_lines(HARD)) == paths_of(tomli.loads(HARD))


def test_an_empty_text_has_no_keys() -> None:
    assert key_lines("") == {}
    assert key_lines("# nothing\n") == {}


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
scalars = st.one_of(words, st.integers(-(2**40), 2**40), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(scalars, lambda one: st.lists(one, max_size=3) | st.dictionaries(words, one, max_size=3), max_leaves=6)


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml_text(key)} = {written(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[\n  " + ",\n  ".join(map(written, value)) + "\n]"
    if isinstance(value, bool):
        return str(value).lower()
    return toml_text(value) if isinstance(value, str) else repr(value)


@given(st.dictionaries(words, values, max_size=5))
def test_any_text_the_parser_accepts_is_scanned_to_the_same_keys(table: dict[str, Any]) -> None:
    text = "".join(f"{toml_text(key)} = {written(value)}\n" for key, value in table.items())
    assert set(key_lines(text)) == paths_of(tomli.loads(text))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_of_both_kinds_count_once(end: str) -> None:
    assert key_lines(end.join(["a = 1", "", "[b]", "c = 2"])) == {("a",): 1, ("b",): 3, ("b", "c"): 4}
