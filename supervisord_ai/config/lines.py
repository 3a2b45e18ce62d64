"""Finds the line of every key of a TOML text, which no TOML parser tells.

A scanner for text that a real parser has already accepted: it skips values without judging them. Paths are as the parser's
result is indexed: `("agents", 1, "name")`. TOML 1.0, https://toml.io/en/v1.0.0.
"""

from __future__ import annotations

import re
from bisect import bisect_right

import tomli

Path = tuple[str | int, ...]

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"""("{0,2})', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'(?!''))*'''('{0,2})", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def key_lines(text: str) -> dict[Path, int]:
    """Return the line (from 1) on which each key, table and list element begins. `text` must be valid TOML."""
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [i for i, char in enumerate(text) if char == "\n"]
        self._lines: dict[Path, int] = {}
        self._list_lengths: dict[Path, int] = {}  # of [[arrays of tables]]

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_SPACE)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_SPACE)
        return self._lines

    def _header(self) -> Path:
        start, is_list = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if is_list else 1
        keys = self._dotted_key()
        self._at = self._text.index("]", self._at) + (2 if is_list else 1)
        if not is_list:
            return self._enter((), keys, start)
        listed = (*self._enter((), keys[:-1], start), keys[-1])
        index = self._list_lengths.get(listed, 0)
        self._list_lengths[listed] = index + 1
        self._note(listed, start)
        self._note((*listed, index), start)
        return (*listed, index)

    def _pair(self, table: Path) -> None:
        start = self._at
        keys = self._dotted_key()
        self._at = self._text.index("=", self._at) + 1
        self._value(self._enter(table, keys, start))

    def _enter(self, base: Path, keys: list[str], start: int) -> Path:
        path = base
        for key in keys:
            path = (*path, key)
            self._note(path, start)
            if path in self._list_lengths:  # the last element is meant
                path = (*path, self._list_lengths[path] - 1)
        return path

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        text, at = self._text, self._at
        if text.startswith("[", at):
            self._list(path)
        elif text.startswith("{", at):
            self._inline_table(path)
        elif text.startswith('"""', at):
            self._skip(_LONG_BASIC)
        elif text.startswith("'''", at):
            self._skip(_LONG_LITERAL)
        elif text.startswith('"', at):
            self._skip(_BASIC)
        elif text.startswith("'", at):
            self._skip(_LITERAL)
        else:
            self._skip(_SCALAR)

    def _list(self, path: Path) -> None:
        self._at += 1
        index = 0
        self._skip(_SPACE)
        while not self._text.startswith("]", self._at):
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
            self._skip_comma()
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        self._skip(_SPACE)
        while not self._text.startswith("}", self._at):
            self._pair(path)
            self._skip_comma()
        self._at += 1

    def _skip_comma(self) -> None:
        self._skip(_SPACE)
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip(_SPACE)

    def _dotted_key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANK)
            keys.append(self._key())
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _key(self) -> str:
        start = self._at
        if self._text.startswith('"', start):
            self._skip(_BASIC)
            return str(tomli.loads("k = " + self._text[start : self._at])["k"])  # escapes are the parser's business
        if self._text.startswith("'", start):
            self._skip(_LITERAL)
            return self._text[start + 1 : self._at - 1]
        self._skip(_BARE_KEY)
        return self._text[start : self._at]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        assert match is not None, f"not TOML at offset {self._at}"
        self._at = match.end()

    def _note(self, path: Path, offset: int) -> None:
        self._lines.setdefault(path, bisect_right(self._newlines, offset - 1) + 1)
