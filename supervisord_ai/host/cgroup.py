"""The door to cgroups: one interface, three forms (v2, v1, none), found by trying and never assumed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Guarantee(StrEnum):
    """How far a memory cap can be relied on."""

    HARD = "hard"  # cgroup v2
    HARD_V1 = "hard-v1"  # cgroup v1
    SOFT_RLIMIT = "soft-rlimit"  # a resource limit and a look once a second


class Cages(Protocol):
    """Where the agents of one daemon are kept, each in a cage of its own."""

    @property
    def guarantee(self) -> Guarantee: ...

    @property
    def detail(self) -> str:
        """One line: why it is this form."""


def find_cages(state_dir: Path, *, form: str = "auto") -> Cages:
    """Find the strongest form that works here, by doing. `form` forces one: "v2", "v1" or "none".

    Raises:
        HostFault: the forced form does not work here.
    """
    raise NotImplementedError
