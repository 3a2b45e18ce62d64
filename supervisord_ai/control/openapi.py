"""The description of control.sock for programs: OpenAPI 3.1, made from `routes.py` and `answers.py`.

    python -m supervisord_ai.control.openapi > supervisord_ai/control/openapi.json

The file is shipped, so that it can be read without a daemon; a test holds it against the code.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec

from supervisord_ai import __version__
from supervisord_ai.control.answers import Fault
from supervisord_ai.control.routes import JSON, ROUTES, Query, Route

Json = dict[str, Any]

_REFS = "#/components/schemas/{name}"
_KINDS = {str: "string", int: "integer", float: "number"}
_PATH_WORDS = {
    "name": "the name of an agent; a verb also takes a pattern with *, ? and [...]",
    "id": "the id of a request",
    "model": "a model as Ollama names it",
}


@cache
def document() -> Json:
    """Return the whole description."""
    kinds = {id(kind): kind for route in ROUTES for kind in (route.answer, *route.also.values()) if kind is not None}
    kinds[id(Fault)] = Fault
    schemas, components = msgspec.json.schema_components(list(kinds.values()), ref_template=_REFS)
    by_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ai-supervisor, the owner's door",
            "version": __version__,
            "description": "HTTP/1.1 over the Unix socket control.sock. Only for the owner: a process of the fleet is refused "
            "with 403 whatever its user is. Every GET answers HEAD too.",
        },
        "servers": [{"url": "http://localhost", "description": "over control.sock"}],
        "paths": paths,
        "components": {"schemas": {name: components[name] for name in sorted(components)}},
    }


def _operation(route: Route, by_kind: dict[int, Json]) -> Json:
    placeholders = [part[1:-1] for part in route.parts if part.startswith("{")]
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_WORDS[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in placeholders
    ] + [_parameter(one) for one in route.query]
    good = {"schema": by_kind[id(route.answer)]} if route.answer is not None else {"schema": {"type": "string"}}
    answers: Json = {str(route.status): {"description": route.words, "content": {_media(route.media): good}}}
    also = {400: None, 403: None, **route.also}
    for status, kind in sorted(also.items()):
        schema = by_kind[id(kind if kind is not None else Fault)]
        answers[str(status)] = {"description": HTTPStatus(status).phrase, "content": {_media(JSON): {"schema": schema}}}
    return {
        "operationId": route.name,
        "summary": route.words,
        "tags": [route.name.partition(".")[0]],
        **({"parameters": parameters} if parameters else {}),
        "responses": answers,
    }


def _parameter(one: Query) -> Json:
    schema: Json = {"type": _KINDS[one.kind]}
    if one.choices:
        schema["enum"] = list(one.choices)
    if one.kind is not str:
        schema |= {"minimum": one.least, "maximum": one.most}
    if one.default is not None:
        schema["default"] = one.default
    return {"name": one.name, "in": "query", "required": one.is_required, "description": one.words, "schema": schema}


def _media(content_type: str) -> str:
    return content_type.partition(";")[0]


def text() -> str:
    """Return the file as it is shipped."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
