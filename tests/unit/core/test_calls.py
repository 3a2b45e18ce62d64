"""Routes: each request line of the recorded transcript a.txt, and Ollama's table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.calls import (
    APART_BYTES,
    ROUTES,
    Body,
    Face,
    Kind,
    Matched,
    ModelPins,
    NoSuchPath,
    Op,
    Pins,
    Redirect,
    Route,
    WrongMethod,
    face_of,
    find_route,
)


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("HEAD", "/api/ps", WrongMethod("GET")),
        ("GET", "/api/generate", WrongMethod("POST")),
        ("POST", "/", WrongMethod("HEAD, GET")),
        ("get", "/api/version", WrongMethod("HEAD, GET")),
        ("OPTIONS", "/api/chat", WrongMethod("POST")),
        ("HEAD", "/v1/models", WrongMethod("GET")),
        ("GET", "/api/blobs/sha256:0", WrongMethod("HEAD, POST")),
        ("GET", "/nope", NoSuchPath()),
        ("GET", "/api/tagsx", NoSuchPath()),
        ("GET", "/debug/pprof/", NoSuchPath()),
        ("POST", "/v1/messages/count_tokens", NoSuchPath()),
        ("POST", "/v1/images/generations", NoSuchPath()),
        ("GET", "/v1/models/a%2Fb", NoSuchPath()),
        ("GET", "/api/chat/", NoSuchPath()),  # a slash too many of another method's path
        ("GET", "/api/tags/", Redirect(301, "/api/tags")),
        ("POST", "/api/chat/", Redirect(307, "/api/chat")),
        ("HEAD", "/api/tags/", Redirect(307, "/api/tags")),
        ("GET", "/v1/models/", Redirect(301, "/v1/models")),
        ("GET", "/v1/models/chat/", Redirect(301, "/v1/models/chat")),
        ("GET", "//api/version", Redirect(307, "/api/version")),
        ("POST", "//api//chat", Redirect(307, "/api/chat")),
        ("GET", "/api/../api/version", Redirect(307, "/api/version")),
        ("GET", "/../../etc/passwd", Redirect(307, "/etc/passwd")),
        ("GET", "/api/%2e%2e/api/tags", Redirect(307, "/api/tags")),
        ("GET", "", Redirect(307, "/")),
    ],
)
def test_the_router_says_what_ollamas_says(method: str, path: str, said: object) -> None:
    assert find_route(method, path) == said


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_every_route_is_found_by_each_of_its_methods(route: Route) -> None:
    fixed, colon, _ = route.path.partition(":")
    for method in route.methods:
        matched = find_route(method, fixed + "sha256:0" if colon else fixed)
        assert isinstance(matched, Matched)
        assert matched.route is route


def test_a_segment_is_given_decoded() -> None:
    matched = find_route("GET", "/v1/models/llama3.2%3A3b")
    assert isinstance(matched, Matched)
    assert (matched.route.op, matched.parameter) == (Op.V1_MODEL, "llama3.2:3b")


def test_what_installs_is_administration_and_what_leaves_the_machine_is_refused() -> None:
    kinds = {route.path: route.kind for route in ROUTES}
    admin = {"/api/pull", "/api/push", "/api/create", "/api/delete", "/api/copy", "/api/blobs/:digest"}
    assert {path for path, kind in kinds.items() if kind == Kind.ADMIN} == admin
    assert all(kinds[path] == Kind.REFUSED for path in ("/api/me", "/api/signout", "/api/user/keys/:encodedKey"))
    assert all(kind == Kind.REFUSED for path, kind in kinds.items() if path.startswith("/api/experimental/"))


def test_native_generation_streams_unless_told_and_the_others_do_not() -> None:
    streams = {route.path for route in ROUTES if route.stream_default and route.kind == Kind.INFERENCE}
    assert streams == {"/api/generate", "/api/chat"}


@given(st.text(alphabet="/.%2eav1pi", max_size=20))
def test_redirects_stay_on_this_server_and_come_to_an_end(path: str) -> None:
    found = find_route("GET", "/" + path)
    for _ in range(3):
        if not isinstance(found, Redirect):
            return
        assert found.location.startswith("/")
        assert not found.location.startswith("//")  # would be another host
        found = find_route("GET", found.location)
    assert not isinstance(found, Redirect)


@pytest.mark.parametrize(
    ("path", "face"),
    [
        ("/v1/messages", Face.ANTHROPIC),
        ("/v1/models", Face.OPENAI),
        ("/v1/nope", Face.OPENAI),
        ("/api/chat", Face.OLLAMA),
        ("/", Face.OLLAMA),
    ],
)
def test_an_error_is_written_in_the_face_of_its_path(path: str, face: Face) -> None:
    assert face_of(path) is face


def test_a_model_without_pins_of_its_own_has_the_default_ones() -> None:
    pins = Pins(ModelPins(4096, 1800.0), {"big:latest": ModelPins(8192, 60.0)})
    assert pins.of("big:latest").num_ctx == 8192
    assert pins.of("small:latest") == ModelPins(4096, 1800.0)


def test_a_path_may_be_written_in_percents_and_has_no_parameter_for_that() -> None:
    assert find_route("GET", "/api/t%61gs") == find_route("GET", "/api/tags")


def test_a_body_is_an_object_of_its_members_and_a_large_one_is_no_copy() -> None:
    large, larger = b'"%s"' % (b"x" * (APART_BYTES - 2)), b'"%s"' % (b"y" * APART_BYTES)
    body = Body(members={"model": b'"m"', "\u00e4": b"1", "images": large, "b": b"2", "c": larger})
    pieces = [b'{"model":"m","\xc3\xa4":1,"images":', large, b',"b":2,"c":', larger, b"}"]
    assert body.pieces() == pieces
    assert body.pieces()[1] is large
    assert (bytes(body), len(body)) == (b"".join(pieces), sum(map(len, pieces)))


def test_a_body_of_small_members_or_none_is_one_piece() -> None:
    small = b'"%s"' % (b"x" * (APART_BYTES - 3))
    assert Body(members={"a": small, "b": b"1"}).pieces() == [b'{"a":%s,"b":1}' % small]
    assert Body(members={}).pieces() == [b"{}"]
    assert Body(b"[1]").pieces() == [b"[1]"]
    assert (bytes(Body(b"[1]")), len(Body(b"[1]"))) == (b"[1]", 3)
