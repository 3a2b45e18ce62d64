"""`completion`: the script that lets a shell complete our commands."""

from __future__ import annotations

from argparse import Namespace

import shtab

from supervisord_ai.cli import fish
from supervisord_ai.cli.commands import build_parser
from supervisord_ai.cli.exits import Exit


def run(args: Namespace) -> int:
    parser = build_parser()
    print(fish.script(parser) if args.shell == "fish" else shtab.complete(parser, args.shell))
    return Exit.GOOD
