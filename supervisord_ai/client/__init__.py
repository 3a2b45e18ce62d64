"""For agents in Python: Ollama's API over the supervisor's socket, on asyncio and trio, from one restart to the next.

    from supervisord_ai import client

    async with client.http() as http:                       # an httpx.AsyncClient
        answer = await http.post("/api/chat", json={"model": "llama3.2:3b", "messages": messages, "stream": False})

    async with client.ollama() as ollama:                   # an ollama.AsyncClient, if that package is installed
        answer = await ollama.chat("llama3.2:3b", messages)

Any client that takes an httpx transport takes `client.Transport()`, and a synchronous one `client.sync_transport()`. The
socket is the one in AI_SUPERVISOR_SOCKET, which every agent has. Nothing here is needed: an agent that knows only Ollama's
own clients is served as well. What it adds is that a call outlives a restart of the supervisor (`transport.py`).

This package stands apart: it knows HTTP and one variable, and imports nothing of the daemon.
"""

from supervisord_ai.client.clients import NoSocketError, http, ollama, socket_path, sync_transport
from supervisord_ai.client.transport import Transport, TransportStatistics

__all__ = ["NoSocketError", "Transport", "TransportStatistics", "http", "ollama", "socket_path", "sync_transport"]
