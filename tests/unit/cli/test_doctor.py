"""`doctor` on whole systems: what is found there, and that the lines it says are those that end the finding."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from supervisord_ai.cli.doctor import as_json, mend, screen
from supervisord_ai.cli.examine import Examined, examine
from supervisord_ai.cli.probing import Told
from supervisord_ai.core.doctor import Finding, Severity, is_well
from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.core.isolation import Dialled
from supervisord_ai.errors import HostFault
from tests.fakes.connections import FakeConnections
from tests.fakes.systems import (
    NOW,
    STARTUP,
    WSLCONFIG_THAT_IS_RIGHT,
    System,
    plain_debian,
    wsl2_inside,
    wsl2_with_ollama_on_windows,
)

CONFIG = "/etc/ai-supervisor/config.toml"


def look(system: System) -> Examined:
    return examine(None, system.around, system.doors())


def bad(examined: Examined) -> dict[str, Finding]:
    return {one.name: one for one in examined.findings if one.severity in {Severity.FAIL, Severity.WARN}}


def one(examined: Examined, name: str) -> Finding:
    (found,) = (finding for finding in examined.findings if finding.name == name)
    return found


def lines(finding: Finding) -> list[str]:
    return [line for fix in finding.fixes for line in fix.lines]


@pytest.mark.parametrize("uid", [0, 1000], ids=["root", "user"])
def test_a_debian_as_installed_is_well_and_windows_is_not_spoken_of(uid: int) -> None:
    examined = look(plain_debian(uid=uid))
    assert bad(examined) == {}
    assert is_well(examined.findings)
    assert [name for name, _ in examined.sections] == ["machine", "Ollama", "files"]


def test_a_wsl_as_it_comes_is_ended_when_its_windows_are_closed_and_both_lines_are_said() -> None:
    examined = look(wsl2_inside())
    assert set(bad(examined)) == {"wsl.idle-instance", "wsl.idle-vm"}
    instance, vm = one(examined, "wsl.idle-instance"), one(examined, "wsl.idle-vm")
    assert instance.severity is vm.severity is Severity.FAIL
    assert "15 s after" in instance.words
    assert "60 s after" in vm.words
    assert [(fix.where, fix.lines) for fix in (*instance.fixes, *vm.fixes)] == [
        (r"C:\Users\Ann\.wslconfig, below [general]", ("instanceIdleTimeout=-1",)),
        (r"C:\Users\Ann\.wslconfig, below [wsl2]", ("vmIdleTimeout=-1",)),
    ]
    assert all("wsl --shutdown" in fix.then for fix in (*instance.fixes, *vm.fixes))


def test_the_lines_that_are_said_end_the_finding() -> None:
    system = wsl2_inside(wslconfig=WSLCONFIG_THAT_IS_RIGHT)
    system.tree.texts["/proc/pressure/memory"] = "some avg10=0.00\n"
    system.tree.texts[f"{STARTUP}/ai-supervisor.cmd"] = "@start /min wsl.exe -d Ubuntu --exec true"
    examined = look(system)
    assert bad(examined) == {}
    assert {finding.name for finding in examined.findings if finding.severity is Severity.NOTE} == {
        "machine.caps",  # no daemon runs
        "machine.gpu",  # which no owner can mend
    }


def test_what_windows_has_no_counterpart_for_is_a_note_with_its_line() -> None:
    examined = look(wsl2_inside())
    assert lines(one(examined, "wsl.psi")) == ["kernelCommandLine=psi=1"]
    assert lines(one(examined, "wsl.logon")) == ["@start /min wsl.exe -d Ubuntu --exec true"]
    assert r"C:\Users\Ann\AppData\Roaming" in one(examined, "wsl.logon").fixes[0].where
    assert one(examined, "machine.gpu").words == "the driver does not tell: utilisation, processes"


def test_where_the_windows_drive_is_not_mounted_nothing_is_claimed_of_it() -> None:
    system = wsl2_inside()
    system.tree.texts["/proc/mounts"] = "/dev/sdc / ext4 rw 0 0\n"
    examined = look(system)
    assert bad(examined) == {}
    assert "cannot be seen from here" in one(examined, "wsl.idle-vm").words
    assert one(examined, "wsl.idle-vm").fixes[0].where == r"%UserProfile%\.wslconfig, below [wsl2]"


def test_an_ollama_on_windows_is_found_at_the_gateway_and_is_told_with_setx() -> None:
    examined = look(wsl2_with_ollama_on_windows())
    assert bad(examined) == {}
    assert "http://192.168.80.1:11434 (Windows, default gateway)" in one(examined, "ollama.main.version").words
    assert lines(one(examined, "ollama.main.slots")) == ["setx OLLAMA_NUM_PARALLEL 2"]
    assert one(examined, "wsl.network").severity is Severity.GOOD  # who is answered need change nothing


def test_an_ollama_on_windows_that_does_not_listen_for_us_comes_with_both_ways() -> None:
    examined = look(wsl2_with_ollama_on_windows(answers=False))
    assert set(bad(examined)) == {"ollama.main.reachable"}
    network = lines(one(examined, "wsl.network"))
    assert 'setx OLLAMA_HOST "0.0.0.0:11434"' in network
    assert any(line.startswith("New-NetFirewallRule") for line in network)
    assert "networkingMode=mirrored" in network


def test_in_mirrored_mode_windows_is_at_our_loopback() -> None:
    examined = look(wsl2_with_ollama_on_windows(is_mirrored=True))
    assert "(Windows, mirrored loopback)" in one(examined, "ollama.main.version").words
    assert one(examined, "wsl.network").severity is Severity.GOOD


def test_a_clock_that_differs_from_windows_is_set_from_it() -> None:
    system = wsl2_with_ollama_on_windows()
    system.asker.told = {url: replace(told, at_wall=NOW - 90) for url, told in system.asker.told.items()}
    found = one(look(system), "machine.clock")
    assert found.severity is Severity.WARN
    assert "90 s ahead of Windows'" in found.words
    assert lines(found) == ["sudo hwclock -s"]


def test_fewer_slots_inside_ollama_than_we_hand_out_are_a_warning_with_the_drop_in() -> None:
    system = plain_debian()
    del system.tree.texts["/etc/systemd/system/ollama.service.d/override.conf"]
    found = one(look(system), "ollama.main.slots")
    assert found.severity is Severity.WARN
    assert "not set (1)" in found.words
    assert lines(found) == ['Environment="OLLAMA_NUM_PARALLEL=2"']
    assert "daemon-reload" in found.fixes[0].then


def test_the_environment_of_the_process_counts_before_that_of_its_unit() -> None:
    system = plain_debian()
    system.tree.texts |= {
        "/proc/300/comm": "ollama\n",
        "/proc/300/cmdline": "/usr/local/bin/ollama\0serve\0",
        "/proc/300/environ": "PATH=/usr/bin\0OLLAMA_NUM_PARALLEL=1\0",
        # Looked at before it: a runner, which has its server's name, and another Ollama, at a port of its own.
        "/proc/298/comm": "ollama\n",
        "/proc/298/cmdline": "/usr/local/bin/ollama\0runner\0",
        "/proc/298/environ": "OLLAMA_NUM_PARALLEL=8\0",
        "/proc/299/comm": "ollama\n",
        "/proc/299/cmdline": "/usr/local/bin/ollama\0serve\0",
        "/proc/299/environ": "OLLAMA_HOST=127.0.0.1:11500\0OLLAMA_NUM_PARALLEL=4\0",
    }
    assert "OLLAMA_NUM_PARALLEL is 1" in one(look(system), "ollama.main.slots").words


def test_a_missing_light_model_is_said_only_where_a_class_uses_it() -> None:
    system = plain_debian()
    system.asker.told = {"http://127.0.0.1:11434": Told("0.33.0", ("llama3.2:3b",))}
    assert lines(one(look(system), "ollama.main.light-model")) == ["ollama pull tinyllama", 'light_model = ""']
    system.tree.texts[CONFIG] = system.tree.texts[CONFIG].replace("[class.worker]", "[class.worker]\nsubstitute = false")
    assert "ollama.main.light-model" not in bad(look(system))


def test_who_calls_ollama_past_us_is_named_and_the_daemon_itself_is_not() -> None:
    system = plain_debian()
    system.status = {"pid": 77, "guarantee": {"level": "hard"}}
    loopback = ip_address("127.0.0.1")
    for inode, pid in ((1, 77), (2, 500), (3, 500)):
        system.connections.open[inode] = Dialled(loopback, loopback, 11434, 1000, inode)
        system.connections.holders[inode] = PeerFacts(pid, 1000, 1000)
    found = one(look(system), "ollama.main.alone")
    assert found.severity is Severity.WARN
    assert found.words == "curl 500 (uid 1000) calls it past us (2 connections)"


def test_a_connection_of_our_own_and_one_that_nobody_holds_any_more_are_nobodys_fault() -> None:
    system = plain_debian()
    loopback = ip_address("127.0.0.1")
    for inode in (0, 1, 2):  # 0: it is being closed
        system.connections.open[inode] = Dialled(loopback, loopback, 11434, 1000, inode)
    system.connections.ours = {1}
    assert "ollama.main.alone" not in bad(look(system))
    assert system.connections.looked_for == [2]


def test_where_the_kernel_does_not_tell_who_is_connected_nobody_is_accused() -> None:
    class Mute(FakeConnections):
        def dialled(self, ports: frozenset[int]) -> list[Dialled]:
            raise HostFault("sock_diag: Operation not permitted")

    system = plain_debian()
    system.connections = Mute()
    assert bad(look(system)) == {}


def test_an_embedded_engine_is_reached_through_the_daemon_alone_and_nobody_is_asked() -> None:
    system = plain_debian()
    system.tree.texts[CONFIG] = system.tree.texts[CONFIG].replace("http://127.0.0.1:11434", "embedded")
    assert any("it is reached through the daemon alone" in finding.words for finding in look(system).findings)
    assert system.asker.asked == []


def test_a_secret_that_others_can_read_is_closed_by_fix_and_a_missing_folder_made() -> None:
    system = plain_debian()
    secret = "/var/lib/ai-supervisor/secret"
    system.tree.modes[secret] = 0o640
    del system.tree.texts["/etc/ai-supervisor/agents.d/"]
    before = look(system)
    assert one(before, "files.secret").severity is Severity.FAIL
    assert mend(before.findings, system.tree) == [
        "made: /etc/ai-supervisor/agents.d (mode 755)",
        f"closed to others: {secret} (mode 600)",
    ]
    assert bad(look(system)) == {}


def test_fix_touches_nothing_of_another_user_and_nothing_that_is_not_ours() -> None:
    system = wsl2_inside()
    system.tree.owners["/home/ann/.local/state/ai-supervisor/secret"] = 0
    examined = look(system)
    assert lines(one(examined, "files.secret")) == ["sudo chown 1000 /home/ann/.local/state/ai-supervisor/secret"]
    assert mend(examined.findings, system.tree) == []


def test_state_on_a_windows_drive_is_refused_before_it_is_lost() -> None:
    system = wsl2_inside()
    config = "/home/ann/.config/ai-supervisor/config.toml"
    system.tree.texts[config] += '[daemon]\nstate_dir = "/mnt/c/Users/Ann/state"\n'
    found = one(look(system), "files.state")
    assert found.severity is Severity.FAIL
    assert "9p" in found.words


def test_a_broken_config_is_one_finding_and_the_rest_is_examined() -> None:
    system = plain_debian()
    system.tree.texts[CONFIG] = "[queue]\nx = 1\n"
    examined = look(system)
    assert "queue.x" in one(examined, "files.config").words
    assert one(examined, "machine.memory").severity is Severity.GOOD


def test_an_empty_system_without_config_is_told_how_to_begin() -> None:
    system = plain_debian()
    for path in [path for path in system.tree.texts if "ai-supervisor" in path]:
        del system.tree.texts[path]
    examined = look(system)
    assert is_well(examined.findings)
    assert lines(one(examined, "files.config")) == ["ai-supervisor config init", "ai-supervisor try -- CMD"]


def test_a_plan_for_more_than_the_machine_has_says_what_wsl_must_be_given() -> None:
    system = wsl2_inside()
    system.tree.texts["/proc/meminfo"] = "MemTotal: 4000000 kB\nSwapTotal: 0 kB\n"
    system.tree.texts["/mnt/c/Users/Ann/.wslconfig"] = ""
    found = one(look(system), "wsl.memory")
    assert "half of Windows' memory" in found.words
    assert lines(found) == ["memory=8GB"]


def test_the_page_shows_what_is_wrong_first_and_never_cuts_a_line_that_is_to_be_copied() -> None:
    text = screen(look(wsl2_inside()), [], shows_good=False, width=60).text()
    assert text.index("  fail") < text.index("  note")
    text = screen(look(wsl2_with_ollama_on_windows(answers=False)), [], shows_good=False, width=60).text()
    rule = next(line for line in text.splitlines() if "New-NetFirewallRule" in line)
    assert rule.endswith('"vEthernet (WSL (Hyper-V firewall))"')
    assert "…" not in text
    assert text.splitlines()[-1].startswith("1 to mend")


def test_programs_get_every_finding_with_its_lines() -> None:
    told = as_json(look(wsl2_inside()), [])
    assert told["is_well"] is False
    (vm,) = (one for one in told["findings"] if one["name"] == "wsl.idle-vm")
    assert (vm["about"], vm["severity"]) == ("Windows", "fail")
    assert vm["fixes"][0]["lines"] == ("vmIdleTimeout=-1",)
