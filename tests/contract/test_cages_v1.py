"""cgroup v1 as machines have it that are not this one: without swap accounting, without a freezer, or not ours to write.

The files are plain ones here. That the limits bind, and in which order they are written, is shown by tests/contract/test_cages.py
on the real hierarchy.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from supervisord_ai.errors import HostFault
from supervisord_ai.host import cgroup
from supervisord_ai.host.cgroup import Guarantee, KeptFile, Mount
from supervisord_ai.host.cgroup_v1 import V1Cage, V1Cages

MB = 1_000_000
FOLDER = "ai-supervisor-0123456789ab"


def mounted(point: Path, controller: str, own: str = "/") -> Mount:
    return Mount(False, frozenset({controller}), point, "/", own)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    point = tmp_path / "memory"
    point.mkdir()
    return point


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as child:
        yield child
        child.kill()


def test_without_swap_accounting_the_cap_is_the_one_of_memory(memory: Path) -> None:
    cage = V1Cage(memory / "one", None, None)
    cage.prepare(100 * MB, "one.1")
    assert (memory / "one" / "memory.limit_in_bytes").read_text() == str(100 * MB)
    assert not (memory / "one" / "memory.memsw.limit_in_bytes").exists()  # the kernel lets nobody make one
    cage.limit(None)
    assert (memory / "one" / "memory.limit_in_bytes").read_text() == "-1"


def test_without_a_freezer_there_are_cages_all_the_same_and_it_is_said_what_they_lack(memory: Path, tmp_path: Path) -> None:
    alone = V1Cages.probe([mounted(memory, "memory")], FOLDER)
    assert alone.detail == f"cgroup v1 memory at {memory / FOLDER}; no freezer, a fork bomb may outrun a kill"
    assert alone.guarantee is Guarantee.HARD_V1
    assert alone.cage("one").join_files == (str(memory / FOLDER / "agents" / "one" / "cgroup.procs"),)
    (memory / FOLDER / "agents").mkdir(parents=True)
    alone.close()
    assert not (memory / FOLDER).exists()
    (tmp_path / "freezer").touch()  # mounted where we can make no group
    without = V1Cages.probe([mounted(memory, "memory"), mounted(tmp_path / "freezer", "freezer")], FOLDER)
    assert without.detail == alone.detail


def test_why_there_are_no_cages_is_one_line(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostFault, match=r"^no cgroup v1 memory controller is mounted$"):
        V1Cages.probe([mounted(tmp_path, "freezer")], FOLDER)
    really = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **named: Any) -> IO[Any]:
        if path.name == "cgroup.procs" and mode == "w":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really(path, mode, *args, **named)

    monkeypatch.setattr(Path, "open", opened)  # limited it can be, and entered it cannot
    with pytest.raises(HostFault, match=rf"{FOLDER}\.probe/cgroup\.procs: Permission denied"):
        V1Cages.probe([mounted(memory, "memory")], FOLDER)


@pytest.mark.parametrize("has_freezer", [True, False])
async def test_who_does_not_end_in_time_is_named_and_the_group_is_thawed(
    memory: Path, tmp_path: Path, has_freezer: bool, sleeper: subprocess.Popen[bytes]
) -> None:
    freezer = tmp_path / "freezer" if has_freezer else None
    for group in (memory, freezer):
        if group is not None:
            group.mkdir(exist_ok=True)
    (memory / "cgroup.procs").write_text(f"{sleeper.pid}\n")  # and there it stays, as one that waits for a disk
    assert await V1Cage(memory, freezer, None).kill(within_s=0.02) == (sleeper.pid,)
    assert sleeper.wait() == -9
    if freezer is not None:
        assert (freezer / "freezer.state").read_text() == "THAWED"


async def test_a_group_that_goes_between_two_looks_has_nobody_and_says_nothing(memory: Path, tmp_path: Path) -> None:
    (memory / "going").mkdir()
    assert cgroup.procs(memory) == []
    assert cgroup.word(memory / "freezer.state") == ""
    assert cgroup.keyed(memory / "memory.stat") == {}
    assert cgroup.number(memory / "memory.usage_in_bytes") is None
    assert await V1Cage(memory, tmp_path / "no freezer", None).kill(within_s=1.0) == ()


def test_a_counter_that_can_be_opened_and_not_read_says_nothing_and_holds_nothing(memory: Path) -> None:
    before = os.listdir("/proc/self/fd")
    kept = KeptFile(memory)
    assert (kept.read(), kept.number(), kept.find("oom_kill"), kept.value("oom_kill")) == (b"", None, None, 0)
    assert os.listdir("/proc/self/fd") == before


def test_a_record_of_another_hierarchy_is_a_place_and_no_identity(memory: Path) -> None:
    cages = V1Cages(mounted(memory, "memory", own="/user/one"), None, FOLDER)
    elsewhere = f"/mnt/cgroup/{FOLDER}/agents/one"
    found = cages.adopt("one", f"v1\t{elsewhere}")
    assert found is not None
    assert (found.identity, found.record) == (None, f"v1\t{elsewhere}")
    below = cages.adopt("two", f"v1\t{memory}/another/{FOLDER}/agents/two")
    assert below is not None
    assert below.identity == f"/another/{FOLDER}/agents/two"
