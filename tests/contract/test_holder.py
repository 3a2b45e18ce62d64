"""The holder unit, in whose group agents outlive the supervisor: found by asking systemd, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisord_ai.errors import HostFault
from supervisord_ai.host.cages import find_cages
from supervisord_ai.host.cgroup import Mount, is_of_a_service
from supervisord_ai.host.cgroup_v2 import V2Cages
from supervisord_ai.host.systemd import control_group


@pytest.mark.parametrize("holder", ["", "/", "/ai.slice/ai-agents.service"])
def test_a_holder_without_a_group_is_no_place_and_never_the_root(holder: str, tmp_path: Path) -> None:
    mount = Mount(True, frozenset(), tmp_path, "/", "/system.slice/ai-supervisor.service")
    with pytest.raises(HostFault, match="is not there"):
        V2Cages.in_holder([mount], "ai-supervisor-test", holder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("said", "group"), [("/ai.slice/ai-agents.service", True), ("", False), ("/", False)])
def test_systemd_is_asked_for_the_group_of_the_holder(said: str, group: bool, tmp_path: Path) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho '{said}'\n")
    systemctl.chmod(0o755)
    if group:
        assert control_group("ai-agents.service", (str(systemctl),)) == said
    else:
        with pytest.raises(HostFault, match="has no control group"):
            control_group("ai-agents.service", (str(systemctl),))


def test_a_holder_that_cannot_be_used_is_an_error_and_not_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_SUPERVISOR_HOLDER", "ai-agents.service")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostFault, match="AI_SUPERVISOR_HOLDER=ai-agents"):
        find_cages(tmp_path)


@pytest.mark.parametrize(
    ("own", "is_service"), [("/system.slice/ai-supervisor.service", True), ("/user.slice/user-0.slice/session-1.scope", False)]
)
def test_whoever_systemd_started_as_a_service_is_ended_as_a_whole(own: str, is_service: bool) -> None:
    assert is_of_a_service([Mount(True, frozenset(), Path("/"), "/", own)]) is is_service
    assert is_of_a_service([Mount(False, frozenset({"name=systemd"}), Path("/"), "/", own)]) is is_service
    assert not is_of_a_service([Mount(False, frozenset({"memory"}), Path("/"), "/", own)])
