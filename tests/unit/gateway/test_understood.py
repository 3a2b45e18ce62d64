"""A repeated question is read once, and never taken for another."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from supervisord_ai.core.calls import Body, Call, ModelPins, Pins
from supervisord_ai.gateway.classify import classify
from supervisord_ai.gateway.understood import BODY_MAX_BYTES, Understood

PINS = Pins(ModelPins(4096, 1800.0))
COLD = json.dumps({"model": "m", "prompt": "p", "options": {"temperature": 0}}).encode()
Asked = tuple[bool, str, str, str, bytes]
ASKED: Asked = (False, "POST", "/api/generate", "", COLD)


def call_of(asked: Asked) -> Call:
    is_owner, method, path, query, body = asked
    return classify(method, path, body, is_admin_allowed=is_owner, pins=PINS, query=query)


def test_it_is_the_same_call_again() -> None:
    seen = Understood()
    assert seen.get(ASKED, PINS) is None
    call = call_of(ASKED)
    seen.keep(ASKED, PINS, call)
    assert seen.get((*ASKED[:4], bytes(bytearray(COLD))), PINS) is call


@pytest.mark.parametrize(
    "other",
    [
        (True, *ASKED[1:]),
        (False, "GET", *ASKED[2:]),
        (False, "POST", "/api/chat", "", COLD),
        (False, "POST", "/api/generate", "x=1", COLD),
        (*ASKED[:4], COLD + b" "),
    ],
)
def test_whatever_differs_is_another(other: Asked) -> None:
    seen = Understood()
    seen.keep(ASKED, PINS, call_of(ASKED))
    assert seen.get(other, PINS) is None


def test_other_pins_make_other_calls() -> None:
    seen, others = Understood(), Pins(ModelPins(8192, 1800.0))
    seen.keep(ASKED, PINS, call_of(ASKED))
    assert seen.get(ASKED, others) is None
    seen.keep((*ASKED[:4], COLD + b" "), others, call_of(ASKED))
    assert seen.get(ASKED, others) is None
    assert seen.get(ASKED, PINS) is None


def test_what_is_never_shared_or_is_long_is_not_kept() -> None:
    seen, warm = Understood(), json.dumps({"model": "m", "prompt": ""}).encode()
    for body in (warm, json.dumps({"model": "m", "prompt": "x" * BODY_MAX_BYTES}).encode()):
        asked: Asked = (*ASKED[:4], body)
        seen.keep(asked, PINS, call_of(asked))
        assert seen.get(asked, PINS) is None


def test_it_stays_within_its_bytes_and_forgets_what_was_not_asked_for_longest() -> None:
    seen, call = Understood(cap_bytes=100_000), call_of(ASKED)
    for number in range(200):
        asked: Asked = (*ASKED[:4], COLD + b" " * number)
        seen.keep(asked, PINS, replace(call, caller_body=Body(asked[4])))
        assert seen.bytes <= 100_000
        assert seen.get(ASKED, PINS) is not None
    assert seen.get((*ASKED[:4], COLD + b" " * 2), PINS) is None
