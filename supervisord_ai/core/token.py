"""Makes and reads the tokens agents show on TCP. Stores nothing: a token is an HMAC over who it is for.

`ais1.AGENT.GENERATION.MAC`, with characters that a header and a path both carry. It ends with its generation, because whoever
reads it compares that with the generation that runs now.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode

_PREFIX = "ais1."


def token_for(secret: bytes, agent: str, generation: int) -> str:
    """Return the token of one generation of an agent."""
    return f"{_PREFIX}{agent}.{generation}.{_mac(secret, agent, generation)}"


def looks_like_token(text: str) -> bool:
    """A key that was made up to please an SDK ("ollama", "sk-none") is no attempt to be someone."""
    return text.startswith(_PREFIX)


def read_token(secret: bytes, text: str) -> tuple[str, int] | None:
    """Return the agent and generation a token names; None for one that we did not make."""
    agent, _, rest = text.removeprefix(_PREFIX).rpartition(".")[0].rpartition(".")
    mac = text.rpartition(".")[2]
    if not looks_like_token(text) or not (rest.isascii() and rest.isdecimal() and len(rest) < 19):
        return None
    generation = int(rest)
    is_ours = hmac.compare_digest(_mac(secret, agent, generation).encode(), mac.encode("utf-8", "surrogateescape"))
    return (agent, generation) if is_ours and text == token_for(secret, agent, generation) else None


def _mac(secret: bytes, agent: str, generation: int) -> str:
    digest = hmac.digest(secret, f"{agent}\0{generation}".encode("utf-8", "surrogateescape"), hashlib.sha256)
    return urlsafe_b64encode(digest).decode().rstrip("=")
