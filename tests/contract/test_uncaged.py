"""Agents without cgroups, as real processes: what they share is counted once, and nobody claims to count what nobody counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from supervisord_ai.host.cages import find_cages
from supervisord_ai.host.cgroup import Outside
from supervisord_ai.host.process import Launch, Processes
from supervisord_ai.host.uncaged import proportional_bytes
from tests.eventually import until

MB = 1_000_000
FORKS = """
import os, time
held = bytearray(b"x") * 60_000_000
os.fork()
print(os.getpid(), flush=True)
time.sleep(1000)
"""


async def test_what_a_tree_shares_since_its_fork_is_held_against_it_once(tmp_path: Path) -> None:
    cages, processes = find_cages(tmp_path, form="none"), Processes()
    cage = cages.cage("one")
    tag = f"one.1.{os.urandom(8).hex()}"
    cage.prepare(100 * MB, tag)
    env = {"PATH": "/usr/bin:/bin", "AI_SUPERVISOR_RUN": tag}
    with (tmp_path / "out").open("wb") as out:
        handle = await processes.spawn(Launch((sys.executable, "-I", "-S", "-c", FORKS), env, stdout_fd=out.fileno()), hold=True)
    cage.started(handle.pid)
    handle.go()
    try:
        await until(lambda: len((tmp_path / "out").read_text().split()) == 2, what="both of them")
        assert len(await cage.members()) == 2
        used = (await cages.usage())["one"]
        assert 60 * MB < used < 100 * MB  # each of them alone has 60 MB and more
        cage.limit(None)
        assert (await cages.usage())["one"] > 120 * MB  # where nothing is at stake nobody walks their pages
        needed = await cage.needed_bytes()
        assert needed is not None
        assert 60 * MB < needed < 100 * MB
        assert (cage.oom_kills(), cages.kills_seen(), cage.outside()) == (0, 0, Outside())
        assert set(await cage.kill(within_s=0.0)) == set(await cage.members())  # no time is given: who is there is named
        assert len(await cage.members()) == 2
    finally:
        assert await cage.kill(within_s=10.0) == ()
    await handle.wait()
    handle.close()


def test_who_has_ended_has_no_memory() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    own = proportional_bytes([os.getpid()])
    assert own > MB
    assert proportional_bytes([child.pid]) == 0
    assert abs(proportional_bytes([child.pid, os.getpid()]) - own) < own / 2
