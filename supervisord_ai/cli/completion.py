"""`completion`: the script that lets a shell complete our commands."""

from __future__ import annotations

import argparse
from argparse import Namespace

import shtab

from supervisord_ai.cli import fish
from supervisord_ai.cli.commands import build_parser
from supervisord_ai.cli.exits import Exit

# The names of agents are asked of the daemon that runs, when they are needed; without one nothing is offered.
NAMES = "ai-supervisor agents list --names 2>/dev/null"
ASKS = "_ai_supervisor_agents"
PREAMBLE = {
    "bash": f'{ASKS}() {{ compgen -W "$({NAMES})" -- "$1"; }}',
    "zsh": f'{ASKS}() {{ local -a names; names=(${{(f)"$({NAMES})"}}); _describe agent names; }}',
}


def run(args: Namespace) -> int:
    parser = build_parser()
    if args.shell == "fish":
        print(fish.script(parser, agents=f"({NAMES})"))
        return Exit.GOOD
    _offer_agents(parser)
    print(shtab.complete(parser, args.shell, preamble=PREAMBLE.get(args.shell, "")))
    return Exit.GOOD


def _offer_agents(parser: argparse.ArgumentParser) -> None:
    """Have every argument that is an agent complete as one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _offer_agents(inner)
        elif action.metavar == "AGENT":
            action.complete = dict.fromkeys(PREAMBLE, ASKS)  # type: ignore[attr-defined]
