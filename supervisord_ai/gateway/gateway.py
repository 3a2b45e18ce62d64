"""The gateway as one thing: built by the daemon, told events, asked for handlers and for a view of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.events import Event
from supervisord_ai.core.identity import Caller
from supervisord_ai.core.policies import BackendSpec, CachePolicy, LimitsPolicy, ModelsPolicy, QueuePolicy
from supervisord_ai.core.roster import Roster
from supervisord_ai.gateway.view import GatewayView
from supervisord_ai.ollama.client import OllamaClient
from supervisord_ai.serve.http import Handler
from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.requests import Requests


class Gateway:
    """The path of every request. One task runs it (`run`); handlers run in their connections' tasks."""

    def __init__(
        self,
        *,
        roster: Roster,
        queue: QueuePolicy,
        limits: LimitsPolicy,
        cache: CachePolicy,
        models: ModelsPolicy,
        backends: Sequence[tuple[BackendSpec, OllamaClient]],
        requests: Requests,
        cache_file: CacheFile,
        clock: Clock,
        tell: Callable[[Event], None],
        new_id: Callable[[], str],
        spool_dir: Path,
    ) -> None:
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover the journal, then serve until cancelled. Started when every recovered row is back in the backlog."""
        raise NotImplementedError

    def handler_for(self, caller: Caller) -> Handler:
        """Return the handler of one caller's requests (on TCP `Accept.tcp_handler` finds the caller first)."""
        raise NotImplementedError

    def tell(self, event: Event) -> None:
        """Note that an agent started or ended."""
        raise NotImplementedError

    def statistics(self) -> GatewayView:
        """Return everything at this instant."""
        raise NotImplementedError
