"""`cache`: what the cache of answers holds and was good for, and emptying it."""

from __future__ import annotations

import json
from argparse import Namespace

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import size_of, table


def run(args: Namespace) -> int:
    door = open_door(args)
    if args.action == "clear":
        told = door.post(f"/v1/cache/clear?tier={args.tier}")
        print(json.dumps(told, indent=2) if args.json else f"{told['answers']} answers are forgotten")
        return Exit.GOOD
    told = door.get("/v1/cache")
    if args.json:
        print(json.dumps(told, indent=2))
        return Exit.GOOD
    asked = told["hits"] + told["misses"]
    share = f", {told['hits'] / asked:.0%}" if asked else ""
    print(f"{told['hits']} hits, {told['misses']} misses{share}; {told['stored']} answers stored since the start")
    rows = [(name, told[name]["entries"], size_of(told[name]["bytes"]), told[name]["hits"]) for name in ("l1", "l2")]
    print("\n".join(table(("TIER", "ENTRIES", "SIZE", "HITS"), rows, right=(1, 2, 3))))
    return Exit.GOOD
