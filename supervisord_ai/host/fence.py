"""A fence around each agent: while a process of one generation lives, no other generation can be started, whoever tries.

The fence is a lock (flock(2)) on a file of the runtime folder. It belongs to an open file, not to a process: the agent inherits
that open file, and the lock is free when the last process that holds it has ended. A supervisor that has lost its journal, or a
second one that believes itself alone, meets it. An agent may give it up by closing a descriptor it does not know; so the fence
prevents mistakes, and the cage and the journal are what is relied on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from supervisord_ai.errors import HostFault, SpawnFailed
from supervisord_ai.host import procfs
from supervisord_ai.host.state_folder import make_folder

GONE_WITHIN_S = 1.0  # a process that was killed closes its files a moment after it is out of its group


class FenceFolder:
    """The fences of one supervisor's agents."""

    def __init__(self, path: Path) -> None:
        self._path = path
        make_folder(path, 0o700)

    def __repr__(self) -> str:
        return f"<fences in {self._path}>"

    @asynccontextmanager
    async def taken(self, name: str) -> AsyncIterator[int]:
        """Hold an agent's fence; yields the descriptor to be inherited. Whoever inherited it holds it from then on.

        Raises:
            SpawnFailed: somebody of another generation holds it.
            HostFault: there can be no such file.
        """
        file = self._path / name
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise HostFault(f"{file}: {exc.strerror}") from exc
        try:
            with trio.move_on_after(GONE_WITHIN_S):
                while not _lock(fd):  # noqa: ASYNC110 - the kernel would tell only who blocks
                    await trio.sleep(0.02)
            if not _lock(fd):
                found = os.fstat(fd)
                holders = await trio.to_thread.run_sync(procfs.holders, found.st_dev, found.st_ino)
                who = f"process {', '.join(map(str, holders))}" if holders else "a process that is hidden from us"
                raise SpawnFailed("failed:cage", f"a copy of it runs already: its fence is held by {who}")
            yield fd
        finally:
            os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
