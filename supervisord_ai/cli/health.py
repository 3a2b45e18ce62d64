"""`health`: one word and an exit code, for scripts."""

from __future__ import annotations

import json
from argparse import Namespace

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import printable


def run(args: Namespace) -> int:
    is_good, told = open_door(args).health()
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        print("good" if is_good else "degraded")
        for reason in told["reasons"]:
            print(f"  {printable(reason)}")
        if not is_good:
            print("what to type: ai-supervisor status")
    return Exit.GOOD if is_good else Exit.NO
