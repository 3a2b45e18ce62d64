"""Step 2 of the path: what a request is, what Ollama is sent of it, and what is refused in whose words."""

from __future__ import annotations

import base64
import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.calls import Call, Json, JsonObject, Kind, ModelPins, Op, Pins
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.classify import NO_DETAILS, NO_INFERENCE, NO_SEARCH, classify
from supervisord_ai.wire.json_go import encode

PINS = Pins(ModelPins(4096, 1800.0), {"big:latest": ModelPins(8192, float("inf"))})
USER: Json = [{"role": "user", "content": "p"}]


def call(path: str, body: JsonObject | bytes = b"", method: str = "POST", *, owner: bool = False, pins: Pins = PINS) -> Call:
    raw = body if isinstance(body, bytes) else encode(body)
    return classify(method, path, raw, is_admin_allowed=owner, pins=pins)


def refused(path: str, body: JsonObject | bytes = b"", method: str = "POST", *, owner: bool = False) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        call(path, body, method, owner=owner)
    return caught.value.status, caught.value.message


def sent(found: Call) -> JsonObject:
    return cast("JsonObject", json.loads(bytes(found.upstream_body)))


# --- what Ollama is sent ------------------------------------------------------------------------------------------------


def test_a_native_call_is_always_sent_as_a_stream_and_remembers_what_was_asked() -> None:
    for asked, stream in ((None, True), (True, True), (False, False)):
        found = call("/api/chat", {"model": "m", "messages": USER, "stream": asked})
        assert found.asked_stream is stream
        assert found.upstream_streams
        assert sent(found)["stream"] is True


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "m", "messages": USER}),
        ("/v1/completions", {"model": "m", "prompt": "p"}),
        ("/v1/messages", {"model": "m", "max_tokens": 3, "messages": USER}),
        ("/v1/responses", {"model": "m", "input": "p"}),
    ],
)
def test_the_v1_faces_are_sent_as_asked(path: str, body: JsonObject) -> None:
    whole, stream = call(path, body), call(path, {**body, "stream": True})
    assert (whole.asked_stream, whole.upstream_streams, sent(whole)) == (False, False, body)
    assert (stream.asked_stream, stream.upstream_streams, sent(stream)) == (True, True, {**body, "stream": True})
    assert whole.digest != stream.digest  # their answers are kept as bytes: one cannot be given for the other
    assert whole.not_granted == ()


def test_an_embed_is_no_stream_and_tells_its_texts_for_merging() -> None:
    found = call("/api/embed", {"model": "m", "input": ["a", "b"]})
    assert not found.upstream_streams
    assert "stream" not in sent(found)
    assert found.embed_inputs == ("a", "b")
    assert call("/api/embed", {"model": "m", "input": "a"}).embed_inputs == ("a",)
    assert call("/api/embeddings", {"model": "m", "prompt": "a"}).embed_inputs is None


def test_runner_options_and_keep_alive_belong_to_the_gateway() -> None:
    options: Json = {"num_ctx": 8192, "num_gpu": 0, "num_thread": None, "use_mmap": False, "temperature": 0.5, "NUM_GPU": 1}
    found = call("/api/chat", {"model": "m", "messages": USER, "Keep_Alive": "9m", "OPTIONS": options, "shift": False})
    assert sent(found) == {
        "model": "m",
        "messages": USER,
        "options": {"temperature": 0.5, "NUM_GPU": 1, "num_ctx": 4096},
        "truncate": False,
        "keep_alive": 1800,
        "stream": True,
    }
    assert found.not_granted == ("num_ctx=8192", "num_gpu=0", "use_mmap=false", "shift=false", 'keep_alive="9m"')


@pytest.mark.parametrize(
    "asked",
    [
        {"options": {"num_ctx": 4096, "num_gpu": -1}, "keep_alive": "30m"},
        {"options": {"num_ctx": 4096.0}, "keep_alive": 1800},
        {"options": {}, "keep_alive": None, "shift": True},
    ],
)
def test_what_equals_the_pins_is_granted(asked: JsonObject) -> None:
    assert call("/api/chat", {"model": "m", "messages": USER, **asked}).not_granted == ()


