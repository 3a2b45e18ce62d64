"""JSON as Go's encoding/json reads and writes it, with Go's own error texts.

Written apart from the product's reader on purpose: a double that shared `supervisord_ai.wire.json_go` would share its
mistakes, and every comparison between the two would pass.

Reading: only the first value counts, whatever follows it is never looked at; keys of a struct match without regard to case
(Go folds U+017F to s and U+212A to k), the last duplicate wins, null leaves a field at its zero value, invalid UTF-8 and lone
surrogates become U+FFFD. A syntax error anywhere in the value is reported before any type error.
Writing: no spaces, `< > &` and U+2028/9 escaped, everything else raw, U+0085 included: that one breaks Python's line readers.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JsonObject = dict[str, Any]

_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # pairs were joined by the parser
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=\r\n]")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_ESCAPES = b'"\\/bfnrtu'
_DURATION_PART = re.compile(r"(\d*\.?\d*)([^\d.]*)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
FOREVER_S = float("inf")


class BadBody(Exception):  # noqa: N818
    """The body cannot become the request; the text is what Ollama answers with status 400."""


# --- reading -----------------------------------------------------------------------------------------------------------


def decode(body: bytes) -> object:
    """The first JSON value of the body.

    Go stops at a depth of 10,000; here Python's stack does, earlier, with the same words.
    Raises: BadBody with the text of Go's decoder.
    """
    start = _skip_space(body, 0)
    if start == len(body):
        raise BadBody("missing request body")
    try:
        end = _check_value(body, start)
        text = body[start:end].decode("utf-8", "replace")
        return _without_surrogates(json.loads(text, parse_constant=_never))
    except RecursionError:
        raise BadBody("exceeded max depth") from None


def _never(name: str) -> object:
    raise AssertionError(f"the scanner let {name} through")


def _skip_space(body: bytes, at: int) -> int:
    match = _SPACE.match(body, at)
    assert match is not None
    return match.end()


def _bad(body: bytes, at: int, where: str) -> BadBody:
    if at >= len(body):
        return BadBody("unexpected EOF")
    return BadBody(f"invalid character {_quote_char(body[at])} {where}")


def _quote_char(byte: int) -> str:
    if byte == ord("'"):
        return r"'\''"
    if byte == ord('"'):
        return "'\"'"
    named = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 92: r"\\"}
    if byte in named:
        return f"'{named[byte]}'"
    if byte < 0x20 or byte == 0x7F:
        return f"'\\x{byte:02x}'"
    if 0x80 <= byte < 0xA1 or byte == 0xAD:
        return f"'\\u{byte:04x}'"
    return f"'{chr(byte)}'"


def _check_value(body: bytes, at: int) -> int:
    """The index after the value that begins at `at`; the states of Go's scanner, one function each."""
    at = _skip_space(body, at)
    first = body[at : at + 1]
    if first == b"{":
        return _check_object(body, at + 1)
    if first == b"[":
        return _check_array(body, at + 1)
    if first == b'"':
        return _check_string(body, at + 1)
    if first in {b"t", b"f", b"n"}:
        return _check_literal(body, at)
    if first.isdigit() or first == b"-":
        return _check_number(body, at)
    raise _bad(body, at, "looking for beginning of value")


def _check_object(body: bytes, at: int) -> int:
    at = _skip_space(body, at)
    if body[at : at + 1] == b"}":
        return at + 1
    while True:
        at = _skip_space(body, at)
        if body[at : at + 1] != b'"':
            raise _bad(body, at, "looking for beginning of object key string")
        at = _skip_space(body, _check_string(body, at + 1))
        if body[at : at + 1] != b":":
            raise _bad(body, at, "after object key")
        at = _skip_space(body, _check_value(body, at + 1))
        if body[at : at + 1] == b"}":
            return at + 1
        if body[at : at + 1] != b",":
            raise _bad(body, at, "after object key:value pair")
        at += 1


def _check_array(body: bytes, at: int) -> int:
    at = _skip_space(body, at)
    if body[at : at + 1] == b"]":
        return at + 1
    while True:
        at = _skip_space(body, _check_value(body, at))
        if body[at : at + 1] == b"]":
            return at + 1
        if body[at : at + 1] != b",":
            raise _bad(body, at, "after array element")
        at += 1


