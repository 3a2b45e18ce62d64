"""`check-state`: whether this version can go on from a copy of a state. `upgrade` asks that of a release before it starts it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from supervisord_ai import daemon
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.files import load_config
from supervisord_ai.store import copies


def run(args: Namespace) -> int:
    load_config(args)
    copies.check(Path(args.folder) / copies.JOURNAL_FILE)
    # That it could be imported says that everything a daemon needs is there.
    print(f"{daemon.__name__} can go on from {args.folder}")
    return Exit.GOOD
