"""What an agent finds in its environment: little, known, and nothing of ours.

From weakest to strongest: the basics, what the gateway gives (`environ_for`), the agent's env_file, its `env` in the roster.
A variable the roster sets is never overwritten, with one exception: AI_SUPERVISOR_RUN, by which its processes are found again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from supervisord_ai.core.roster import AgentSpec
from supervisord_ai.errors import SpawnFailed
from supervisord_ai.host.process import Account

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# An agent whose roster sets a proxy must still reach us directly.
LOOPBACK = "localhost,127.0.0.1,::1"
RUN_TAG = "AI_SUPERVISOR_RUN"


def environment(spec: AgentSpec, account: Account, given: Mapping[str, str], run_tag: str) -> dict[str, str]:
    """Return the whole environment of one generation.

    Raises:
        SpawnFailed: env_file cannot be read, others may read it, or a line of it is not NAME=VALUE.
    """
    basics = {
        "PATH": PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "PYTHONUNBUFFERED": "1",  # or the last lines before a crash stay in the dead program
        "NO_PROXY": LOOPBACK,
        "no_proxy": LOOPBACK,
    }
    if "TZ" in os.environ:
        basics["TZ"] = os.environ["TZ"]
    from_file = read_env_file(Path(spec.env_file)) if spec.env_file is not None else {}
    return {**basics, **given, **from_file, **dict(spec.env), RUN_TAG: run_tag}


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a file of NAME=VALUE lines; `#` begins a comment line, one pair of quotes is taken off.

    Raises:
        SpawnFailed: it cannot be read, is not its owner's alone (0600), or a line is something else. No value is ever shown.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, encoding="utf-8") as file:
            found = os.fstat(fd)
            if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in {0, os.geteuid()}:
                raise SpawnFailed("failed:exec", f"env_file {path} may be read by others: chmod 600 {path}")
            text = file.read()
    except OSError as exc:
        raise SpawnFailed("failed:exec", f"env_file {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SpawnFailed("failed:exec", f"env_file {path} is not UTF-8") from exc
    variables = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        name, equals, value = words.removeprefix("export ").partition("=")
        if not equals or not name.isidentifier():
            raise SpawnFailed("failed:exec", f"env_file {path}:{number}: not NAME=VALUE")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        variables[name] = value
    return variables
