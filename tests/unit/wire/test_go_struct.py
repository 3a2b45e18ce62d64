"""The rules of binding that a policy depends on: one spelling of a field, its type, errors at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.calls import Op
from supervisord_ai.wire.go_struct import WrongType, duration_s
from supervisord_ai.wire.json_go import encode, fold
from supervisord_ai.wire.messages import STRUCTS, declares_web_search, read_body

FOR_EVER = float("inf")


@given(st.data())
def test_no_second_spelling_of_a_known_field_is_left(data: st.DataObject) -> None:
    op = data.draw(st.sampled_from(sorted(STRUCTS)))
    name = data.draw(st.sampled_from(sorted(STRUCTS[op].fields)))
    folds = {"s": "sS\u017f", "k": "kK\u212a"}
    spelled = "".join(data.draw(st.sampled_from(folds.get(c, c + c.upper()))) for c in name)
    fields = read_body(op, encode({spelled: None, "else": 1}) + b"{}").fields
    assert [key for key in fields if fold(key) == name] in ([name], [])
    assert fields["else"] == 1


def test_the_last_spelling_wins_whatever_its_case() -> None:
    assert read_body(Op.CHAT, b'{"model":"a","MODEL":"b","Model":"c","model":null}').fields == {"model": "c"}


def test_option_names_are_not_folded_since_ollama_compares_them_exactly() -> None:
    fields = read_body(Op.CHAT, b'{"OPTIONS":{"NUM_GPU":0,"num_gpu":1}}').fields
    assert fields == {"options": {"NUM_GPU": 0, "num_gpu": 1}}


def test_two_options_objects_are_merged_as_go_merges_maps() -> None:
    fields = read_body(Op.CHAT, b'{"options":{"seed":1,"num_ctx":2},"Options":{"seed":3}}').fields
    assert fields == {"options": {"seed": 3, "num_ctx": 2}}


def test_null_clears_what_is_optional_and_leaves_what_is_not() -> None:
    fields = read_body(Op.GENERATE, b'{"prompt":"p","prompt":null,"stream":false,"stream":null}').fields
    assert fields == {"prompt": "p", "stream": None}


def test_what_ollama_does_not_know_is_passed_on_untouched() -> None:
    body = b'{"x":{"B":1,"b":2},"tools":[{"TYPE":"t","x":[]}],"messages":[{"role":"user","X":1}]}'
    assert encode(read_body(Op.CHAT, body).fields) == body


def test_key_order_of_format_and_of_tool_arguments_is_kept() -> None:
    body = b'{"format":{"z":1,"a":2},"messages":[{"tool_calls":[{"function":{"arguments":{"z":1,"a":2}}}]}]}'
    assert encode(read_body(Op.CHAT, body).fields) == body


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0), (1.5, 1.5), (-1, FOR_EVER), ("0", 0), ("0s", 0), ("1h30m", 5400), ("-1s", FOR_EVER), ("+5m", 300), ("1.5h", 5400)],
)
def test_a_keep_alive_is_seconds_or_a_duration(value: float | str, seconds: float) -> None:
    assert duration_s(value) == seconds


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("", 'time: invalid duration ""'),
        ("s", 'time: invalid duration "s"'),
        ("1.2.3s", 'time: missing unit in duration "1.2.3s"'),
        ("9999999999h", 'time: invalid duration "9999999999h"'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_a_bad_keep_alive_is_told_in_gos_words(value: str | bool | list[object] | dict[str, object], said: str) -> None:
    with pytest.raises(WrongType) as caught:
        duration_s(value)  # type: ignore[arg-type]
    assert str(caught.value) == said


def test_a_type_error_waits_for_the_end_and_an_unmarshaller_of_its_own_does_not() -> None:
    with pytest.raises(WrongType, match=r"GenerateRequest\.stream of type bool"):
        read_body(Op.GENERATE, b'{"stream":"x","raw":1}')
    with pytest.raises(WrongType, match="missing unit"):
        read_body(Op.GENERATE, b'{"stream":"x","keep_alive":"5"}')


@pytest.mark.parametrize(
    ("op", "body", "found"),
    [
        (Op.MESSAGES, b'{"tools":[{"type":"web_search_20250305","name":"web_search"}]}', True),
        (Op.MESSAGES, b'{"Tools":[{"TYPE":"web_search"}]}', True),
        (Op.MESSAGES, b'{"tools":[{"type":"custom","TYPE":"web_search","type":"x"}]}', False),
        (Op.MESSAGES, b'{"tools":[{"type":"custom","name":"web_search"}]}', False),
        (Op.RESPONSES, b'{"tools":[{"type":"namespace","tools":[{"Type":"web_search_preview"}]}]}', True),
        (Op.RESPONSES, b'{"tools":[{"type":"function","parameters":{"type":"web_search"}}]}', False),
        (Op.CHAT, b'{"tools":[{"type":"function","function":{"name":"web_search"}}]}', False),
    ],
)
def test_a_built_in_web_search_is_found_in_any_spelling(op: Op, body: bytes, found: bool) -> None:
    assert declares_web_search(op, read_body(op, body).fields) is found


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("A*AA", 1),  # a letter that is none
        ("AAA", 0),  # a quantum that ends too soon begins there
        ("AAAAA", 4),
        ("A===", 1),  # padding where none may be
        ("AA=A", 2),  # half of it
        ("AA=", 3),
        ("AA=\n", 4),
        ("AA==A", 4),  # something behind it
        ("AA=\r\n=\n\nA", 8),
        ("AAA=A", 4),
        ("AAA=\nA", 5),
    ],
)
def test_the_first_corrupt_byte_of_an_image_is_the_one_that_go_names(text: str, at: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "images": [text]}]}).encode()
    with pytest.raises(WrongType) as refused:
        read_body(Op.CHAT, body)
    assert str(refused.value) == f"illegal base64 data at input byte {at}"
