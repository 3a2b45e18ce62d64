"""`agents list`, `agents show`, `agents token`; `logs` is in `agent_logs.py`, `add` in `adding.py`, `scale` in `scaling.py`."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

from supervisord_ai.cli import agent_logs
from supervisord_ai.cli.door import Door, open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import columns, printable, size_of, span_of, table
from supervisord_ai.cli.watch import watched


def run(args: Namespace) -> int:
    if args.action == "add":
        from supervisord_ai.cli.adding import add  # noqa: PLC0415 - it checks a config, and the other verbs need not wait for that

        return add(args)
    if args.action == "scale":
        from supervisord_ai.cli.scaling import scale  # noqa: PLC0415 - as above

        return scale(args)
    door = open_door(args)
    match args.action:
        case "list":
            return _list(args, door)
        case "show":
            return _show(args, door)
        case "token":
            return _token(args, door)
        case _:
            return agent_logs.run(args, door)


def _list(args: Namespace, door: Door) -> int:
    if args.watch:
        watched(lambda: _listed(args, door), as_json=args.json)
    sys.stdout.write(_listed(args, door))
    return Exit.GOOD


def _listed(args: Namespace, door: Door) -> str:
    agents = [
        one
        for one in door.get("/v1/agents")["agents"]
        if args.agent_class in {None, one["class"]} and args.state in {None, one["state"]}
    ]
    if args.json:
        return json.dumps(agents, indent=None if args.watch else 2) + "\n"
    if args.names:
        return "".join(f"{printable(one['name'])}\n" for one in agents)
    heads = ("NAME", "CLASS", "STATE", "FOR", "PID", "MEMORY", "CAP", "RESTARTS", "LAST END")
    rows = [
        (
            one["name"],
            one["class"],
            one["state"],
            span_of(one["since_s"]),
            one["pid"],
            size_of(one["memory_bytes"]),
            size_of(one["cap_bytes"]),
            one["restarts"],
            one["verdict"],
        )
        for one in agents
    ]
    return "\n".join(table(heads, rows, right=(3, 4, 5, 6, 7), drop=(1, 4, 6), width=columns())) + "\n"


def _show(args: Namespace, door: Door) -> int:
    one = door.agent(args.name)
    if args.json:
        print(json.dumps(one, indent=2))
        return Exit.GOOD
    rows: list[tuple[str, Any]] = [
        ("name", one["name"]),
        ("class", one["class"]),
        ("state", f"{one['state']} for {span_of(one['since_s'])}"),
        ("generation", one["generation"]),
        ("pid", one["pid"] if one["pid"] is not None else "-"),
        ("memory", _memory(one)),
        ("guarantee", one["guarantee"]),
        ("restarts", one["restarts"]),
        ("last end", _last_end(one)),
        ("next start", "-" if one["next_start_s"] is None else f"in {span_of(one['next_start_s'])}"),
        ("says", one["status"] or "-"),
        ("command", " ".join(one.get("command", ()))),
        ("log", one["log_path"]),
    ]
    for key, value in rows:
        print(f"{key:<11} {printable(str(value))}")
    for title, lines in (("detail", one["detail"].splitlines()), ("its last lines", one.get("last_lines", ()))):
        if lines:
            print(title)
            print("\n".join(f"  {printable(line)}" for line in lines))
    if one["state"] in {"quarantined", "backoff"}:
        verb = "release" if one["state"] == "quarantined" else "restart"
        print(f"\nall it said:       ai-supervisor agents logs {printable(one['name'])}")
        print(f"once it is mended: ai-supervisor agents {verb} {printable(one['name'])}")
    return Exit.GOOD


def _memory(one: dict[str, Any]) -> str:
    words = f"{size_of(one['memory_bytes'])} of {size_of(one['cap_bytes'])}, peak {size_of(one['peak_bytes'])}"
    over = one["excess_bytes"]
    return words if over is None else f"{words}; it would have exceeded its cap: {size_of(over)} (ai-supervisor config suggest)"


def _last_end(one: dict[str, Any]) -> str:
    if one["verdict"] is None:
        return "-"
    peak = one["last_peak_bytes"]
    return one["verdict"] if peak is None else f"{one['verdict']}, peak {size_of(peak)} of {size_of(one['cap_bytes'])}"


def _token(args: Namespace, door: Door) -> int:
    """Print what an external agent is to be given; for others there is nothing to give, they are started with it."""
    door.agent(args.name)
    given = door.environment(args.name)
    if args.env:
        print("\n".join(f"{name}={value}" for name, value in given.items()))
    else:
        print(given["AI_SUPERVISOR_TOKEN"])
    return Exit.GOOD
