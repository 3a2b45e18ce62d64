"""Judges any Linux: memory, cgroups, pressure, limits, clock, disk, graphics. What only WSL can do wrong is in `wsl.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from supervisord_ai.core.doctor.finding import Finding, Fix, Severity, good, size
from supervisord_ai.core.locate import is_wsl

KERNEL = (5, 3)  # pidfd_open(2): without it a pid may be somebody else's by the time it is signalled
KILLS_GROUPS = (5, 14)  # cgroup.kill
DESCRIPTORS_PER_AGENT = 4  # pidfd, log, notify socket, a connection
DESCRIPTORS_OF_OURS = 512
SKEW_S = 5.0
DISK_SPARE_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder of ours on the disk: what is free there, and how much more we may write."""

    path: str
    free_bytes: int
    may_grow_bytes: int


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is known of the machine.

    Attributes:
        guarantee: the word that `status` shows (`hard`, `hard-v1`, `soft-rlimit`), None where it was not tried.
        agents: how many of them are started by us.
        open_files: the hard limit of who would run the daemon; None is no limit.
        written_wall: the latest time that a supervisor of this state left behind, None where there was none yet.
        is_synchronised: what timesyncd or chrony say of the clock, None where nobody says anything.
        skew_s: how far this clock is ahead of an Ollama's on another system, None where none was asked.
        gpu_calls: what NVML was asked for, and whether it knew; None where there is no NVML.
        may_have_gpu: the device of a driver is there.
    """

    osrelease: str
    is_root: bool = False
    cores: int = 1
    mem_total_bytes: int = 0
    swap_total_bytes: int = 0
    parts_bytes: int | None = None
    guarantee: str | None = None
    has_psi: bool = True
    has_systemd: bool = True
    agents: int = 0
    open_files: int | None = None
    now_wall: float = 0.0
    written_wall: float | None = None
    is_synchronised: bool | None = None
    skew_s: float | None = None
    volumes: tuple[Volume, ...] = ()
    gpu_calls: tuple[tuple[str, bool], ...] | None = None
    may_have_gpu: bool = False


def check_machine(facts: MachineFacts) -> tuple[Finding, ...]:
    """Return what is found."""
    below_windows = is_wsl(facts.osrelease)
    return (
        _kernel(facts),
        *(() if below_windows else _memory(facts)),
        _caps(facts, below_windows=below_windows),
        *(() if below_windows else _psi(facts)),
        _open_files(facts),
        *_clock(facts, below_windows=below_windows),
        *(_disk(volume) for volume in facts.volumes),
        *_graphics(facts),
    )


def version_of(osrelease: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel's version; (0, 0) where it has none."""
    head = osrelease.split("-", 1)[0].split(".")
    return (int(head[0]), int(head[1])) if len(head) >= 2 and head[0].isdigit() and head[1].isdigit() else (0, 0)


def _kernel(facts: MachineFacts) -> Finding:
    name, version = "machine.kernel", version_of(facts.osrelease)
    if version < KERNEL:
        words = f"kernel {facts.osrelease} has no pidfds: {KERNEL[0]}.{KERNEL[1]} is the oldest that does"
        return Finding(name, Severity.FAIL, words, "a signal could reach a stranger that has the pid of an agent by then")
    if version < KILLS_GROUPS:
        words = f"kernel {facts.osrelease} cannot end a whole cgroup at once (cgroup.kill, 5.14)"
        return Finding(name, Severity.NOTE, words, "a fork bomb is frozen and then ended, which takes longer")
    return good(name, f"kernel {facts.osrelease}, {facts.cores} cores")


def _memory(facts: MachineFacts) -> Iterator[Finding]:
    name = "machine.memory"
    has = f"{size(facts.mem_total_bytes)} of memory, {size(facts.swap_total_bytes)} of swap"
    if facts.parts_bytes is None or facts.mem_total_bytes >= facts.parts_bytes:
        yield good(name, has)
        return
    words = f"{has}, and the plan of the config gives away {size(facts.parts_bytes)}"
    fix = Fix("a shell", ("ai-supervisor config show",), "make the parts of [memory] smaller, agents first")
    yield Finding(name, Severity.FAIL, words, "`run` refuses a plan that does not fit", (fix,))


def _caps(facts: MachineFacts, *, below_windows: bool) -> Finding:
    name = "machine.caps"
    match facts.guarantee:
        case "hard":
            return good(name, "memory caps are the kernel's (cgroup v2)")
        case "hard-v1":
            words = "memory caps are the kernel's, with cgroup v1"
            why = "whose limit was reached is then guessed from the peak; nothing need be done"
            return Finding(name, Severity.NOTE, words, why)
        case "soft-rlimit":
            why = "an agent with many processes can take more than its cap for about a second"
            words = "memory caps are a limit of each process and a look once a second"
            return Finding(name, Severity.WARN, words, why, _ways_to_groups(facts, below_windows=below_windows))
        case _:
            return Finding(name, Severity.NOTE, "no daemon runs, so whether memory caps bind was not tried")


