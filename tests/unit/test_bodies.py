"""A body in pieces: what two bodies share is held once, and what is written is the same object."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.calls import APART_BYTES, Body, Op, Pins
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.classify import classify
from supervisord_ai.gateway.ingest import Ingest
from supervisord_ai.wire.ollama import bounded

IMAGE = "A" * 400_000
LARGE = b'"' + b"y" * APART_BYTES + b'"'


@given(st.dictionaries(st.text(max_size=8), st.booleans(), max_size=5))
def test_a_body_of_members_is_one_object_whatever_is_large(is_large: dict[str, bool]) -> None:
    written = {key: LARGE if large else b"[1]" for key, large in is_large.items()}
    body = Body(members=written)
    assert json.loads(bytes(body)) == {key: json.loads(member) for key, member in written.items()}
    assert len(body) == len(bytes(body))
    assert sum(piece is LARGE for piece in body.pieces()) == sum(is_large.values())  # and no copy of it


def test_what_is_sent_shares_the_image_with_what_was_asked() -> None:
    asked = json.dumps({"model": "m", "prompt": "what is this?", "images": [IMAGE], "options": {"seed": 1}}).encode()
    call = classify("POST", "/api/generate", asked, is_admin_allowed=False, pins=Pins())
    sent = bounded(Op.GENERATE, call.upstream_body, 256)
    bodies = [call.caller_body, call.upstream_body, sent]
    assert len({id(piece) for body in bodies for piece in body.pieces() if len(piece) > 100_000}) == 1
    assert json.loads(bytes(sent)) == json.loads(bytes(call.upstream_body)) | {"options": {"seed": 1, "num_predict": 256}}


def test_a_body_of_unknown_length_is_counted_as_it_comes_and_given_back_whole() -> None:
    room = Ingest(100)
    with room.held(0) as one, room.held(30):
        one.more(60)
        with pytest.raises(Refused) as refused:
            one.more(20)
        assert (refused.value.status, refused.value.retry_after_s) == (503, 5.0)
        assert room.held_bytes == 90
    assert room.held_bytes == 0
