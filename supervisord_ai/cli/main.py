"""From words to an exit code."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from supervisord_ai.cli.commands import build_parser
from supervisord_ai.cli.exits import Exit
from supervisord_ai.errors import AlreadyRunning, ConfigError, Denied, NotRunning, SupervisorError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command and return its exit code."""
    if argv is None:  # a process of our own, not a test
        sys.excepthook = _last_words
    try:
        words = sys.argv[1:] if argv is None else list(argv)
        args = build_parser(words[0] if words else "").parse_args(words)
        args.is_own_process = argv is None
        command = _imported(f"supervisord_ai.cli.{args.module}")
        code = command.run(args)
        sys.stdout.flush()
    except SupervisorError as exc:
        return _told(exc)
    except BaseExceptionGroup as group:
        return _of_many(group)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Who reads us has had enough (`| head`). Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.GOOD
    return int(code)


def _imported(name: str) -> Any:
    """Import a module without looking for garbage, which imports make none of: that is a tenth of their time.

    What is there then stays as long as the process, so that later looks pass it by.
    """
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _told(error: SupervisorError) -> Exit:
    sys.stdout.flush()
    print(str(error) if isinstance(error, ConfigError) else f"ai-supervisor: {error}", file=sys.stderr)
    return exit_of(error)


def _of_many(group: BaseExceptionGroup[BaseException]) -> Exit:
    """Tell the errors that ended a nursery, if all of them are ours; whatever else there is goes on."""
    expected, rest = group.split((SupervisorError, KeyboardInterrupt))
    if rest is not None or expected is None:
        raise group
    codes = [_told(one) if isinstance(one, SupervisorError) else Exit.INTERRUPTED for one in _leaves(expected)]
    return codes[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


def exit_of(error: SupervisorError) -> Exit:
    """Return the exit code that stands for an error."""
    match error:
        case UsageError() | ConfigError() | AlreadyRunning():
            return Exit.USAGE
        case NotRunning():
            return Exit.NOT_RUNNING
        case Denied():
            return Exit.REFUSED
        case _:
            return Exit.NO


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say one line for an error that nobody thought of; Python then exits with 1."""
    if os.environ.get("AI_SUPERVISOR_TRACEBACK"):
        import traceback  # noqa: PLC0415 - 5 ms that no other command need wait for

        traceback.print_exception(kind, error, trace)
        return
    print(
        f"ai-supervisor: internal error: {kind.__name__}: {error} (AI_SUPERVISOR_TRACEBACK=1 shows where; please report it)",
        file=sys.stderr,
    )
