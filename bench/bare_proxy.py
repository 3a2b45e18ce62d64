"""A proxy as one writes it in an afternoon: Starlette on uvicorn, httpx to the upstream, bytes handed on. For `bench.gateways`.

    UPSTREAM=http://127.0.0.1:11434 PYTHON -m uvicorn --app-dir bench bare_proxy:app --uds /tmp/x.sock

PYTHON is that of the environment with requirements/bench-gateways.lock. Alone it needs nothing of this project.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette  # type: ignore[import-not-found,unused-ignore]
from starlette.responses import Response  # type: ignore[import-not-found,unused-ignore]
from starlette.routing import Route  # type: ignore[import-not-found,unused-ignore]


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=os.environ["UPSTREAM"], limits=limits, timeout=60, trust_env=False) as client:
        app.state.client = client
        yield


async def forward(request: Any) -> Any:
    body = await request.body()
    headers = {"Content-Type": request.headers.get("content-type", "application/json")}
    answer = await request.app.state.client.request(request.method, request.url.path, content=body, headers=headers)
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])], lifespan=lifespan)
