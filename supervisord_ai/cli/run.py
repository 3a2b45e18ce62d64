"""`run`: the daemon, after everything that can be known before it starts."""

from __future__ import annotations

import faulthandler
import logging
import os
import pwd
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from supervisord_ai import daemon
from supervisord_ai.cli.embedded import EMBEDDED, require_engine
from supervisord_ai.cli.files import load_config
from supervisord_ai.cli.logs import JournalHandler, LineFormatter, is_journal
from supervisord_ai.config import Config
from supervisord_ai.config.plan import too_small
from supervisord_ai.core.memory_plan import MachineTooSmall, judge_machine
from supervisord_ai.core.serving import ENGINE_CLASS
from supervisord_ai.errors import ConfigError, Problem, SupervisorError, UsageError
from supervisord_ai.host.journald import Journald
from supervisord_ai.host.memory import machine_memory
from supervisord_ai.host.scope import enter_scope

log = logging.getLogger(__name__)


def run(args: Namespace) -> int:
    config, small = read_config(args)
    if not args.engine_model and any(backend.url == EMBEDDED for backend in config.backends):
        require_engine()
    if args.cages == "auto" and getattr(args, "is_own_process", False):
        enter_scope(sys.argv[1:])
    if sys.stderr.isatty():
        print(f"{config.path}: {len(config.roster.agents)} agents; ^C stops them and the daemon", file=sys.stderr)
        print(f"in a second terminal: ai-supervisor status{named(args)}", file=sys.stderr)
    start_logging(config.daemon.log_level)
    if small is not None:
        log.warning("accepted: %s", too_small(small).partition(":")[0])
    try:
        return daemon.run(config, options_of(args))
    except (SupervisorError, KeyboardInterrupt):
        raise
    except Exception:
        # The person at a terminal gets one line; who reads the log afterwards needs to know where.
        log.critical("the daemon failed", exc_info=True)
        raise


def named(args: Namespace) -> str:
    """Return what has to be typed behind a command that is to find the same config; "" where it is the usual one."""
    return "" if args.config is None else f" --config {shlex.quote(args.config)}"


def read_config(args: Namespace) -> tuple[Config, MachineTooSmall | None]:
    """Return a config that may run here, and how far this machine is too small for it, if that was accepted.

    Raises:
        ConfigError: everything that is wrong with it.
        UsageError: there is none, or this machine is too small for it.
    """
    config = load_config(args)
    problems = tuple(check_users(config, os.geteuid()))
    if problems:
        raise ConfigError(problems)
    small = judge_machine(config.memory, machine_memory().total_bytes)
    if small is not None and not args.accept_smaller_machine:
        raise UsageError(too_small(small))
    return config, small


def options_of(args: Namespace) -> daemon.Options:
    """Return what the command line adds to the config."""
    return daemon.Options(
        cages=args.cages,
        ledger=Path(args.engine_ledger) if args.engine_ledger else None,
        model_file=Path(args.engine_model) if args.engine_model else None,
        is_rehearsal=args.rehearsal,
        read_config=lambda: read_config(args)[0],
    )


def start_logging(level: str) -> None:
    """Log to stderr, one line a deed; also the stack of what systemd's watchdog ends with SIGABRT."""
    faulthandler.enable()
    # No line of ours names thread, process or source, and to find them is half of what a line costs (Python's logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    is_for_journal = is_journal(os.environ, os.fstat(sys.stderr.fileno()))
    handler.setFormatter(LineFormatter(for_journal=is_for_journal))
    if is_for_journal:
        handler = JournalHandler(Journald(), handler)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request, and ours says more


def check_users(config: Config, uid: int) -> Iterator[Problem]:
    """Yield what is wrong with the users that agents are to run as, by class (and by agent where it has its own)."""
    file = config.path or "config"
    asked: dict[tuple[str, str | None], None] = {}
    for spec in config.roster.agents.values():
        if not spec.external:
            asked.setdefault((f"class.{spec.policy.name}", spec.policy.user))
    if any(backend.command for backend in config.backends):
        engine = config.roster.classes.get(ENGINE_CLASS)
        asked.setdefault((f"class.{ENGINE_CLASS}", None if engine is None else engine.user))
    for table, user in asked:
        if user is None:
            if uid == 0:
                what = 'running as root, it needs user = "..." (someone who is not root); user = "root" says that root is meant'
                yield Problem(file, None, f"{table}.user", what)
            continue
        try:
            found = pwd.getpwnam(user).pw_uid
        except KeyError:
            yield Problem(file, None, f"{table}.user", f"there is no user {user!r} on this machine")
            continue
        if uid not in {0, found}:
            yield Problem(file, None, f"{table}.user", f"only root can start agents as {user!r}")
