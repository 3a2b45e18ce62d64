"""`reload`: has the daemon read its config again. `config plan` shows what that would do."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import printable
from supervisord_ai.core.own_unit import Unit
from supervisord_ai.errors import ConfigError

SHOWN = 5


def run(args: Namespace) -> int:
    is_plan = args.action == "plan"
    try:
        door = open_door(args)
        told = door.post("/v1/reload" + ("?plan=1" if is_plan else ""))
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        print("nothing was changed, the daemon runs as before; once it is mended: ai-supervisor reload", file=sys.stderr)
        return Exit.USAGE
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        print("\n".join(lines_of(told, door.unit() if told["refused"] else None)))
    if is_plan:
        return Exit.NO if args.exit_code and changes(told) else Exit.GOOD
    return Exit.REFUSED if told["refused"] else Exit.GOOD


def changes(told: Any) -> bool:
    """Tell whether a plan would change anything, or leaves something to be done that a reload cannot do."""
    return any(told[key] for key in ("added", "changed", "removed", "classes", "keys", "refused"))


def lines_of(told: Any, unit: Unit | None = None) -> list[str]:
    """Return what a reload did, or would do, one line for each kind of change; `unit` is the daemon's."""
    lines = []
    if told["added"]:
        lines.append(f"add      {_some(told['added'])}")
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in told["changed"]:
        groups.setdefault((one["how"], tuple(one["fields"])), []).append(one["agent"])
    for (how, fields), names in groups.items():
        lines.append(f"{'restart' if how == 'restart' else 'live':<8} {_some(names)}: {', '.join(fields)}")
    if told["removed"]:
        lines.append(f"remove   {_some(told['removed'])}")
    lines += [f"class    {one['name']}: {', '.join(one['fields'])}" for one in told["classes"]]
    lines += [f"live     {key}" for key in told["keys"]]
    lines += [f"refused  {one['key']}: {one['what']}" for one in told["refused"]]
    if not lines:
        lines = ["nothing has changed"]
    if told["refused"]:
        how = "ai-supervisor stop, then ai-supervisor run"
        if unit is not None:
            how = f"{unit.systemctl} restart {unit.name.removesuffix('.service')} (agents stay)"
        lines.append(f"what is refused needs a restart: {how}")
    lines += _outdated(told)
    return [printable(line) for line in lines]


def _outdated(told: Any) -> list[str]:
    """Say who runs, or will run, as something else than the config says, and what brings him to it."""
    names = told["outdated"]
    if not told["applied"]:
        restarts = [one["agent"] for one in told["changed"] if one["how"] == "restart"]
        names = [name for name in names if name not in restarts and name not in told["removed"]]
        if restarts:
            return ["restart: nobody is ended by the reload itself, `ai-supervisor rollout` does it group by group"]
    return [f"outdated {_some(names)}: ai-supervisor rollout"] if names else []


def _some(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
