"""Step 2 of a request's path: from bytes to a Call that says what it is, what Ollama will be sent, and what it may share."""

from __future__ import annotations

from supervisord_ai.core.calls import Call, Pins


def classify(
    method: str,
    path: str,
    body: bytes,
    *,
    is_admin_allowed: bool,
    pins: Pins,
    query: str = "",
) -> Call:
    """Read one request as Ollama would.

    For a recovered row: pass its method, path and (canonical) body; the same Call comes out.

    Raises:
        Refused: 3xx, 4xx and 5xx answers of our own, in Ollama's words (`location`, `allow` filled where they apply).
    """
    raise NotImplementedError
