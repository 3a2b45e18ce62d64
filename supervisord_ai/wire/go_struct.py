"""Binds a decoded JSON object to a table of known fields as encoding/json binds it to a struct.

Three things follow from being exact here: no second spelling of a known field reaches Ollama (`Keep_Alive` is `keep_alive`),
what we decide on has the type we think it has, and what is wrong is answered at once in Ollama's words instead of after a wait.

Go's rules, each numbered where it is done:
 1. a field is found by its exact name, else by folded name; a later one overwrites an earlier one;
 2. `null` leaves a plain value as it was, and clears a pointer, slice, map or interface;
 3. a second object for the same map or struct is merged into the first;
 4. a value of the wrong type is remembered, decoding goes on, and the first such error is the answer;
 5. an error of a type's own UnmarshalJSON ends it at once and wins.
Not copied: a second array for the same field is decoded over the elements of the first.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from supervisord_ai.core.calls import Json, JsonObject, Value
from supervisord_ai.core.go_text import quote
from supervisord_ai.wire.json_go import fold, pairs_of


class Plain(StrEnum):
    """Plain Go types; the value is the type's name in errors."""

    STRING = "string"
    BOOL = "bool"
    INT = "int"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class Custom(StrEnum):
    """Types of Ollama with a reader of their own, and those that take anything."""

    ANY = "interface {}"
    RAW = "json.RawMessage"
    MAP = "map[string]interface {}"
    DURATION = "api.Duration"
    THINK = "api.ThinkValue"
    IMAGE = "api.ImageData"


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer to a plain value: `null` clears it (rule 2)."""

    to: Plain


@dataclass(frozen=True, slots=True)
class ListOf:
    """A slice; `go` is its type's name in errors."""

    go: str
    element: FieldType


@dataclass(frozen=True, slots=True)
class Struct:
    """A table of known fields. `alias`: it has an UnmarshalJSON over a type of that name, whose errors end it all (rule 5)."""

    package: str
    name: str
    fields: Mapping[str, FieldType]
    alias: str = ""

    @property
    def go(self) -> str:
        return f"{self.package}.{self.name}"


FieldType: TypeAlias = "Plain | Custom | Pointer | ListOf | Struct"


class WrongType(Exception):  # noqa: N818
    """The body does not fit; the text is the one Ollama answers with."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An object with its known fields spelled as the table does, fields unknown to Ollama as they were.

    Images given as arrays of bytes have become base64 strings, and lost line breaks; `image_digests` has the SHA-256 (hex) of
    the decoded bytes of each, by its base64: the one decoding that checks it serves for both.
    """

    fields: JsonObject
    image_digests: Mapping[str, str]


def bind(struct: Struct, value: Json) -> Bound:
    """Bind a decoded value; `null` is an empty object.

    Raises:
        WrongType: with Go's words.
    """
    if value is None:
        return Bound({}, {})
    if not isinstance(value, dict):
        raise WrongType(f"json: cannot unmarshal {_what(value)} into Go value of type {struct.go}")
    binder = _Binder({})
    bound = binder.struct(struct, value, (), None)
    if binder.first_error is not None:
        raise WrongType(binder.first_error)
    return Bound(bound, binder.image_digests)


