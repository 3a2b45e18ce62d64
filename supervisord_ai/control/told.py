"""The shapes of what control.sock answers to verbs: what was done, to whom, and who could not do it."""

from __future__ import annotations

from msgspec import Struct

from supervisord_ai.agents.rollout import RolledAgentView
from supervisord_ai.health.view import TriedWay


class AlertsTested(Struct):
    """What became of a notice that was sent to try the way."""

    tested: list[TriedWay]


class AgentsTold(Struct):
    """What a verb did: to whom, and who could not do it."""

    verb: str
    agents: list[str]
    refused: list[Reason]


class Reason(Struct):
    """An agent that could not do it, and why."""

    agent: str
    why: str


class QueueTold(Struct):
    """What the queue is after a verb."""

    mode: str


class Cancelled(Struct):
    """A request that was cancelled."""

    id: str
    cancelled: bool


class Cleared(Struct):
    """How many answers were forgotten."""

    tier: str
    answers: int


class ModelTold(Struct):
    """What was done to a model."""

    model: str
    verb: str


class Stopping(Struct):
    """The daemon stops."""

    stopping: bool
    pid: int


class ConfigProblem(Struct):
    """One thing that is wrong in the config."""

    file: str
    line: int | None
    key: str
    what: str


class WrongConfig(Struct):
    """The config is wrong; nothing was changed."""

    error: str
    problems: list[ConfigProblem]


class ChangedAgent(Struct):
    """An agent whose spec differs, in what, and how it comes to it: live or restart."""

    agent: str
    how: str
    fields: list[str]


class ChangedClass(Struct):
    """A class that differs, or is new, or gone."""

    name: str
    fields: list[str]


class RefusedKey(Struct):
    """A key whose change only a restart of the daemon carries out."""

    key: str
    what: str


class Reloaded(Struct):
    """What a reload did (`applied`), or would do. `outdated`: who runs with an older spec than the config's."""

    applied: bool
    added: list[str]
    changed: list[ChangedAgent]
    removed: list[str]
    classes: list[ChangedClass]
    keys: list[str]
    refused: list[RefusedKey]
    outdated: list[str]


class Begun(Struct):
    """A rollout that was begun (`begun`: with whom), and how it stands."""

    begun: list[str]
    state: str
    why: str
    total: int
    rolled: int
    failed: int
    in_hand: tuple[str, ...]
    outdated: int
    agents: tuple[RolledAgentView, ...]
