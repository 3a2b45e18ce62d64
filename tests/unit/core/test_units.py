"""The units that an installation gets: exactly what their templates say, with its bytes and paths."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from supervisord_ai.cli.files import shipped_unit
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.roster import AgentSpec, ClassPolicy, Roster
from supervisord_ai.core.units import (
    HOLDER,
    SERVICE,
    SLICE,
    SOCKETS,
    UNITS,
    Installation,
    fleet_bytes,
    has_other_users,
    render,
)

ROOT = Path(__file__).parents[3]
SYSTEM = Installation(
    program="/opt/ai-supervisor/current/bin/ai-supervisor",
    config="/etc/ai-supervisor/config.toml",
    llm_socket="/run/ai-supervisor/llm.sock",
    tcp=("127.0.0.1:11435",),
    fleet_bytes=35_200_000_000,
    is_shared=True,
)


def lines(name: str, one: Installation) -> list[str]:
    return [line for line in render(shipped_unit(name), one).splitlines() if line and not line.startswith(("#", "["))]


def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


def test_every_template_is_shipped_and_no_other() -> None:
    assert sorted(path.name for path in (ROOT / "systemd").iterdir()) == sorted(UNITS)


def test_the_holder_carries_the_fleets_limit_in_bytes_and_outlives_an_agent_that_is_killed_for_memory() -> None:
    holder = lines(HOLDER, SYSTEM)
    for line in ("MemoryMax=35200000000", "OOMPolicy=continue", "Delegate=memory pids", "OOMScoreAdjust=-1000"):
        assert line in holder
    assert not [line for line in holder if line.startswith("Restart=")]
    (start,) = [line for line in holder if line.startswith("ExecStart=")]
    assert "/holder/cgroup.procs" in start
    assert "exec sleep infinity" in start


def test_restart_leaves_the_agents_and_stop_does_not() -> None:
    service = lines(SERVICE, SYSTEM)
    for line in ("KillSignal=SIGTERM", "RestartKillSignal=SIGUSR1", "Type=notify", "NotifyAccess=main", "WatchdogSec=30"):
        assert line in service
    assert "ExecStart=/opt/ai-supervisor/current/bin/ai-supervisor run --config /etc/ai-supervisor/config.toml" in service
    assert "Environment=AI_SUPERVISOR_HOLDER=ai-agents.service" in service
    assert "OOMScoreAdjust=-900" in service


def test_what_every_agent_would_inherit_hides_nothing_from_it() -> None:
    keys = {line.partition("=")[0] for line in lines(SERVICE, SYSTEM)}
    harmful = {
        "ProtectControlGroups", "PrivateDevices", "ProtectClock", "ProcSubset", "ProtectProc", "PrivateTmp", "PrivatePIDs",
        "MemoryDenyWriteExecute", "SystemCallFilter", "RestrictNamespaces", "NoNewPrivileges", "UMask", "User",
    }  # fmt: skip
    assert not keys & harmful


def test_each_face_has_a_line_and_none_has_none() -> None:
    two = replace(SYSTEM, tcp=("localhost:11435", "[::1]:11434"))
    assert [line for line in lines(SOCKETS, two) if line.startswith("ListenStream")] == [
        "ListenStream=/run/ai-supervisor/llm.sock",
        "ListenStream=127.0.0.1:11435",
        "ListenStream=[::1]:11434",
    ]
    none = lines(SOCKETS, replace(SYSTEM, tcp=()))
    assert [line for line in none if "Stream" in line] == ["ListenStream=/run/ai-supervisor/llm.sock"]


def test_the_socket_is_open_to_other_users_only_where_agents_are_others() -> None:
    shared = lines(SOCKETS, SYSTEM)
    assert "SocketMode=0666" in shared
    assert "DirectoryMode=0755" in shared
    own = lines(SOCKETS, replace(SYSTEM, is_shared=False))
    assert "SocketMode=0600" in own
    assert "DirectoryMode=0700" in own


def test_a_users_own_systemd_gets_nothing_that_it_may_not_do() -> None:
    user = replace(SYSTEM, is_user=True, is_shared=False)
    service, holder = lines(SERVICE, user), lines(HOLDER, user)
    system_only = ("OOMScoreAdjust", "Protect", "Lock", "Restrict", "Keyring")
    assert not [line for line in [*service, *holder] if line.startswith(system_only)]
    assert "WantedBy=default.target" in service
    assert "WantedBy=multi-user.target" in lines(SERVICE, SYSTEM)


def test_words_that_systemd_would_read_otherwise_are_quoted() -> None:
    odd = replace(SYSTEM, config='/home/a b/100%/"$x"\\.toml', accepts_smaller_machine=True)
    (start,) = [line for line in lines(SERVICE, odd) if line.startswith("ExecStart=")]
    assert start.endswith('run --config "/home/a b/100%%/\\"$$x\\"\\\\.toml" --accept-smaller-machine')


def test_a_comment_of_a_template_is_left_as_it_is() -> None:
    assert render("# what @NOBODY@ gives\nX=1", SYSTEM) == "# what @NOBODY@ gives\nX=1\n"


def test_agents_of_other_users_are_told_from_those_of_root() -> None:
    def roster(*users: str | None) -> Roster:
        specs = (AgentSpec(str(n), replace(ClassPolicy("opus"), user=user), ("true",)) for n, user in enumerate(users))
        return Roster({spec.name: spec for spec in specs})

    assert has_other_users(roster("ai-agents"), 0)
    assert has_other_users(roster(None, "root", "ai-agents"), 0)
    assert not has_other_users(roster("root"), 0)
    assert not has_other_users(roster(None, "root"), 0)
    assert not has_other_users(roster("ai-agents"), 1000)  # who is not root cannot start anybody as another


def test_a_name_that_nobody_gives_is_no_unit() -> None:
    with pytest.raises(KeyError):
        render("X=@NOBODY@\n", SYSTEM)


def test_the_fleets_limit_is_the_agents_part_and_the_engines_where_we_keep_it() -> None:
    memory = MemoryPolicy(agents_bytes=10, ollama_bytes=5, overcommit=2.0)
    assert fleet_bytes(memory, keeps_engine=False) == 10
    assert fleet_bytes(memory, keeps_engine=True) == 15


@pytest.mark.parametrize("is_user", [False, True])
def test_systemd_finds_nothing_to_say_about_them(tmp_path: Path, is_user: bool) -> None:
    program = tmp_path / "ai-supervisor"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    one = replace(SYSTEM, program=str(program), is_user=is_user, is_shared=not is_user)
    for name in UNITS:
        (tmp_path / name).write_text(render(shipped_unit(name), one))
    scope = ["--user"] if is_user else []
    environ = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:", "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [analyze(), *scope, "verify", "--man=no", "--recursive-errors=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True, text=True, check=False, env=environ,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow  # among those that run one after the other: a worker of xdist would keep what is printed to itself
def test_its_exposure_is_known_and_does_not_grow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / SERVICE).write_text(render(shipped_unit(SERVICE), SYSTEM))
    done = subprocess.run(
        [analyze(), "security", "--offline=true", "--threshold=90", "--no-pager", str(tmp_path / SERVICE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    with capsys.disabled():
        print(f"\nsystemd-analyze security: {done.stdout.splitlines()[-1]}")


def test_the_slice_is_only_a_place() -> None:
    assert lines(SLICE, SYSTEM) == ["Description=AI agents and their supervisor"]
