"""`POST /v1/exec`: who the process is that asks, and what it needs before it becomes its command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from supervisord_ai.agents.wrapped import Boarded
from supervisord_ai.config.roster import NAME, NOT_AGENTS
from supervisord_ai.control.answers import Wrapped
from supervisord_ai.control.routes import Asked
from supervisord_ai.core.roster import AgentSpec, Roster
from supervisord_ai.errors import HostFault, Refused, StoreFault, UsageError

Wrap = Callable[[AgentSpec, int, int, int], Awaitable[Boarded]]  # with pid, start ticks and uid of the process


async def board(asked: Asked, roster: Roster, wrap: Wrap | None, guarantee: str) -> Wrapped:
    """Make the process that asks one of the fleet.

    Raises:
        Refused: 404 and 409, it cannot be.
    """
    peer = asked.peer
    if peer is None or peer.start_ticks is None or wrap is None:
        raise Refused(409, "the kernel does not say which process asks")
    spec = wrapped_spec(roster, asked.query["name"], asked.query["class"], peer.pid)
    try:
        boarded = await wrap(spec, peer.pid, peer.start_ticks, peer.uid)
    except (UsageError, HostFault, StoreFault) as exc:
        raise Refused(409, str(exc)) from exc
    policy = spec.policy
    return Wrapped(
        spec.name, policy.name, boarded.generation, policy.memory_bytes, guarantee, boarded.environment, dict(boarded.rlimits)
    )


def wrapped_spec(roster: Roster, name: str | None, agent_class: str | None, pid: int) -> AgentSpec:
    """Return what a command of `exec` is: an external agent of the roster, or one of a class that is nowhere written down.

    Raises:
        Refused: 404 or 409, there is no such one; the text says what there is.
    """
    spec = roster.agents.get(name) if name is not None else None
    if spec is not None and not spec.external:
        raise Refused(409, f"{name} is an agent that we start: name another, or an external one")
    if spec is not None:
        return spec
    usable = [one for one in roster.classes if one not in NOT_AGENTS]
    if agent_class is None and len(usable) > 1:
        raise Refused(409, f"say of which class it is with --class: {', '.join(usable)}")
    policy = roster.classes.get(agent_class or usable[0]) if agent_class is None or agent_class in usable else None
    if policy is None:
        raise Refused(404, f"there is no class {agent_class!r} of agents: {', '.join(usable)}")
    if name is not None and NAME.fullmatch(name) is None:
        raise Refused(409, f"{name[:64]!r} is not a name: letters, digits, `.`, `_` and `-`, at most 64")
    return AgentSpec(name or f"exec-{pid}", policy, command=(), external=True)
