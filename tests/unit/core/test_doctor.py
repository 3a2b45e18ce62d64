"""The doctor's judgements one by one, where a whole system would say too much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisord_ai.core.doctor import MachineFacts, Severity, Volume, WslFacts, check_machine, check_wsl
from supervisord_ai.core.doctor.engines import EngineFacts, Intruder, check_engines, version_numbers
from supervisord_ai.core.doctor.files import FilesFacts, FoundFile, OurFile, check_files
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


def words_of(facts: MachineFacts) -> dict[str, str]:
    return {one.name: one.words for one in check_machine(facts)}


def test_whether_caps_bind_is_not_claimed_where_no_daemon_tried() -> None:
    assert machine(guarantee=None) == {"machine.caps": "note"}
    words = words_of(replace(MACHINE, guarantee=None))["machine.caps"]
    assert words == "no daemon runs, so whether memory caps bind was not tried"


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"has_systemd": True, "is_root": True}, ["sudo ai-supervisor install --now"]),
        ({"has_systemd": True}, ["ai-supervisor install --user --now"]),
        ({"has_systemd": False}, ["sudo ai-supervisor run"]),
        ({"has_systemd": False, "osrelease": WSL.osrelease}, []),  # the findings about WSL say how cgroups come
    ],
)
def test_the_way_to_caps_that_bind_is_the_one_that_there_is_here(changes: dict[str, object], lines: list[str]) -> None:
    found = check_machine(replace(MACHINE, guarantee="soft-rlimit", **changes))  # type: ignore[arg-type]
    assert [line for one in found if one.name == "machine.caps" for fix in one.fixes for line in fix.lines] == lines


def test_a_machine_without_graphics_has_no_word_about_it_and_a_driver_says_what_it_tells() -> None:
    assert "machine.gpu" not in words_of(MACHINE)
    told = replace(MACHINE, gpu_calls=(("memory", True), ("use", True)))
    assert words_of(told)["machine.gpu"] == "the driver tells memory, use"
    some = replace(MACHINE, gpu_calls=(("memory", True), ("use", False)))
    assert words_of(some)["machine.gpu"] == "the driver does not tell: use"
    assert machine(gpu_calls=some.gpu_calls) == {"machine.gpu": "note"}


ENGINE = EngineFacts("main", "http://127.0.0.1:11434", 2, "here", version="0.33.0", models=("llama3.2:3b",), environ={})
WELL = {"OLLAMA_NUM_PARALLEL": "2", "OLLAMA_NO_CLOUD": "1"}


def engine(**changes: object) -> dict[str, tuple[str, str]]:
    """Everything that is not well with an engine that is well but for these changes."""
    found = check_engines((replace(ENGINE, **({"environ": WELL} | changes)),))  # type: ignore[arg-type]
    wrong = [one for one in found if one.severity is not Severity.GOOD]
    return {one.name.removeprefix("ollama.main."): (one.severity.value, one.words) for one in wrong}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        ({"is_ours": True, "environ": None}, {}),  # we start it with the environment that we assume
        (
            {"is_ours": True, "trouble": "no such program"},
            {"reachable": ("note", "http://127.0.0.1:11434 is started by us, and does not run: no such program")},
        ),
        ({"trouble": "connection refused"}, {"reachable": ("fail", "http://127.0.0.1:11434: connection refused")}),
        ({"version": "0.4.9"}, {"version": ("warn", "Ollama 0.4.9 at here is older than 0.5.0")}),
        ({"version": "0.5.0"}, {}),
        ({"version": "0.0.0"}, {}),  # a build from a checkout
        ({"models": ()}, {"models": ("warn", "it has no model")}),
        ({"light_model": "tinyllama"}, {"light-model": ("warn", "the light model tinyllama is not there")}),
        ({"light_model": "tinyllama", "light_model_is_used": False}, {}),
        ({"light_model": "LLAMA3.2:3b"}, {}),
        ({"environ": {**WELL, "OLLAMA_NUM_PARALLEL": "1"}}, {"slots": ("warn", "OLLAMA_NUM_PARALLEL is 1, and `slots` is 2")}),
        ({"environ": {"OLLAMA_NO_CLOUD": "true"}}, {"slots": ("warn", "OLLAMA_NUM_PARALLEL is not set (1), and `slots` is 2")}),
        ({"environ": {**WELL, "OLLAMA_NO_CLOUD": "0"}}, {"cloud": ("note", "OLLAMA_NO_CLOUD is not set")}),
        (
            {"environ": None},
            {"slots": ("note", "OLLAMA_NUM_PARALLEL of main cannot be seen from here; `slots` is 2")},
        ),
        ({"intruders": (Intruder("python (pid 7)", 1),)}, {"alone": ("warn", "python (pid 7) calls it past us (1 connection)")}),
        ({"intruders": (Intruder("node", 3),)}, {"alone": ("warn", "node calls it past us (3 connections)")}),
    ],
)
def test_each_thing_that_can_be_wrong_with_an_engine_is_one_finding(
    changes: dict[str, object], found: dict[str, tuple[str, str]]
) -> None:
    assert engine(**changes) == found


def test_more_slots_of_ollamas_than_we_use_are_well_and_said() -> None:
    found = check_engines((replace(ENGINE, environ={**WELL, "OLLAMA_NUM_PARALLEL": "4"}),))
    (slots,) = [one for one in found if one.name == "ollama.main.slots"]
    assert (slots.severity, slots.words) == (Severity.GOOD, "OLLAMA_NUM_PARALLEL is 4, `slots` is 2; 2 of them stay unused")


def test_on_windows_a_variable_is_set_as_it_is_set_there() -> None:
    found = check_engines((replace(ENGINE, environ=None, is_on_windows=True),))
    (slots,) = [one for one in found if one.name == "ollama.main.slots"]
    assert [fix.lines for fix in slots.fixes] == [("setx OLLAMA_NUM_PARALLEL 2",)]


def test_state_on_a_file_system_that_keeps_no_locks_is_a_failure_with_the_way_out() -> None:
    facts = FilesFacts(0, state_dir="/mnt/c/ai", state_file_system="9p", is_strange=True, config="/etc/ai-supervisor/config.toml")
    (found,) = [one for one in check_files(facts) if one.name == "files.state"]
    assert (found.severity, found.words) == (Severity.FAIL, "the state folder /mnt/c/ai is on 9p")
    assert [(fix.where, fix.lines[0]) for fix in found.fixes] == [("/etc/ai-supervisor/config.toml", "[daemon]")]
    (unsaid,) = [one for one in check_files(replace(facts, config=None)) if one.name == "files.state"]
    assert [fix.where for fix in unsaid.fixes] == ["config.toml"]
    assert not [one for one in check_files(replace(facts, is_strange=False)) if one.name == "files.state"]


def test_a_secret_that_is_a_link_is_not_followed_and_named() -> None:
    link = FoundFile(uid=0, mode=0o777, is_link=True)
    facts = FilesFacts(0, (OurFile("/s/secret", "the secret", 0o600, link, is_secret=True),))
    (found,) = [one for one in check_files(facts) if one.name == "files.the-secret"]
    assert (found.severity, found.words) == (Severity.FAIL, "/s/secret (the secret) is a link, which we do not follow")
