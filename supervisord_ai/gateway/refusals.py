"""Answers refusals, each in the face of the API that was called."""

from __future__ import annotations

import math

from supervisord_ai.errors import Refused
from supervisord_ai.serve.http import Exchange
from supervisord_ai.wire.faces import refusal
from supervisord_ai.wire.http1 import RequestHead

RETRY_AFTER_MAX_S = 60


def shape_refusal(head: RequestHead | None, refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
    """Shape a refusal in the caller's face; for `serve_listener(..., shape=...)`."""
    return refusal(head.method, head.path, refused) if head is not None else refusal("GET", "/", refused)


async def answer_refusal(exchange: Exchange, refused: Refused) -> None:
    """Answer a refusal in the caller's face."""
    headers, body = shape_refusal(exchange.head, refused)
    if refused.retry_after_s is not None:
        headers = [*headers, ("Retry-After", f"{max(1, min(RETRY_AFTER_MAX_S, math.ceil(refused.retry_after_s)))}")]
    if refused.close:
        exchange.keeps_connection = False
    await exchange.respond(refused.status, headers, body)
