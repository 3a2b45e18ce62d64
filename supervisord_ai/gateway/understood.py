"""What repeated requests mean, so that the same question is read once.

A Call is immutable and follows from method, path, query, body, what the caller may do and the pins alone. It is remembered under
all of those as they came, byte for byte, so nothing is ever taken for another. Only what may be shared is worth it: agents
repeat those, and a repeated one that is answered from the cache would spend most of its time being read.
"""

from __future__ import annotations

from collections import OrderedDict

from supervisord_ai.core.calls import Call, Pins

BODY_MAX_BYTES = 32_000  # an agent's question; images and long histories are seldom asked twice
_OVERHEAD_BYTES = 2_000
Asked = tuple[bool, str, str, str, bytes]  # may administrate, method, path, query, body


class Understood:
    """Calls by what was asked, the least lately used forgotten above so many bytes."""

    def __init__(self, cap_bytes: int = 16_000_000) -> None:
        self._cap_bytes = cap_bytes
        self._calls: OrderedDict[Asked, Call] = OrderedDict()
        self._pins: Pins | None = None
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<Understood {len(self._calls)} calls, {self.bytes} bytes>"

    def get(self, asked: Asked, pins: Pins) -> Call | None:
        """Return what this was understood as, under these pins."""
        call = self._calls.get(asked)
        if call is None or self._pins is not pins:
            return None
        self._calls.move_to_end(asked)
        return call

    def keep(self, asked: Asked, pins: Pins, call: Call) -> None:
        """Remember it, if it is worth that."""
        if call.cache_key is None or len(asked[4]) > BODY_MAX_BYTES:
            return
        if self._pins is not pins:
            self._calls.clear()
            self.bytes = 0
            self._pins = pins
        if asked not in self._calls:
            self._calls[asked] = call
            self.bytes += _size(asked, call)
        while self.bytes > self._cap_bytes:
            self.bytes -= _size(*self._calls.popitem(last=False))


def _size(asked: Asked, call: Call) -> int:
    return len(asked[4]) + len(call.caller_body) + len(call.upstream_body) + len(asked[2]) + len(asked[3]) + _OVERHEAD_BYTES
