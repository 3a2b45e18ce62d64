"""A folder of files that shows what a `kill -9` would leave at each step of each write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from supervisord_ai.store.files import Files


class TornFiles(Files):
    """Copies the whole state folder at each step, half written files included: what a kill at that step leaves behind."""

    def __init__(self, folder: Path, copies: Path) -> None:
        super().__init__(folder)
        self._copies = copies
        self.steps: list[tuple[str, Path]] = []

    def write(self, name: str, data: bytes) -> None:
        self._step("row written")
        super().write(name, data)
        self._step("renamed")

    def unlink(self, name: str) -> None:
        self._step("before unlink")
        super().unlink(name)
        self._step("unlinked")

    def _fill(self, fd: int, data: bytes) -> None:
        self._step("made")
        half = len(data) // 2
        super()._fill(fd, data[:half])
        self._step("half")
        super()._fill(fd, data[half:])
        self._step("whole, not renamed")

    def _step(self, what: str) -> None:
        copy = self._copies / f"{len(self.steps):03}"
        shutil.copytree(self.folder.parent, copy)
        self.steps.append((what, copy))


class FullFiles(Files):
    """A folder on a disk that is full after so many bytes of each file, while `is_full`."""

    is_full = True

    def _fill(self, fd: int, data: bytes) -> None:
        if self.is_full:
            super()._fill(fd, data[:1000])
            raise OSError(28, os.strerror(28))
        super()._fill(fd, data)
