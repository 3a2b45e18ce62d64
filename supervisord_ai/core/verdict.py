"""Decides why a generation of an agent ended: exactly one verdict, from what was seen and what was intended.

Knows nothing of processes or files; the caller collects the evidence before the group is used again, because counters of
a cgroup outlive a run. "137" alone proves nothing: a signal, an exit code of a shell and three different OOM killers look
the same. So the order of the rules is: what we wrote down before we signalled, then the kernel's counters, then the status.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended, as waitid tells it. Both None: nobody could tell us (it was not our child)."""

    code: int | None = None
    signal: int | None = None
    core_dumped: bool = False
    never_ran: bool = False  # the shim was still the shim: the program could not be executed


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why it ended, in one word with its reason, and the sentence behind it."""

    word: str
    detail: str = ""