class _Binder:
    """One decoding under way: remembers the first error (rule 4). `owner`: the struct its errors name, else the innermost."""

    def __init__(self, image_digests: dict[str, str], owner: str | None = None) -> None:
        self.image_digests = image_digests
        self.owner = owner
        self.first_error: str | None = None

    def struct(self, struct: Struct, value: JsonObject, path: tuple[str, ...], before: Json) -> JsonObject:
        bound: JsonObject = dict(before) if isinstance(before, dict) else {}  # rule 3
        for key, item in pairs_of(value):
            name = key if key in struct.fields else fold(key)  # rule 1
            kind = struct.fields.get(name)
            if kind is None:
                bound[key] = item
                continue
            if item is None and isinstance(kind, Plain | Struct):  # rule 2
                continue
            bound[name] = self.field(kind, item, self.owner or struct.name, (*path, name), bound.get(name))
        return bound

    def field(self, kind: FieldType, item: Json, owner: str, path: tuple[str, ...], before: Json) -> Json:
        if item is None:
            return None
        match kind:
            case Plain():
                return self.plain(kind, item, owner, path)
            case Pointer():
                return self.plain(kind.to, item, owner, path)
            case Custom():
                return self.custom(kind, item, owner, path, before)
            case ListOf():
                if not isinstance(item, list):
                    return self.wrong(item, owner, path, kind.go)
                return [self.element(kind.element, child, owner, path) for child in item]
            case Struct():
                return self.nested(kind, item, owner, path, before)
            case _:
                assert_never(kind)

    def element(self, kind: FieldType, item: Json, owner: str, path: tuple[str, ...]) -> Json:
        if item is None and isinstance(kind, Struct):
            return {}
        if item is None and kind is Custom.IMAGE:
            item = ""
        return self.field(kind, item, owner, path, None)

    def nested(self, kind: Struct, item: Value, owner: str, path: tuple[str, ...], before: Json) -> Json:
        if not kind.alias:
            return self.struct(kind, item, path, before) if isinstance(item, dict) else self.wrong(item, owner, path, kind.go)
        # Its own UnmarshalJSON decodes into an alias; Go then names the outer struct and the whole path (rule 5).
        if not isinstance(item, dict):
            raise WrongType(_sentence(_what(item), owner, path, kind.alias))
        inner = _Binder(self.image_digests, owner)
        bound = inner.struct(kind, item, path, None)
        if inner.first_error is not None:
            raise WrongType(inner.first_error)
        return bound

    def plain(self, kind: Plain, item: Value, owner: str, path: tuple[str, ...]) -> Json:
        match kind:
            case Plain.STRING:
                fits = isinstance(item, str)
            case Plain.BOOL:
                fits = isinstance(item, bool)
            case Plain.INT:
                fits = isinstance(item, int) and not isinstance(item, bool) and -(2**63) <= item < 2**63
            case Plain.FLOAT32 | Plain.FLOAT64:
                fits = isinstance(item, int | float) and not isinstance(item, bool)
            case _:
                assert_never(kind)
        if fits:
            return item
        is_bad_number = kind == Plain.INT and isinstance(item, int | float) and not isinstance(item, bool)
        return self.wrong(item, owner, path, kind.value, number=is_bad_number)

    def custom(self, kind: Custom, item: Value, owner: str, path: tuple[str, ...], before: Json) -> Json:
        match kind:
            case Custom.ANY | Custom.RAW:
                return item
            case Custom.MAP:
                if not isinstance(item, dict):
                    return self.wrong(item, owner, path, kind.value)
                return {**before, **item} if isinstance(before, dict) else item  # rule 3
            case Custom.DURATION:
                duration_s(item)
                return item
            case Custom.THINK:
                _check_think(item)
                return item
            case Custom.IMAGE:
                return self.image(item, owner, path)
            case _:
                assert_never(kind)

    def image(self, item: Value, owner: str, path: tuple[str, ...]) -> Json:
        if isinstance(item, list):  # a []byte may be written as an array of numbers
            numbers = []
            for number in (0 if member is None else member for member in item):
                if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 256:
                    return self.wrong(number, owner, path, "uint8", number=_what(number) == "number")
                numbers.append(number)
            item = binascii.b2a_base64(bytes(numbers), newline=False).decode("ascii")
        if not isinstance(item, str):
            return self.wrong(item, owner, path, Custom.IMAGE.value)
        plain = item.replace("\n", "").replace("\r", "")
        try:
            self.image_digests[plain] = hashlib.sha256(decode_base64(plain)).hexdigest()
        except CorruptBase64:
            at = _first_corrupt_byte(item.encode("utf-8"))
            self.first_error = self.first_error or f"illegal base64 data at input byte {at}"
        return plain

    def wrong(self, item: Value, owner: str, path: tuple[str, ...], go: str, *, number: bool = False) -> Json:
        what = f"number {item!r}" if number else _what(item)
        self.first_error = self.first_error or _sentence(what, owner, path, go)
        return None


