"""What our own cgroups leave us: on made-up folders, and in a real group with a real limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisord_ai.host.container import OwnGroups, Room, own_groups
from supervisord_ai.host.machine import RealMachine

MIB = 1 << 20
V1 = Path("/sys/fs/cgroup/memory")


def group(folder: Path, *, is_v2: bool, limit: str, used: int, inactive: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if is_v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, text in zip(names, (limit, str(used)), strict=True):
        (folder / name).write_text(f"{text}\n")
    prefix = "" if is_v2 else "total_"
    (folder / "memory.stat").write_text(f"anon 5\n{prefix}active_file 7\n{prefix}inactive_file {inactive}\n")
    return folder


@pytest.mark.parametrize("is_v2", [True, False])
def test_what_is_left_is_the_limit_without_what_is_used_and_with_what_would_be_given_up(tmp_path: Path, is_v2: bool) -> None:
    folder = group(tmp_path, is_v2=is_v2, limit=str(100 * MIB), used=70 * MIB, inactive=20 * MIB)
    assert OwnGroups([folder], is_v2=is_v2).room() == Room(100 * MIB, 50 * MIB)


@pytest.mark.parametrize(("is_v2", "none"), [(True, "max"), (False, str((1 << 63) - 4096))])
def test_a_group_without_a_limit_leaves_everything(tmp_path: Path, is_v2: bool, none: str) -> None:
    assert OwnGroups([group(tmp_path, is_v2=is_v2, limit=none, used=5)], is_v2=is_v2).room() is None
    assert OwnGroups([], is_v2=is_v2).room() is None


def test_the_tightest_of_all_groups_above_us_decides(tmp_path: Path) -> None:
    outer = group(tmp_path, is_v2=True, limit=str(100 * MIB), used=99 * MIB)
    inner = group(tmp_path / "a", is_v2=True, limit=str(50 * MIB), used=10 * MIB)
    assert OwnGroups([outer, inner], is_v2=True).room() == Room(100 * MIB, MIB)


def test_a_group_that_uses_more_than_its_limit_has_nothing_left(tmp_path: Path) -> None:
    assert OwnGroups([group(tmp_path, is_v2=True, limit="5", used=7)], is_v2=True).room() == Room(5, 0)


def test_the_machine_has_no_more_than_its_groups_leave(tmp_path: Path) -> None:
    folder = group(tmp_path, is_v2=True, limit=str(10 * MIB), used=4 * MIB)
    state = RealMachine(groups=OwnGroups([folder], is_v2=True)).memory()
    assert state is not None
    assert (state.total_bytes, state.available_bytes) == (10 * MIB, 6 * MIB)


def test_our_groups_are_found() -> None:
    assert "own groups" in repr(own_groups())


@pytest.mark.skipif(not os.access(V1 / "cgroup.procs", os.W_OK), reason="needs a memory cgroup of our own (v1, root)")
def test_in_a_real_group_its_limit_is_seen() -> None:
    folder = V1 / f"ai-test-container-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "memory.limit_in_bytes").write_text(str(200 * MIB))
        code = (
            f"import os; open({str(folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));"
            "from supervisord_ai.host.machine import RealMachine; s = RealMachine().memory();"
            "print(s.total_bytes, s.available_bytes)"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        total, available = map(int, told.split())
        assert total == 200 * MIB
        assert 100 * MIB < available < 200 * MIB
    finally:
        folder.rmdir()
