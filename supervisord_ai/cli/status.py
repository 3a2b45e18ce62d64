"""`status`: everything on one screen."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from supervisord_ai.cli.door import Door, open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import Screen, has_colours, size_of, span_of

Json = dict[str, Any]

REFRESH_S = 1.0
SHOWN_RUNNING = 8
SHOWN_ATTENTION = 8
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


def run(args: Namespace) -> int:
    door = open_door(args)
    if args.watch:
        return _watch(door)
    told = door.get("/v1/status")
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        screen(told).show()
    return Exit.GOOD


def _watch(door: Door) -> int:
    """Show it anew every second; ends with ^C, or with the daemon."""
    if not has_colours():
        while True:
            print(screen(door.get("/v1/status")).text(), flush=True)
            time.sleep(REFRESH_S)
    from rich.live import Live  # noqa: PLC0415 - 0.2 s that only a terminal waits for

    with Live(screen(door.get("/v1/status")).rich(), screen=True, auto_refresh=False) as live:  # type: ignore[arg-type]
        while True:
            time.sleep(REFRESH_S)
            live.update(screen(door.get("/v1/status")).rich(), refresh=True)  # type: ignore[arg-type]


def screen(told: Json) -> Screen:
    """Return the one screen."""
    page = Screen()
    level, health = told["level"], told["health"]
    good = ("good", "green") if health["is_good"] else ("degraded", "red")
    page.line(
        ("ai-supervisor", "bold"),
        f" {told['version']}   up {span_of(told['uptime_s'])}   pid {told['pid']}   level {level['level']} {level['name']}   ",
        good,
    )
    for reason in health["reasons"]:
        page.wrapped("", reason, 2, "red")
    page.line("")
    for backend in told["backends"]:
        _backend(page, backend)
    _queue(page, told["queue"])
    _agents(page, told["agents"])
    page.line("")
    _cache(page, told["cache"])
    _memory(page, told["memory"])
    page.wrapped(("identity", "bold"), f"{told['identity']['level']}: {told['identity']['detail']}", 11)
    page.wrapped(("guarantee", "bold"), f"{told['guarantee']['level']}: {told['guarantee']['detail']}", 11)
    page.wrapped(("so far", "bold"), so_far(told["totals"]), 11)
    if told["next"]:
        page.line("")
    for number, step in enumerate(told["next"]):
        page.wrapped(("next", "bold") if number == 0 else "", f"{step['command']}   {step['why']}", 11)
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
    busy = f"{backend['busy']} of {backend['slots']} slots busy"
    page.title("ollama", f"{backend['name']} ", state, f"   {busy}   {backend['url']}")
    if backend.get("way") and backend["state"] == "ready":  # else it is part of the reason above
        page.wrapped("", backend["way"], 2)
    if backend.get("restarted"):
        page.line(f"  it hung and was restarted: {backend['restarted']} times")
    if backend.get("healed"):
        page.line(f"  it lost slots, and a model was reloaded to have them back: {backend['healed']} times")
    if backend.get("loading"):
        page.line(f"  loading {backend['loading']}")
    for one in backend["running"][:SHOWN_RUNNING]:
        again = f" attempt {one['attempt']}" if one["attempt"] > 1 else ""
        what = f"  {one['agent']:<14.14} {one['model'] or '-':<22.22} {one['path']:<21.21}"
        page.line(f"{what} {span_of(one['since_s']):>9}  p{one['priority']}{again}")
    _more(page, len(backend["running"]) - SHOWN_RUNNING)


def _queue(page: Screen, queue: Json) -> None:
    mode = "" if queue.get("mode", "open") == "open" else f"   {queue['mode']}"
    page.title("queue", f"{queue['queued']} waiting, {queue['running']} running", (mode, "yellow"))
    for level in queue["by_priority"]:
        if level["queued"]:
            oldest = span_of(level["oldest_s"])
            page.line(f"  priority {level['priority']:<2} {level['queued']:>6} waiting, the oldest for {oldest}")


def _agents(page: Screen, agents: Json) -> None:
    page.title("agents", str(agents["total"]))
    for one in agents["by_class"]:
        states: list[str | tuple[str, str]] = [f"  {one['class']:<14.14} {one['total']:>5}  "]
        for index, (state, count) in enumerate(one["states"].items()):
            states += [", " if index else "", (f"{count} {state}", STATE_STYLE.get(state, ""))]
        page.line(*states)
    attention = agents["attention"]
    if attention:
        page.title("attention")
    for one in attention[:SHOWN_ATTENTION]:
        page.line(
            f"  {one['agent']:<16.16} ",
            (f"{one['state']:<12}", STATE_STYLE.get(one["state"], "")),
            f" {one['verdict'] or '-':<18.18} {one['restarts']:>3} restarts   {_first_line(one['detail'])}",
        )
    _more(page, len(attention) - SHOWN_ATTENTION)


def _cache(page: Screen, cache: Json) -> None:
    asked = cache["hits"] + cache["misses"]
    share = f"{cache['hits'] / asked:.0%} hits of {asked}" if asked else "not asked yet"
    tiers = "   ".join(f"{name.upper()} {tier['entries']} entries, {size_of(tier['bytes'])}" for name, tier in _tiers(cache))
    page.title("cache", f"{share}   {tiers}")


def _tiers(cache: Json) -> list[tuple[str, Json]]:
    return [(name, cache[name]) for name in ("l1", "l2", "l3") if name != "l3" or cache[name]["entries"]]


def _memory(page: Screen, memory: Json) -> None:
    used = {part["name"]: part for part in memory["plan"]}
    agents = used["agents"]
    page.title(
        "memory",
        f"agents {size_of(agents['used_bytes'])} of {size_of(agents['bytes'])}   "
        f"this daemon {size_of(memory['daemon_rss_bytes'])}, {memory['daemon_cpu_s']:.1f} s CPU",
    )


def _more(page: Screen, count: int) -> None:
    if count > 0:
        page.line(f"  ... and {count} more")


def _first_line(text: str | None) -> str:
    return (text or "").split("\n", 1)[0]


__all__ = ["run", "screen"]
