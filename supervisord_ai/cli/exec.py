"""`exec -- CMD`: a cron job, a shell, anything that its owner starts himself, as one of the fleet.

This process asks the daemon to take it in, and then becomes the command: same terminal, same parent, and so the same exit code.
What could not be taken in is not executed: outside its cage it would be somebody else.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from argparse import Namespace
from typing import NoReturn
from urllib.parse import urlencode

from supervisord_ai.cli.door import open_door
from supervisord_ai.errors import UsageError
from supervisord_ai.host.scope import enter_scope

LIMITS = {"data": resource.RLIMIT_DATA, "core": resource.RLIMIT_CORE, "nofile": resource.RLIMIT_NOFILE}
NOT_FOUND = 127  # as a shell
NOT_EXECUTABLE = 126


def run(args: Namespace) -> NoReturn:
    if not args.words:
        raise UsageError("the command is missing: ai-supervisor exec --class CLASS -- CMD ...")
    door = open_door(args)
    if getattr(args, "is_own_process", False):
        # By cgroup v2 a user may move a process only below a group that is his own, and his terminal is in none.
        enter_scope(sys.argv[1:])
    asked = {name: value for name, value in (("name", args.name), ("class", args.agent_class)) if value}
    told = door.post("/v1/exec?" + urlencode(asked))
    for name, most in told["rlimits"].items():
        resource.setrlimit(LIMITS[name], (most, most))
    environ = {**os.environ, **told["environment"]}
    path = shutil.which(args.words[0], path=environ.get("PATH"))
    try:
        os.execve(path or args.words[0], args.words, environ)  # noqa: S606 - what its owner typed
    except FileNotFoundError:
        print(f"ai-supervisor: there is no {args.words[0]}", file=sys.stderr)
        sys.exit(NOT_FOUND)
    except OSError as exc:
        print(f"ai-supervisor: {args.words[0]}: {exc.strerror}", file=sys.stderr)
        sys.exit(NOT_EXECUTABLE)
