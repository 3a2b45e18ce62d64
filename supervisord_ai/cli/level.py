"""`level`: which level holds, why, what each one changes; and holding one whatever the machine says."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import Screen, span_of

STYLE = ("green", "yellow", "yellow", "red")
BAR = 20


def run(args: Namespace) -> int:
    door = open_door(args)
    match args.action:
        case "pin":
            for_s = "" if args.for_s is None else f"&for_s={args.for_s:g}"
            told = door.post(f"/v1/level/pin?level={args.level}{for_s}")
        case "unpin":
            told = door.post("/v1/level/unpin")
        case _:
            told = door.get("/v1/level")
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        screen(told).show()
    return Exit.GOOD


def screen(told: dict[str, Any]) -> Screen:
    """Return the level, its components as bars, and what each level changes."""
    page = Screen()
    level, pin = told["level"], told["pin"]
    how = "   pinned" if pin is not None else "   in shadow: nothing is applied" if told["is_shadow"] else ""
    page.line(("level ", "bold"), (f"{level} {told['name']}", STYLE[level]), f"   for {span_of(told['since_s'])}{how}")
    page.wrapped("why", told["reason"], 11)
    if told["comes_down"]:
        page.wrapped("down", told["comes_down"], 11)
    if told["decided"] != level:
        page.wrapped("otherwise", f"level {told['decided']} would hold", 11)
    page.line("")
    for one in told["components"]:
        value = one["smoothed"] if one["smoothed"] is not None else one["pressure"]
        if value is None:
            page.wrapped((one["name"], "bold"), f"not known: {one['why']}", 11)
            continue
        reached = max(index for index, step in enumerate(told["levels"]) if value >= step["enters_at"])
        bar = "#" * round(value * BAR)
        page.line((f"{one['name']:<11}", "bold"), f"{value:4.2f}  ", (f"{bar:<{BAR}}", STYLE[reached]))
        page.wrapped("", one["why"], 11)
    page.line("")
    for step in told["levels"][1:]:
        mark = "*" if step["level"] <= level else " "
        head = f"{mark} {step['level']} {step['name']:<9}"
        page.line((head, STYLE[step["level"]]), f" from {step['enters_at']:.2f}, left below {step['leaves_below']:.2f}")
        for change in step["changes"]:
            page.wrapped("", change, 5)
    return page
