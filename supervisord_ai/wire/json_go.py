"""JSON bodies as Go's encoding/json reads them, and written again.

Ollama reads a body laxly: what follows the first value is ignored, of a repeated key the last counts, invalid UTF-8 and lone
surrogates become U+FFFD. Whatever we look at is therefore written again from what we understood: never inspect one thing and
forward another (a body that two parsers read differently is how a policy is walked around).

Stricter than Go in three bounds only, far above what a model can use: depth (Go: 10,000), the number of values, and how many
bytes may not be UTF-8. The scanning is done by the C scanner of the standard library; the words of an error are found
afterwards, from where it stopped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from supervisord_ai.core.calls import Json, JsonObject
from supervisord_ai.core.go_text import quote_char

MAX_DEPTH = 256
MAX_VALUES = 1_000_000  # one million of `{"a":1},` is 100 MB of Python objects; a context of 128k tokens is an eighth of it
MAX_BROKEN_BYTES = 100_000  # not UTF-8: a text with some Latin-1 in it, not a film; each costs a hundred times its reading
NAMED_WITHIN_CHARS = 1_000_000  # up to here an error's enclosing container is looked for, to name it

_BLANK = " \t\n\r"
_SURROGATES = re.compile("[\ud800-\udfff]")
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)
_LITERALS = {"t": "true", "f": "false", "n": "null"}


class NotJson(Exception):  # noqa: N818
    """The body is not JSON, or more of it than we take; the text is the one Ollama answers with."""


class EmptyBody(NotJson):
    """Nothing but blanks: io.EOF, which each of Ollama's faces words in its own way."""

    def __init__(self) -> None:
        super().__init__("EOF")


class Repeated(dict[str, "Json"]):
    """An object in which a key came more than once. As a dict it holds the last of each; `pairs` has all, in order."""

    def __init__(self, pairs: list[tuple[str, Json]]) -> None:
        for key, value in pairs:
            self.pop(key, None)  # so that iteration has the order of last occurrence
            self[key] = value
        self.pairs = pairs


def decode(body: bytes | bytearray) -> Json:
    """Return the first JSON value of a body; what follows it is ignored.

    Raises:
        EmptyBody: there is none.
        NotJson: with Go's words.
    """
    return _decoded(body)[0]


def decode_only(body: bytes) -> Json:
    """Return the JSON value of a body that has nothing else in it.

    Raises:
        EmptyBody: there is none.
        NotJson: with Go's words, and for what follows it.
    """
    value, rest = _decoded(body)
    if rest.strip(_BLANK):
        raise NotJson("something follows the value")
    return value


def _decoded(body: bytes | bytearray) -> tuple[Json, str]:
    """The first value and what follows it."""
    text = _text(body)
    start = len(text) - len(text.lstrip(_BLANK))
    if start == len(text):
        raise EmptyBody
    opened = text.count("[") + text.count("{")
    if opened + text.count(",") > MAX_VALUES:
        raise NotJson(f"the body has more than {MAX_VALUES} values")
    try:
        value, end = _DECODER.raw_decode(text, start)
        if type(value) in {int, float} and text[end : end + 1] in {".", "e", "E"}:
            raise json.JSONDecodeError("Expecting ',' delimiter", text, end)  # `5.x` is no number, though 5 is one
    except json.JSONDecodeError as error:
        raise NotJson(_words(text, error)) from None
    except RecursionError:
        raise NotJson("exceeded max depth") from None
    except _OutOfRange as error:
        raise NotJson(str(error)) from None
    typed: Json = value
    if opened > MAX_DEPTH and _depth(typed) > MAX_DEPTH:
        raise NotJson("exceeded max depth")
    if not text.isascii() or "\\u" in text:
        typed = _without_surrogates(typed)
    return typed, text[end:]


def encode(value: Json) -> bytes:
    """Write a value as ASCII, keys in their order: for those who split what they read into lines."""
    return _ENCODER.encode(value).encode("ascii")


def encode_utf8(value: Json) -> bytes:
    """Write a value as UTF-8, keys in their order: for Ollama and the journal, where escapes only make it longer."""
    return _UTF8_ENCODER.encode(value).encode("utf-8")


def encode_members(value: JsonObject) -> dict[str, bytes]:
    """Write each member of an object by itself, for a `Body`: two bodies that differ in one member share the others."""
    return {key: encode_utf8(member) for key, member in value.items()}


def fold(key: str) -> str:
    """Fold a key so that it equals a known (lower-case ASCII) one exactly when Go takes it for that.

    Go compares by simple case folding: besides ASCII, U+017F is an `s` and U+212A a `k`.
    """
    return key.replace("\u017f", "s").lower()  # lower() itself makes U+212A a k


def pairs_of(value: Mapping[str, Json]) -> list[tuple[str, Json]]:
    """All members of a decoded object in order, repeated keys included."""
    return value.pairs if isinstance(value, Repeated) else list(value.items())


class _OutOfRange(Exception):  # noqa: N818
    pass


def _pairs(pairs: list[tuple[str, Json]]) -> JsonObject:
    made = dict(pairs)
    return made if len(made) == len(pairs) else Repeated(pairs)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _OutOfRange(f"json: cannot unmarshal number {text[:40]} into Go value of type float64")
    return value


