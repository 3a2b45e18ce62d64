"""Starts a supervisor in the foreground anew, below a scope of its user's own systemd, where agents can have hard memory caps.

A login session's group belongs to systemd and holds other processes, so nothing can be limited below it. A scope with
`Delegate=` is ours alone (systemd.resource-control(5)); systemd-run(1) moves this process into one and executes the same
program again: same pid, same terminal.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from supervisord_ai.core.places import HOLDER_VARIABLE
from supervisord_ai.host.cgroup import parse_mounts

MARK = "AI_SUPERVISOR_IN_SCOPE"
PATIENCE_S = 20.0


_CONTROLLERS = 'while IFS=: read -r n _ p; do [ "$n" != 0 ] || break; done </proc/self/cgroup; cat "$1$p/cgroup.controllers"'


def enter_scope(words: Sequence[str]) -> None:
    """Execute `python -m supervisord_ai WORDS` in a scope, if that gives memory control; else return."""
    systemd_run = shutil.which("systemd-run")
    if systemd_run is None:
        return
    scope = [systemd_run, "--user", "--scope", "--quiet", "--property=Delegate=yes", "--"]
    if not is_worth_it(os.environ, uid=os.geteuid(), has_memory=partial(_has_memory, scope)):
        return
    python = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "supervisord_ai"]
    os.execve(systemd_run, [*scope, *python, *words], {**os.environ, MARK: "1"})  # noqa: S606 - our own program


def is_worth_it(environ: Mapping[str, str], *, uid: int, has_memory: Callable[[], bool]) -> bool:
    """Decide whether to try: not as root, not as somebody's service, not twice, and not where nothing would be won."""
    if uid == 0 or any(environ.get(name) for name in (MARK, HOLDER_VARIABLE, "NOTIFY_SOCKET")):
        return False
    if not os.path.exists(f"{environ.get('XDG_RUNTIME_DIR', '')}/systemd/private"):
        return False
    return has_memory()


def _has_memory(scope: Sequence[str]) -> bool:
    """Try one: whoever executes systemd-run has no way back from its refusal."""
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    mount = next((mount for mount in mounts if mount.is_v2), None)
    if mount is None or mount.root != "/":
        return False
    try:
        tried = subprocess.run(
            [*scope, "sh", "-c", _CONTROLLERS, "sh", str(mount.point)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0 and "memory" in tried.stdout.split()
