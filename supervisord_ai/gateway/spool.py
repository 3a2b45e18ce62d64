"""The spool: where an answer waits for its readers, so that Ollama never waits for them.

Ollama's handler and runner are joined by an unbuffered channel: an answer that is not read holds one of its slots, and a
reader that then leaves destroys the slot until the model is unloaded (ollama#17131). So upstream is read at full speed into a
spool, and whoever reads slowly reads from here. It is bounded: memory over all answers, then unlinked files, then an error.
"""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import IO

import trio

from supervisord_ai.errors import SupervisorError
from supervisord_ai.gateway.view import SpoolView


class SpoolFull(SupervisorError):  # noqa: N818
    """Memory and disk for answers on their way are used up; the call that wanted more is broken off."""


class SpoolSpace:
    """The room all spools share. Files have no name, so that nothing is left behind however the daemon ends."""

    def __init__(self, folder: Path, *, memory_bytes: int, disk_bytes: int) -> None:
        self.folder = folder
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._memory_used = 0
        self._memory_peak = 0
        self._disk_used = 0

    def take_memory(self, count: int) -> bool:
        """Take room in memory; False when there is not enough."""
        if self._memory_used + count > self._memory_bytes:
            return False
        self._memory_used += count
        self._memory_peak = max(self._memory_peak, self._memory_used)
        return True

    def take_disk(self, count: int) -> None:
        """Take room on disk.

        Raises:
            SpoolFull: there is not enough.
        """
        if self._disk_used + count > self._disk_bytes:
            raise SpoolFull
        self._disk_used += count

    def give_back(self, *, memory: int, disk: int) -> None:
        """Return what a spool had taken."""
        self._memory_used -= memory
        self._disk_used -= disk

    def statistics(self) -> SpoolView:
        """Return what is held now."""
        return SpoolView(self._memory_used, self._disk_used, self._memory_peak)


class Spool:
    """One answer's bytes: written once by its slot job, read by any number of readers, each from where it stands."""

    def __init__(self, space: SpoolSpace) -> None:
        self._space = space
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._file_bytes = 0
        self._news = trio.Event()
        self.is_ended = False
        self.pieces = 0  # how often something was written: of a stream, a line each, so about a token

    def __len__(self) -> int:
        return len(self._memory) + self._file_bytes

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "open"
        return f"<Spool {state}, {len(self._memory)} bytes in memory, {self._file_bytes} on disk>"

    def write(self, data: bytes) -> None:
        """Append; never waits. After the first byte on disk everything goes there, so that the order is one of bytes.

        Raises:
            SpoolFull: no room is left, or the disk refuses.
        """
        assert not self.is_ended
        if self._file is None and self._space.take_memory(len(data)):
            self._memory += data
        else:
            self._space.take_disk(len(data))
            try:
                if self._file is None:
                    # Unbuffered: a full disk must be noticed by the write that found it, not by some later seek.
                    self._file = tempfile.TemporaryFile(dir=self._space.folder, buffering=0)  # noqa: SIM115 - see close()
                self._file.seek(self._file_bytes)
                if self._file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, "short write")
            except OSError as exc:
                self._space.give_back(memory=0, disk=len(data))
                raise SpoolFull from exc
            self._file_bytes += len(data)
        self.pieces += 1
        self.wake()

    def end(self) -> None:
        """No more bytes will come. May be called again."""
        self.is_ended = True
        self.wake()

    def read(self, offset: int, max_bytes: int = 65_536) -> bytes:
        """Return what is there from `offset` on; b"" when nothing is there yet."""
        in_memory = len(self._memory)
        if offset < in_memory:
            return bytes(self._memory[offset : offset + max_bytes])
        if self._file is None or offset >= len(self):
            return b""
        self._file.seek(offset - in_memory)
        return self._file.read(min(max_bytes, len(self) - offset))

    def whole(self) -> bytes:
        """Return everything written so far."""
        return self.read(0, len(self._memory)) + self.read(len(self._memory), self._file_bytes)

    async def wait_news(self) -> None:
        """Return when there is more, or the end, or somebody says `wake`."""
        await self._news.wait()

    def close(self) -> None:
        """Let go of everything. May be called again."""
        self._space.give_back(memory=len(self._memory), disk=self._file_bytes)
        self._memory = bytearray()
        self._file_bytes = 0
        self.is_ended = True
        if self._file is not None:
            self._file.close()
            self._file = None
        self.wake()

    def wake(self) -> None:
        """Let its readers look again."""
        self._news.set()
        self._news = trio.Event()
