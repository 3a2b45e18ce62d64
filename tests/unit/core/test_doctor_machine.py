"""Each judgement of a machine, whole: how bad it is, what is said, what comes of it, and what to type."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisord_ai.core.doctor.finding import Finding, Fix, Severity
from supervisord_ai.core.doctor.machine import MachineFacts, Volume, check_machine, version_of

WSL = "6.6.114.1-microsoft-standard-WSL2"
MACHINE = MachineFacts("6.1.0-50-amd64", cores=8, guarantee="hard", now_wall=1000.0, mem_total_bytes=8_000_000_000)
FAIL, WARN, NOTE, GOOD = Severity.FAIL, Severity.WARN, Severity.NOTE, Severity.GOOD


def judged(name: str, **changes: object) -> list[Finding]:
    findings = check_machine(replace(MACHINE, **changes))  # type: ignore[arg-type]
    return [replace(one, name="") for one in findings if one.name == f"machine.{name}"]


def said(severity: Severity, words: str, why: str = "", *fixes: Fix) -> list[Finding]:
    return [Finding("", severity, words, why, fixes)]


def shell(line: str, then: str = "") -> Fix:
    return Fix("a shell", (line,), then)


STRANGER = "a signal could reach a stranger that has the pid of an agent by then"
SLOWER = "a fork bomb is frozen and then ended, which takes longer"


@pytest.mark.parametrize(
    ("osrelease", "expected"),
    [
        ("5.2.21", said(FAIL, "kernel 5.2.21 has no pidfds: 5.3 is the oldest that does", STRANGER)),
        ("5.3.0", said(NOTE, "kernel 5.3.0 cannot end a whole cgroup at once (cgroup.kill, 5.14)", SLOWER)),
        ("5.13.19", said(NOTE, "kernel 5.13.19 cannot end a whole cgroup at once (cgroup.kill, 5.14)", SLOWER)),
        ("5.14.0", said(GOOD, "kernel 5.14.0, 8 cores")),
    ],
)
def test_what_the_kernel_lacks(osrelease: str, expected: list[Finding]) -> None:
    assert judged("kernel", osrelease=osrelease) == expected


@pytest.mark.parametrize(
    ("osrelease", "version"),
    [
        ("6.1.0-50-amd64", (6, 1)),
        ("6.12", (6, 12)),
        ("6.12-rc1", (6, 12)),
        ("6.12-rc1-amd64", (6, 12)),
        ("6-1.0", (0, 0)),
        ("6.x.1", (0, 0)),
        ("x.6.1", (0, 0)),
        ("7", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_the_version_of_a_kernel_is_its_first_two_numbers(osrelease: str, version: tuple[int, int]) -> None:
    assert version_of(osrelease) == version


def test_memory_has_to_hold_what_the_plan_gives_away() -> None:
    has = "8.0 GB of memory, 300 MB of swap"
    smaller = shell("ai-supervisor config show", "make the parts of [memory] smaller, agents first")
    for parts, expected in (
        (None, said(GOOD, has)),
        (8_000_000_000, said(GOOD, has)),
        (
            9_000_000_000,
            said(FAIL, f"{has}, and the plan of the config gives away 9.0 GB", "`run` refuses a plan that does not fit", smaller),
        ),
    ):
        assert judged("memory", parts_bytes=parts, swap_total_bytes=300_000_000) == expected


def test_below_windows_memory_and_pressure_are_judged_where_they_are_set() -> None:
    assert judged("memory", osrelease=WSL) == judged("psi", osrelease=WSL) == []


def test_how_caps_bind() -> None:
    soft = said(
        WARN,
        "memory caps are a limit of each process and a look once a second",
        "an agent with many processes can take more than its cap for about a second",
    )[0]
    as_service, as_root = "as a service it has cgroups of its own", "only root may make cgroups where no systemd lends them"
    assert judged("caps", guarantee="hard") == said(GOOD, "memory caps are the kernel's (cgroup v2)")
    assert judged("caps", guarantee="hard-v1") == said(
        NOTE,
        "memory caps are the kernel's, with cgroup v1",
        "whose limit was reached is then guessed from the peak; nothing need be done",
    )
    for changes, fixes in (
        ({}, (shell("ai-supervisor install --user --now", as_service),)),
        ({"is_root": True}, (shell("sudo ai-supervisor install --now", as_service),)),
        ({"has_systemd": False}, (shell("sudo ai-supervisor run", as_root),)),
    ):
        assert judged("caps", guarantee="soft-rlimit", **changes) == [replace(soft, fixes=fixes)]


def test_whether_the_kernel_tells_pressure() -> None:
    assert judged("psi") == said(GOOD, "the kernel tells pressure (PSI)")
    grub = Fix("/etc/default/grub, in GRUB_CMDLINE_LINUX", ("psi=1",), "sudo update-grub, and a restart of the machine")
    why = "levels are then decided from runnable threads and memory alone, which is coarser"
    assert judged("psi", has_psi=False) == said(NOTE, "the kernel does not tell pressure (PSI)", why, grub)


def test_whether_as_many_files_may_be_open_as_the_fleet_needs() -> None:
    why = "who calls is turned away when they are used up (the service has its own limit)"
    place = "/etc/security/limits.d/ai-supervisor.conf"
    assert judged("open-files", agents=10) == said(GOOD, "open files: no limit, 10 agents need about 552")
    assert judged("open-files", agents=10, open_files=552) == said(GOOD, "open files: up to 552, 10 agents need about 552")
    for agents, needed, asked in ((10, 552, 4096), (1000, 4512, 4512)):
        words = f"a process may have 551 open files here, and {agents} agents need about {needed}"
        fix = Fix(place, (f"* hard nofile {asked}",), "log in anew")
        assert judged("open-files", agents=agents, open_files=551) == said(FAIL, words, why, fix)


NTP, WINDOWS = shell("sudo timedatectl set-ntp true"), shell("sudo hwclock -s")
LONGER = "deadlines of requests that are kept on disk, and kept answers, last that much longer"
DISAGREE = "times in logs and events do not agree"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, said(GOOD, "the clock goes forward")),
        ({"is_synchronised": True}, said(GOOD, "the clock is set by the network")),
        ({"is_synchronised": False}, said(NOTE, "nobody has set the clock by the network yet", "", NTP)),
        ({"written_wall": 1005.0}, said(GOOD, "the clock goes forward")),
        (
            {"written_wall": 1006.0},
            said(WARN, "the clock is 6 s behind the time at which a supervisor was last alive here", LONGER, NTP),
        ),
        (
            {"written_wall": 1006.0, "osrelease": WSL},
            said(WARN, "the clock is 6 s behind the time at which a supervisor was last alive here", LONGER, WINDOWS),
        ),
        ({"skew_s": 5.0}, said(GOOD, "the clock goes forward")),
        ({"skew_s": 6.0, "osrelease": WSL}, said(WARN, "the clock is 6 s ahead of Windows'", DISAGREE, WINDOWS)),
        ({"skew_s": -6.0, "osrelease": WSL}, said(WARN, "the clock is 6 s behind Windows'", DISAGREE, WINDOWS)),
    ],
)
def test_a_clock_that_is_wrong(changes: dict[str, object], expected: list[Finding]) -> None:
    assert judged("clock", **changes) == expected


def test_a_disk_that_is_full_or_will_be() -> None:
    smaller = Fix("config.toml", ("[cache.l3]", 'size = "1GB"'), "or another folder: daemon.state_dir, on a larger disk")
    emptied, refused = "caches are emptied to make room only of their own caps", "on a full disk nothing new is accepted"
    for free, expected in (
        (3_000_000_000, said(GOOD, "3.0 GB free at /var, which may grow by 2.0 GB")),
        (2_900_000_000, said(WARN, "2.9 GB free at /var, which may grow by 2.0 GB", emptied, smaller)),
        (1_000_000_000, said(WARN, "1.0 GB free at /var, which may grow by 2.0 GB", emptied, smaller)),
        (900_000_000, said(FAIL, "900 MB free at /var, which may grow by 2.0 GB", refused, smaller)),
    ):
        assert judged("disk", volumes=(Volume("/var", free, 2_000_000_000),)) == expected


def test_what_is_told_of_graphics() -> None:
    assert judged("gpu") == []
    assert judged("gpu", may_have_gpu=True) == said(
        NOTE,
        "there is a graphics processor, and its driver's library (libnvidia-ml.so.1) is not found",
        "VRAM is then not shown, and no model is unloaded for want of it",
    )
    told = (("memory", True), ("use", True))
    assert judged("gpu", gpu_calls=told) == said(GOOD, "the driver tells memory, use")
    some = (("memory", False), ("use", True), ("name", False))
    words = "the driver does not tell: memory, name"
    assert judged("gpu", gpu_calls=some) == said(NOTE, words, "usual below Windows; what is told is used")
