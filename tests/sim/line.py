"""One call over a connection in memory, as an agent's SDK makes it: what is sent, what comes back, and how it may end early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from supervisord_ai.errors import PeerGone
from supervisord_ai.serve.connection import MemoryClient
from supervisord_ai.wire.http1 import END, Broken, Headers, ResponseHead, ResponseParser, request_bytes


class CutShort(Exception):  # noqa: N818
    """The connection ended before the answer did."""


@dataclass(slots=True)
class Answered:
    """An answer, as far as it came."""

    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a caller treats its connection. `pause_s`: it takes so long over each piece."""

    pause_s: float = 0.0
    half_closes: bool = False
    room_bytes: int = 65536


POLITE = Manner()


async def call(
    client: MemoryClient,
    target: tuple[str, str],
    headers: Sequence[tuple[str, str]],
    body: bytes = b"",
    manner: Manner = POLITE,
) -> Answered:
    """Ask one thing, of (method, path), and read the whole answer. Raises: CutShort."""
    more = [("Host", "supervisor")] if not body else [("Host", "supervisor"), ("Content-Length", str(len(body)))]
    answer, parts = Answered(), []
    parser = ResponseParser()
    try:
        await client.send_all(request_bytes(*target, [*more, *headers], body))
        if manner.half_closes:
            client.half_close()
        while True:
            data = await client.receive_some()
            for event in parser.feed(data) if data else parser.feed_eof():
                if isinstance(event, bytes):
                    parts.append(event)
                elif isinstance(event, ResponseHead):
                    answer.status, answer.headers = event.status, event.headers
                elif isinstance(event, Broken):
                    raise CutShort(f"after {sum(map(len, parts))} bytes of the body")
                else:
                    assert event is END
                    answer.body = b"".join(parts)
                    return answer
            if manner.pause_s:
                await trio.sleep(manner.pause_s)
    except PeerGone as exc:
        raise CutShort(str(exc)) from exc
    finally:
        client.close()