def _int(text: str) -> int:
    if len(text) > 308:
        _float(text)  # what no float holds, no field of Ollama's does
    return int(text)


def _no_constant(name: str) -> Json:
    # NaN and Infinity: the C scanner calls this without a position.
    what = quote_char(name[0]) if name[0] != "-" else "'I' in numeric literal"
    raise _OutOfRange(f"invalid character {what}" + (" looking for beginning of value" if name[0] != "-" else ""))


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_float=_float, parse_int=_int, parse_constant=_no_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False)
_UTF8_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)


def _text(body: bytes | bytearray) -> str:
    """Go reads each byte that is not UTF-8 as one U+FFFD; lone surrogates in their place keep that count."""
    text = body.decode("utf-8", "surrogateescape")
    if len(body) > MAX_BROKEN_BYTES and not text.isascii() and len(body) - len(text.encode("utf-8", "ignore")) > MAX_BROKEN_BYTES:
        raise NotJson("the body is not UTF-8")
    return text


def _depth(value: Json) -> int:
    """Levels of nesting, counted without recursion."""
    deepest, todo = 0, [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if isinstance(item, dict):
            depth += 1
            todo.extend((child, depth) for child in item.values() if isinstance(child, dict | list))
        elif isinstance(item, list):
            depth += 1
            todo.extend((child, depth) for child in item if isinstance(child, dict | list))
        deepest = max(deepest, depth)
    return deepest


def _without_surrogates(value: Json) -> Json:
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return _pairs([(_SURROGATES.sub("\ufffd", key), _without_surrogates(item)) for key, item in pairs_of(value)])
    return value


# --- the words of an error -------------------------------------------------------------------------------------------


def _words(text: str, error: json.JSONDecodeError) -> str:
    """Say what Go says of the place where the C scanner stopped."""
    at, said = error.pos, error.msg
    if said.startswith("Unterminated string"):
        return "unexpected EOF"
    if said.startswith("Invalid control character"):
        return f"invalid character {_char(text, at)} in string literal"
    if said.startswith("Invalid \\u"):
        return _bad_unicode_escape(text, at)
    if said.startswith("Invalid \\escape"):
        return f"invalid character {_char(text, at + 1)} in string escape code"
    at = _after_blanks(text, at)
    if at >= len(text):
        return "unexpected EOF"
    if said.startswith("Expecting property name"):
        return f"invalid character {_char(text, at)} looking for beginning of object key string"
    if said.startswith("Illegal trailing comma"):
        at = _after_blanks(text, at + 1)
        closing = "object key string" if text[at : at + 1] == "}" else "value"
        return f"invalid character {_char(text, at)} looking for beginning of {closing}"
    if said.startswith("Expecting ':'"):
        return f"invalid character {_char(text, at)} after object key"
    if said.startswith("Expecting ','"):
        return _bad_number_end(text, at) or f"invalid character {_char(text, at)} after {_container(text, at)}"
    return _bad_value(text, at)


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _char(text: str, at: int) -> str:
    """The byte at a place, quoted; Go sees bytes, so a character beyond ASCII is named by its first."""
    first = text[at].encode("utf-8", "surrogateescape")[0]
    return quote_char(chr(first))


def _bad_unicode_escape(text: str, at: int) -> str:
    for place in range(at + 1, at + 5):  # the scanner stops at the u
        if place >= len(text):
            return "unexpected EOF"
        if text[place] not in "0123456789abcdefABCDEF":
            return f"invalid character {_char(text, place)} in \\u hexadecimal character escape"
    return "unexpected EOF"


def _bad_value(text: str, at: int) -> str:
    char = text[at]
    if char in _LITERALS:
        word = _LITERALS[char]
        right = next(length for length in range(len(word) - 1, 0, -1) if text.startswith(word[:length], at))
        if at + right >= len(text):
            return "unexpected EOF"
        return f"invalid character {_char(text, at + right)} in literal {word} (expecting {quote_char(word[right])})"
    if char == "-":
        if at + 1 >= len(text):
            return "unexpected EOF"
        return f"invalid character {_char(text, at + 1)} in numeric literal"
    return f"invalid character {_char(text, at)} looking for beginning of value"


def _bad_number_end(text: str, at: int) -> str | None:
    """The scanner reads `1.x` as 1 and stops at the dot, where Go reads on and misses a digit."""
    if text[at] not in ".eE" or not text[at - 1].isdigit():
        return None
    number = text[len(text[:at].rstrip("0123456789.eE+-")) : at] if at <= NAMED_WITHIN_CHARS else ""
    if "e" in number.lower() or (text[at] == "." and "." in number):
        return None
    after = at + 1
    where = "after decimal point in numeric literal" if text[at] == "." else "in exponent of numeric literal"
    if text[at] != "." and text[after : after + 1] in {"+", "-"}:
        after += 1
    if after >= len(text):
        return "unexpected EOF"
    return f"invalid character {_char(text, after)} {where}"


def _container(text: str, at: int) -> str:
    """What the value before a place is part of."""
    if at > NAMED_WITHIN_CHARS:
        return "object key:value pair"
    stack: list[str] = []
    for found in _BRACKETS.finditer(text, 0, at):
        mark = found.group()
        if mark in "[{":
            stack.append(mark)
        elif mark in "]}":
            stack.pop()
    return "array element" if stack and stack[-1] == "[" else "object key:value pair"
