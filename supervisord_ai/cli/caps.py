"""`config suggest`: memory caps from what agents were seen to need."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import MB, columns, size_of, table

Json = dict[str, Any]
WIDTH = 80
NAMES_SHOWN = 3


def run(args: Namespace) -> int:
    told = open_door(args).get(f"/v1/caps?days={args.days}")
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        print("\n".join(page(told, columns() or WIDTH)))
    return Exit.GOOD


def page(told: Json, width: int = WIDTH) -> list[str]:
    """Return the table, and the lines of TOML below it."""
    caps = told["caps"]
    if not caps:
        return ["there are no agents: ai-supervisor agents add NAME --class CLASS -- CMD"]
    heads = ("CLASS", "AGENTS", "SEEN", "CAP", "NEEDED", "BY", "KILLED", "SUGGESTED")
    rows = [
        (
            one["agent_class"],
            len(one["agents"]),
            one["seen"],
            size_of(one["cap_bytes"]),
            size_of(one["needed_bytes"]) if one["seen"] else None,
            one["highest"] or None,
            one["kills"] or "-",
            size_of(one["suggested_bytes"]),
        )
        for one in caps
    ]
    lines = table(heads, rows, right=(1, 2, 3, 4, 6, 7), drop=(2, 5), width=width)
    days = max(one["days"] for one in caps)
    if not days:
        return [*lines, "", "nobody has been looked at yet: ask again when agents have run for a while, best for some days"]
    binds = "they bind" if told["enforce"] == "hard" else 'they bind nobody: enforce = "observe"'
    before = sum(len(one["agents"]) * one["cap_bytes"] for one in caps)
    after = sum(len(one["agents"]) * (one["suggested_bytes"] or one["cap_bytes"]) for one in caps)
    lines += [
        "",
        f"seen on {days} of the last {told['days']} days, without pages of files; caps of now: {binds}",
        f"all caps together: {size_of(before)} now, {size_of(after)} as suggested",
        "",
    ]
    for one in caps:
        lines += _toml(one)
    return lines


def _toml(one: Json) -> list[str]:
    if one["suggested_bytes"] is None:
        return []
    memory = f'memory = "{one["suggested_bytes"] // MB}MB"'
    if one["of_class"]:
        return [f"[class.{one['agent_class']}]", memory]
    names = ", ".join(one["agents"][:NAMES_SHOWN]) + (" ..." if len(one["agents"]) > NAMES_SHOWN else "")
    return [f"# in the [[agents]] of {names}", memory]
