"""Reads tables of a parsed file key by key, so that one wrong key hides no other, and says what is wrong in plain words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

import msgspec
import tomli

from supervisord_ai.config.effect import lacks_effect
from supervisord_ai.config.lines import Path, key_lines
from supervisord_ai.config.schema import SINGLE_TABLES, ClassTable, Table
from supervisord_ai.config.units import Rate, Unreadable, read_unit, shown
from supervisord_ai.errors import Problem

_SYNTAX_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ELEMENT = re.compile(r" - at `\$((?:\[[^\]]*\])+)`$")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}


@dataclass(frozen=True)
class Document:
    """One parsed file, with the line of each key."""

    file: str
    raw: Mapping[str, Any]
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int | None:
        """Return the line of a key, or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def parse(file: str, data: bytes) -> Document | Problem:
    """Return the parsed file, or the one thing that makes it not TOML."""
    try:
        text = data.decode("utf-8-sig")  # Windows editors begin with a byte order mark
    except UnicodeDecodeError as exc:
        return Problem(file, data.count(b"\n", 0, exc.start) + 1, "", "is not UTF-8 text")
    try:
        return Document(file, tomli.loads(text), key_lines(text.replace("\r\n", "\n")))
    except ValueError as exc:  # TOMLDecodeError, and int()'s own for a number of thousands of digits
        place = _SYNTAX_PLACE.search(str(exc))
        line = int(place[1]) if place and place[1] else text.count("\n") + (not text.endswith("\n"))
        return Problem(file, line, "", f"is not TOML: {_SYNTAX_PLACE.sub('', str(exc))}")
    except RecursionError:
        return Problem(file, None, "", "is not TOML that can be read: nested too deeply")


@dataclass(frozen=True)
class Entry:
    """One table of one file."""

    document: Document
    path: Path
    raw: Any

    def under(self, key: str, raw: object) -> Entry:
        return Entry(self.document, (*self.path, key), raw)


@dataclass
class Reader:
    """Collects values and problems of all files of one config."""

    problems: list[Problem] = field(default_factory=list)

    def problem(self, document: Document, path: Path, what: str) -> None:
        self.problems.append(Problem(document.file, document.line(path), key_text(path), what))

    def table(self, kind: type[Table], entry: Entry, defaults: Mapping[str, object], section: str) -> dict[str, Any]:
        """Return what was written and is good, as {attribute: plain value}. The rest became problems.

        `defaults` has the default of each attribute, `section` is how `effect.py` calls this table.
        """
        document, path = entry.document, entry.path
        if not isinstance(entry.raw, dict):
            self.problem(document, path, f"must be a table, not {shown(entry.raw)}")
            return {}
        fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
        values: dict[str, Any] = {}
        for key, value in entry.raw.items():
            if key not in fields:
                self.problem(document, (*path, key), unknown(key, fields, home_of(key, kind)))
                continue
            nested = nested_table(fields[key].type)
            if nested is not None:
                values |= self.table(nested, entry.under(key, value), defaults, f"{section}.{key}")
                continue
            try:
                read = plain(msgspec.convert(value, fields[key].type, dec_hook=read_unit))
            except msgspec.ValidationError as exc:
                self._explain(document, (*path, key), value, fields[key].type, exc)
                continue
            if text := unprintable(read):
                self.problem(document, (*path, key), text)
                continue
            attribute = fields[key].name
            of_class = issubclass(kind, ClassTable) and attribute in ClassTable.__struct_fields__
            if lacks_effect(f"{'class.X' if of_class else section}.{key}", read, defaults.get(attribute)):
                self.problem(document, (*path, key), "not in effect yet: leave it at its default")
            values[attribute] = read
        return values

    def _explain(self, document: Document, path: Path, value: object, kind: object, error: msgspec.ValidationError) -> None:
        if isinstance(error.__cause__, Unreadable):
            self.problem(document, path, str(error.__cause__))
            return
        text = str(error)
        if element := _ELEMENT.search(text):
            text = text[: element.start()]
            for index in re.findall(r"\[(\d+)\]", element[1]):
                path = (*path, int(index))
                value = value[int(index)] if isinstance(value, list) else value
        self.problem(document, path, in_words(text, value, kind))


def in_words(text: str, value: object, kind: object) -> str:
    """Turn a message of msgspec into one that its reader did not have to be a programmer for."""
    if text.startswith("Invalid enum value"):
        known = choices(kind)
        return f"must be {one_of(known)}, not {shown(value)}{suggestion(str(value), known)}"
    if match := re.fullmatch(r"Expected `(\w+)` (>=|<=) ([\d.]+)", text):
        bound = match[3].removesuffix(".0")
        return f"must be {_KINDS[match[1]]} of at {'least' if match[2] == '>=' else 'most'} {bound}, not {shown(value)}"
    if match := re.fullmatch(r"Expected `array` of length (\d+), got (\d+)", text):
        return f"must be a list of {match[1]}, not of {match[2]}"
    if match := re.fullmatch(r"Expected `([\w |]+)`, got `\w+`", text):
        wanted = " or ".join(_KINDS.get(word, word) for word in match[1].split(" | "))
        if known := choices(kind):
            wanted = one_of(known)
        if isinstance(value, dict):
            return f"must be {wanted} throughout" if wanted == "text" else f"must be {wanted}, not a table"
        return f"must be {wanted}, not {shown(value)}"
    return text


def one_of(words: tuple[str, ...]) -> str:
    """Return `"a", "b" or "c"`."""
    quoted = [shown(word) for word in words]
    return " or ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


def choices(kind: object) -> tuple[str, ...]:
    """Return the words that an enumerated key takes, () for any other."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return tuple(member.value for member in kind)
    if get_origin(kind) is Literal:
        return tuple(str(word) for word in get_args(kind))
    return tuple(word for inner in get_args(kind) for word in choices(inner))


def nested_table(kind: object) -> type[Table] | None:
    """Return the table that stands under a key, if one does."""
    for inner in get_args(kind):
        if isinstance(inner, type) and issubclass(inner, Table):
            return inner
    return None


def plain(value: Any) -> Any:
    """Return a value without the type that knew how to read it."""
    if isinstance(value, Rate):
        return value.per_min
    if isinstance(value, (list, tuple)):
        return tuple(plain(v) for v in value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


def unprintable(value: object) -> str | None:
    """Say what no program can be given: a NUL ends a string for the kernel."""
    if isinstance(value, str) and "\0" in value:
        return "must not contain a NUL character"
    if isinstance(value, tuple):
        return next((text for v in value if (text := unprintable(v))), None)
    if isinstance(value, dict):
        return unprintable((*value, *value.values()))
    return None


def unknown(key: str, known: Iterable[str], home: str | None = None) -> str:
    """Say that a key is not known, and what may have been meant."""
    known = tuple(known)
    if near := suggestion(key, known):
        return f"unknown key{near}"
    return f"unknown key here; it belongs to [{home}]" if home else f"unknown key; known here: {', '.join(known)}"


def home_of(key: str, besides: type[Table]) -> str | None:
    """Return the one other table that has this key: a header was forgotten, or a line moved."""
    homes = [
        name
        for name, kind in SINGLE_TABLES.items()
        if kind is not besides and any(f.encode_name == key for f in msgspec.structs.fields(kind))
    ]
    return homes[0] if len(homes) == 1 else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" where something known is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def key_text(path: Path) -> str:
    """Return a path as TOML writes it, list indexes as people count them in programs: `agents[0].env.FOO`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else shown(part))
    return text
