"""`metrics`: what Prometheus would scrape, to read or to pipe."""

from __future__ import annotations

import sys
from argparse import Namespace

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit


def run(args: Namespace) -> int:
    sys.stdout.write(open_door(args).text("/metrics"))
    return Exit.GOOD
