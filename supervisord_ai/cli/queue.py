"""`queue list`: who runs, and who waits in which order and why."""

from __future__ import annotations

import json
from argparse import Namespace

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import span_of, table


def run(args: Namespace) -> int:
    told = open_door(args).get("/v1/queue")
    if args.json:
        print(json.dumps(told, indent=2))
        return Exit.GOOD
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
        print("nobody runs and nobody waits")
        return Exit.GOOD
    heads = ("", "REQUEST", "AGENT", "PRIORITY", "FOR", "MODEL", "PATH", "WHY")
    print("\n".join(table(heads, [*running, *waiting], right=(0, 3, 4))))
    if told["queued"] > len(waiting):
        print(f"... and {told['queued'] - len(waiting)} more")
    return Exit.GOOD
