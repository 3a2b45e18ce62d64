"""Finds the strongest cages that work on this machine: cgroup v2, else v1, else none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, assert_never

from supervisord_ai.errors import HostFault
from supervisord_ai.host.cgroup import Cages, folder_name, parse_mounts
from supervisord_ai.host.cgroup_v1 import V1Cages
from supervisord_ai.host.cgroup_v2 import V2Cages
from supervisord_ai.host.uncaged import UncagedCages

Form = Literal["auto", "v2", "v1", "none"]


def find_cages(state_dir: Path, *, form: Form = "auto") -> Cages:
    """Find the strongest form that works here, by doing. `form` forces one.

    Raises:
        HostFault: the forced form does not work here; the text says why.
    """
    folder = folder_name(state_dir)
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
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