def _check_string(body: bytes, at: int) -> int:
    while True:
        match = _PLAIN.match(body, at)
        assert match is not None
        at = match.end()
        char = body[at : at + 1]
        if char == b'"':
            return at + 1
        if char != b"\\":
            raise _bad(body, at, "in string literal")
        at += 1
        escape = body[at : at + 1]
        if not escape or escape not in _ESCAPES:
            raise _bad(body, at, "in string escape code")
        at += 1
        if escape == b"u":
            for _ in range(4):
                if at >= len(body) or body[at] not in _HEX:
                    raise _bad(body, at, r"in \u hexadecimal character escape")
                at += 1


def _check_literal(body: bytes, at: int) -> int:
    word = {b"t": b"true", b"f": b"false", b"n": b"null"}[body[at : at + 1]]
    for offset in range(1, len(word)):
        if body[at + offset : at + offset + 1] != word[offset : offset + 1]:
            raise _bad(body, at + offset, f"in literal {word.decode()} (expecting {_quote_char(word[offset])})")
    return at + len(word)


def _check_number(body: bytes, at: int) -> int:
    match = _NUMBER.match(body, at)
    if match is None:
        raise _bad(body, at + 1, "in numeric literal")
    end = match.end()
    rest = body[end : end + 1]
    if rest == b".":
        raise _bad(body, end + 1, "after decimal point in numeric literal")
    if rest in {b"e", b"E"}:
        sign = 1 if body[end + 1 : end + 2] in {b"+", b"-"} else 0
        raise _bad(body, end + 1 + sign, "in exponent of numeric literal")
    return end


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


# --- into a struct -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Struct:
    """One Go struct: its name, as type errors print it, and the kind of each field.

    Kinds: string bool int float any map raw duration think strings images, a Struct, or a list of one Struct.
    """

    name: str
    fields: Mapping[str, object] = field(default_factory=dict)
    package: str = "api"


def bind(body: bytes, into: Struct) -> JsonObject:
    """The body as the fields of a struct; absent and null fields are left out.

    Raises: BadBody with the text of Go's decoder.
    """
    value = decode(body)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadBody(f"json: cannot unmarshal {_kind_of(value)} into Go value of type {into.package}.{into.name}")
    return _bind_struct(value, into, into.name, "")


def fold(key: str) -> str:
    return key.replace("\u017f", "s").replace("\u212a", "k").lower()


def _bind_struct(value: dict[str, Any], into: Struct, root: str, path: str) -> JsonObject:
    by_fold = {fold(name): name for name in into.fields}
    bound: JsonObject = {}
    for key, item in value.items():
        name = key if key in into.fields else by_fold.get(fold(key))
        if name is None or item is None:
            continue
        bound[name] = _bind_field(item, into.fields[name], root, f"{path}{name}")
    return bound


def _bind_field(item: Any, kind: object, root: str, path: str) -> object:
    if isinstance(kind, Struct):
        if not isinstance(item, dict):
            raise _mismatch(item, root, path, f"{kind.package}.{kind.name}")
        return _bind_struct(item, kind, root, f"{path}.")
    if isinstance(kind, list):
        (element,) = kind
        if not isinstance(item, list):
            raise _mismatch(item, root, path, f"[]{element.package}.{element.name}")
        return [_bind_field(each if each is not None else {}, element, root, path) for each in item]
    match kind:
        case "any" | "raw":
            return item
        case "string":
            if not isinstance(item, str):
                raise _mismatch(item, root, path, "string")
        case "bool":
            if not isinstance(item, bool):
                raise _mismatch(item, root, path, "bool")
        case "int":
            if isinstance(item, float):
                raise _mismatch(item, root, path, "int", f"number {item!r}")
            if isinstance(item, bool) or not isinstance(item, int):
                raise _mismatch(item, root, path, "int")
        case "float":
            if isinstance(item, bool) or not isinstance(item, int | float):
                raise _mismatch(item, root, path, "float64")
        case "map":
            if not isinstance(item, dict):
                raise _mismatch(item, root, path, "map[string]interface {}")
        case "strings":
            if not isinstance(item, list):
                raise _mismatch(item, root, path, "[]string")
            for each in item:
                if not isinstance(each, str):
                    raise _mismatch(each, root, path, "string")
        case "images":
            return _images(item, root, path)
        case "duration":
            return duration_s(item)
        case "think":
            return _think(item)
        case _:
            raise AssertionError(f"no such kind: {kind}")
    return item


