"""`agents add`: one more agent, as a file of its own in agents.d/. The whole config is checked with it before it is written."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path, PurePosixPath

from supervisord_ai.cli.door import open_door, surroundings
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import DiskFiles
from supervisord_ai.cli.run import check_users, named
from supervisord_ai.config import load
from supervisord_ai.config.roster import NAME
from supervisord_ai.config.writing import braced, text
from supervisord_ai.core import places
from supervisord_ai.errors import ConfigError, HostFault, UsageError

INCLUDE = 'include = ["agents.d/*.toml"]'


class WithOneMore:
    """The files of a config as they would be with one more."""

    def __init__(self, disk: DiskFiles, path: str, data: bytes) -> None:
        self._disk = disk
        self._path = path
        self._data = data

    def read(self, path: str) -> bytes:
        return self._data if path == self._path else self._disk.read(path)

    def matching(self, pattern: str) -> list[str]:
        found = self._disk.matching(pattern)
        return sorted([*found, self._path]) if PurePosixPath(self._path).match(pattern) else found


def add(args: Namespace) -> int:
    """Check and write; what is refused has changed nothing."""
    around = surroundings()
    main = os.path.abspath(places.config_path(around, args.config))
    if not os.path.exists(main):
        raise UsageError(f"there is no {main}: write a first one with `ai-supervisor config init`")
    if NAME.fullmatch(args.name) is None:
        raise UsageError(f"{args.name!r} is not a name: letters, digits, `.`, `_` and `-`, at most 64")
    path = f"{os.path.dirname(main)}/agents.d/{args.name}.toml"
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already: edit it, or choose another name")
    data = entry(args).encode()
    config = load(main, WithOneMore(DiskFiles(), path, data), around)
    if args.name not in config.roster.agents:
        raise UsageError(f"{main} does not read agents.d/: put this line at its top\n    {INCLUDE}")
    problems = tuple(check_users(config, os.geteuid()))
    if problems:
        raise ConfigError(problems)
    _write(Path(path), data)
    print(f"wrote {path}")
    if args.external:
        print(f"next: ai-supervisor reload && ai-supervisor agents token {args.name}")
    else:
        verb = "reload" if open_door(args).is_open() else "run"
        print(f"to start it: ai-supervisor {verb}{named(args)}")
    return Exit.GOOD


def entry(args: Namespace) -> str:
    """Return the entry as TOML: what was typed is meant literally, so braces are doubled.

    Raises:
        UsageError: a command where there can be none, or none where there must be.
    """
    words = args.words
    if args.external and words:
        raise UsageError("an external agent has no command: we do not start it")
    if not args.external and not words:
        raise UsageError("what is to be run? ai-supervisor agents add NAME --class CLASS -- CMD ...")
    lines = ["[[agents]]", f"name = {text(args.name)}", f"class = {text(args.agent_class)}"]
    lines.append("external = true" if args.external else f"command = {braced(words)}")
    if args.cwd is not None:
        lines.append(f"cwd = {braced(os.path.abspath(args.cwd))}")
    if args.env:
        lines.append("env = { " + ", ".join(f"{name} = {braced(value)}" for name, value in map(_variable, args.env)) + " }")
    if args.env_file is not None:
        lines.append(f"env_file = {braced(os.path.abspath(args.env_file))}")
    if args.memory is not None:
        lines.append(f"memory = {text(args.memory)}")
    return "\n".join(lines) + "\n"


def _variable(typed: str) -> tuple[str, str]:
    name, equals, value = typed.partition("=")
    if not equals or not (name.isascii() and name.isidentifier()):
        raise UsageError(f"--env {typed}: write NAME=VALUE")
    return name, value


def _write(path: Path, data: bytes) -> None:
    """Write it whole or not at all, and never over another: the daemon may be reading the folder."""
    half = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        half.write_bytes(data)
        os.link(half, path)
    except FileExistsError as exc:
        raise UsageError(f"{path} is there already: edit it, or choose another name") from exc
    except OSError as exc:
        raise HostFault(f"{path} cannot be written: {exc.strerror}") from exc
    finally:
        half.unlink(missing_ok=True)
