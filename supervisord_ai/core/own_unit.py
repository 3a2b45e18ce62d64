"""Says which systemd service a process is of, so that its owner is told the words for it. Knows nothing of unit files."""

from __future__ import annotations

from typing import NamedTuple


class Unit(NamedTuple):
    """A service that runs, and how its systemd is spoken to."""

    name: str
    systemctl: str


def unit_of(own_cgroup: str) -> Unit | None:
    """Return the service that a process is of, from its /proc/PID/cgroup; None where it is of none."""
    for line in own_cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        name = path.rpartition("/")[2]
        if controllers in {"", "name=systemd"} and name.endswith(".service"):
            return Unit(name, "systemctl --user" if "/user@" in path else "sudo systemctl")
    return None
