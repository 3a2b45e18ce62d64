"""How far we are, told to whoever asked; and what is asked of the services of others."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisord_ai.core.takeover import UnitFacts
from supervisord_ai.errors import HostFault
from supervisord_ai.host import systemd
from supervisord_ai.host.systemd import Notifier, Systemctl, control_group, replace_file


def listening(address: str) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(address)
    receiver.settimeout(5)
    return receiver


def test_it_is_told_in_order_and_no_child_can_speak_for_us(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PATH": "/bin"}
    with listening(environ["NOTIFY_SOCKET"]) as receiver:
        notifier = Notifier(environ)
        assert environ == {"PATH": "/bin"}
        notifier.ready("131 agents")
        notifier.stopping()
        assert [receiver.recv(100), receiver.recv(100)] == [b"READY=1\nSTATUS=131 agents", b"STOPPING=1"]


def test_an_abstract_address_begins_with_an_at_sign() -> None:
    with listening("\0ai-supervisor-test-notify") as receiver:
        Notifier({"NOTIFY_SOCKET": "@ai-supervisor-test-notify"}).status("starting")
        assert receiver.recv(100) == b"STATUS=starting"


def test_where_nobody_asked_nobody_is_told_and_one_who_cannot_be_reached_is_named(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    with pytest.raises(HostFault, match=r"NOTIFY_SOCKET /.*/nowhere: No such file"):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).ready("x")


def test_a_watchdog_is_heard_of_where_it_is_meant_for_this_process(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    with listening(address) as receiver:
        notifier = Notifier(environ)
        assert (notifier.watchdog_s, environ) == (30.0, {})
        notifier.alive()
        assert receiver.recv(100) == b"WATCHDOG=1"
    assert Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier({"NOTIFY_SOCKET": address}).watchdog_s is None


# --- services of others --------------------------------------------------------------------------------------------------

SYSTEMCTL = """\
import sys
words = sys.argv[1:]
open({log!r}, "a").write(" ".join(words) + "\\n")
if words[0] == "show":
    print("LoadState=loaded\\nActiveState=" + ("failed" if words[-1] == "failed.service" else "active"))
    print("Environment=PATH=/usr/bin:/bin \\"OLLAMA_HOST=0.0.0.0:1\\" \\"A=b c=d\\" FLAG")
if words[-1] == "broken.service":
    sys.exit("Job for broken.service failed.")
