"""Decides why a generation of an agent ended: exactly one verdict, from what was seen and what was intended.

Knows nothing of processes or files; the caller collects the evidence before the group is used again, because the counters of
a cgroup outlive a run. "137" alone proves nothing: a signal, an exit code of a shell and three different OOM killers look
the same. So the order is: (1) what we wrote down before we signalled, (2) the kernel's counters, (3) the status.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

SIGKILL = 9
SIGNAL_NAMES = {
    1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1", 11: "SEGV",
    12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 24: "XCPU", 25: "XFSZ", 31: "SYS",
}  # fmt: skip

OWN_CAP = "own-cap"  # the one intent that is not a stop: we ended it because it was over its cap
OOM_OWN_CAP = "oom:own-cap"
OOM_RLIMIT = "oom:rlimit(likely)"
AT_OWN_CAP = frozenset({OOM_OWN_CAP, OOM_RLIMIT})  # it needed more than it has
SHUTDOWN = "shutdown"  # the intent of a supervisor that ends and takes everyone along
WATCHDOG = "watchdog"  # it broke its promise of heartbeats: we ended it, and it is to blame
SHED = "shed"  # of one whose memory had to come back
MAX_AGE = "max-age"  # it has run for as long as its class says, and is started anew
REMOVED = "removed"  # of one that is not in the roster any more
LOST = "lost-while-down"
AFTER_GATEWAY_S = 10.0  # an end this soon after a refusal or a cut of ours is put down to it

# What a program without a cgroup says when RLIMIT_DATA stopped it: Python, C++, Go, Rust, Node.
_OUT_OF_MEMORY = re.compile(r"MemoryError|bad_alloc|out of memory|Cannot allocate memory|allocation failed|memory allocation of")


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended, as waitid tells it. Both None: nobody could tell us (it was not our child)."""

    code: int | None = None
    signal: int | None = None
    core_dumped: bool = False
    never_ran: bool = False  # the shim was still the shim: the program could not be executed


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an end. Counters are the difference over this generation.

    `intent` is the reason we wrote before we signalled. `own_limit_hits` is None where the kernel does not tell whose limit
    it was; then the peak decides. `fleet_limit_hits` are of the limit that all agents share, `oomd_kills` of systemd-oomd.
    `oom_kills` are those that it may have ended of, `children_killed` those that it outlived.
    `is_capped_by_rlimit`: there is no group, each process has RLIMIT_DATA.
    """

    status: ExitStatus
    intent: str | None = None
    was_killed_by_us: bool = False  # its grace ran out
    oom_kills: int = 0
    own_limit_hits: int | None = None
    children_killed: int = 0
    fleet_limit_hits: int = 0
    oomd_kills: int = 0
    peak_bytes: int | None = None
    cap_bytes: int = 0
    is_capped_by_rlimit: bool = False
    refused_s: float | None = None  # how long before its end our gateway refused it, or cut its answer
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why it ended, in one word with its reason, and the sentence behind it."""

    word: str
    detail: str = ""
    last_lines: tuple[str, ...] = ()  # of its output, for whoever asks why
    is_after_gateway: bool = False  # it gave up because of us: nothing to hold against it
    peak_bytes: int | None = field(default=None, compare=False)


class Blame(StrEnum):
    """Whose doing an end was; restarts are decided on it."""

    NOBODY = "nobody"  # it had finished
    ITSELF = "itself"
    OURS = "ours"  # a stop, or a fault of ours
    MACHINE = "machine"  # victim of a shortage that was not its own


def decide(evidence: Evidence) -> Verdict:
    """Return the verdict."""
    verdict = replace(_decide(evidence), last_lines=evidence.last_lines, peak_bytes=evidence.peak_bytes)
    if evidence.refused_s is None or evidence.refused_s > AFTER_GATEWAY_S or not _gave_up(verdict.word):
        return verdict
    after = f"after=gateway: {evidence.refused_s:.1f} s before, the gateway refused it or cut its answer"
    return replace(verdict, detail=_join(verdict.detail, after), is_after_gateway=True)


def _gave_up(word: str) -> bool:
    """Say whether a program could end like this because a call of it failed. A cap or a missing file are not our doing."""
    return word.startswith(("exit:", "crash:"))


