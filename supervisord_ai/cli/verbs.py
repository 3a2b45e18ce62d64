"""`agents start`, `stop`, `restart`, `release`: of one, or of all whose names match a pattern."""

from __future__ import annotations

import json
from argparse import Namespace
from urllib.parse import quote

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import printable

SHOWN = 5


def run(args: Namespace) -> int:
    told = open_door(args).post(f"/v1/agents/{quote(args.name, safe='')}/{args.action}")
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        names = told["agents"]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        print(f"{args.action}: {', '.join(map(printable, names[:SHOWN]))}{more}")
        for one in told["refused"]:
            print(f"refused: {printable(one['why'])}")
    return Exit.REFUSED if told["refused"] else Exit.GOOD