def _sentence(what: str, owner: str, path: tuple[str, ...], go: str) -> str:
    return f"json: cannot unmarshal {what} into Go struct field {owner}.{'.'.join(path)} of type {go}"


def _what(value: Value) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            assert_never(value)


# --- types that read themselves ---------------------------------------------------------------------------------------


def _check_think(value: Json) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, str):
        raise WrongType('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')
    if value not in {"high", "medium", "low", "max"}:
        raise WrongType(f'invalid think value: {quote(value)} (must be "high", "medium", "low", "max", true, or false)')


_GO_TYPES = {"bool": "bool", "array": "[]interface {}", "object": "map[string]interface {}"}
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(?P<number>[0-9]*(?:\.[0-9]*)?)(?P<unit>[^0-9.]*)", re.ASCII)
_MAX_S = 2**63 / 1e9


def duration_s(value: Value) -> float:
    """Seconds of a `keep_alive`: a number of seconds or a Go duration; negative is for ever (inf).

    Raises:
        WrongType: with Go's words.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise WrongType(f"Unsupported type: '{_GO_TYPES[_what(value)]}'")
    seconds = _parse_duration(value) if isinstance(value, str) else float(value)
    return float("inf") if seconds < 0 else seconds


def _parse_duration(text: str) -> float:
    """time.ParseDuration: `1h30m`, `-1.5s`, `0`."""
    rest, sign = text, 1.0
    if rest[:1] in {"+", "-"}:
        sign, rest = (-1.0 if rest[0] == "-" else 1.0), rest[1:]
    if rest == "0":
        return 0.0
    total = 0.0
    at = 0
    while at < len(rest) or not rest:
        term = _TERM.match(rest, at)
        number = term["number"] if term is not None else ""
        if term is None or not number.strip("."):
            raise WrongType(f"time: invalid duration {_time_quote(text)}")
        unit = term["unit"]
        if not unit:
            raise WrongType(f"time: missing unit in duration {_time_quote(text)}")
        if unit not in _UNITS_S:
            raise WrongType(f"time: unknown unit {_time_quote(unit)} in duration {_time_quote(text)}")
        total += float(number) * _UNITS_S[unit]
        at = term.end()
    if total > _MAX_S:
        raise WrongType(f"time: invalid duration {_time_quote(text)}")
    return sign * total


def _time_quote(text: str) -> str:
    """The quote of package time: byte by byte, no names for control characters."""
    quoted = "".join(f"\\{chr(b)}" if chr(b) in '"\\' else chr(b) if 32 <= b < 128 else f"\\x{b:02x}" for b in text.encode())
    return f'"{quoted}"'


_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/\r\n]")


class CorruptBase64(Exception):  # noqa: N818
    """Not what Go's base64.StdEncoding takes."""


def decode_base64(text: str) -> bytes:
    """Decode as Go's base64.StdEncoding does, once line breaks are out: padding required, bits past the last byte not looked at.

    Raises:
        CorruptBase64: it is something else.
    """
    if len(text) % 4 or not text.isascii():
        raise CorruptBase64
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise CorruptBase64 from None


def _first_corrupt_byte(data: bytes) -> int:
    """The N of `illegal base64 data at input byte N`, as decodeQuantum of encoding/base64 finds it."""
    found = _NOT_BASE64.search(data.decode("latin-1"))
    stop = found.start() if found is not None else len(data)
    before = len(data[:stop]) - data.count(b"\n", 0, stop) - data.count(b"\r", 0, stop)
    in_quantum = before % 4
    if stop == len(data):
        return stop - in_quantum
    if data[stop : stop + 1] != b"=" or in_quantum < 2:
        return stop
    at = stop + 1
    while data[at : at + 1] in {b"\n", b"\r"}:
        at += 1
    if in_quantum == 2:
        if at == len(data):
            return at
        if data[at : at + 1] != b"=":
            return at - 1
        at += 1
        while data[at : at + 1] in {b"\n", b"\r"}:
            at += 1
    return at
