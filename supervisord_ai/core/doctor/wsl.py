"""Judges a system below Windows. WSL ends it when nobody looks, and gives it half the memory: neither can be seen from a log.

The numbers are WSL's own defaults (src/windows/common and src/linux/init of microsoft/WSL, 2.9). What can only be seen on
the Windows side, and was not found there from here, is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from supervisord_ai.core.doctor.finding import Finding, Fix, Severity, good, size
from supervisord_ai.core.doctor.ini import Ini
from supervisord_ai.core.locate import is_mirrored, is_wsl
from supervisord_ai.core.serving import OLLAMA_PORT

INSTANCE_IDLE_MS = 15_000
VM_IDLE_MS = 60_000
INIT_TIMEOUT_MS = 10_000
STOP_WITHIN_MS = 8_000  # what the fleet and we take to stop
WINDOWS_FREE_BYTES = 10_000_000_000
GIB = 1 << 30

WSL_CONF = "/etc/wsl.conf"
RESTART = "wsl --shutdown    (in PowerShell on Windows; it ends every WSL system)"


@dataclass(frozen=True, slots=True)
class WslFacts:
    """What is known of a system below Windows.

    `wslconfig` is the text of %UserProfile%\\.wslconfig ("" where there is none), None where the Windows user was not found.
    `startup` holds what stands in the user's Startup folder: names with their text; None where nobody can look.
    `parts_bytes` is what the memory plan gives away, None without a config. `asks_windows`: a backend may be on
    Windows; `reaches_windows`: one is, and answers.
    """

    osrelease: str
    distribution: str = ""  # WSL_DISTRO_NAME
    init: str = ""  # the name of process 1
    wsl_conf: str | None = None
    wslconfig: str | None = None
    wslconfig_path: str = r"%UserProfile%\.wslconfig"
    startup: Mapping[str, str] | None = None
    startup_path: str = "the folder that Win+R, shell:startup opens"
    interfaces: str = ""
    has_psi: bool = True
    has_memory_cgroup: bool = True
    mem_total_bytes: int = 0
    swap_total_bytes: int = 0
    parts_bytes: int | None = None
    windows_free_bytes: int | None = None
    asks_windows: bool = False
    reaches_windows: bool = False


def windows_users(names: Sequence[str], path: str, users: str) -> tuple[str, ...]:
    """Return whose system this may be, the likeliest first: whose programs are in PATH, else everybody with a folder.

    `users` is the folder of users as this system sees it ("/mnt/c/Users").
    """
    real = [name for name in names if name.lower() not in {"public", "default", "default user", "all users", "desktop.ini"}]
    named = re.findall(rf"{re.escape(users)}/([^/:]+)/", path)
    likely = [name for name in dict.fromkeys(named) if name in real]
    return tuple(likely or real)


def check_wsl(facts: WslFacts) -> tuple[Finding, ...]:
    """Return what is found; () where this is no WSL."""
    if not is_wsl(facts.osrelease):
        return ()
    if "wsl2" not in facts.osrelease.lower():
        lines = (f"wsl --set-version {facts.distribution or 'NAME'} 2",)
        why = "WSL 1 has neither cgroups nor pidfds: no cap holds"
        return (Finding("wsl.version", Severity.FAIL, "this is WSL 1", why, (Fix("PowerShell on Windows", lines),)),)
    conf, config = Ini(facts.wsl_conf), Ini(facts.wslconfig)
    return (
        good("wsl.version", f"WSL 2, kernel {facts.osrelease}"),
        _systemd(facts, conf),
        *_idle(facts, config),
        _shutdown(conf),
        _memory(facts, config),
        _swap(facts, config),
        _cgroups(facts, conf, config),
        _psi(facts, config),
        _reclaim(facts, config),
        _network(facts, config),
        *_drive(facts),
        _logon(facts),
    )


def _systemd(facts: WslFacts, conf: Ini) -> Finding:
    name = "wsl.systemd"
    if facts.init == "systemd":
        return good(name, "systemd runs")
    why = "without it nothing starts us again, and `install` has nowhere to put its units"
    if conf.is_true("boot.systemd"):
        then = Fix("PowerShell on Windows", ("wsl --shutdown",))
        return Finding(name, Severity.FAIL, f"systemd is on in {WSL_CONF} and does not run yet", why, (then,))
    fix = Fix(f"{WSL_CONF}, below [boot]", ("systemd=true",), RESTART)
    return Finding(name, Severity.FAIL, "systemd does not run", why, (fix,))


def _idle(facts: WslFacts, config: Ini) -> Iterator[Finding]:
    """Both must be off: the second alone does not help, since the first ends the instance before the VM is idle."""
    for name, section, key, usual, what in (
        ("wsl.idle-instance", "general", "instanceIdleTimeout", INSTANCE_IDLE_MS, "this system"),
        ("wsl.idle-vm", "wsl2", "vmIdleTimeout", VM_IDLE_MS, "the machine below it"),
    ):
        if facts.wslconfig is None:
            words = f"whether Windows ends {what} when no window is open cannot be seen from here"
            yield Finding(name, Severity.NOTE, words, "", (_in(facts, section, f"{key}=-1"),))
            continue
        said = config.number(f"{section}.{key}")
        if said is not None and said < 0:
            yield good(name, f"Windows does not end {what} ({key}=-1)")
            continue
        after = usual if said is None else said
        words = f"Windows ends {what} {after / 1000:.0f} s after the last window of it is closed"
        why = "services do not keep WSL alive: agents and queue are gone until somebody opens a terminal"
        yield Finding(name, Severity.FAIL, words, why, (_in(facts, section, f"{key}=-1"),))


def _shutdown(conf: Ini) -> Finding:
    name = "wsl.shutdown"
    said = conf.number("boot.initTimeout")
    budget = INIT_TIMEOUT_MS if said is None else said
    if budget > STOP_WITHIN_MS:
        return good(name, f"a shutdown may take {budget / 1000:.0f} s, the fleet needs {STOP_WITHIN_MS / 1000:.0f}")
    words = f"WSL cuts the power {budget / 1000:.0f} s into a shutdown, and the fleet needs {STOP_WITHIN_MS / 1000:.0f}"
    fix = Fix(f"{WSL_CONF}, below [boot]", (f"initTimeout={INIT_TIMEOUT_MS}",), RESTART)
    return Finding(name, Severity.WARN, words, "agents that are still stopping are lost with what they had not written", (fix,))


def _memory(facts: WslFacts, config: Ini) -> Finding:
    name = "wsl.memory"
    said = config.bytes("wsl2.memory")
    given = f"memory={said // GIB}GB" if said else "half of Windows' memory, WSL's default"
    has = f"this system has {size(facts.mem_total_bytes)} ({given})"
    if facts.parts_bytes is None or facts.mem_total_bytes >= facts.parts_bytes:
        return good(name, has)
    # WSL counts binary, and the kernel keeps a little of it for itself.
    wanted = -(-int(facts.parts_bytes * 1.02) // GIB)
    words = f"{has}, and the plan of the config gives away {size(facts.parts_bytes)}"
    why = "`run` refuses a plan that does not fit: give WSL more (Windows must have it), or make [memory] smaller"
    return Finding(name, Severity.FAIL, words, why, (_in(facts, "wsl2", f"memory={wanted}GB"),))


def _swap(facts: WslFacts, config: Ini) -> Finding:
    name = "wsl.swap"
    if facts.swap_total_bytes:
        return good(name, f"{size(facts.swap_total_bytes)} of swap")
    why = "memory that nobody touches cannot make room; caps hold all the same"
    asked = config.text("wsl2.swap")
    words = "there is no swap" + (f" (swap={asked})" if asked else "")
    return Finding(name, Severity.NOTE, words, why, (_in(facts, "wsl2", "swap=8GB"),))


def _cgroups(facts: WslFacts, conf: Ini, config: Ini) -> Finding:
    name = "wsl.cgroups"
    if facts.has_memory_cgroup:
        return good(name, "cgroup v2 with memory: caps bind")
    why = "caps are only a limit of each process and a look once a second"
    if (conf.text("automount.cgroups") or "").lower() == "v1":
        fix = Fix(f"{WSL_CONF}, below [automount]", ("cgroups=v2",), RESTART)
        return Finding(name, Severity.FAIL, f"{WSL_CONF} asks for cgroup v1, whose memory part newer kernels lack", why, (fix,))
    line = _kernel_line(config, "cgroup_no_v1=all")
    words = "the memory controller is not with cgroup v2 (WSL older than 2.5.8: wsl --update mends that too)"
    return Finding(name, Severity.FAIL, words, why, (_in(facts, "wsl2", line),))


def _psi(facts: WslFacts, config: Ini) -> Finding:
    name = "wsl.psi"
    if facts.has_psi:
        return good(name, "the kernel tells pressure (PSI)")
    words = "the kernel does not tell pressure (PSI is built in and off)"
    why = "levels are then decided from runnable threads and memory alone, which is coarser"
    return Finding(name, Severity.NOTE, words, why, (_in(facts, "wsl2", _kernel_line(config, "psi=1")),))


def _reclaim(facts: WslFacts, config: Ini) -> Finding:
    name = "wsl.reclaim"
    said = (config.text("experimental.autoMemoryReclaim", "wsl2.autoMemoryReclaim") or "").lower()
    if said != "gradual":
        return good(name, f"autoMemoryReclaim is {said or 'not set'}") if facts.wslconfig is not None else _unseen(
            facts, name, "whether autoMemoryReclaim=gradual is set", "experimental", "autoMemoryReclaim=dropCache"
        )
    words = "autoMemoryReclaim=gradual"
    why = "with systemd it has made whole systems hang (microsoft/WSL#10675)"
    return Finding(name, Severity.FAIL, words, why, (_in(facts, "experimental", "autoMemoryReclaim=dropCache"),))


def _network(facts: WslFacts, config: Ini) -> Finding:
    name = "wsl.network"
    if is_mirrored(facts.interfaces):
        return good(name, "mirrored: an Ollama on Windows is at 127.0.0.1 for us too")
    mode = (config.text("wsl2.networkingMode", "experimental.networkingMode") or "nat").lower()
    if mode == "mirrored":
        words = "networkingMode=mirrored is set and does not hold yet"
        return Finding(name, Severity.WARN, words, "", (Fix("PowerShell on Windows", ("wsl --shutdown",)),))
    words = f"{mode.upper()}: an Ollama on Windows is at the default gateway"
    if not facts.asks_windows or facts.reaches_windows:
        return good(name, words)
    on_windows = (
        f'setx OLLAMA_HOST "0.0.0.0:{OLLAMA_PORT}"',
        f'New-NetFirewallRule -DisplayName "Ollama for WSL" -Direction Inbound -Protocol TCP -LocalPort {OLLAMA_PORT} '
        '-Action Allow -InterfaceAlias "vEthernet (WSL (Hyper-V firewall))"',
    )
    fixes = (
        Fix("PowerShell of an administrator on Windows", on_windows, "quit Ollama in the tray and start it again"),
        _in(facts, "wsl2", "networkingMode=mirrored"),
    )
    why = "it must listen there and be let through its firewall; or both systems share one loopback (either of the two)"
    return Finding(name, Severity.NOTE, words, why, fixes)


def _drive(facts: WslFacts) -> Iterator[Finding]:
    free = facts.windows_free_bytes
    if free is None:
        return
    name = "wsl.drive"
    if free >= WINDOWS_FREE_BYTES:
        yield good(name, f"{size(free)} free on C:, where the disk of this system grows")
        return
    words = f"only {size(free)} free on C:, where the disk of this system grows"
    why = "when it is full, writes fail here although `df` shows room"
    yield Finding(name, Severity.WARN, words, why, (Fix("Windows", ("Settings > System > Storage: free some",)),))


def _logon(facts: WslFacts) -> Finding:
    name = "wsl.logon"
    for file, text in (facts.startup or {}).items():
        if "wsl" in text.lower() or "wsl" in file.lower():
            return good(name, f"Windows starts WSL at logon ({file})")
    line = f"@start /min wsl.exe -d {facts.distribution or 'NAME'} --exec true"
    words = "nothing in Windows' Startup folder starts this system at logon"
    if facts.startup is None:
        words = "whether Windows starts this system at logon cannot be seen from here"
    why = "after a restart of Windows nothing runs until somebody opens a terminal (a scheduled task would do; we cannot see one)"
    return Finding(name, Severity.NOTE, words, why, (Fix(f"ai-supervisor.cmd in {facts.startup_path}", (line,)),))


def _unseen(facts: WslFacts, name: str, what: str, section: str, line: str) -> Finding:
    return Finding(name, Severity.NOTE, f"{what} cannot be seen from here", "", (_in(facts, section, line),))


def _in(facts: WslFacts, section: str, line: str) -> Fix:
    return Fix(f"{facts.wslconfig_path}, below [{section}]", (line,), RESTART)


def _kernel_line(config: Ini, word: str) -> str:
    """One key holds all of them, so what stands there stays."""
    said = config.text("wsl2.kernelCommandLine") or ""
    return f"kernelCommandLine={' '.join([*said.split(), word])}"