def test_a_model_with_pins_of_its_own_gets_them_under_each_of_its_names() -> None:
    for name in ("big", "BIG:latest", "registry.ollama.ai/library/big", "big:local"):
        found = call("/api/generate", {"model": name, "prompt": "p"})
        assert (found.model, found.canonical_model) == (name, "big:latest")
        assert sent(found)["options"] == {"num_ctx": 8192}
        assert sent(found)["keep_alive"] == -1


def test_what_is_told_of_a_long_value_is_short_and_fits_a_header() -> None:
    found = call("/api/chat", {"model": "m", "messages": USER, "options": {"num_gpu": "é\r\nX: 1" * 99}})
    [told] = found.not_granted
    assert len(told) < 100
    assert told.isascii()
    assert told.isprintable()


def test_a_transparent_gateway_passes_everything_as_it_was() -> None:
    body: JsonObject = {"model": "m", "messages": USER, "stream": False, "keep_alive": 5, "options": {"num_ctx": 1}, "tools": []}
    found = call("/api/chat", body, pins=Pins(is_transparent=True))
    assert sent(found) == body
    assert found.not_granted == ()
    assert not found.upstream_streams


def test_without_pins_the_servers_own_defaults_hold_for_everybody() -> None:
    found = call("/api/chat", {"model": "m", "messages": USER, "keep_alive": 5, "options": {"num_ctx": 1}}, pins=Pins())
    assert sent(found) == {"model": "m", "messages": USER, "options": {}, "stream": True}
    assert found.not_granted == ("num_ctx=1", "keep_alive=5")


# --- loads and unloads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"model": "m"}),
        ("/api/generate", {"model": "m", "prompt": "", "stream": True}),
        ("/api/chat", {"model": "m", "messages": []}),
        ("/api/chat", {"model": "m", "keep_alive": "10m"}),
        ("/api/embed", {"model": "m"}),
        ("/api/embed", {"model": "m", "input": ""}),
        ("/api/embed", {"model": "m", "input": [], "keep_alive": 0}),
        ("/api/embeddings", {"model": "m"}),
        ("/v1/completions", {"model": "m", "prompt": ""}),
    ],
)
def test_nothing_to_generate_from_is_a_load_and_answers_one_object(path: str, body: JsonObject) -> None:
    found = call(path, body)
    assert (found.is_load, found.is_unload, found.is_granted) == (True, False, True)
    assert not found.upstream_streams
    assert sent(found).get("keep_alive") in (1800, None)


@pytest.mark.parametrize("zero", [0, 0.0, "0", "0s", "-0s", 1e-10])
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_an_unload_is_the_owners_to_give(path: str, zero: Json) -> None:
    agents, owners = call(path, {"model": "m", "keep_alive": zero}), call(path, {"model": "m", "keep_alive": zero}, owner=True)
    assert (agents.is_unload, agents.is_granted, agents.is_load) == (True, False, False)
    assert sent(agents)["keep_alive"] == 1800  # were it sent after all, it would do no harm
    assert agents.not_granted
    assert (owners.is_unload, owners.is_granted) == (True, True)
    assert sent(owners) == {"model": "m", "keep_alive": 0}


def test_keep_alive_0_behind_a_prompt_is_no_unload_and_not_granted() -> None:
    found = call("/api/generate", {"model": "m", "prompt": "p", "keep_alive": 0}, owner=True)
    assert (found.is_load, found.is_unload) == (False, False)
    assert found.not_granted == ("keep_alive=0",)


def test_a_load_and_an_unload_are_not_the_same_request() -> None:
    assert call("/api/generate", {"model": "m"}).digest != call("/api/generate", {"model": "m", "keep_alive": 0}).digest


# --- what leaves the machine, what is the owner's -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x:cloud", "x:8b-cloud", "x:CLOUD", " x:Cloud ", "ns/x:t-cloud"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"prompt": "p"}),
        ("/api/chat", {"messages": USER}),
        ("/api/embed", {"input": "a"}),
        ("/api/embeddings", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": USER}),
        ("/v1/completions", {"prompt": "p"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"max_tokens": 3, "messages": USER}),
    ],
)
def test_a_cloud_model_is_refused_to_everybody_on_every_face(path: str, body: JsonObject, name: str) -> None:
    for owner in (False, True):
        assert refused(path, {**body, "model": name}, owner=owner) == (403, NO_INFERENCE)


