"""`stop`: ends the fleet and the daemon, and waits until both are gone."""

from __future__ import annotations

import os
import time
from argparse import Namespace

from supervisord_ai.cli.door import open_door
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.progress import working
from supervisord_ai.core.own_unit import Unit
from supervisord_ai.core.units import SERVICE, SOCKETS

PATIENCE_S = 20.0  # the daemon promises 8
POLL_S = 0.05


def run(args: Namespace) -> int:
    door = open_door(args)
    unit = door.unit()
    pid = door.stop()
    if args.no_wait:
        print("stopping")
        _say_who_listens(unit)
        return Exit.GOOD
    deadline = time.monotonic() + PATIENCE_S
    with working("stopping: agents have their grace"):
        while (door.is_open() or (pid is not None and _is_alive(pid))) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    if door.is_open() or (pid is not None and _is_alive(pid)):
        print(f"still not gone after {PATIENCE_S:.0f} s (pid {pid}): see its log; at worst: kill -9 {pid}")
        return Exit.NO
    print("stopped")
    _say_who_listens(unit)
    return Exit.GOOD


def _say_who_listens(unit: Unit | None) -> None:
    """A socket that systemd holds is not ours to close: callers wait in it, and the first one starts us again."""
    if unit is not None and unit.name == SERVICE:
        print(f"{SOCKETS} still listens: the next call of an agent or a client starts it again")
        print(f"to stop both: {unit.systemctl} stop {SOCKETS} {SERVICE.removesuffix('.service')}")


def _is_alive(pid: int) -> bool:
    """Tell whether the process is there. One that nobody has waited for is gone all the same."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return os.path.exists(f"/proc/{pid}")
