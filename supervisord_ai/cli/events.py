"""`events`: what happened, oldest first; `--follow` goes on as it happens, also over a restart of the daemon."""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import Namespace
from typing import Any
from urllib.parse import urlencode

from supervisord_ai.cli.door import Door, open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import printable
from supervisord_ai.errors import NotRunning, UsageError

AGAIN_S = 1.0
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_CLOCK = re.compile(r"(?:(\d{4}-\d\d-\d\d)[ T])?(\d\d:\d\d(?::\d\d)?)?")


def run(args: Namespace) -> int:
    door = open_door(args)
    asked = {"n": args.lines, "agent": args.agent, "kind": args.kind}
    if args.since is not None:
        asked |= {"since": since_wall(args.since, time.time()), "n": max(args.lines, 10_000)}
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    events = door.get(f"/v1/journal?{query}")["events"]
    if args.json and not args.follow:
        print(json.dumps(events, indent=2))
        return Exit.GOOD
    for event in events:
        _show(event, as_json=args.json)
    if args.follow:
        _follow(door, args, events[-1]["seq"] if events else None)
    elif not events:
        print("nothing of that kind has happened" if args.agent or args.kind or args.since else "nothing has happened yet")
    return Exit.GOOD


def _follow(door: Door, args: Namespace, last: int | None) -> None:
    """Go on after the last one that was shown, until ^C. The daemon numbers them, so a restart loses and repeats nothing."""
    filters = {key: value for key, value in (("agent", args.agent), ("kind", args.kind)) if value is not None}
    target = f"/v1/events?{urlencode({'only': 'events', **filters})}"
    was_told = False
    while True:
        try:
            for event in door.events(target, after=last):
                was_told = False
                last = event["seq"]
                _show(event, as_json=args.json)
        except NotRunning as exc:
            if not was_told:
                print(f"ai-supervisor: {exc}; waiting for it", file=sys.stderr)
                was_told = True
        time.sleep(AGAIN_S)


def _show(event: Any, *, as_json: bool) -> None:
    print(json.dumps(event) if as_json else line_of(event), flush=True)


def line_of(event: Any) -> str:
    """Return one event as a line."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at_wall"]))
    detail = " ".join(f"{key}={value}" for key, value in event["detail"].items())
    words = (at, f"{event['kind']:<20}", event["agent"], event["request_id"], detail)
    return printable("  ".join(word for word in words if word))


def since_wall(text: str, now_wall: float) -> float:
    """Return what `10m`, `2h`, `07:30`, `2026-11-27` or `2026-11-27 07:30` means.

    Raises:
        UsageError: it is none of these.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return now_wall - float(ago[1]) * _UNITS_S[ago[2]]
    if (at := _CLOCK.fullmatch(text.strip())) and (at[1] or at[2]):
        day = at[1] or time.strftime("%Y-%m-%d", time.localtime(now_wall))
        clock = at[2] or "00:00"
        form = "%Y-%m-%d %H:%M:%S" if clock.count(":") == 2 else "%Y-%m-%d %H:%M"
        try:
            return time.mktime(time.strptime(f"{day} {clock}", form))
        except (ValueError, OverflowError):
            pass
    raise UsageError(f"--since {text!r} is no time: say 10m, 2h, 1d, 07:30 or 2026-11-27 07:30")