def _ways_to_groups(facts: MachineFacts, *, below_windows: bool) -> tuple[Fix, ...]:
    if facts.has_systemd:
        command = "sudo ai-supervisor install --now" if facts.is_root else "ai-supervisor install --user --now"
        return (Fix("a shell", (command,), "as a service it has cgroups of its own"),)
    if below_windows:
        return ()  # wsl.py says how systemd and cgroup v2 come
    return (Fix("a shell", ("sudo ai-supervisor run",), "only root may make cgroups where no systemd lends them"),)


def _psi(facts: MachineFacts) -> Iterator[Finding]:
    name = "machine.psi"
    if facts.has_psi:
        yield good(name, "the kernel tells pressure (PSI)")
        return
    why = "levels are then decided from runnable threads and memory alone, which is coarser"
    fix = Fix("/etc/default/grub, in GRUB_CMDLINE_LINUX", ("psi=1",), "sudo update-grub, and a restart of the machine")
    yield Finding(name, Severity.NOTE, "the kernel does not tell pressure (PSI)", why, (fix,))


def _open_files(facts: MachineFacts) -> Finding:
    name = "machine.open-files"
    needed = DESCRIPTORS_OF_OURS + DESCRIPTORS_PER_AGENT * facts.agents
    if facts.open_files is None or facts.open_files >= needed:
        limit = "no limit" if facts.open_files is None else f"up to {facts.open_files}"
        return good(name, f"open files: {limit}, {facts.agents} agents need about {needed}")
    words = f"a process may have {facts.open_files} open files here, and {facts.agents} agents need about {needed}"
    fix = Fix("/etc/security/limits.d/ai-supervisor.conf", (f"* hard nofile {max(4096, needed)}",), "log in anew")
    why = "who calls is turned away when they are used up (the service has its own limit)"
    return Finding(name, Severity.FAIL, words, why, (fix,))


def _clock(facts: MachineFacts, *, below_windows: bool) -> Iterator[Finding]:
    name = "machine.clock"
    if facts.written_wall is not None and facts.written_wall > facts.now_wall + SKEW_S:
        behind = facts.written_wall - facts.now_wall
        words = f"the clock is {behind:.0f} s behind the time at which a supervisor was last alive here"
        why = "deadlines of requests that are kept on disk, and kept answers, last that much longer"
        yield Finding(name, Severity.WARN, words, why, (_set_clock(below_windows=below_windows),))
    elif facts.skew_s is not None and abs(facts.skew_s) > SKEW_S:
        words = f"the clock is {abs(facts.skew_s):.0f} s {'ahead of' if facts.skew_s > 0 else 'behind'} Windows'"
        why = "times in logs and events do not agree"
        yield Finding(name, Severity.WARN, words, why, (_set_clock(below_windows=below_windows),))
    elif facts.is_synchronised is False:
        fix = Fix("a shell", ("sudo timedatectl set-ntp true",))
        yield Finding(name, Severity.NOTE, "nobody has set the clock by the network yet", "", (fix,))
    else:
        yield good(name, "the clock is set by the network" if facts.is_synchronised else "the clock goes forward")


def _set_clock(*, below_windows: bool) -> Fix:
    return Fix("a shell", ("sudo hwclock -s",) if below_windows else ("sudo timedatectl set-ntp true",))


def _disk(volume: Volume) -> Finding:
    name = "machine.disk"
    if volume.free_bytes >= volume.may_grow_bytes + DISK_SPARE_BYTES:
        return good(name, f"{size(volume.free_bytes)} free at {volume.path}, which may grow by {size(volume.may_grow_bytes)}")
    words = f"{size(volume.free_bytes)} free at {volume.path}, which may grow by {size(volume.may_grow_bytes)}"
    fix = Fix("config.toml", ("[cache.l3]", 'size = "1GB"'), "or another folder: daemon.state_dir, on a larger disk")
    is_full = volume.free_bytes < DISK_SPARE_BYTES
    why = "on a full disk nothing new is accepted" if is_full else "caches are emptied to make room only of their own caps"
    return Finding(name, Severity.FAIL if is_full else Severity.WARN, words, why, (fix,))


def _graphics(facts: MachineFacts) -> Iterator[Finding]:
    name = "machine.gpu"
    if facts.gpu_calls is None:
        if facts.may_have_gpu:
            words = "there is a graphics processor, and its driver's library (libnvidia-ml.so.1) is not found"
            yield Finding(name, Severity.NOTE, words, "VRAM is then not shown, and no model is unloaded for want of it")
        return
    missing = [call for call, is_known in facts.gpu_calls if not is_known]
    if missing:
        words = f"the driver does not tell: {', '.join(missing)}"
        yield Finding(name, Severity.NOTE, words, "usual below Windows; what is told is used")
    else:
        yield good(name, f"the driver tells {', '.join(call for call, _ in facts.gpu_calls)}")
