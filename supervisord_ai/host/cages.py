"""Finds the strongest cages that work on this machine: in the holder unit if one is named, else cgroup v2, else v1, else none.

AI_SUPERVISOR_HOLDER names a unit that systemd keeps running while the supervisor comes and goes; agents live in its group, so
that they outlive every end of ours. Where it is named and cannot be used nothing is started: caged anywhere else, the agents
would not be found again, and would not be below the fleet's limit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, assert_never

from supervisord_ai.errors import HostFault
from supervisord_ai.host.cgroup import Cages, folder_name, parse_mounts
from supervisord_ai.host.cgroup_v1 import V1Cages
from supervisord_ai.host.cgroup_v2 import V2Cages
from supervisord_ai.host.systemd import control_group
from supervisord_ai.host.uncaged import UncagedCages

Form = Literal["auto", "v2", "v1", "none"]
HOLDER = "AI_SUPERVISOR_HOLDER"


def find_cages(state_dir: Path, *, form: Form = "auto") -> Cages:
    """Find the strongest form that works here, by doing. `form` forces one.

    Raises:
        HostFault: the forced form, or the holder, does not work here; the text says why.
    """
    holder = os.environ.get(HOLDER, "")
    folder = folder_name(state_dir)
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if holder and form == "auto":
        try:
            return V2Cages.in_holder(mounts, folder, control_group(holder))
        except HostFault as exc:
            raise HostFault(f"{HOLDER}={holder}: {exc}; is it running? systemctl status {holder}") from exc
    match form:
        case "v2":
            return V2Cages.probe(mounts, folder)
        case "v1":
            return V1Cages.probe(mounts, folder)
        case "none":
            return UncagedCages("cgroups were not asked for")
        case "auto":
            pass
        case _:
            assert_never(form)
    refusals = []
    for probe in (V2Cages.probe, V1Cages.probe):
        try:
            return probe(mounts, folder)
        except HostFault as exc:
            refusals.append(str(exc))
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    return UncagedCages(f"no cgroup that {who} may limit ({'; '.join(refusals)})")
