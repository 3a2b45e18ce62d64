"""Who has calls under way: told to the other rooms, so that nobody takes an agent for hung, or ends it, while it waits for us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from supervisord_ai.core.events import AgentCalls, Event
from supervisord_ai.core.identity import Caller, CallerKind


class CallsUnderWay:
    """Counts the calls of each generation; tells of the first that begins and of the last that ends."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._counts: Counter[tuple[str, int]] = Counter()

    def __repr__(self) -> str:
        return f"<calls under way: {self._counts.total()} of {len(self._counts)} agents>"

    @contextmanager
    def held(self, caller: Caller) -> Iterator[None]:
        """Count one call for as long as its caller waits for an answer."""
        if caller.kind is not CallerKind.AGENT:
            yield
            return
        who = caller.name, caller.generation
        self._counts[who] += 1
        if self._counts[who] == 1:
            self._tell(AgentCalls(*who, is_under_way=True))
        try:
            yield
        finally:
            self._counts[who] -= 1
            if not self._counts[who]:
                del self._counts[who]
                self._tell(AgentCalls(*who, is_under_way=False))
