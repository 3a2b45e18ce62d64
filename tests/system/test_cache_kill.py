"""`kill -9` in the middle of keeping answers, again and again on the same files: no half answer is ever given."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervisord_ai.store.cache import CacheFile
from supervisord_ai.store.disk import inline
from supervisord_ai.store.large import size_on_disk
from tests.system.cache_putter import L2_CAP, L3_CAP, body_of, key_of

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("KILL_ROUNDS", "8"))


def put_and_kill(folder: Path, name: str, puts: int) -> list[str]:
    """Return the answers that one process began to keep before it was killed."""
    argv = [sys.executable, "-m", "tests.system.cache_putter", str(folder), name]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}) as child:
        assert child.stdout is not None
        begun = [child.stdout.readline() for _ in range(puts)]
        child.send_signal(signal.SIGKILL)
        begun += child.stdout.readlines()
        assert child.wait() == -signal.SIGKILL
    return [line.decode().strip() for line in begun if line.endswith(b"\n")]


def test_no_half_answer_is_given_and_no_file_is_left_behind(tmp_path: Path) -> None:
    dice = random.Random(9)
    begun: list[str] = []
    unsettled = 0
    for number in range(ROUNDS):
        begun += put_and_kill(tmp_path, f"r{number}", dice.randrange(5, 120))
        rows = len(os.listdir(tmp_path / "cache"))
        unsettled += trio.run(check, tmp_path, begun) != rows
    assert unsettled, "no kill was in the middle of anything: the test shows nothing"


async def check(folder: Path, begun: list[str]) -> int:
    cache = CacheFile(folder / "cache.db", L2_CAP, large_bytes=L3_CAP, boot="one", run_sync=inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        await wait_all_tasks_blocked()
        found = 0
        for name in begun:
            cached = cache.get(key_of(name))
            if cached is not None:
                found += 1
                assert cached.answer.body == body_of(name), f"half of {name}"
        seen = cache.statistics()
        assert found > 0
        assert seen.faults == seen.large.faults == 0
        files = [path.stat().st_size for path in (folder / "cache").iterdir()]
        assert len(files) == seen.large.entries
        assert sum(map(size_on_disk, files)) == seen.large.bytes <= L3_CAP
        assert seen.bytes <= L2_CAP
        nursery.cancel_scope.cancel()
    return len(files)