"""


def systemctl(folder: Path) -> tuple[Systemctl, Path]:
    log, script = folder / "log", folder / "systemctl.py"
    script.write_text(SYSTEMCTL.format(log=str(log)))
    (folder / "units").mkdir()
    return Systemctl(folder / "units", (sys.executable, "-S", str(script))), log


def test_what_systemd_says_of_a_service_is_read_with_its_quotes(tmp_path: Path) -> None:
    services, _ = systemctl(tmp_path)
    facts = services.facts("ollama.service")
    assert facts == UnitFacts(True, True, {"PATH": "/usr/bin:/bin", "OLLAMA_HOST": "0.0.0.0:1", "A": "b c=d"})
    assert (services.facts("failed.service").has_failed, services.facts("failed.service").is_active) == (True, False)


def test_a_drop_in_is_written_whole_read_by_systemd_and_removed_with_its_empty_folder(tmp_path: Path) -> None:
    services, log = systemctl(tmp_path)
    assert services.drop_in("ollama.service", "x.conf") is None
    services.write_drop_in("ollama.service", "x.conf", "[Service]\n")
    folder = tmp_path / "units" / "ollama.service.d"
    assert [path.name for path in folder.iterdir()] == ["x.conf"]
    assert (folder / "x.conf").stat().st_mode & 0o777 == 0o644
    assert services.drop_in("ollama.service", "x.conf") == "[Service]\n"
    (folder / "owner.conf").write_text("")
    services.remove_drop_in("ollama.service", "x.conf")
    assert [path.name for path in folder.iterdir()] == ["owner.conf"]
    (folder / "owner.conf").unlink()
    services.remove_drop_in("ollama.service", "x.conf")
    assert not folder.exists()
    assert log.read_text() == "daemon-reload\n" * 3


def test_what_systemctl_says_no_to_is_a_fault_of_the_host_in_its_words(tmp_path: Path) -> None:
    services, log = systemctl(tmp_path)
    with pytest.raises(HostFault, match=r"restart broken.service: Job for broken.service failed"):
        services.restart("broken.service")
    services.start("good.service")
    services.stop("good.service")
    assert log.read_text() == "restart broken.service\nstart good.service\nstop good.service\n"
    with pytest.raises(HostFault, match="No such file"):
        Systemctl(tmp_path, ("/nowhere/systemctl",)).start("x")


def test_a_service_is_active_or_not_and_only_its_main_process_is_told_to_leave(tmp_path: Path) -> None:
    services, log = systemctl(tmp_path)
    assert services.is_active("ollama.service")
    assert not services.is_active("failed.service")
    log.write_text("")
    services.leave("ai-supervisor.service")  # its agents are in the same unit where there is no holder
    assert log.read_text() == "kill --signal=SIGUSR1 --kill-who=main ai-supervisor.service\n"


def saying(folder: Path, words: str) -> Systemctl:
    """Return the services of a systemctl that does just that."""
    script = folder / "systemctl"
    script.write_text(f"#!/bin/sh\n{words}\n")
    script.chmod(0o755)
    return Systemctl(folder / "units", (str(script),))


def test_an_environment_that_nobody_can_read_is_said_and_not_guessed(tmp_path: Path) -> None:
    services = saying(tmp_path, """echo 'LoadState=loaded'; echo 'Environment="OLLAMA_HOST=0.0.0.0:1'""")
    with pytest.raises(HostFault, match=r"^systemctl show ollama\.service: Environment cannot be read: No closing quotation$"):
        services.facts("ollama.service")
    assert saying(tmp_path, "echo LoadState=not-found").facts("x.service") == UnitFacts(False, False, {})


def test_a_systemd_that_does_not_answer_is_waited_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "SYSTEMCTL_S", 0.02)
    monkeypatch.setattr(systemd, "SHOW_S", 0.02)
    services = saying(tmp_path, "exec sleep 1000")
    with pytest.raises(HostFault, match=r"/systemctl stop x\.service: not done within 0 s$"):
        services.stop("x.service")
    with pytest.raises(HostFault, match=r"/systemctl .*show -p ControlGroup --value -- x\.service: no answer within 0 s$"):
        control_group("x.service", (str(tmp_path / "systemctl"),))


def test_why_the_group_of_a_unit_is_not_told_is_said_in_systemds_words(tmp_path: Path) -> None:
    command = (str(tmp_path / "systemctl"),)
    saying(tmp_path, "echo Failed to connect to bus >&2; exit 1")
    with pytest.raises(HostFault, match=r"-- x\.service: Failed to connect to bus$"):
        control_group("x.service", command)
    saying(tmp_path, "exit 4")
    with pytest.raises(HostFault, match=r"-- x\.service: exit code 4$"):
        control_group("x.service", command)


def test_a_drop_in_that_cannot_be_read_written_or_removed_is_named_and_systemd_reads_nothing(tmp_path: Path) -> None:
    services, log = systemctl(tmp_path)
    (tmp_path / "units" / "one.service.d" / "x.conf" / "below").mkdir(parents=True)
    (tmp_path / "units" / "two.service.d").write_text("a file where the folder should be")
    deeds: list[tuple[Callable[[], object], str]] = [
        (lambda: services.drop_in("one.service", "x.conf"), "one.service.d/x.conf: Is a directory"),
        (lambda: services.remove_drop_in("one.service", "x.conf"), "one.service.d/x.conf: Is a directory"),
        (lambda: services.write_drop_in("one.service", "x.conf", ""), "one.service.d/x.conf: Is a directory"),
        (lambda: services.drop_in("two.service", "x.conf"), "two.service.d/x.conf: Not a directory"),
        (lambda: services.write_drop_in("two.service", "x.conf", ""), "two.service.d/x.conf: File exists"),
    ]
    for deed, path in deeds:
        with pytest.raises(HostFault, match=f"{path}$"):
            deed()
    assert not log.exists()


def test_a_file_that_is_replaced_keeps_its_mode_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("old")
    path.chmod(0o640)
    replace_file(path, b"new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="No such file"):
        replace_file(tmp_path / "nowhere" / "x", b"")
    assert [one.name for one in tmp_path.iterdir()] == ["config.toml"]