def test_the_model_that_counts_is_the_one_ollama_would_take() -> None:
    assert refused("/api/chat", b'{"model":"local","MODEL":"x:cloud","messages":[{"role":"user"}]}')[0] == 403
    repeated = b'{"MODEL":"x:cloud","model":"local","messages":[{"role":"user"}]} {"model":"x:cloud"}'
    assert call("/api/chat", repeated).model == "local"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/pull", {"model": "x:cloud"}),
        ("/api/pull", {"name": "x:cloud"}),
        ("/api/create", {"model": "y", "from": "x:cloud"}),
        ("/api/create", {"model": "y", "from": "x", "Remote_Host": "https://ollama.com"}),
        ("/api/copy", {"source": "x:cloud", "destination": "y"}),
        ("/api/push", {"model": "x:cloud"}),
    ],
)
def test_not_even_the_owner_brings_a_cloud_model_in(path: str, body: JsonObject) -> None:
    assert refused(path, body, owner=True)[0] == 403


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"model": "m", "max_tokens": 3, "messages": USER, "tools": [{"type": "web_search_20250305"}]}),
        ("/v1/responses", {"model": "m", "input": "p", "tools": [{"type": "web_search"}]}),
    ],
)
def test_a_built_in_web_search_is_refused(path: str, body: JsonObject) -> None:
    assert refused(path, body) == (403, NO_SEARCH)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/me", 403),
        ("POST", "/api/signout", 403),
        ("DELETE", "/api/user/keys/abc", 403),
        ("POST", "/api/experimental/web_search", 403),
        ("POST", "/api/experimental/web_fetch", 403),
        ("GET", "/api/experimental/model-recommendations", 403),
        ("POST", "/v1/audio/transcriptions", 501),
    ],
)
def test_some_routes_are_nobodys(method: str, path: str, status: int) -> None:
    assert refused(path, b"{}", method, owner=True)[0] == status


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/pull", {"model": "m"}),
        ("POST", "/api/push", {"model": "m"}),
        ("POST", "/api/create", {"model": "m", "from": "n"}),
        ("DELETE", "/api/delete", {"model": "m"}),
        ("POST", "/api/copy", {"source": "m", "destination": "n"}),
        ("POST", "/api/blobs/sha256:0", {}),
        ("HEAD", "/api/blobs/sha256:0", {}),
    ],
)
def test_administration_is_the_owners(method: str, path: str, body: JsonObject) -> None:
    status, message = refused(path, body, method)
    assert status == 403
    assert "owner" in message
    found = call(path, body, method, owner=True)
    assert (found.route.kind, found.upstream_path) == (Kind.ADMIN, path)
    assert bytes(found.upstream_body) == (encode(body) if method != "HEAD" else b"")
    assert found.asked_stream is (path in {"/api/pull", "/api/push", "/api/create"})


def test_the_owner_may_delete_a_cloud_model() -> None:
    assert call("/api/delete", {"model": "x:cloud"}, "DELETE", owner=True).model == "x:cloud"


def test_an_administration_that_asks_for_one_body_gets_one() -> None:
    assert not call("/api/pull", {"model": "m", "stream": False}, owner=True).upstream_streams


# --- the router, metadata -------------------------------------------------------------------------------------------------


def test_the_router_refuses_in_ollamas_words() -> None:
    assert refused("/nope") == (404, "404 page not found")
    assert refused("/api/chat", method="GET") == (405, "405 method not allowed")
    with pytest.raises(Refused) as caught:
        classify("GET", "/api/tags/", b"", is_admin_allowed=False, pins=PINS, query="a=b")
    assert (caught.value.status, caught.value.location) == (301, "/api/tags?a=b")
    with pytest.raises(Refused) as caught:
        call("/api/chat", method="OPTIONS")
    assert (caught.value.status, caught.value.allow) == (204, "POST")


def test_the_body_of_a_get_is_nobodys() -> None:
    found = call("/api/tags", b"not json", "GET")
    assert (found.route.op, bytes(found.upstream_body), bytes(found.caller_body)) == (Op.TAGS, b"", b"")


def test_one_model_of_v1_is_metadata_and_written_anew_in_the_path() -> None:
    found = call("/v1/models/llama3.2%3A3b", method="GET")
    assert (found.model, found.canonical_model, found.upstream_path) == ("llama3.2:3b", "llama3.2:3b", "/v1/models/llama3.2:3b")
    assert call("/v1/models/a%3Fb%23", method="GET").upstream_path == "/v1/models/a%3Fb%23"
    assert refused("/v1/models/x:cloud", method="GET") == (403, NO_DETAILS)