def _mismatch(item: object, root: str, path: str, wanted: str, value: str | None = None) -> BadBody:
    return BadBody(f"json: cannot unmarshal {value or _kind_of(item)} into Go struct field {root}.{path} of type {wanted}")


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _images(item: object, root: str, path: str) -> list[bytes]:
    if not isinstance(item, list):
        raise _mismatch(item, root, path, "[]api.ImageData")
    images: list[bytes] = []
    for each in item:
        if not isinstance(each, str):
            raise _mismatch(each, root, path, "api.ImageData")
        images.append(std_base64(each))
    return images


def std_base64(text: str) -> bytes:
    """Decodes as Go's base64.StdEncoding: padded, standard alphabet, newlines skipped.

    Raises: BadBody `illegal base64 data at input byte N`, where N is the start of the bad quantum for padding and of the
    bad character otherwise.
    """
    plain = text.replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        bad = _NOT_BASE64.search(text)
        at = bad.start() if bad is not None else len(plain) // 4 * 4
        raise BadBody(f"illegal base64 data at input byte {at}") from None


def _think(item: object) -> object:
    if isinstance(item, bool):
        return item
    if isinstance(item, str):
        if item in {"high", "medium", "low", "max"}:
            return item
        raise BadBody(f'invalid think value: {quote(item)} (must be "high", "medium", "low", "max", true, or false)')
    raise BadBody('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def duration_s(item: object) -> float:
    """A keep_alive in seconds: a number of seconds, a Go duration, or anything negative for ever."""
    if isinstance(item, bool) or not isinstance(item, int | float | str):
        name = {"bool": "bool", "array": "[]interface {}", "object": "map[string]interface {}"}[_kind_of(item)]
        raise BadBody(f"Unsupported type: '{name}'")
    seconds = float(item) if isinstance(item, int | float) else parse_go_duration(item)
    return FOREVER_S if seconds < 0 else seconds


def parse_go_duration(text: str) -> float:
    """`time.ParseDuration` in seconds."""
    rest, sign = text, 1.0
    if rest[:1] in {"+", "-"}:
        sign, rest = (-1.0 if rest[0] == "-" else 1.0), rest[1:]
    if rest == "0":
        return 0.0
    if not rest:
        raise BadBody(f"time: invalid duration {quote(text)}")
    total = 0.0
    while rest:
        match = _DURATION_PART.match(rest)
        assert match is not None
        number, unit = match.groups()
        if number in {"", "."}:
            raise BadBody(f"time: invalid duration {quote(text)}")
        if not unit:
            raise BadBody(f"time: missing unit in duration {quote(text)}")
        if unit not in _UNIT_S:
            raise BadBody(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
        total += float(number) * _UNIT_S[unit]
        rest = rest[match.end() :]
    return sign * total


# --- writing -----------------------------------------------------------------------------------------------------------


def encode(value: object) -> bytes:
    """The value as Go's json.Marshal writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
    text = text.replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")
    return text.encode()


def quote(text: str) -> str:
    """Go's %q, near enough for the names and texts that tests use."""
    return json.dumps(text, ensure_ascii=False)


def held32(value: float) -> float:
    """The number a float32 holds."""
    (held,) = struct.unpack("<f", struct.pack("<f", value))
    return float(held)


def float32(value: float) -> float:
    """The number a float32 holds, in the fewest digits that name it, as Go prints it."""
    held = held32(value)
    for digits in range(1, 10):
        short = float(f"{held:.{digits}g}")
        if held32(short) == held:
            return int(short) if short.is_integer() else short
    return held
