"""`agents logs`: what one agent wrote, or many at once, each line with the name of who wrote it."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from fnmatch import fnmatchcase
from typing import IO

from supervisord_ai.cli.door import Door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.screen import has_colours, printable
from supervisord_ai.errors import HostFault, UsageError

POLL_S = 0.2
LOOK_AGAIN_S = 2.0  # for agents that are new
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # no red: a name is no error


def run(args: Namespace, door: Door) -> int:
    """Print the logs of the agents that `args.name` means."""
    if not any(char in args.name for char in "*?["):
        return _one(args, door.agent(args.name)["log_path"])
    if not _matching(door, args.name):
        raise UsageError(f"no agent's name matches {args.name!r}")
    return _many(args, door)


def _one(args: Namespace, path: str) -> int:
    try:
        with open(path, "rb") as file:
            for line in deque(file, maxlen=max(0, args.lines)):
                _write(line)
            sys.stdout.flush()
            if args.follow:
                for data in follow(file, path):
                    _write(data)
                    sys.stdout.flush()
    except OSError as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        raise HostFault(f"{path} cannot be read: {exc.strerror}") from exc
    return Exit.GOOD


def _matching(door: Door, pattern: str) -> dict[str, str]:
    agents = door.get("/v1/agents")["agents"]
    return {one["name"]: one["log_path"] for one in agents if one["log_path"] and fnmatchcase(one["name"], pattern)}


def _many(args: Namespace, door: Door) -> int:
    """The last lines of each, then, with -f, what any of them adds. Who becomes an agent meanwhile is followed from his first."""
    tails: dict[str, Tail] = {}
    with ExitStack() as files:
        lines_back = args.lines
        look_at = 0.0
        while True:
            if time.monotonic() >= look_at:
                for name, path in _matching(door, args.name).items():
                    if name not in tails and (file := _opened(path)) is not None:
                        tails[name] = Tail(files.enter_context(file), path, lines_back)
                lines_back, look_at = sys.maxsize, time.monotonic() + LOOK_AGAIN_S
            width = max((len(name) for name in tails), default=0)
            is_quiet = True
            for number, (name, tail) in enumerate(tails.items()):
                for line in tail.lines():
                    is_quiet = False
                    _write(line, _prefix(name, width, number))
            sys.stdout.flush()
            if not args.follow:
                return Exit.GOOD
            if is_quiet:
                time.sleep(POLL_S)


def _opened(path: str) -> IO[bytes] | None:
    with suppress(FileNotFoundError):  # it has not been started yet
        return open(path, "rb")
    return None


class Tail:
    """One log that is followed by lines; a line is given when it is whole."""

    def __init__(self, file: IO[bytes], path: str, lines_back: int) -> None:
        self._file = file
        self._path = path
        self._half = b""
        self._first: Sequence[bytes] = deque(file, maxlen=max(0, lines_back)) if lines_back < sys.maxsize else ()

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines there are by now."""
        yield from (line if line.endswith(b"\n") else line + b"\n" for line in self._first)
        self._first = ()
        for data in added(self._file, self._path):
            *whole, self._half = (self._half + data).split(b"\n")
            yield from (line + b"\n" for line in whole)


def follow(file: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield what is added to a log, for ever."""
    while True:
        yield from added(file, path)
        time.sleep(POLL_S)


def added(file: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield what has been added since it was last read.

    A rotation copies the log to `.1` and cuts it: what came before the cut and was not read yet is read from there.
    """
    while True:
        while data := file.read(65_536):
            yield data
        if os.stat(path).st_size >= file.tell():
            return
        with suppress(OSError), open(f"{path}.1", "rb") as moved:
            moved.seek(file.tell())
            while data := moved.read(65_536):
                yield data
        file.seek(0)


def _prefix(name: str, width: int, number: int) -> str:
    text = f"{name:<{width}} | "
    return f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m" if has_colours() else text


def _write(line: bytes, prefix: str = "") -> None:
    """Write an agent's own bytes: as they are into a pipe, without commands on a terminal. The prefix is ours."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(prefix.encode() + line)
        return
    text = line.decode(errors="replace")
    sys.stdout.write(prefix + "".join(char if char in "\n\t" else printable(char) for char in text))
