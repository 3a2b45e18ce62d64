"""`cache`: what the cache of answers holds and was good for, what comes again and again, and emptying it."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import Screen, size_of, span_of, table

TIERS = (("l1", "memory"), ("l2", "file"), ("l3", "large files"))
_NAME_CHARS = 34
_TOP = 10


def run(args: Namespace) -> int:
    door = open_door(args)
    if args.action == "clear":
        told = door.post(f"/v1/cache/clear?tier={args.tier}")
        print(json.dumps(told, indent=2) if args.json else f"{told['answers']} answers are forgotten")
        return Exit.GOOD
    wants_prompts = args.action == "analyze" and args.prompts
    told = door.get("/v1/cache?prompts=1" if wants_prompts else "/v1/cache")
    if args.json:
        print(json.dumps(told, indent=2))
    elif args.action == "stats":
        stats(told).show()
    else:
        analysis(told).show()
    return Exit.GOOD


def stats(told: dict[str, Any]) -> Screen:
    """Return what the tiers hold, and to whom they were of use."""
    page = Screen()
    stale = f", {told['stale']} of them past their time" if told["stale"] else ""
    page.line(
        f"{told['hits']} hits{stale}, {told['misses']} misses{_share(told)}; {told['stored']} answers stored since the start"
    )
    page.line(f"saved {span_of(told['saved_s'])} of the model's time")
    page.line("")
    rows = [
        (name, where, one["entries"], size_of(one["bytes"]), size_of(one["cap_bytes"]), one["hits"], one["evicted"])
        for name, where in TIERS
        for one in [told[name]]
    ]
    _add(page, table(("TIER", "IN", "ENTRIES", "SIZE", "OF", "HITS", "EVICTED"), rows, right=(2, 3, 4, 5, 6)))
    for head, part in (("CLASS", "by_class"), ("MODEL", "by_model")):
        if told[part]:
            page.line("")
            lines = [
                (one["name"][:_NAME_CHARS], one["hits"], one["misses"], _share(one).removeprefix(", "), span_of(one["saved_s"]))
                for one in told[part]
            ]
            _add(page, table((head, "HITS", "MISSES", "FOUND", "SAVED"), lines, right=(1, 2, 3, 4)))
    return page


def analysis(told: dict[str, Any]) -> Screen:
    """Return what to do about the cache, what is asked most, and what could not be shared."""
    page = Screen()
    page.wrapped("", told["advice"], 0)
    page.line("")
    page.line(f"kept {span_of(told['ttl_s'] * told['ttl_factor'])}, shared by: {told['scope']}")
    if told["allow_stale"]:
        page.line("the level allows answers past their time")
    if told["repeated"]:
        page.line("")
        rows = [
            (one["hits"], span_of(one["saved_s"]), one["model"][:24], one["prompt"] if one["prompt"] is not None else one["key"])
            for one in told["repeated"][:_TOP]
        ]
        _add(page, table(("HITS", "SAVED", "MODEL", "QUESTION"), rows, right=(0, 1)))
        if told["repeated"][0]["prompt"] is None:
            page.line("questions are hashes here: --prompts shows how they begin")
    if told["not_shared"]:
        page.line("")
        reasons = [(count, why) for why, count in told["not_shared"].items()]
        _add(page, table(("ASKED", "NOT SHARED, BECAUSE"), reasons, right=(0,)))
    return page


def _add(page: Screen, lines: list[str]) -> None:
    for line in lines:
        page.line(line)


def _share(one: dict[str, Any]) -> str:
    asked = one["hits"] + one["misses"]
    return f", {one['hits'] / asked:.0%}" if asked else ""
