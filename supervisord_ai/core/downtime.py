"""Decides from what when the supervisor was down, and why: what the last one wrote, and when it was last seen alive.

A supervisor that is told to end says so in the journal. One that is killed cannot; what it leaves is the time of its last sign
of life, and the name of the boot it lived in.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LastLife:
    """What is known of the supervisor before this one, in wall seconds. `stopped_*` are None where it said nothing."""

    alive_wall: float
    boot_id: str
    stopped_wall: float | None = None
    stopped_why: str | None = None


@dataclass(frozen=True, slots=True)
class Downtime:
    """From when to when nobody supervised, and why, in words."""

    from_wall: float
    to_wall: float
    why: str


def downtime(last: LastLife | None, *, boot_id: str, now_wall: float) -> Downtime | None:
    """Return when and why the supervisor was down before now; None when there was none before this one."""
    if last is None:
        return None
    if last.stopped_wall is not None:
        return Downtime(last.stopped_wall, max(now_wall, last.stopped_wall), last.stopped_why or "it was stopped")
    if last.boot_id and boot_id and last.boot_id != boot_id:
        why = "the machine went down without a word (power, a crash, or WSL was shut down)"
    else:
        why = "it was killed or crashed: it wrote no end"
    return Downtime(last.alive_wall, max(now_wall, last.alive_wall), why)