def test_show_takes_the_old_name_of_its_field() -> None:
    for body in ({"name": "m"}, {"model": "m"}, {"model": "", "Name": "m"}):
        found = call("/api/show", cast("JsonObject", body))
        assert (found.model, found.route.kind) == ("m", Kind.METADATA)
    assert refused("/api/show", {"model": "x:cloud"})[1] == NO_DETAILS


def test_our_own_routes_are_told_apart() -> None:
    found = call("/supervisor/v1/requests/r-1", method="DELETE")
    assert (found.route.op, found.route.kind, found.parameter) == (Op.REQUEST, Kind.SUPERVISOR, "r-1")


# --- what a recorded Ollama said of malformed requests ----------------------------------------------------------------------

BOTH = 'use either :local or :cloud, not both: "chat:local:cloud"'
G, C, E, L, S = "/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (S, b"", 400, "missing request body"),
        (S, b"null", 400, "model is required"),
        (S, b"[]", 400, "json: cannot unmarshal array into Go value of type api.ShowRequest"),
        (S, b'"x"', 400, "json: cannot unmarshal string into Go value of type api.ShowRequest"),
        (S, b'{"model":"x"', 400, "unexpected EOF"),
        (S, b"{model:1}", 400, "invalid character 'm' looking for beginning of object key string"),
        (S, b'{"model":5}', 400, "json: cannot unmarshal number into Go struct field ShowRequest.model of type string"),
        (S, b"{}", 400, "model is required"),
        (S, b"\xef\xbb\xbf{}", 400, "invalid character 'ï' looking for beginning of value"),
        (S, b"\x1f\x8b\x08", 400, "invalid character '\\x1f' looking for beginning of value"),
        (G, b'{"model":"chat","options":{"temperature":NaN}}', 400, "invalid character 'N' looking for beginning of value"),
        (G, b'{"model":"chat","keep_alive":"5x"}', 400, 'time: unknown unit "x" in duration "5x"'),
        (G, b'{"model":"chat","keep_alive":"5"}', 400, 'time: missing unit in duration "5"'),
        (G, b'{"model":"chat","keep_alive":true}', 400, "Unsupported type: 'bool'"),
        (
            G,
            b'{"model":"chat","think":"extreme"}',
            400,
            'invalid think value: "extreme" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (G, b'{"model":"chat","prompt":"p","top_logprobs":21}', 400, "top_logprobs must be between 0 and 20"),
        (C, b'{"model":"chat","top_logprobs":-1}', 400, "top_logprobs must be between 0 and 20"),
        (G, b'{"model":"chat","images":["_-8="]}', 400, "illegal base64 data at input byte 0"),
        (G, b'{"model":"chat","images":["data:image/png;base64,aGk="]}', 400, "illegal base64 data at input byte 4"),
        (
            G,
            b'{"model":"chat","stream":"false"}',
            400,
            "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
        ),
        (
            C,
            b'{"model":"chat","messages":[{"role":"user","content":["x"]}]}',
            400,
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
        ),
        (G, b'{"model":""}', 404, "model '' not found"),
        (C, b"{}", 400, "model is required"),
        (E, b"{}", 404, "model '' not found"),
        (L, b"{}", 400, "model is required"),
        (E, b'{"model":"embed","input":["ok",5]}', 400, "invalid input type"),
        (E, b'{"model":"embed","input":5}', 400, "invalid input type"),
        *[(path, b'{"model":"foo bar"}', 400, "invalid model name") for path in (G, C, E, L)],
        *[(path, b'{"model":"../../etc"}', 400, "invalid model name") for path in (G, C, E, L)],
        *[(path, b'{"model":"a/b/c/d/e"}', 400, "invalid model name") for path in (G, C, E, L)],
        *[(path, b'{"model":"chat:local:cloud"}', 400, BOTH) for path in (G, C, E, L)],
        ("/v1/chat/completions", b"", 400, "EOF"),
        ("/v1/chat/completions", b'{"model":"m","messages":[]}', 400, "[] is too short - 'messages'"),
        ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"x"}]}', 400, "model is required"),
        (
            "/v1/completions",
            b'{"model":"m","prompt":["a"]}',
            400,
            "json: cannot unmarshal array into Go struct field CompletionRequest.prompt of type string",
        ),
        ("/v1/completions", b'{"prompt":"a"}', 404, "model '' not found"),
        ("/v1/embeddings", b'{"model":"m","input":[]}', 400, "invalid input"),
        ("/v1/embeddings", b'{"model":"m"}', 400, "invalid input"),
        (
            "/v1/embeddings",
            b'{"model":"m","input":"a","encoding_format":"hex"}',
            400,
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].",
        ),
        ("/v1/messages", b'{"model":"m","messages":[{}]}', 400, "max_tokens is required and must be positive"),
        ("/v1/messages", b'{"model":"m","max_tokens":5}', 400, "messages is required"),
        ("/v1/messages", b"{}", 400, "model is required"),
    ],
)
def test_malformed_requests_are_refused_in_ollamas_words(path: str, body: bytes, status: int, message: str) -> None:
    assert refused(path, body) == (status, message)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"chat","messages":[{"role":"arbitrary","content":null}]} trailing',
        b'{"model":"chat","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"nope","MODEL":"chat","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"chat","messages":[{"role":"user","images":["aG\\nk="]}],"format":"xml","nonsense":{}}',
        b'{"model":"chat","messages":[{"role":"user"}],"options":{"temperature":"hot"}}',  # 500, when Ollama has the model
    ],
)
def test_what_ollama_would_look_at_a_model_for_is_left_to_it(body: bytes) -> None:
    assert call("/api/chat", body).canonical_model == "chat:latest"


