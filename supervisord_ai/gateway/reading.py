"""Reads what a request asks: what was understood once is remembered, and a large body is read beside the loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar, TypeVarTuple

import trio

from supervisord_ai.core.calls import Call, ModelPins, Pins
from supervisord_ai.core.model_facts import canonical_name
from supervisord_ai.core.policies import ModelsPolicy
from supervisord_ai.gateway.classify import classify
from supervisord_ai.gateway.understood import Understood
from supervisord_ai.store.disk import RunSync

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

READ_ELSEWHERE_BYTES = 1_000_000  # reading this much takes about 20 ms

_reading = trio.CapacityLimiter(1)  # threads that read bodies take turns at the interpreter anyhow


async def in_own_thread(fn: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run it in a thread that is for reading bodies only: an acknowledgement must not wait behind it."""
    return await trio.to_thread.run_sync(fn, *args, limiter=_reading)


class Reading:
    """From the bytes of a request to its Call, under the pins of the config."""

    def __init__(self, pins: Pins, run_sync: RunSync) -> None:
        self._pins = pins
        self._run_sync = run_sync
        self._understood = Understood()

    def __repr__(self) -> str:
        return f"<Reading {self._understood!r}>"

    async def call(self, method: str, path: str, body: bytes | bytearray, *, is_owner: bool, query: str = "") -> Call:
        """Read a body. A large one (images) takes up to a second, in which everybody else would wait: not on the loop.

        Raises:
            Refused: what `classify` refuses.
        """
        judge = partial(classify, method, path, is_admin_allowed=is_owner, pins=self._pins, query=query)
        if len(body) >= READ_ELSEWHERE_BYTES:
            return await self._run_sync(judge, body)
        asked = (is_owner, method, path, query, bytes(body))
        known = self._understood.get(asked, self._pins)
        if known is not None:
            return known
        call = judge(asked[4])
        self._understood.keep(asked, self._pins, call)
        return call


def pins_of(models: ModelsPolicy) -> Pins:
    """Return what the gateway pins for each model: its own `num_ctx` where the config names one, else the common one."""
    default = ModelPins(num_ctx=models.num_ctx, keep_alive_s=models.keep_alive_s)
    each = {
        canonical_name(name): ModelPins(num_ctx=policy.num_ctx or models.num_ctx, keep_alive_s=models.keep_alive_s)
        for name, policy in models.each
    }
    return Pins(default=default, each=each)
