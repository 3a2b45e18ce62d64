"""The doctor's judgements one by one, where a whole system would say too much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisord_ai.core.doctor import MachineFacts, Severity, Volume, WslFacts, check_machine, check_wsl
from supervisord_ai.core.doctor.engines import version_numbers
from supervisord_ai.core.doctor.ini import Ini
from supervisord_ai.core.doctor.wsl import windows_users

WSL = WslFacts(
    osrelease="6.6.114.1-microsoft-standard-WSL2",
    distribution="Debian",
    init="systemd",
    wsl_conf="[boot]\nsystemd=true\n",
    wslconfig="[general]\ninstanceIdleTimeout=-1\n[wsl2]\nvmIdleTimeout=-1\n",
    startup={"ai.cmd": "wsl.exe"},
    mem_total_bytes=48_000_000_000,
    swap_total_bytes=1,
    windows_free_bytes=50_000_000_000,
)
MACHINE = MachineFacts(osrelease="6.1.0-50-amd64", guarantee="hard", now_wall=1000.0, written_wall=900.0)


def wsl(**changes: object) -> dict[str, tuple[str, list[str]]]:
    found = check_wsl(replace(WSL, **changes))  # type: ignore[arg-type]
    return {
        one.name: (one.severity.value, [line for fix in one.fixes for line in fix.lines])
        for one in found
        if one.severity is not Severity.GOOD
    }


def machine(**changes: object) -> dict[str, str]:
    found = check_machine(replace(MACHINE, **changes))  # type: ignore[arg-type]
    return {one.name: one.severity.value for one in found if one.severity is not Severity.GOOD}


def test_a_wsl_on_which_everything_is_right_has_no_finding() -> None:
    assert wsl() == {}


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"osrelease": "4.4.0-19041-Microsoft"}, ("wsl.version", ("fail", ["wsl --set-version Debian 2"]))),
        ({"init": "init", "wsl_conf": None}, ("wsl.systemd", ("fail", ["systemd=true"]))),
        ({"init": "init"}, ("wsl.systemd", ("fail", ["wsl --shutdown"]))),
        ({"wsl_conf": "[boot]\nsystemd=true\ninitTimeout=5000\n"}, ("wsl.shutdown", ("warn", ["initTimeout=10000"]))),
        ({"mem_total_bytes": 16_000_000_000, "parts_bytes": 47_700_000_000}, ("wsl.memory", ("fail", ["memory=46GB"]))),
        ({"swap_total_bytes": 0}, ("wsl.swap", ("note", ["swap=8GB"]))),
        ({"has_memory_cgroup": False}, ("wsl.cgroups", ("fail", ["kernelCommandLine=cgroup_no_v1=all"]))),
        (
            {"has_memory_cgroup": False, "wsl_conf": "[boot]\nsystemd=true\n[automount]\ncgroups=v1\n"},
            ("wsl.cgroups", ("fail", ["cgroups=v2"])),
        ),
        ({"has_psi": False}, ("wsl.psi", ("note", ["kernelCommandLine=psi=1"]))),
        ({"windows_free_bytes": 3_000_000_000}, ("wsl.drive", ("warn", ["Settings > System > Storage: free some"]))),
        ({"startup": {}}, ("wsl.logon", ("note", ["@start /min wsl.exe -d Debian --exec true"]))),
    ],
)
def test_each_thing_that_can_be_wrong_with_wsl_is_one_finding_with_its_line(
    changes: dict[str, object], finding: tuple[str, tuple[str, list[str]]]
) -> None:
    assert wsl(**changes) == dict([finding])


def test_one_idle_timeout_alone_does_not_help() -> None:
    assert wsl(wslconfig="[wsl2]\nvmIdleTimeout=-1\n") == {"wsl.idle-instance": ("fail", ["instanceIdleTimeout=-1"])}
    assert wsl(wslconfig="[general]\ninstanceIdleTimeout=-1\n[wsl2]\nvmIdleTimeout=600000\n") == {
        "wsl.idle-vm": ("fail", ["vmIdleTimeout=-1"])
    }


def test_a_word_for_the_kernel_is_added_to_those_that_are_there() -> None:
    text = f"{WSL.wslconfig}kernelCommandLine = quiet psi=0\n"
    assert wsl(has_psi=False, wslconfig=text)["wsl.psi"][1] == ["kernelCommandLine=quiet psi=0 psi=1"]


@pytest.mark.parametrize("section", ["experimental", "wsl2"])
def test_gradual_reclaim_is_forbidden_wherever_it_stands(section: str) -> None:
    found = wsl(wslconfig=f"{WSL.wslconfig}[{section}]\nautoMemoryReclaim = Gradual\n")
    assert found == {"wsl.reclaim": ("fail", ["autoMemoryReclaim=dropCache"])}


def test_mirrored_that_does_not_hold_yet_needs_a_restart_and_no_line() -> None:
    assert wsl(wslconfig=f"{WSL.wslconfig}networkingMode=mirrored\n") == {"wsl.network": ("warn", ["wsl --shutdown"])}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        ({"osrelease": "5.2.1"}, {"machine.kernel": "fail"}),
        ({"osrelease": "5.10.0-28-amd64"}, {"machine.kernel": "note"}),
        ({"mem_total_bytes": 1, "parts_bytes": 2}, {"machine.memory": "fail"}),
        ({"guarantee": "soft-rlimit"}, {"machine.caps": "warn"}),
        ({"guarantee": "hard-v1"}, {"machine.caps": "note"}),
        ({"has_psi": False}, {"machine.psi": "note"}),
        ({"open_files": 1024, "agents": 131}, {"machine.open-files": "fail"}),
        ({"open_files": 1036, "agents": 131}, {}),
        ({"written_wall": 2000.0}, {"machine.clock": "warn"}),
        ({"is_synchronised": False}, {"machine.clock": "note"}),
        ({"volumes": (Volume("/var", 11_000_000_000, 10_500_000_000),)}, {"machine.disk": "warn"}),
        ({"volumes": (Volume("/var", 900_000_000, 0),)}, {"machine.disk": "fail"}),
        ({"may_have_gpu": True}, {"machine.gpu": "note"}),
    ],
)
def test_each_thing_that_can_be_wrong_with_a_machine_is_one_finding(changes: dict[str, object], found: dict[str, str]) -> None:
    assert machine(**changes) == found


def test_wsls_files_are_read_as_wsl_reads_them() -> None:
    ini = Ini("[WSL2]\r\nMemory = 48GB # all of it\r\nmemory=32gb\nSwap=512MB\n[general]\ninstanceidletimeout=-1\nnonsense\n")
    assert ini.bytes("wsl2.memory") == 32 << 30
    assert ini.bytes("wsl2.swap") == 512 << 20
    assert ini.number("general.instanceIdleTimeout") == -1
    assert ini.number("wsl2.memory") is None
    assert ini.text("wsl2.nothing") is None


def test_the_windows_user_is_the_one_whose_programs_are_in_path() -> None:
    names = ("All Users", "Ann", "Bob", "Default", "Public", "desktop.ini")
    assert windows_users(names, "/bin:/mnt/c/Users/Bob/AppData/x", "/mnt/c/Users") == ("Bob",)
    assert windows_users(names, "/bin", "/mnt/c/Users") == ("Ann", "Bob")


def test_a_version_without_numbers_is_not_called_old() -> None:
    assert version_numbers("0.33.0-rc1") == (0, 33, 0)
    assert version_numbers("HEAD") == ()
