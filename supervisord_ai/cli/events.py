"""`events`: what happened, oldest first."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import printable


def run(args: Namespace) -> int:
    events = open_door(args).get(f"/v1/journal?n={args.lines}")["events"]
    if args.json:
        print(json.dumps(events, indent=2))
    else:
        for event in events:
            print(line_of(event))
    return Exit.GOOD


def line_of(event: Any) -> str:
    """Return one event as a line."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at_wall"]))
    detail = " ".join(f"{key}={value}" for key, value in event["detail"].items())
    words = (at, f"{event['kind']:<20}", event["agent"], event["request_id"], detail)
    return printable("  ".join(word for word in words if word))
