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


# shtab's script registers itself where it is evaluated (`eval "$(...)"`), and takes whatever else for a file of fpath that zsh
# loads by itself. `source <(...)` is neither, and ended with an error of zsh's.
_SHTAB_ASKS, _OURS = "if [[ $zsh_eval_context[-1] == eval ]]; then", "if [[ $zsh_eval_context[-1] != loadautofunc ]]; then"
_PATHS = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY, "WHEEL": shtab.FILE, "VERSION|WHEEL": shtab.FILE, "-- CMD ...": shtab.FILE}


def run(args: Namespace) -> int:
    parser = build_parser()
    if args.shell == "fish":
        print(fish.script(parser, agents=f"({NAMES})"))
        return Exit.GOOD
    _offer(parser)
    script = shtab.complete(parser, args.shell, preamble=PREAMBLE.get(args.shell, ""))
    print(script.replace(_SHTAB_ASKS, _OURS))
    return Exit.GOOD


def _offer(parser: argparse.ArgumentParser) -> None:
    """Have every argument that is an agent complete as one, and every file and folder as such."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _offer(inner)
        elif action.metavar == "AGENT":
            action.complete = dict.fromkeys(PREAMBLE, ASKS)  # type: ignore[attr-defined]
        elif isinstance(action.metavar, str) and action.metavar in _PATHS:
            action.complete = _PATHS[action.metavar]  # type: ignore[attr-defined]
