"""Step 5: the light model in place of the one that was asked for, where the level in force says so and nobody objects.

Its class must allow it, and the light model must have what the request needs (`core/degraded.py`). Requests for later are left
alone: they have the time. The answer names the model that gave it, in its body and in `X-AI-Degraded`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from supervisord_ai.core.admission import Asked
from supervisord_ai.core.calls import Call, Pins
from supervisord_ai.core.degraded import why_it_stays
from supervisord_ai.core.effects import Level
from supervisord_ai.core.estimate import retry_after
from supervisord_ai.core.identity import Caller
from supervisord_ai.core.model_facts import canonical_name
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.backends import Backend
from supervisord_ai.gateway.cache import AnswerCache, Place
from supervisord_ai.gateway.callers import Callers
from supervisord_ai.gateway.level import LevelInForce
from supervisord_ai.wire.ollama import asked_of


@dataclass(frozen=True, slots=True)
class Light:
    """A call as the light model is asked it, and where such an answer lies."""

    call: Call
    place: Place
    level: Level


class StandIn:
    """Decides for one request at a time. `read` reads a body as when it came from a caller."""

    def __init__(
        self,
        *,
        level: LevelInForce,
        callers: Callers,
        cache: AnswerCache,
        pins: Pins,
        backend_of: Callable[[str | None], Backend],
        read: Callable[[str, bytes], Awaitable[Call]],
    ) -> None:
        self._level = level
        self._callers = callers
        self._cache = cache
        self._pins = pins
        self._backend_of = backend_of
        self._read = read

    async def of(self, call: Call, caller: Caller, asked: Asked) -> Light | None:
        """Return how the light model is asked, None where it is not.

        Raises:
            Refused: 503, it would be, and the caller wants the model it asked for or none.
        """
        effects = self._level.effects
        if effects.light_model is None or asked.is_async or not self._callers.policy(caller).substitute:
            return None
        light = canonical_name(effects.light_model)
        facts = await self._backend_of(call.canonical_model).facts(call.canonical_model or "")
        backend = self._backend_of(light)
        if why_it_stays(call, facts, await backend.facts(light), num_ctx=self._pins.of(light).num_ctx):
            return None
        if asked.is_exact:
            what = f"at level {effects.level} {effects.light_model} would answer, and exactly {call.model} was asked for"
            raise Refused(503, what, retry_after_s=retry_after(self._level.lifts_in_s()))
        as_light = await self._read(call.path, asked_of(call.caller_body, effects.light_model))
        as_light = replace(as_light, caller_body=call.caller_body, digest=call.digest)
        return Light(as_light, await self._cache.place(as_light, caller, backend), effects.level)
