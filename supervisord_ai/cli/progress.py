"""Says that something takes its time: a line that counts on a terminal, one line in a pipe, nothing for what is quick.

It goes to stderr, so that what a command prints stays what it is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from supervisord_ai.cli.screen import printable, span_of

QUICK_S = 1.0
TICK_S = 0.25


@contextmanager
def working(what: str, *, quick_s: float = QUICK_S) -> Iterator[None]:
    """While the block runs: after a second say what it does, and for how long by now."""
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(printable(what), done, quick_s), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(what: str, done: threading.Event, quick_s: float) -> None:
    began = time.monotonic()
    if done.wait(quick_s):
        return
    if not (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        print(f"{what} ...", file=sys.stderr, flush=True)
        return
    while not done.is_set():
        sys.stderr.write(f"\r\x1b[K{what} ... {span_of(time.monotonic() - began)}")
        sys.stderr.flush()
        done.wait(TICK_S)
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
