"""Step 1 of the path of a request: who asks. Identity once per connection on the Unix socket, per request on TCP."""

from __future__ import annotations

from collections.abc import Callable

from supervisord_ai.core.events import Event
from supervisord_ai.core.identity import Caller
from supervisord_ai.serve.connection import Connection
from supervisord_ai.serve.http import Handler


class Accept:
    """Keeps the register of running agents and tells who a connection is."""

    def tell(self, event: Event) -> None:
        """Note that an agent started or ended."""
        raise NotImplementedError

    async def identify(self, connection: Connection) -> Caller:
        """Return who connected on the Unix socket.

        Raises:
            Refused: it is nobody who may call.
        """
        raise NotImplementedError

    async def tcp_handler(self, connection: Connection, handler_for: Callable[[Caller], Handler]) -> Handler:
        """Return a handler that finds the caller of each request (token, kernel) and passes the request to its handler.

        A `/@TOKEN` prefix is taken off the path before. Use as `serve_listener(..., on_connection=...)` on TCP.
        """
        raise NotImplementedError

    def token_for(self, agent: str, generation: int) -> str:
        """Return the token of that generation: nothing is stored, and it ends with the generation."""
        raise NotImplementedError
