"""`rollout`: brings outdated agents to their new specs, group by group, and shows how far it is."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from typing import Any
from urllib.parse import quote

from supervisord_ai.cli.door import Door, open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import columns, printable, table

LOOK_S = 0.5
SHOWN = 3
UNDER_WAY = frozenset({"running", "rolling back"})


def run(args: Namespace) -> int:
    door = open_door(args)
    if args.status:
        told = door.get("/v1/rollout")
        return _show(args, told)
    if args.verb is None:
        told = door.post("/v1/rollout" + (f"?pattern={quote(args.pattern, safe='')}" if args.pattern is not None else ""))
        if not told["begun"]:
            print(json.dumps(told, indent=2) if args.json else "nobody is outdated: every agent runs as its config says")
            return Exit.GOOD
    else:
        told = door.post(f"/v1/rollout/{args.verb}")
    if args.no_wait or args.verb == "pause":
        print(json.dumps(told, indent=2) if args.json else line_of(told))
        return Exit.GOOD
    told = _follow(door, told, is_quiet=args.json)
    if args.json:
        print(json.dumps(told, indent=2))
    elif told["failed"]:
        print("\n".join(failures_of(told)))
    if args.verb == "abort":
        return Exit.GOOD if told["state"] == "rolled back" else Exit.NO
    return Exit.GOOD if told["state"] == "done" and not told["failed"] else Exit.NO


def _follow(door: Door, told: Any, *, is_quiet: bool) -> Any:
    """Show how far it is until it goes on no more; return its last word."""
    last = ""
    is_screen = sys.stdout.isatty()
    while True:
        line = line_of(told)
        if line != last and not is_quiet:
            print(f"\r\033[K{line}" if is_screen else line, end="" if is_screen else "\n", flush=True)
            last = line
        if told["state"] not in UNDER_WAY:
            if is_screen and not is_quiet:
                print()
            return told
        time.sleep(LOOK_S)
        told = door.get("/v1/rollout")


def _show(args: Namespace, told: Any) -> int:
    if args.json:
        print(json.dumps(told, indent=2))
    elif told["state"] == "none":
        print(_outdated(told) or "there was no rollout yet, and nobody is outdated")
    else:
        lines = [line_of(told), *failures_of(told)]
        if told["state"] not in UNDER_WAY and (line := _outdated(told)):
            lines.append(line)
        print("\n".join(lines))
    return Exit.NO if told["state"] in {"paused", "rolled back"} else Exit.GOOD


def line_of(told: Any) -> str:
    """Return where a rollout stands, in one line."""
    words = f"{told['state']}: {told['rolled']} of {told['total']} rolled"
    if told["failed"]:
        words += f", {told['failed']} failed"
    if hand := told["in_hand"]:
        words += f", in hand {', '.join(hand[:SHOWN])}" + (f" and {len(hand) - SHOWN} more" if len(hand) > SHOWN else "")
    return printable(words + (f" ({told['why']})" if told["why"] else ""))


def failures_of(told: Any) -> list[str]:
    """Return who failed and how, as a table."""
    rows = [(one["name"], one["step"], one["why"]) for one in told["agents"] if one["why"]]
    return table(("FAILED", "NOW", "HOW"), rows, width=columns()) if rows else []


def _outdated(told: Any) -> str:
    count = told["outdated"]
    if not count:
        return ""
    return f"{count} agent{'s run' if count > 1 else ' runs'} as something else than the config says: ai-supervisor rollout"
