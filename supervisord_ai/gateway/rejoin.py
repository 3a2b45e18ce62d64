"""Who comes back: by key to what it asked before, or after a crash to the row that its last connection left behind."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from supervisord_ai.clock import Clock
from supervisord_ai.core.calls import Call, Face
from supervisord_ai.core.identity import Caller
from supervisord_ai.core.patience import Patience
from supervisord_ai.core.request_state import RowState
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.backlog import Backlog
from supervisord_ai.gateway.request import End, Request
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.rows import Answer, RequestRow


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer of a row that is done, for a caller who comes back to it."""

    row: RequestRow
    answer: Answer


class Rejoin:
    """Finds what a caller comes back to. Rows that outlived a crash and have no key are expected by their bodies, once."""

    def __init__(self, *, backlog: Backlog, requests: Requests, patience: Patience, clock: Clock) -> None:
        self._backlog = backlog
        self._requests = requests
        self._patience = patience
        self._clock = clock
        self._expected: dict[tuple[str, bytes], deque[str]] = {}  # (agent, digest) -> rows nobody came back to

    def __repr__(self) -> str:
        return f"<Rejoin {sum(map(len, self._expected.values()))} expected>"

    def expect(self, row: RequestRow) -> None:
        """The caller of a recovered row may come back with the same body."""
        if row.key is None and not row.is_async:
            self._expected.setdefault((row.agent, row.digest), deque()).append(row.id)

    def find(self, caller: Caller, call: Call, key: str | None) -> Request | Kept | None:
        """Return what a caller comes back to: its request that lives, or the answer that was kept; None when it is new.

        By key, at any time; by the digest of the body only to a row that outlived a crash, and once per row.

        Raises:
            Refused: 422, the key was used with another body.
        """
        if key is not None:
            return self._by_key(caller, call, key)
        waiting = self._expected.get((caller.name, call.digest))
        while waiting:
            request_id = waiting.popleft()
            request = self._backlog.get(request_id)
            if request is not None and self._is_there(request):
                return request
            row = self._requests.row(request_id)
            kept = self._kept(row) if row is not None else None
            if kept is not None:
                return kept
        return None

    def _by_key(self, caller: Caller, call: Call, key: str) -> Request | Kept | None:
        request = self._backlog.keyed(caller.name, key)
        if request is not None and self._is_there(request):
            _refuse_another_body(request.row, call)
            return request
        row = self._requests.find(caller.name, key=key, digest=call.digest)
        if row is None or row.state is not RowState.DONE:
            return None
        _refuse_another_body(row, call)
        return self._kept(row)

    def _kept(self, row: RequestRow) -> Kept | None:
        answer = self._requests.answer(row.id)
        return Kept(row, answer) if answer is not None else None

    def _is_there(self, request: Request) -> bool:
        """Whether this request will have, or has, an answer worth having. A caller who was gone for a moment takes it back."""
        if request.outcome is not None:
            return request.outcome.end is End.WHOLE
        return not request.is_abandoned or request.take_back(self._clock.monotonic() + self._patience.silence_s)

    def forget(self, older_than_wall: float) -> None:
        """Rows that are forgotten on disk are not expected back either."""
        for place, ids in list(self._expected.items()):
            kept = deque(request_id for request_id in ids if self._may_return(request_id, older_than_wall))
            if kept:
                self._expected[place] = kept
            else:
                del self._expected[place]

    def _may_return(self, request_id: str, older_than_wall: float) -> bool:
        if self._backlog.get(request_id) is not None:
            return True
        row = self._requests.row(request_id)
        return row is not None and row.accepted_wall > older_than_wall


def _refuse_another_body(row: RequestRow, call: Call) -> None:
    is_same_form = call.face is Face.OLLAMA or row.asked_stream == call.asked_stream
    if row.digest != call.digest or not is_same_form:
        raise Refused(422, "this Idempotency-Key was used with another request")
