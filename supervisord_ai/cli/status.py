"""`status`: everything on one screen, the worst first, with what to type about it."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from supervisord_ai.cli.door import Door, open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import MB, Screen, has_colours, size_of, span_of, table
from supervisord_ai.cli.watch import watched

Json = dict[str, Any]

SHOWN_RUNNING = 8
SHOWN_ATTENTION = 8
SHOWN_SHED = 12
SHOWN_HAPPENED = 4
INDENT = 11
STATE_STYLE = {
    "ready": "green",
    "running": "green",
    "starting": "cyan",
    "pending": "cyan",
    "waiting": "yellow",
    "backoff": "yellow",
    "stopping": "yellow",
    "unreachable": "red",
    "quarantined": "red",
}
LEVEL_STYLE = ("green", "yellow", "red", "bold red")


def run(args: Namespace) -> int:
    door = open_door(args)
    if args.watch:
        watched(lambda: _page(door, as_json=args.json), as_json=args.json)
    told = door.get("/v1/status")
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        screen(told).show()
    return Exit.GOOD


def _page(door: Door, *, as_json: bool) -> str:
    told = door.get("/v1/status")
    if as_json:
        return json.dumps(told) + "\n"
    page = screen(told)
    return page.coloured() if has_colours() else page.text()


def screen(told: Json, width: int | None = None) -> Screen:
    """Return the one screen."""
    page = Screen(width)
    level, health = told["level"], told["health"]
    good = ("good", "green") if health["is_good"] else ("degraded", "red")
    page.line(
        ("ai-supervisor", "bold"),
        f" {told['version']}   up {span_of(told['uptime_s'])}   pid {told['pid']}   ",
        (f"level {level['level']} {level['name']}", LEVEL_STYLE[level["level"]]),
        "   ",
        good,
    )
    if level["level"]:
        page.wrapped("", f"level {level['level']}: {level['reason']}", 2, LEVEL_STYLE[level["level"]])
    for reason in health["reasons"]:
        page.wrapped("", reason, 2, "red")
    for number, step in enumerate(told["next"]):
        page.wrapped(("type" if number == 0 else "", "bold"), f"{step['command']}   ({step['why']})", INDENT)
    for alert in told["alerts"]["firing"]:
        advice = f"   {alert['advice']}" if alert["advice"] else ""
        words = f"{alert['name']} for {span_of(alert['since_s'])}: {alert['when']}{advice}"
        page.wrapped(("alert", "bold red"), words, INDENT)
    page.line("")
    for backend in told["backends"]:
        _backend(page, backend)
    _queue(page, told["queue"])
    _agents(page, told["agents"])
    page.line("")
    _cache(page, told["cache"])
    _memory(page, told)
    _relief(page, told["memory"])
    page.wrapped(("identity", "bold"), f"{told['identity']['level']}: {told['identity']['detail']}", INDENT)
    page.wrapped(("guarantee", "bold"), f"{told['guarantee']['level']}: {told['guarantee']['detail']}", INDENT)
    page.wrapped(("so far", "bold"), so_far(told["totals"]), INDENT)
    _happened(page, told)
    return page


def so_far(totals: Json) -> str:
    """Return what was asked since the daemon started, and how it ended."""
    words = ("asked", "answered", "cached", "refused", "failed", "cancelled", "recovered", "rejoined")
    counts = [f"{totals[word]} {word}" for word in words if totals[word]]
    if totals["tokens"]:
        counts.append(f"{totals['tokens']} tokens")
    return ", ".join(counts) or "nothing asked"


def _backend(page: Screen, backend: Json) -> None:
    state = (backend["state"], STATE_STYLE.get(backend["state"], ""))
    breaker = "" if backend["breaker"] == "closed" else f"   breaker {backend['breaker']}"
    busy = f"   {backend['busy']} of {backend['slots']} slots busy"
    page.title("ollama", f"{backend['name']} ", state, (breaker, "red"), busy, f"   {backend['url']}")
    if backend.get("way") and backend["state"] == "ready":  # else it is part of the reason above
        page.wrapped("", backend["way"], 2)
    if backend.get("loading"):
        page.line(f"  loading {backend['loading']}")
    if backend.get("restarted"):
        page.line(f"  it hung and was restarted: {backend['restarted']} times")
    if backend.get("healed"):
        page.line(f"  it lost slots, and a model was reloaded to have them back: {backend['healed']} times")
    rows = [
        (one["agent"], one["model"], one["path"], span_of(one["since_s"]), one["tokens"], one["priority"], _attempt(one))
        for one in backend["running"][:SHOWN_RUNNING]
    ]
    if rows:
        heads = ("RUNS", "MODEL", "PATH", "FOR", "TOKENS", "PRIO", "")
        for line in table(heads, rows, right=(3, 4, 5), drop=(6,), width=page.width - 2):
            page.line(f"  {line}")
    _more(page, len(backend["running"]) - SHOWN_RUNNING)


def _attempt(one: Json) -> str:
    return f"attempt {one['attempt']}" if one["attempt"] > 1 else ""


def _queue(page: Screen, queue: Json) -> None:
    mode = "" if queue.get("mode", "open") == "open" else f"   {queue['mode']}"
    page.title("queue", f"{queue['queued']} waiting, {queue['running']} running", (mode, "yellow"))
    for level in queue["by_priority"]:
        if level["queued"]:
            waits = "" if level["estimate_s"] is None else f"   a new one waits about {span_of(level['estimate_s'])}"
            oldest = f"the oldest for {span_of(level['oldest_s'])}"
            page.line(f"  priority {level['priority']:<2} {level['queued']:>6} waiting, {oldest}{waits}")


def _agents(page: Screen, agents: Json) -> None:
    page.title("agents", str(agents["total"]) if agents["total"] else "none: ai-supervisor agents add NAME --class CLASS -- CMD")
    for one in agents["by_class"]:
        states: list[str | tuple[str, str]] = [f"  {one['class']:<14.14} {one['total']:>5}  "]
        for index, (state, count) in enumerate(one["states"].items()):
            states += [", " if index else "", (f"{count} {state}", STATE_STYLE.get(state, ""))]
        page.line(*states)
    attention = agents["attention"]
    if not attention:
        return
    rows = [
        (one["agent"], one["state"], span_of(one["since_s"]), one["verdict"], one["restarts"], one["detail"])
        for one in attention[:SHOWN_ATTENTION]
    ]
    heads = ("ATTENTION", "STATE", "FOR", "LAST END", "RESTARTS", "WHY")
    lines = table(heads, rows, right=(2, 4), width=page.width - 2)
    page.line(f"  {lines[0]}")
    for line, one in zip(lines[1:], attention, strict=False):
        page.line((f"  {line}", STATE_STYLE.get(one["state"], "")))
    _more(page, len(attention) - SHOWN_ATTENTION, "ai-supervisor agents list --state STATE")


def _cache(page: Screen, cache: Json) -> None:
    asked = cache["hits"] + cache["misses"]
    share = f"{cache['hits'] / asked:.0%} hits of {asked}" if asked else "not asked yet"
    tiers = "   ".join(f"{name.upper()} {tier['entries']} entries, {size_of(tier['bytes'])}" for name, tier in _tiers(cache))
    page.title("cache", f"{share}   {tiers}")


def _tiers(cache: Json) -> list[tuple[str, Json]]:
    return [(name, cache[name]) for name in ("l1", "l2", "l3") if name != "l3" or cache[name]["entries"]]


def _memory(page: Screen, told: Json) -> None:
    """The plan against what is used, in MB; a dash where nobody measures it."""
    memory, machine = told["memory"], told["machine"]
    parts = [
        f"{part['name']} {_mb(part['used_bytes'])} of {_mb(part['bytes'])}"
        for part in memory["plan"]
        if part["bytes"] or part["used_bytes"]
    ]
    own = f"this daemon {size_of(memory['daemon_rss_bytes'])}, {memory['daemon_cpu_s']:.1f} s CPU"
    page.wrapped(("memory", "bold"), f"{', '.join(parts)} MB   {own}", INDENT)
    if machine is None:
        return
    if machine["available_bytes"] is not None:
        page.title("machine", f"{size_of(machine['available_bytes'])} available of {size_of(machine['total_bytes'])}")
    for gpu in machine["gpus"] or ():
        used = f"{size_of(gpu['used_bytes'])} of {size_of(gpu['total_bytes'])} VRAM"
        page.title("gpu", f"{gpu['name']}   {used}", (f"   {gpu['used']:.0%}" if gpu["used"] is not None else "", ""))


GIVEN_UP = {
    "starts": "no new batch of agents starts",
    "cache": "no batch starts, answers kept in memory are dropped",
    "shed": "no batch starts, the cache in memory is dropped, agents are stopped",
    "admit": "no batch starts, the cache in memory is dropped, agents are stopped, only urgent requests are let in",
}


def _relief(page: Screen, memory: Json) -> None:
    """What is given up while memory is short, and who was stopped for it."""
    relief, shed = memory.get("relief"), memory.get("shed") or ()
    if relief is not None and relief["step"] in GIVEN_UP:
        words = f"{GIVEN_UP[relief['step']]}, for {span_of(relief['since_s'])}: {relief['reason']}"
        page.wrapped(("relief", "bold red"), words, INDENT)
    if shed:
        more = f" and {len(shed) - SHOWN_SHED} more" if len(shed) > SHOWN_SHED else ""
        words = f"{len(shed)} stopped, they come back when memory does: {', '.join(shed[:SHOWN_SHED])}{more}"
        page.wrapped(("shed", "bold red"), words, INDENT)


def _mb(size_bytes: float | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / MB:,.0f}"


def _happened(page: Screen, told: Json) -> None:
    down = told["down"]
    if down is not None:
        at = time.strftime("%H:%M:%S", time.localtime(down["from_wall"]))
        page.wrapped(("down", "bold"), f"for {span_of(down['lasted_s'])} before this start, from {at}: {down['why']}", INDENT)
    for number, one in enumerate(told["happened"][:SHOWN_HAPPENED]):
        ago = span_of(max(0.0, told["now_wall"] - one["last_wall"]))
        page.wrapped(("happened" if number == 0 else "", "bold"), f"{one['count']}x {one['what']}, last {ago} ago", INDENT)
    _more(page, len(told["happened"]) - SHOWN_HAPPENED, "ai-supervisor events")


def _more(page: Screen, count: int, command: str = "") -> None:
    if count > 0:
        page.line(f"  ... and {count} more" + (f": {command}" if command else ""))


__all__ = ["run", "screen"]
