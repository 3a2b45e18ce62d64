"""The rollout, as its owner begins, watches and turns it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from supervisord_ai.agents.rollout import RolloutView
from supervisord_ai.control.encoding import fields_of
from supervisord_ai.control.told import Begun
from supervisord_ai.errors import Refused, UsageError

VERBS = ("pause", "resume", "abort")


class Rollouts(Protocol):
    """The fleet's one rollout. Each verb raises UsageError where it cannot be done."""

    def begin(self, names: Iterable[str]) -> tuple[str, ...]: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...
    async def wait_written(self) -> None: ...
    def view(self) -> RolloutView: ...


async def begin(rollouts: Rollouts, names: Iterable[str]) -> Begun:
    """Begin one; answers when it would outlive us.

    Raises:
        Refused: 409, it cannot be begun.
    """
    try:
        begun = rollouts.begin(names)
    except UsageError as exc:
        raise Refused(409, str(exc)) from exc
    if begun:
        await rollouts.wait_written()
    return Begun(begun=list(begun), **fields_of(Begun, rollouts.view()))


async def turn(rollouts: Rollouts, verb: str) -> RolloutView:
    """Carry out one of VERBS; answers when it would outlive us.

    Raises:
        Refused: 409, no rollout is under way.
    """
    deeds: dict[str, Callable[[], None]] = {"pause": rollouts.pause, "resume": rollouts.resume, "abort": rollouts.abort}
    try:
        deeds[verb]()
    except UsageError as exc:
        raise Refused(409, str(exc)) from exc
    await rollouts.wait_written()
    return rollouts.view()
