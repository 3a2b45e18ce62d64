"""The completion script of fish, which shtab does not write: made from the same grammar as the others.

One `complete` line for each command and option. A command is offered where the words before it are its parents, an option where
they are its command.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator


def script(parser: argparse.ArgumentParser, *, agents: str = "") -> str:
    """Return the script for `~/.config/fish/completions/ai-supervisor.fish`. `agents`: what gives the names of agents."""
    name = parser.prog
    lines = [
        f"# completion of {name} for fish",
        f"complete -c {name} -f",
        *_lines(name, parser, (), agents),
    ]
    return "\n".join(lines)


def _lines(name: str, parser: argparse.ArgumentParser, path: tuple[str, ...], agents: str) -> Iterator[str]:
    commands = _commands(parser)
    here = _condition(path, tuple(commands))
    for word, (help_text, inner) in commands.items():
        yield f"complete -c {name} -n {here} -a {_quoted(word)} -d {_quoted(help_text)}"
        yield from _lines(name, inner, (*path, word), agents)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        words = [f"-s {option[1:]}" for option in action.option_strings if len(option) == 2]
        words += [f"-l {option[2:]}" for option in action.option_strings if option.startswith("--")]
        takes = action.nargs != 0
        known = _quoted(" ".join(map(str, action.choices))) if action.choices else ""
        if action.metavar == "AGENT" and agents:
            known = _quoted(agents)
        value = "" if not takes else f" -x -a {known}" if known else " -r -F"
        if words:
            yield f"complete -c {name} -n {here} {' '.join(words)}{value} -d {_quoted(action.help or '')}"
        elif known:
            yield f"complete -c {name} -n {here} -a {known}"


def _commands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return the commands below a parser that are in its help, each with what the help says."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {word: (told[word], inner) for word, inner in action.choices.items() if word in told}
    return {}


def _condition(path: tuple[str, ...], commands: tuple[str, ...]) -> str:
    """Return when something is offered: its parents have been typed, and none of its neighbours has."""
    if not path:
        return "__fish_use_subcommand"
    seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in path)
    unseen = f"; and not __fish_seen_subcommand_from {' '.join(commands)}" if commands else ""
    return f'"{seen}{unseen}"'


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
