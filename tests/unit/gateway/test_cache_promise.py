"""G9, the key: whatever one thing is changed in a request, its model or the day, the answer to the other is not given.

Requests are drawn with everything that Ollama reads filled in; then one thing is changed, wherever it lies. The opposite is
drawn too: what Ollama does not tell apart has one key.
"""

from __future__ import annotations

import base64
import copy
from dataclasses import dataclass
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.cache_policy import KNOWN_OPTIONS, RUNNER_OPTIONS, ModelFacts, Shareable, key_of
from supervisord_ai.core.calls import JsonObject, ModelPins, Pins
from supervisord_ai.gateway.classify import classify
from supervisord_ai.wire.json_go import encode

PINS = Pins(ModelPins(4096, 1800.0))
BUDGET = settings(max_examples=150, deadline=None)

words = st.text("abcdefgh ", min_size=1, max_size=8).filter(str.strip)
numbers = st.integers(1, 50)
images = st.binary(min_size=1, max_size=12).map(lambda raw: base64.b64encode(raw).decode())
schemas = st.dictionaries(words, words, min_size=2, max_size=4)
OPTIONS = sorted(KNOWN_OPTIONS - RUNNER_OPTIONS - {"stop", "temperature", "seed"})


@st.composite
def options(draw: st.DrawFn) -> JsonObject:
    named = draw(st.dictionaries(st.sampled_from(OPTIONS), numbers, min_size=1))
    return {**named, "temperature": 0, "seed": draw(numbers), "stop": [draw(words), draw(words) + "!"]}


@st.composite
def tools(draw: st.DrawFn) -> list[Any]:
    return [
        {"type": "function", "function": {"name": name, "description": draw(words), "parameters": {"properties": draw(schemas)}}}
        for name in draw(st.lists(words, min_size=2, max_size=3, unique=True))
    ]


@st.composite
def chats(draw: st.DrawFn) -> JsonObject:
    message = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": words})
    messages: list[Any] = [*draw(st.lists(message, max_size=2)), {"role": "user", "content": draw(words)}]
    messages[-1]["images"] = draw(st.lists(images, min_size=2, max_size=2, unique=True))
    return {
        "model": "m",
        "messages": messages,
        "tools": cast("Any", draw(tools())),
        "format": cast("Any", {"type": "object", "properties": draw(schemas)}),
        "think": draw(st.sampled_from([True, "low", "medium", "high"])),
        "options": draw(options()),
    }


@st.composite
def generates(draw: st.DrawFn) -> JsonObject:
    return {
        "model": "m",
        "prompt": draw(words),
        "suffix": draw(words),
        "system": draw(words),
        "template": draw(words),
        "context": cast("Any", draw(st.lists(numbers, min_size=2, max_size=4))),
        "images": cast("Any", draw(st.lists(images, min_size=2, max_size=2, unique=True))),
        "format": cast("Any", {"type": "object", "properties": draw(schemas)}),
        "options": draw(options()),
    }


asks = st.one_of(chats().map(lambda body: ("/api/chat", body)), generates().map(lambda body: ("/api/generate", body)))


@dataclass(frozen=True)
class Place:
    """Where one value of a body lies."""

    path: tuple[Any, ...]

    def of(self, body: Any) -> Any:
        for step in self.path:
            body = body[step]
        return body


def places(value: Any, path: tuple[Any, ...] = ()) -> list[Place]:
    """Every value in a body, but the model's name."""
    below: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        below = list(value.items())
    elif isinstance(value, list):
        below = list(enumerate(value))
    found = [Place((*path, step)) for step, _ in below if (*path, step) != ("model",)]
    return found + [place for step, inner in below for place in places(inner, (*path, step))]


