"""The description of control.sock and what it does, held together in both directions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import supervisord_ai.control
from supervisord_ai.agents.view import AgentView
from supervisord_ai.control.answers import Active, Agent, Explained, ShownAgent
from supervisord_ai.control.encoding import rounded
from supervisord_ai.control.openapi import text
from supervisord_ai.control.routes import JSON, ROUTES, Route
from supervisord_ai.gateway.view import RunningView
from tests.shell.test_control import House, ask, with_an_external_agent
from tests.shell.test_control_verbs import House as VerbsHouse

FILE = Path(supervisord_ai.control.__file__).parent / "openapi.json"
DESCRIBED: dict[str, Any] = json.loads(FILE.read_text())


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DESCRIBED["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def test_the_shipped_file_is_what_the_code_says() -> None:
    assert FILE.read_text() == text(), "python -m supervisord_ai.control.openapi > supervisord_ai/control/openapi.json"


async def test_every_route_has_a_handler_and_every_handler_a_route(autojump_clock: object) -> None:
    handlers = {*VerbsHouse().verbs.handlers(), *House().control._handlers}
    assert handlers == {route.name for route in ROUTES}
    assert {(path, method) for path, method, _ in operations()} == {(route.path, route.method) for route in ROUTES}


async def test_what_is_described_exists_and_what_exists_takes_no_other_method(autojump_clock: object) -> None:
    methods: dict[str, set[str]] = {}
    for path, method, _ in operations():
        methods.setdefault(path, set()).add(method)
    for path, known in methods.items():
        target = path.replace("{", "").replace("}", "")
        others = {"DELETE", "PUT", "PATCH", "GET", "POST"} - known
        for other in others:
            status, headers, _ = await ask(House(), target, other)
            assert status == 405, (other, path)
            assert {*headers["allow"].split(", ")} == known | ({"HEAD"} if "GET" in known else set())


GOT = [route for route in ROUTES if route.method == "GET" and route.media == JSON]


@pytest.mark.parametrize("route", GOT, ids=lambda route: route.name)
async def test_a_real_answer_has_the_shape_that_is_described_and_nothing_else(autojump_clock: object, route: Route) -> None:
    house = with_an_external_agent()
    house.control._handlers |= VerbsHouse().verbs.handlers()
    words = {"name": "editor" if route.name == "agents.environment" else "opus-01", "id": "q1"}
    target = "/".join(words[part[1:-1]] if part.startswith("{") else part for part in route.path.split("/"))
    status, _, told = await ask(house, target)
    assert status == 200
    shape = msgspec.convert(told, route.answer)
    assert rounded(msgspec.to_builtins(shape)) == told


def test_nothing_that_a_room_shows_of_an_agent_or_a_running_request_is_left_out() -> None:
    assert {*AgentView.__dataclass_fields__} == {*Agent.__struct_fields__, "last_lines"}
    assert "last_lines" in ShownAgent.__struct_fields__  # of one agent they are worth reading, of 131 not
    assert {*RunningView.__dataclass_fields__} | {"backend"} == {*Active.__struct_fields__}


def test_a_description_names_every_parameter_and_what_it_may_be() -> None:
    for path, _, operation in operations():
        named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for one in operation.get("parameters", ()):
            assert one["description"], (path, one)
        assert operation["summary"], path
    kinds = {one["name"]: one["schema"] for _, _, operation in operations() for one in operation.get("parameters", ())}
    assert kinds["tier"]["enum"] == ["all", "l1", "l2", "l3"]
    assert kinds["since"]["type"] == "number"
    assert Explained("a", "queued", 1) == msgspec.convert({"id": "a", "state": "queued", "attempt": 1}, Explained)