# --- the journal's side ------------------------------------------------------------------------------------------------------

text = st.text(max_size=5)
bodies = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "Big", "ns/m:7b"])},
    optional={
        "prompt": text,
        "PROMPT": text,
        "stream": st.booleans() | st.none(),
        "keep_alive": st.sampled_from([0, -1, "5m", None]),
        "options": st.dictionaries(st.sampled_from(["num_ctx", "seed", "temperature", "x"]), st.integers() | st.floats(0, 2)),
        "images": st.lists(st.binary(max_size=4).map(lambda data: base64.b64encode(data).decode()), max_size=2),
        "format": st.dictionaries(text, text, max_size=2),
        "unknown": text,
    },
)


@given(bodies, st.booleans())
def test_the_journals_body_gives_the_same_call_again(body: JsonObject, owner: bool) -> None:
    for path in (G, C):
        first = call(path, body, owner=owner)
        assert call(path, bytes(first.caller_body), owner=owner) == first


@given(bodies)
def test_the_same_request_has_the_same_digest_however_it_is_written_or_streamed(body: JsonObject) -> None:
    found = call(G, body)
    body.pop("unknown", None)
    turned = dict(reversed(body.items())) if "PROMPT" not in body else body
    if not found.is_unload:
        turned = {**turned, "keep_alive": "7m"}
    assert call(G, {**turned, "stream": False}).digest == found.digest
    assert call(G, {**turned, "prompt": "another", "PROMPT": "another"}).digest != found.digest


def test_the_digest_knows_the_route_the_model_as_asked_and_what_was_not_granted() -> None:
    base = call(G, {"model": "m", "prompt": "p"})
    others = [
        call("/v1/completions", {"model": "m", "prompt": "p"}),
        call(G, {"model": "M", "prompt": "p"}),
        call(G, {"model": "m", "prompt": "p", "options": {"num_ctx": 1}}),
        call(G, {"model": "m", "prompt": "p", "options": {"temperature": "wrong"}}),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 5


def test_a_call_shows_no_prompt_in_a_log() -> None:
    assert "secret" not in repr(call(C, {"model": "m", "messages": [{"role": "user", "content": "secret"}]}))


def test_estimates_and_substitution_find_what_they_need() -> None:
    shaped: JsonObject = {"tools": [{"type": "function"}], "format": "json", "options": {"num_predict": 9}}
    found = call(C, {"model": "m", "messages": USER, **shaped})
    assert (found.has_tools, found.has_format, found.num_predict) == (True, True, 9)
    assert call("/v1/chat/completions", {"model": "m", "messages": USER, "max_tokens": 8}).num_predict == 8
    assert call(G, {"model": "m", "prompt": "p", "images": ["aGk="]}).has_images