def changed(value: Any) -> Any:
    """Another value that Ollama reads as another."""
    match value:
        case bool():
            return "medium"
        case str() if value in {"user", "system", "assistant"}:
            return "tool"
        case str() if value in {"low", "medium", "high"}:
            return "max"
        case str():
            raw = _decoded(value)
            return base64.b64encode(raw + b"x").decode() if raw is not None else value + "x"
        case int():
            return value + 1
        case list():
            return [*value[1:], value[0]] if len(value) > 1 and value[0] != value[1] else [*value, *value]
        case dict():
            return dict(reversed(value.items()))  # the order of keys counts where this is drawn
    raise AssertionError(value)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if len(text) % 4 == 0 and text == text.strip() else None
    except ValueError:
        return None


def key(path: str, body: JsonObject, *, digest: str = "sha256:a", version: str = "0.33.0", date: str = "2026-11-27") -> bytes:
    call = classify("POST", path, encode(body), is_admin_allowed=False, pins=PINS)
    found = key_of(call, ModelFacts(digest), ollama_version=version, scope="shared", local_date=date)
    assert isinstance(found, Shareable), found
    return found.key


def is_order_free(place: Place) -> bool:
    """Where Ollama reads fields by name, so that their order says nothing: the options, and a message's own."""
    return place.path == ("options",) or (len(place.path) == 2 and place.path[0] == "messages")


@BUDGET
@given(asks, st.data())
def test_one_thing_changed_anywhere_is_a_miss(ask: tuple[str, JsonObject], data: st.DataObject) -> None:
    path, body = ask
    place = data.draw(st.sampled_from([one for one in places(body) if not is_order_free(one)]))
    other = copy.deepcopy(body)
    holder = Place(place.path[:-1]).of(other)
    before = holder[place.path[-1]]
    match before:
        case str() if place.path[0] == "images" or "images" in place.path:
            after: Any = base64.b64encode(base64.b64decode(before) + b"x").decode()
        case dict() if len(before) < 2:
            after = {**before, "more": "x"}
        case str() if place.path[-1] in {"content", "description", "name"} or place.path[0] in {"prompt", "suffix", "system"}:
            after = before + "x"
        case _:
            after = changed(before)
    if place.path == ("options", "temperature"):
        after = -1.0
    holder[place.path[-1]] = after
    assert key(path, other) != key(path, body), f"{place.path}: {before!r} and {after!r}"


@BUDGET
@given(asks, st.data())
def test_one_thing_left_out_is_a_miss(ask: tuple[str, JsonObject], data: st.DataObject) -> None:
    path, body = ask
    option = data.draw(st.sampled_from(sorted(set(cast("JsonObject", body["options"])) - {"temperature"})))
    field = data.draw(st.sampled_from(sorted(set(body) - {"model", "options", "messages", "prompt"})))
    without = {name: value for name, value in body.items() if name != field}
    fewer = {**body, "options": {name: value for name, value in cast("JsonObject", body["options"]).items() if name != option}}
    assert len({key(path, one) for one in (body, without, fewer)}) == 3


@BUDGET
@given(asks)
def test_another_digest_version_or_day_is_a_miss(ask: tuple[str, JsonObject]) -> None:
    path, body = ask
    found = {
        key(path, body),
        key(path, body, digest="sha256:b"),
        key(path, body, version="0.33.1"),
        key(path, body, date="2026-11-28"),
    }
    assert len(found) == 4


@BUDGET
@given(asks, st.data())
def test_what_ollama_does_not_tell_apart_is_a_hit(ask: tuple[str, JsonObject], data: st.DataObject) -> None:
    path, body = ask
    shuffled = dict(data.draw(st.permutations(list(body.items()))))
    shuffled["options"] = dict(data.draw(st.permutations(list(cast("JsonObject", body["options"]).items()))))
    shuffled |= {"model": "M:latest", "stream": data.draw(st.booleans()), "keep_alive": "9m", "unknown": 1}
    cast("JsonObject", shuffled["options"])["num_gpu"] = None
    assert key(path, shuffled) == key(path, body)
