"""What a caller may ask about itself and its requests: `/supervisor/v1/...`, answered by us.

Ids are random and each caller sees its own requests only: another's id is 404, as if there were none. The owner sees all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from urllib.parse import parse_qs

import trio

from supervisord_ai.clock import Clock
from supervisord_ai.core.calls import Call, Form, Op
from supervisord_ai.core.events import AgentEnded, AgentReady, AgentStarted, Event
from supervisord_ai.core.identity import Caller, CallerKind
from supervisord_ai.core.request_state import RowState
from supervisord_ai.core.scheduler import Scheduler
from supervisord_ai.errors import Refused
from supervisord_ai.gateway.asleep import Sleeper
from supervisord_ai.gateway.backlog import Backlog
from supervisord_ai.gateway.callers import Callers
from supervisord_ai.gateway.headers import rfc3339
from supervisord_ai.gateway.request import Request
from supervisord_ai.gateway.tally import Tally
from supervisord_ai.serve.http import Exchange
from supervisord_ai.store.requests import Requests
from supervisord_ai.store.rows import Answer, RequestRow
from supervisord_ai.wire.ollama import single_of

WAIT_MAX_S = 60.0
_JSON = ("Content-Type", "application/json; charset=utf-8")


class Desk:
    """Answers callers about themselves."""

    def __init__(
        self, *, callers: Callers, backlog: Backlog, scheduler: Scheduler, requests: Requests, tally: Tally, clock: Clock
    ) -> None:
        self._callers = callers
        self._backlog = backlog
        self._scheduler = scheduler
        self._requests = requests
        self._tally = tally
        self._clock = clock
        self._states: dict[str, str] = {}

    def tell(self, event: Event) -> None:
        """Note how an agent fares, for those who ask."""
        match event:
            case AgentStarted(agent=agent):
                self._states[agent] = "starting"
            case AgentReady(agent=agent):
                self._states[agent] = "ready"
            case AgentEnded(agent=agent, verdict=verdict):
                self._states[agent] = f"ended: {verdict}"
            case _:
                pass

    async def serve(self, exchange: Exchange, caller: Caller, call: Call) -> None:
        """Answer one request.

        Raises:
            Refused: 404, there is no such request of this caller.
        """
        if call.route.op is Op.WHOAMI:
            await _respond(exchange, _whoami(caller))
        elif call.route.op is Op.AGENTS:
            await _respond(exchange, {"agents": self._agents(caller)})
        elif exchange.head.method == "DELETE":
            await self._cancel(exchange, caller, call.parameter or "")
        else:
            await self._tell_of(exchange, caller, call.parameter or "")

    def _agents(self, caller: Caller) -> list[dict[str, object]]:
        """Everybody's name, class and state; what somebody used is told to itself and to the owner."""
        return [
            {"name": name, "class": spec.policy.name, "state": self._states.get(name, "not started")}
            | ({"used": self._used(name)} if _may_see(caller, name) else {})
            for name, spec in sorted(self._callers.roster.agents.items())
        ]

    def _used(self, agent: str) -> dict[str, object]:
        """The ledger's line of an agent, since the daemon started."""
        return {key: round(value, 3) for key, value in asdict(self._tally.line(agent)).items()}

    async def _tell_of(self, exchange: Exchange, caller: Caller, request_id: str) -> None:
        wait_s = _wait_s(exchange.head.query)
        sleeper = self._backlog.asleep.get(request_id)
        if sleeper is not None and wait_s == 0.0 and _may_see(caller, sleeper.agent):
            await _respond(exchange, self._sleeping(sleeper))
            return
        request = await self._backlog.wake(request_id) if self._is_seen(caller, request_id) else None
        if request is not None:
            with trio.move_on_after(wait_s):
                await request.wait_over()
            if not request.is_over:
                await _respond(exchange, self._living(request))
                return
        row = self._row(caller, request_id)
        answer = self._requests.answer(row.id)
        told: dict[str, object] = {"id": row.id, "state": row.state.value, "attempt": row.attempt}
        if answer is not None:
            told["answer"] = _told_answer(answer, row)
        elif request is not None and request.awaits_journal:
            told["waits_for"] = "journal"
        elif request is not None and request.outcome is not None:
            # Its row says so with the next commit.
            told["state"], told["reason"] = RowState.CANCELLED.value, request.why_unkept or request.outcome.reason
        elif row.state is RowState.CANCELLED:
            told["reason"] = self._requests.why_cancelled(row.id)
        await _respond(exchange, told)

    def _is_seen(self, caller: Caller, request_id: str) -> bool:
        request, sleeper = self._backlog.get(request_id), self._backlog.asleep.get(request_id)
        agent = request.agent if request is not None else sleeper.agent if sleeper is not None else None
        return agent is not None and _may_see(caller, agent)

    def explain(self, request_id: str) -> dict[str, object] | None:
        """Return what the owner is told of a request: its place if it lives, else how it ended; None when it is unknown."""
        request, sleeper = self._backlog.get(request_id), self._backlog.asleep.get(request_id)
        if request is not None and not request.is_over:
            return self._living(request) | {"agent": request.agent, "path": request.call.path, "model": request.call.model}
        if sleeper is not None:
            return self._sleeping(sleeper) | {"agent": sleeper.agent, "path": sleeper.path, "model": sleeper.model}
        row = self._requests.row(request_id)
        if row is None:
            return None
        told: dict[str, object] = {"id": row.id, "state": row.state.value, "attempt": row.attempt}
        told |= {"agent": row.agent, "path": row.path, "priority": row.priority}
        return told | {"reason": self._requests.why_cancelled(row.id)}

    def _sleeping(self, sleeper: Sleeper) -> dict[str, object]:
        now = self._clock.monotonic()
        told: dict[str, object] = {"id": sleeper.id, "state": RowState.QUEUED.value, "attempt": sleeper.attempt}
        return told | {"waited_s": round(now - sleeper.accepted_at, 3)} | self._place(sleeper.id, now)

    def _living(self, request: Request) -> dict[str, object]:
        now = self._clock.monotonic()
        told: dict[str, object] = {
            "id": request.id,
            "state": request.state.value,
            "attempt": request.attempt,
            "waited_s": round(now - request.times.accepted_at, 3),
        }
        return told | self._place(request.id, now)

    def comment(self, request: Request) -> bytes:
        """Return an SSE comment for one who waits."""
        place = self._place(request.id, self._clock.monotonic())
        if not place:
            return b": running\n\n"
        estimate = f" estimate={place['estimate_s']:.0f}s" if place["estimate_s"] is not None else ""
        return f": queued position={place['position']}{estimate}\n\n".encode()

    def _place(self, request_id: str, now: float) -> dict[str, object]:
        """Where a waiting request stands, what it waits for, and when it will start if nothing else comes."""
        ticket, standing = self._scheduler.waiting(request_id), self._scheduler.standing(request_id, now)
        if ticket is None or standing is None:
            return {}
        forecast = self._backlog.forecast_of(ticket)
        return {
            "position": standing.ahead + 1,
            "ahead": standing.ahead,
            "reason": standing.reason,
            "waits_for": self._scheduler.cause(ticket, now).value,
            "priority": ticket.priority,
            "estimate_s": round(forecast.starts_at - now, 1) if forecast is not None else None,
            "start_within_s": round(ticket.start_by - now, 1),
        }

    async def _cancel(self, exchange: Exchange, caller: Caller, request_id: str) -> None:
        sleeper = self._backlog.asleep.get(request_id)
        if sleeper is not None and _may_see(caller, sleeper.agent):
            self._backlog.asleep.leave(request_id, "it was cancelled")
            told = {"id": sleeper.id, "state": RowState.CANCELLED.value, "attempt": sleeper.attempt}
            await _respond(exchange, told)
            return
        request = self._backlog.get(request_id)
        if request is None or not _may_see(caller, request.agent):
            row = self._row(caller, request_id)
            await _respond(exchange, {"id": row.id, "state": row.state.value, "attempt": row.attempt})
            return
        self._backlog.leave(request, "it was cancelled")
        state = "cancelling" if not request.is_over else request.state.value
        await _respond(exchange, {"id": request.id, "state": state, "attempt": request.attempt})

    def _row(self, caller: Caller, request_id: str) -> RequestRow:
        row = self._requests.row(request_id)
        if row is None or not _may_see(caller, row.agent):
            raise Refused(404, f"there is no request {request_id[:64]} of yours")
        return row


