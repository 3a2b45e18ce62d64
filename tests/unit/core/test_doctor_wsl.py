"""Each judgement of a system below Windows, whole: how bad it is, what is said, what comes of it, and what to type where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisord_ai.core.doctor.finding import Finding, Fix, Severity
from supervisord_ai.core.doctor.wsl import RESTART, WslFacts, check_wsl

FAIL, WARN, NOTE, GOOD = Severity.FAIL, Severity.WARN, Severity.NOTE, Severity.GOOD
WSL = WslFacts("6.6.114.1-microsoft-standard-WSL2", "Debian", "systemd", wslconfig="", mem_total_bytes=16_000_000_000)


def judged(name: str, **changes: object) -> list[Finding]:
    findings = check_wsl(replace(WSL, **changes))  # type: ignore[arg-type]
    return [replace(one, name="") for one in findings if one.name == f"wsl.{name}"]


def said(severity: Severity, words: str, why: str = "", *fixes: Fix) -> list[Finding]:
    return [Finding("", severity, words, why, fixes)]


def wslconfig(section: str, line: str) -> Fix:
    return Fix(rf"%UserProfile%\.wslconfig, below [{section}]", (line,), RESTART)


def wsl_conf(section: str, line: str) -> Fix:
    return Fix(f"/etc/wsl.conf, below [{section}]", (line,), RESTART)


def test_which_wsl_it_is() -> None:
    assert judged("version") == said(GOOD, "WSL 2, kernel 6.6.114.1-microsoft-standard-WSL2")
    why = "WSL 1 has neither cgroups nor pidfds: no cap holds"
    for distribution, name in (("Debian", "Debian"), ("", "NAME")):
        fix = Fix("PowerShell on Windows", (f"wsl --set-version {name} 2",))
        old = judged("version", osrelease="4.4.0-19041-Microsoft", distribution=distribution)
        assert old == said(FAIL, "this is WSL 1", why, fix)


def test_without_systemd_the_way_to_it_is_told() -> None:
    why = "without it nothing starts us again, and `install` has nowhere to put its units"
    assert judged("systemd", init="init") == said(FAIL, "systemd does not run", why, wsl_conf("boot", "systemd=true"))
    on = judged("systemd", init="init", wsl_conf="[boot]\nsystemd=true\n")
    fix = Fix("PowerShell on Windows", ("wsl --shutdown",))
    assert on == said(FAIL, "systemd is on in /etc/wsl.conf and does not run yet", why, fix)


KEEPS = "services do not keep WSL alive: agents and queue are gone until somebody opens a terminal"


@pytest.mark.parametrize(
    ("name", "section", "key", "usual_s", "what"),
    [
        ("idle-instance", "general", "instanceIdleTimeout", 15, "this system"),
        ("idle-vm", "wsl2", "vmIdleTimeout", 60, "the machine below it"),
    ],
)
def test_when_windows_ends_it(name: str, section: str, key: str, usual_s: int, what: str) -> None:
    fix = wslconfig(section, f"{key}=-1")
    for text, seconds in (("", usual_s), (f"[{section}]\n{key}=0\n", 0), (f"[{section}]\n{key}=2500000\n", 2500)):
        words = f"Windows ends {what} {seconds} s after the last window of it is closed"
        assert judged(name, wslconfig=text) == said(FAIL, words, KEEPS, fix)
    assert judged(name, wslconfig=f"[{section}]\n{key}=-1\n") == said(GOOD, f"Windows does not end {what} ({key}=-1)")
    unseen = f"whether Windows ends {what} when no window is open cannot be seen from here"
    assert judged(name, wslconfig=None) == said(NOTE, unseen, "", fix)


def test_a_shutdown_has_to_leave_the_fleet_its_time() -> None:
    lost = "agents that are still stopping are lost with what they had not written"
    assert judged("shutdown") == said(GOOD, "a shutdown may take 10 s, the fleet needs 8")
    assert judged("shutdown", wsl_conf="[boot]\ninitTimeout=2000000\n") == said(
        GOOD, "a shutdown may take 2000 s, the fleet needs 8"
    )
    for limit_ms, limit_s in ((8000, 8), (7500, 8), (5000, 5)):
        words = f"WSL cuts the power {limit_s} s into a shutdown, and the fleet needs 8"
        fix = wsl_conf("boot", "initTimeout=10000")
        assert judged("shutdown", wsl_conf=f"[boot]\ninitTimeout={limit_ms}\n") == said(WARN, words, lost, fix)


def test_memory_has_to_hold_what_the_plan_gives_away() -> None:
    half = "this system has 16.0 GB (half of Windows' memory, WSL's default)"
    assert judged("memory") == judged("memory", parts_bytes=16_000_000_000) == said(GOOD, half)
    given = "this system has 16.0 GB (memory=16GB)"
    why = "`run` refuses a plan that does not fit: give WSL more (Windows must have it), or make [memory] smaller"
    short = judged("memory", wslconfig="[wsl2]\nmemory=16GB\n", parts_bytes=47_700_000_000)
    words = f"{given}, and the plan of the config gives away 47.7 GB"
    assert short == said(FAIL, words, why, wslconfig("wsl2", "memory=46GB"))


def test_swap_is_worth_having() -> None:
    why = "memory that nobody touches cannot make room; caps hold all the same"
    fix = wslconfig("wsl2", "swap=8GB")
    assert judged("swap", swap_total_bytes=300_000_000) == said(GOOD, "300 MB of swap")
    assert judged("swap") == said(NOTE, "there is no swap", why, fix)
    assert judged("swap", wslconfig="[wsl2]\nswap=0\n") == said(NOTE, "there is no swap (swap=0)", why, fix)


def test_the_way_to_caps_that_bind() -> None:
    why = "caps are only a limit of each process and a look once a second"
    v1 = "/etc/wsl.conf asks for cgroup v1, whose memory part newer kernels lack"
    old = "the memory controller is not with cgroup v2 (WSL older than 2.5.8: wsl --update mends that too)"
    assert judged("cgroups") == said(GOOD, "cgroup v2 with memory: caps bind")
    asked = judged("cgroups", has_memory_cgroup=False, wsl_conf="[automount]\ncgroups=V1\n")
    assert asked == said(FAIL, v1, why, wsl_conf("automount", "cgroups=v2"))
    fix = wslconfig("wsl2", "kernelCommandLine=cgroup_no_v1=all")
    assert judged("cgroups", has_memory_cgroup=False) == said(FAIL, old, why, fix)


def test_the_way_to_pressure() -> None:
    why = "levels are then decided from runnable threads and memory alone, which is coarser"
    words = "the kernel does not tell pressure (PSI is built in and off)"
    assert judged("psi") == said(GOOD, "the kernel tells pressure (PSI)")
    assert judged("psi", has_psi=False) == said(NOTE, words, why, wslconfig("wsl2", "kernelCommandLine=psi=1"))


def test_gradual_reclaim_is_a_failure_and_what_cannot_be_seen_is_said() -> None:
    fix = wslconfig("experimental", "autoMemoryReclaim=dropCache")
    why = "with systemd it has made whole systems hang (microsoft/WSL#10675)"
    gradual = judged("reclaim", wslconfig="[experimental]\nautoMemoryReclaim=gradual\n")
    assert gradual == said(FAIL, "autoMemoryReclaim=gradual", why, fix)
    assert judged("reclaim") == said(GOOD, "autoMemoryReclaim is not set")
    dropped = judged("reclaim", wslconfig="[experimental]\nautoMemoryReclaim=dropCache\n")
    assert dropped == said(GOOD, "autoMemoryReclaim is dropcache")
    unseen = "whether autoMemoryReclaim=gradual is set cannot be seen from here"
    assert judged("reclaim", wslconfig=None) == said(NOTE, unseen, "", fix)


@pytest.mark.parametrize("section", ["wsl2", "experimental"])
def test_where_an_ollama_on_windows_is(section: str) -> None:
    mirrored = "mirrored: an Ollama on Windows is at 127.0.0.1 for us too"
    assert judged("network", interfaces="loopback0: 1 2\n") == said(GOOD, mirrored)
    asked = judged("network", wslconfig=f"[{section}]\nnetworkingMode=Mirrored\n")
    fix = Fix("PowerShell on Windows", ("wsl --shutdown",))
    assert asked == said(WARN, "networkingMode=mirrored is set and does not hold yet", "", fix)
    at_gateway = ": an Ollama on Windows is at the default gateway"
    assert judged("network") == said(GOOD, f"NAT{at_gateway}")
    virtio = f"[{section}]\nnetworkingMode=virtioproxy\n"
    assert judged("network", wslconfig=virtio) == said(GOOD, f"VIRTIOPROXY{at_gateway}")
    assert judged("network", asks_windows=True, reaches_windows=True) == said(GOOD, f"NAT{at_gateway}")
    (wanted,) = judged("network", asks_windows=True)
    assert (wanted.severity, wanted.words) == (NOTE, f"NAT{at_gateway}")
    listen, other = wanted.fixes
    assert (listen.where, listen.then) == (
        "PowerShell of an administrator on Windows",
        "quit Ollama in the tray and start it again",
    )
    assert listen.lines[0] == 'setx OLLAMA_HOST "0.0.0.0:11434"'
    assert other == wslconfig("wsl2", "networkingMode=mirrored")


def test_the_drive_of_windows_has_to_have_room() -> None:
    why = "when it is full, writes fail here although `df` shows room"
    fix = Fix("Windows", ("Settings > System > Storage: free some",))
    where = "free on C:, where the disk of this system grows"
    assert judged("drive") == []
    assert judged("drive", windows_free_bytes=10_000_000_000) == said(GOOD, f"10.0 GB {where}")
    assert judged("drive", windows_free_bytes=9_900_000_000) == said(WARN, f"only 9.9 GB {where}", why, fix)


def test_whether_windows_starts_it_at_logon() -> None:
    for file, text in (("ai.cmd", "start WSL.exe"), ("WSL.lnk", "\0")):
        assert judged("logon", startup={"other": "x", file: text}) == said(GOOD, f"Windows starts WSL at logon ({file})")
    why = "after a restart of Windows nothing runs until somebody opens a terminal (a scheduled task would do; we cannot see one)"
    place = "ai-supervisor.cmd in the folder that Win+R, shell:startup opens"
    nothing = "nothing in Windows' Startup folder starts this system at logon"
    unseen = "whether Windows starts this system at logon cannot be seen from here"
    for startup, distribution, words, name in (
        ({"other": "x"}, "Debian", nothing, "Debian"),
        ({}, "", nothing, "NAME"),
        (None, "Debian", unseen, "Debian"),
    ):
        fix = Fix(place, (f"@start /min wsl.exe -d {name} --exec true",))
        assert judged("logon", startup=startup, distribution=distribution) == said(NOTE, words, why, fix)
