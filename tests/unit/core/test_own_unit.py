"""Which service a process is of, from its /proc/PID/cgroup as it looks under cgroup v2, v1 and both."""

from __future__ import annotations

import pytest

from supervisord_ai.core.own_unit import Unit, unit_of

OURS = Unit("ai-supervisor.service", "sudo systemctl")
ADAS = Unit("ai-supervisor.service", "systemctl --user")


@pytest.mark.parametrize(
    ("own_cgroup", "unit"),
    [
        ("0::/ai.slice/ai-supervisor.service\n", OURS),
        ("0::/user.slice/user-1000.slice/user@1000.service/ai.slice/ai-supervisor.service\n", ADAS),
        ("12:memory:/\n1:name=systemd:/ai.slice/ai-supervisor.service\n0::/\n", OURS),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", None),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-u3.scope\n", None),
        ("0::/ai.slice/ai:2.service\n", Unit("ai:2.service", "sudo systemctl")),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_a_process_is_of_the_service_that_its_cgroup_names(own_cgroup: str, unit: Unit | None) -> None:
    assert unit_of(own_cgroup) == unit
