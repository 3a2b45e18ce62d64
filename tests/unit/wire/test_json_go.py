"""What json_go promises beyond Go's own cases: bounds, ASCII, numbers, one spelling."""

from __future__ import annotations

import contextlib
import json
import math
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisord_ai.core.calls import Body, Json
from supervisord_ai.wire.json_go import (
    MAX_BROKEN_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    NAMED_WITHIN_CHARS,
    EmptyBody,
    NotJson,
    Repeated,
    _words,
    decode,
    encode,
    encode_members,
    fold,
    pairs_of,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
@example({"a": 12345678901234567890123, "b": 0.1, "c": 1e300, "d": -0.0})
def test_what_is_written_is_ascii_and_reads_back_the_same(value: Json) -> None:
    written = encode(value)
    assert written.isascii()
    assert b"\n" not in written
    assert json.loads(decode_and_encode(written)) == json.loads(written)


@given(st.dictionaries(st.text(), json_values))
def test_members_written_one_by_one_are_the_same_object_in_utf8(value: dict[str, Json]) -> None:
    cleaned = decode(encode(value))
    assert isinstance(cleaned, dict)
    assert decode(bytes(Body(members=encode_members(cleaned)))) == cleaned


def decode_and_encode(body: bytes) -> bytes:
    return encode(decode(body))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_not_json_and_nothing_else(body: bytes) -> None:
    with contextlib.suppress(NotJson):
        encode(decode(body)).decode("ascii")


@given(st.text(alphabet='{}[]",:\\u0d8é 1e.-tfn', max_size=30))
def test_what_was_understood_is_understood_again(text: str) -> None:
    try:
        value = decode(text.encode())
    except NotJson:
        return
    assert decode(encode(value)) == value


def test_blanks_are_no_body() -> None:
    for body in (b"", b" \r\n\t"):
        with pytest.raises(EmptyBody, match="EOF"):
            decode(body)


def test_lone_surrogates_and_broken_utf8_become_replacement_characters_one_a_byte() -> None:
    assert decode(b'"\\ud800"') == "\ufffd"
    assert decode(b'"\xe6\xbc"') == "\ufffd\ufffd"  # Python's own "replace" would make one
    assert decode(b'{"\\udc00": ["\xed\xa0\x80"]}') == {"\ufffd": ["\ufffd\ufffd\ufffd"]}
    assert decode(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_the_last_of_a_repeated_key_counts_and_all_can_be_seen() -> None:
    value = decode(b'{"a":1,"b":2,"a":3}')
    assert value == {"b": 2, "a": 3}
    assert isinstance(value, Repeated)
    assert pairs_of(value) == [("a", 1), ("b", 2), ("a", 3)]
    assert encode(value) == b'{"b":2,"a":3}'


def test_keys_made_equal_by_replacement_are_repeated_keys() -> None:
    assert decode(b'{"\\ud800":1,"\\udbff":2}') == {"\ufffd": 2}


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused_whether_or_not_the_scanner_would_take_it(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    for depth in (MAX_DEPTH + 1, sys.getrecursionlimit() + 50, 100_000):
        with pytest.raises(NotJson, match="exceeded max depth"):
            decode(opening * depth + b"1" + closing * depth)
    assert decode(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)


def test_brackets_inside_of_texts_are_not_depth() -> None:
    assert decode(b'"' + b"[" * 1000 + b'"') == "[" * 1000


def test_some_bytes_that_are_not_utf8_are_read_and_a_film_is_not() -> None:
    latin1 = "Grüße, ".encode("latin-1") * 10_000
    value = decode(b'"' + latin1 + b'"')
    assert isinstance(value, str)
    assert value.count("\ufffd") == 20_000
    with pytest.raises(NotJson, match="not UTF-8"):
        decode(b'"' + b"\xff" * (MAX_BROKEN_BYTES + 1) + b'"')


def test_many_characters_beyond_ascii_are_not_broken_bytes() -> None:
    text = "漢" * MAX_BROKEN_BYTES
    assert decode(f'"{text}"'.encode()) == text


def test_too_many_values_are_refused_before_they_are_made() -> None:
    with pytest.raises(NotJson, match="more than"):
        decode(b"[" + b"1," * MAX_VALUES + b"1]")


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 310, b"9" * 5000])
def test_a_number_no_float_holds_is_refused(number: bytes) -> None:
    with pytest.raises(NotJson, match="cannot unmarshal number"):
        decode(b'{"a":' + number + b"}")


def test_numbers_keep_their_value() -> None:
    numbers = b"[12345678901234567890123, 0.30000000000000004, 1E3, -0.0]"
    assert decode(numbers) == [12345678901234567890123, 0.30000000000000004, 1000, 0]
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(math.inf)


def test_only_the_two_characters_go_folds_to_ascii_letters_fold() -> None:
    assert fold("Keep_Alive") == "keep_alive"
    assert fold("\u212aeep_alive") == "keep_alive"
    assert fold("\u017ftream") == "stream"
    for other in ("\u0130mages", "stream\u0307", "ﬆream", "ｍodel"):
        assert fold(other) not in {"images", "stream", "model"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"tru", "unexpected EOF"),
        (b"[nul", "unexpected EOF"),
        (b"[f]", "invalid character ']' in literal false (expecting 'a')"),
        (b"[falsy]", "invalid character 'y' in literal false (expecting 'e')"),
        (b"-", "unexpected EOF"),
        (b"[-x]", "invalid character 'x' in numeric literal"),
        (b"1.", "unexpected EOF"),
        (b"[1e", "unexpected EOF"),
        (b"[1e+", "unexpected EOF"),
        (b"[1e+]", "invalid character ']' in exponent of numeric literal"),
        (b"[1e5.3]", "invalid character '.' after array element"),
        (b"[1.2.3]", "invalid character '.' after array element"),
        (b'{"a":1.2.3}', "invalid character '.' after object key:value pair"),
        (b'"\\u12', "unexpected EOF"),
        (b'"\\u1234', "unexpected EOF"),
        (b'["\\ud800\\u12"]', "invalid character '\"' in \\u hexadecimal character escape"),
    ],
)
def test_where_a_body_stops_being_json_is_told_in_gos_words(body: bytes, said: str) -> None:
    with pytest.raises(NotJson) as refused:
        decode(body)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("[1,]", 2, "invalid character ']' looking for beginning of value"),
        ("[1, \n ]", 2, "invalid character ']' looking for beginning of value"),
        ('{"a": 1, }', 7, "invalid character '}' looking for beginning of object key string"),
    ],
)
def test_what_later_pythons_call_a_trailing_comma_has_the_same_words(text: str, at: int, said: str) -> None:
    """From 3.13 on the scanner stops at the comma, and before at what follows it."""
    later = json.JSONDecodeError("Illegal trailing comma before end of array", text, at)
    assert _words(text, later) == said
    with pytest.raises(NotJson) as refused:
        decode(text.encode())
    assert str(refused.value) == said


def test_a_fault_deep_in_a_long_body_costs_no_second_reading() -> None:
    """Beyond so many characters it is not looked up in what the fault lies, and the commoner word is used."""
    with pytest.raises(NotJson) as refused:
        decode(b'["' + b"x" * NAMED_WITHIN_CHARS + b'" 1]')
    assert str(refused.value) == "invalid character '1' after object key:value pair"
