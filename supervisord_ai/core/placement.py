"""Decides whom a backend suits, when there are several.

1. A backend takes calls for the models that it has; what none has is anybody's.
2. A model that another backend holds, or is loading, and has room for is not loaded here as well.
3. One on the processor takes what is not urgent, and what is urgent only while no other that has the model answers.
4. Nothing is loaded where something is being unloaded.
"""

from __future__ import annotations

from collections.abc import Collection

from supervisord_ai.core.slots import BackendSlots
from supervisord_ai.core.waiting import Ticket


class Placement:
    """The backends, as those among which a call may choose. `urgent`: the last priority that does without a slow one."""

    def __init__(self, backends: Collection[BackendSlots], urgent: int) -> None:
        self._backends = backends
        self._urgent = urgent

    def suits(self, ticket: Ticket, backend: BackendSlots) -> bool:
        """Return whether a call may begin on this backend, now that the rest of it is as it is."""
        if backend.holds_loads and (ticket.is_load or backend.needs_load(ticket)):
            return False
        return self.takes(ticket, backend) and not self._is_at_hand_elsewhere(ticket, backend)

    def _is_at_hand_elsewhere(self, ticket: Ticket, backend: BackendSlots) -> bool:
        """Whether a model would be loaded here that another backend holds, or will, and has room for, and for this call."""
        model = ticket.model
        if model is None or not backend.needs_load(ticket):
            return False
        others = (other for other in self._backends if other is not backend and self.takes(ticket, other))
        return any(other.has_at_hand(model) or other.loading == model for other in others)

    def takes(self, ticket: Ticket, backend: BackendSlots) -> bool:
        """Return whether this backend is for such a call at all, as long as the others are as they are."""
        if not backend.is_cpu or ticket.priority > self._urgent:
            return True
        return not any(one.is_ready and not one.is_cpu and self.has(one, ticket.model) for one in self._backends)

    def may_go(self, model: str | None, backend: BackendSlots) -> bool:
        """Return whether a call of this model may begin on this backend, or wait for it to be loaded there."""
        if not backend.can_take(model):
            return False
        others = [other for other in self._backends if other is not backend]
        return model is None or not others or self.has(backend, model)

    def has(self, backend: BackendSlots, model: str | None) -> bool:
        """Return whether a backend has a model; what none has is anybody's, and Ollama says that it is not there."""
        return model in backend.installed or all(model not in other.installed for other in self._backends)
