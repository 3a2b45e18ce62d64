"""JSON, request structs, model names and base64, compared with what Go said of the same input.

`recorded_go.json` holds mutated bodies and the answers of Go 1.26.8: of encoding/json, and of the request structs, the name
parser and the model reference parser of Ollama v0.33.0-rc2 (commit fb3076099), each as [input, "value" | "error", answer]. JSON
bodies are written as Latin-1, since many are not UTF-8.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import cast

import pytest

from supervisord_ai.core.calls import Json, JsonObject, Op
from supervisord_ai.core.model_name import BadName, CloudName, ModelName, NoName, read_name
from supervisord_ai.wire.go_struct import CorruptBase64, FieldType, Struct, WrongType, decode_base64, duration_s
from supervisord_ai.wire.json_go import NotJson, decode, encode
from supervisord_ai.wire.messages import STRUCTS, read_body

RECORDED = cast("dict[str, list[list[Json]]]", json.loads((Path(__file__).parent / "recorded_go.json").read_text()))


def test_every_recorded_body_is_read_as_go_read_it_or_refused_in_its_words() -> None:
    wrong = []
    for body, kind, said in RECORDED["json"]:
        try:
            got: Json = ["value", decode(str(body).encode("latin-1"))]
        except NotJson as error:
            got = ["error", str(error)]
        if got != [kind, said]:
            wrong.append((body, got, said))
    assert not wrong
    assert len(RECORDED["json"]) > 150


def test_every_recorded_request_is_bound_as_ollama_bound_it_or_refused_in_its_words() -> None:
    wrong = []
    for op, body, kind, said in RECORDED["bind"]:
        try:
            got = read_body(Op(str(op)), str(body).encode()).fields
        except (NotJson, WrongType) as error:
            if [kind, said] != ["error", str(error)]:
                wrong.append((op, body, str(error), said))
            continue
        if kind != "value" or not isinstance(said, dict) or not means_the_same(Op(str(op)), got, said):
            wrong.append((op, body, str(got), said))
    assert not wrong
    assert len(RECORDED["bind"]) > 350


def means_the_same(op: Op, ours: JsonObject, go: JsonObject) -> bool:
    """Go leaves out some empty fields and writes others: both are the same to it."""
    return all(plain(name, known(kind, ours.get(name))) == plain(name, go.get(name)) for name, kind in STRUCTS[op].fields.items())


def known(kind: FieldType, value: Json) -> Json:
    """Without the members Ollama does not know, which we pass on and it ignores."""
    if isinstance(kind, Struct) and isinstance(value, dict):
        return {name: known(kind.fields[name], item) for name, item in value.items() if name in kind.fields}
    return value


def plain(name: str, value: Json) -> Json:
    if name == "keep_alive" and value is not None:
        return min(max(duration_s(value), 0), 2**63 / 1e9)
    if name in {"messages", "tools"} and isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, list) and name == "images":
        return [base64.b64encode(base64.b64decode(str(item))).decode() if item else "" for item in value] or None
    return normal(value)


def normal(value: Json) -> Json:
    """Drop what is empty, at any depth; roles in lower case; the defaults Go fills in where a tool says nothing."""
    if isinstance(value, dict):
        kept = {key: normal(item) for key, item in value.items()}
        if isinstance(kept.get("role"), str):
            kept["role"] = str(kept["role"]).lower()
        return {key: item for key, item in kept.items() if item not in (None, "", 0, [], {})} or None
    if isinstance(value, list):
        return [normal(item) for item in value] or None
    return value or None


def test_every_recorded_name_means_the_model_ollama_takes_it_for() -> None:
    cloud = 2
    for name, kind, said in RECORDED["name"]:
        match read_name(str(name)):
            case ModelName(canonical):
                assert (kind, isinstance(said, list) and said[1]) == ("value", canonical), name
            case CloudName():
                assert isinstance(said, list), name
                assert said[0] == cloud, name
            case NoName():
                assert said == "model is required", name
            case BadName(message):
                assert said == message, name


def test_every_recorded_image_is_whole_or_corrupt_where_go_says() -> None:
    for image, kind, said in RECORDED["image"]:
        body = encode({"images": [image]})
        if kind == "error":
            with pytest.raises(WrongType) as caught:
                read_body(Op.GENERATE, body)
            assert str(caught.value) == said, image
        else:
            bound = read_body(Op.GENERATE, body)
            [ours] = cast("list[str]", bound.fields["images"])
            assert decode_base64(ours) == base64.b64decode(str(said))
            assert list(bound.image_digests) == [ours]


def test_base64_without_its_padding_is_corrupt() -> None:
    with pytest.raises(CorruptBase64):
        decode_base64("aGk")
