"""The fence of an agent: held by whoever of it lives, whatever else is forgotten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisord_ai.errors import HostFault, SpawnFailed
from supervisord_ai.host.fence import FenceFolder
from supervisord_ai.host.process import Launch, Processes
from supervisord_ai.host.signals import KILL
from tests.eventually import until

ENV = {"PATH": "/usr/bin:/bin"}


async def test_nobody_starts_a_second_one_while_a_process_of_the_first_lives(tmp_path: Path) -> None:
    fences, processes = FenceFolder(tmp_path / "fences"), Processes()
    script = "setsid sleep 1000 & echo $!; wait"
    async with fences.taken("one") as fd:
        out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        handle = await processes.spawn(Launch(("/bin/sh", "-c", script), ENV, fence_fd=fd, stdout_fd=out))
        os.close(out)
    child = int(await until((tmp_path / "out").read_text, what="its child"))
    elsewhere = FenceFolder(tmp_path / "fences")  # another supervisor
    with pytest.raises(SpawnFailed, match=rf"its fence is held by process \d+, {child}|held by process {child}, \d+"):
        async with elsewhere.taken("one"):
            pass
    handle.signal(KILL)
    await handle.wait()
    handle.close()
    with pytest.raises(SpawnFailed, match=f"held by process {child}$"):
        async with elsewhere.taken("one"):
            pass
    async with elsewhere.taken("other"):
        pass
    os.kill(child, KILL)
    async with elsewhere.taken("one"):
        pass


async def test_a_supervisor_that_ends_gives_up_its_fences(tmp_path: Path) -> None:
    fences = FenceFolder(tmp_path)
    async with fences.taken("one"):
        with pytest.raises(SpawnFailed, match="held by"):
            async with FenceFolder(tmp_path).taken("one"):
                pass
    async with fences.taken("one"):
        pass


async def test_a_link_in_place_of_a_fence_is_not_followed(tmp_path: Path) -> None:
    fences = FenceFolder(tmp_path / "fences")
    (tmp_path / "fences" / "one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostFault, match=r"fences/one: Too many levels of symbolic links$"):
        async with fences.taken("one"):
            pass
    assert not (tmp_path / "elsewhere").exists()
