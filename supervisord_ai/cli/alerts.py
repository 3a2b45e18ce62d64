"""`alerts`: what is watched, what fires, who is told; and a test of the ways by which they are."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any
from urllib.parse import quote

from supervisord_ai.cli.door import Door, open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import Screen, Span, span_of

STYLE = {"firing": "red", "pending": "yellow", "quiet": "green"}


def run(args: Namespace) -> int:
    door = open_door(args)
    return _list(args, door) if args.action == "list" else _test(args, door)


def _list(args: Namespace, door: Door) -> int:
    alerts = door.get("/v1/alerts")["alerts"]
    if args.json:
        print(json.dumps(alerts, indent=2))
        return Exit.GOOD
    screen = Screen()
    for alert in alerts:
        _show(screen, alert)
    if not any(alert["whom"] for alert in alerts):
        screen.line()
        screen.line("nobody is told: say whom in the config, then type: ai-supervisor alerts test")
        screen.line("    [notify]")
        screen.line('    url = "https://..."        # or command = ["program", "argument"]')
    screen.show()
    return Exit.GOOD


def _show(screen: Screen, alert: dict[str, Any]) -> None:
    state = alert["state"]
    since = f"for {span_of(alert['since_s'])}" if state != "quiet" else ""
    condition = f"{alert['when']} for {span_of(alert['for_s'])}"
    kind: Span = ("  (built in)" if alert["is_builtin"] else "", "dim")
    screen.line((f"{state:<8}", STYLE[state]), f"{alert['name']:<20} ", condition, kind)
    if state == "quiet":
        return
    figures = ", ".join(f"{name} {_number(value)}" for name, value in alert["values"].items())
    screen.line(f"{'':8}{figures}, {state} {since}")
    if alert["advice"]:
        screen.line(f"{'':8}{alert['advice']}")
    if state == "firing" and alert["whom"]:
        told = f"{alert['whom']} was told" if alert["is_told"] else f"{alert['whom']} is not told yet: {alert['trouble']}"
        screen.line(f"{'':8}{told}")


def _number(value: Any) -> str:
    if value is None:
        return "not known"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _test(args: Namespace, door: Door) -> int:
    tested = door.post("/v1/alerts/test" + (f"?name={quote(args.name, safe='')}" if args.name else ""))["tested"]
    if args.json:
        print(json.dumps(tested, indent=2))
    elif not tested:
        print("nobody is told of any alert: the config has neither [notify] nor [[alerts]] with `notify`")
    else:
        screen = Screen()
        for whom, trouble in dict.fromkeys((one["whom"], one["trouble"]) for one in tested):
            names = [one["name"] for one in tested if one["whom"] == whom]
            verdict: Span = (f"not told: {trouble}", "red") if trouble else ("was told", "green")
            screen.line(f"{whom or names[0]} ", verdict)
            if whom:
                screen.wrapped("    for ", ", ".join(names), 8)
        screen.show()
    return Exit.GOOD if tested and not any(one["trouble"] for one in tested) else Exit.NO