def _may_see(caller: Caller, agent: str) -> bool:
    """Guests are one caller to the queue, but strangers to each other: a guest's id is all that it needs, and random."""
    return caller.kind is CallerKind.OWNER or agent == caller.name


def _whoami(caller: Caller) -> dict[str, object]:
    return {
        "name": caller.name,
        "class": caller.agent_class,
        "kind": caller.kind.value,
        "generation": caller.generation,
        "identity": caller.proof.value,
    }


def _told_answer(answer: Answer, row: RequestRow) -> dict[str, object]:
    """The answer in the form that was asked for: kept lines become one body again where no stream was asked."""
    if answer.form == Form.LINES and not row.asked_stream and answer.status == 200:
        answer = replace(answer, content_type=_JSON[1], body=single_of(answer.body))
    told: dict[str, object] = {"status": answer.status, "content_type": answer.content_type}
    told["finished_at"] = rfc3339(answer.finished_wall)
    try:
        text = answer.body.decode()
    except UnicodeDecodeError:
        told["body_base64"] = base64.b64encode(answer.body).decode()
    else:
        told["body"] = text
    return told


def _wait_s(query: str) -> float:
    asked = parse_qs(query).get("wait", ["0"])[0]
    try:
        wait_s = float(asked)
    except ValueError:
        raise Refused(400, "wait must be seconds") from None
    return min(max(wait_s, 0.0), WAIT_MAX_S) if wait_s == wait_s else 0.0  # noqa: PLR0124 - nan is not itself


async def _respond(exchange: Exchange, told: Mapping[str, object]) -> None:
    await exchange.respond(200, [_JSON], json.dumps(told, separators=(",", ":")).encode())