def _decide(evidence: Evidence) -> Verdict:
    status = evidence.status
    # (1) what we wrote down
    if evidence.intent == OWN_CAP:
        return Verdict(OOM_OWN_CAP, _join("seen over its cap and ended by us", _memory(evidence)))
    if evidence.intent is not None:
        notes = [_how(status) if not evidence.was_killed_by_us else "did not end within its grace and was killed"]
        if evidence.oom_kills:
            notes.append("the OOM killer took part of it meanwhile")
        return Verdict(f"stopped:{evidence.intent}", _join(*notes))
    if status.never_ran:
        return Verdict("failed:exec", _join("the program could not be executed", _last(evidence)))
    # (2) the kernel's counters
    is_unknown = status.signal is None and status.code is None
    # A shell says 137 of the child that it waited for; of one whose status nobody tells us the counters are all there is.
    killed = status.signal == SIGKILL or status.code == 128 + SIGKILL or is_unknown
    if evidence.oom_kills and killed:
        if _own_limit(evidence):
            whom = "" if status.signal == SIGKILL else "a child of it was killed and it ended with that"
            return Verdict(OOM_OWN_CAP, _join(_memory(evidence), whom))
        if evidence.fleet_limit_hits:
            what = "the limit of all agents together was reached, below its own cap"
            return Verdict("oom:fleet", _join(what, _memory(evidence)))
        return Verdict("oom:vm", _join("an OOM killer took it below its own cap", _memory(evidence)))
    # (3) the status
    child = "a child of it was killed at the cap" if evidence.oom_kills or evidence.children_killed else ""
    if evidence.oomd_kills and (status.signal == SIGKILL or is_unknown):
        return Verdict("oom:systemd-oomd", _join("systemd-oomd took it, for the pressure on the machine", _memory(evidence)))
    if status.signal == SIGKILL:
        return Verdict("killed:external", "SIGKILL from outside")  # by no OOM killer: that was (2)
    if status.signal is not None:
        core = "core dumped" if status.core_dumped else ""
        return Verdict(f"crash:{SIGNAL_NAMES.get(status.signal, str(status.signal))}", _join(core, child, _last(evidence)))
    if status.code is None:
        return Verdict("exit:unknown(adopted)", "it was not our child, so the kernel keeps its status from us")
    if status.code == 0:
        return Verdict("finished", child)
    if evidence.is_capped_by_rlimit and any(_OUT_OF_MEMORY.search(line) for line in evidence.last_lines):
        return Verdict(OOM_RLIMIT, _join(_memory(evidence), _last(evidence)))
    return Verdict(f"exit:{status.code}", _join(child, _last(evidence)))


def blame(word: str) -> Blame:
    """Return whose doing an end with this verdict was."""
    if word == "finished":
        return Blame.NOBODY
    if word == f"stopped:{WATCHDOG}":
        return Blame.ITSELF
    if word.startswith("stopped:") or word == LOST:
        return Blame.OURS
    if word in {"oom:vm", "oom:fleet", "oom:systemd-oomd"}:
        return Blame.MACHINE
    return Blame.ITSELF


def _own_limit(evidence: Evidence) -> bool:
    if evidence.own_limit_hits is not None:
        return evidence.own_limit_hits > 0
    # v1 does not say whose limit it was: one that died at its own stood at it.
    return evidence.peak_bytes is None or evidence.peak_bytes >= evidence.cap_bytes * 0.98


def _memory(evidence: Evidence) -> str:
    if evidence.peak_bytes is None:
        return f"cap {_mb(evidence.cap_bytes)}"
    return f"peak {_mb(evidence.peak_bytes)} of {_mb(evidence.cap_bytes)}"


def _mb(size: int) -> str:
    return f"{size / 1_000_000:.0f} MB"


def _how(status: ExitStatus) -> str:
    if status.signal is not None:
        return f"ended by SIG{SIGNAL_NAMES.get(status.signal, str(status.signal))}"
    return f"exit {status.code}" if status.code is not None else ""


def _last(evidence: Evidence) -> str:
    said = [line.strip() for line in evidence.last_lines if line.strip()]
    return f"last line: {said[-1][:200]}" if said else ""


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
