"""`queue`: who runs, who waits in which order and why, and the owner's words about it."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from typing import Any
from urllib.parse import quote

from supervisord_ai.cli.door import Door, open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.progress import working
from supervisord_ai.cli.screen import columns, printable, span_of, table
from supervisord_ai.cli.watch import watched

POLL_S = 0.5
NOW = {
    "paused": "paused: requests are taken in and wait, nothing starts; go on with: ai-supervisor queue resume",
    "draining": "draining: nothing new is taken in, what waits is worked off; open it with: ai-supervisor queue resume",
    "open": "open",
}

# What to type about a request that waits, by what it waits for.
WHY_MORE = {
    "slot": "queue list",
    "load": "models loaded",
    "backend": "doctor",
    "breaker": "events --kind breaker",
    "level": "level show",
    "owner": "queue resume",
}


def run(args: Namespace) -> int:
    door = open_door(args)
    match args.action:
        case "list":
            return _list(args, door)
        case "show":
            return _show(args, door)
        case "cancel":
            return _cancel(args, door)
        case _:
            return _tell(args, door)


def _list(args: Namespace, door: Door) -> int:
    if args.watch:
        watched(lambda: _listed(args, door), as_json=args.json)
    sys.stdout.write(_listed(args, door))
    return Exit.GOOD


def _listed(args: Namespace, door: Door) -> str:
    told = door.get(f"/v1/queue?n={args.lines}")
    if args.json:
        return json.dumps(told, indent=None if args.watch else 2) + "\n"
    lines = [f"the queue is {NOW[told['mode']]}"] if told.get("mode", "open") != "open" else []
    running = [
        (
            *("runs", one["id"], one["agent"], one["priority"], span_of(one["since_s"]), one["model"], one["path"]),
            f"on {one['backend']}" + (f", attempt {one['attempt']}" if one["attempt"] > 1 else ""),
        )
        for one in told["active"]
    ]
    waiting = [
        (number, one["id"], one["agent"], one["priority"], span_of(one["waited_s"]), one["model"], one["path"], one["reason"])
        for number, one in enumerate(told["waiting"], 1)
    ]
    if not running and not waiting:
        return "\n".join([*lines, "nobody runs and nobody waits"]) + "\n"
    heads = ("", "REQUEST", "AGENT", "PRIORITY", "FOR", "MODEL", "PATH", "WHY")
    lines += table(heads, [*running, *waiting], right=(0, 3, 4), drop=(6, 5), width=columns())
    if told["queued"] > len(waiting):
        lines.append(f"... and {told['queued'] - len(waiting)} more: ai-supervisor queue list -n {min(told['queued'], 10_000)}")
    return "\n".join(lines) + "\n"


def _show(args: Namespace, door: Door) -> int:
    told = door.get(f"/v1/queue/{quote(args.id, safe='')}")
    if args.json:
        print(json.dumps(told, indent=2))
        return Exit.GOOD
    for key, value in told.items():
        if value is not None and value != "":
            print(f"{key.removesuffix('_s').replace('_', ' '):<12} {printable(_said(key, value))}")
    if told.get("waits_for") in WHY_MORE:
        print(f"{'type':<12} ai-supervisor {WHY_MORE[told['waits_for']]}")
    return Exit.GOOD


def _said(key: str, value: Any) -> str:
    if key.endswith("_s") and isinstance(value, (int, float)):
        return span_of(value)
    return value if isinstance(value, str) else json.dumps(value)


def _cancel(args: Namespace, door: Door) -> int:
    told = door.post(f"/v1/queue/{quote(args.id, safe='')}/cancel")
    print(json.dumps(told, indent=2) if args.json else f"{printable(args.id)} is cancelled")
    return Exit.GOOD


def _tell(args: Namespace, door: Door) -> int:
    told = door.post(f"/v1/queue/{args.action}")
    if args.action == "drain" and args.wait:
        with working("waiting until nobody waits and nobody runs (^C: it goes on draining)"):
            told |= _until_empty(door)
    print(json.dumps(told, indent=2) if args.json else f"the queue is {NOW[told['mode']]}")
    return Exit.GOOD


def _until_empty(door: Door) -> dict[str, int]:
    """Return when nobody waits and nobody runs any more. A person who has had enough presses ^C; the queue goes on draining."""
    while True:
        told = door.get("/v1/queue?n=0")
        if not told["queued"] and not told["running"]:
            return {"queued": 0, "running": 0}
        time.sleep(POLL_S)
