"""What a good config would yet lack on this machine: memory, programs, folders. Notes, since it may be for another one."""

from __future__ import annotations

import os
from collections.abc import Iterator

from supervisord_ai.agents.environment import PATH
from supervisord_ai.config import Config
from supervisord_ai.config.plan import too_small
from supervisord_ai.core.memory_plan import judge_machine
from supervisord_ai.core.roster import AgentSpec


def notes_on(config: Config, machine_bytes: int) -> Iterator[str]:
    """Yield a sentence for each thing that is lacking, with the agents that need it."""
    small = judge_machine(config.memory, machine_bytes)
    if small is not None:
        yield too_small(small)
    who: dict[str, list[str]] = {}
    for spec in config.roster.agents.values():
        thing = None if spec.external else _lacks(spec, config.daemon.path or PATH)
        if thing is not None:
            who.setdefault(thing, []).append(spec.name)
    for thing, names in who.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{thing} is not on this machine: {names[0]}{more} cannot start without it"


def _lacks(spec: AgentSpec, path: str) -> str | None:
    """Return the folder or the program that an agent needs and that is not there; None also where one may not look."""
    if spec.cwd is not None and _is_gone(spec.cwd):
        return spec.cwd
    program = spec.command[0]
    if "/" in program:
        program = os.path.join(spec.cwd or "/", program)
        return program if _is_gone(program) else None
    folders = dict(spec.env).get("PATH", path).split(":")
    return program if all(_is_gone(os.path.join(folder, program)) for folder in folders) else None


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
