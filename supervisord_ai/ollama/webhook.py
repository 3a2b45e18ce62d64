"""Tells a URL of the owner something: JSON by POST. Beside the client of Ollama because it is the other user of httpx.

It goes where the owner said and nowhere else: no proxy of the environment, no redirect is followed. What the other side
answers is not looked at beyond its status.
"""

from __future__ import annotations

import httpx
import trio

TIMEOUT_S = 10.0


async def post_json(url: str, body: bytes) -> str:
    """Post this JSON; return "" or what went wrong, in words that do not hold the URL: there may be a secret in it."""
    try:
        with trio.move_on_after(TIMEOUT_S):
            async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S, follow_redirects=False) as client:
                answer = await client.post(url, content=body, headers={"Content-Type": "application/json"})
            return "" if answer.is_success else f"it answered {answer.status_code} {answer.reason_phrase}".strip()
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
        return f"it cannot be reached: {str(exc).replace(url, '...') or type(exc).__name__}"
    return f"it did not answer within {TIMEOUT_S:.0f} s"
