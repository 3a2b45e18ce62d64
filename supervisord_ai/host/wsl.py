"""The door to what the kernel says of WSL and of the way to Windows. Read anew for each connection: NAT changes at each start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from supervisord_ai.core.locate import Facts


def facts(
    *, ours: Iterable[tuple[str, int]] = (), proc: Path = Path("/proc"), environ: Mapping[str, str] | None = None
) -> Facts:
    """Return the facts for `core.locate`. A file that is not there is empty: then nothing is concluded from it."""
    return Facts(
        osrelease=_text(proc / "sys/kernel/osrelease"),
        route=_text(proc / "net/route"),
        interfaces=_text(proc / "net/dev"),
        ollama_host=(os.environ if environ is None else environ).get("OLLAMA_HOST", ""),
        ours=tuple(ours),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
