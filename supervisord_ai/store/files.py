"""The door to one folder of files that are ours alone: whole or not there, and never somebody else's behind a link.

Every name is opened relative to the folder's own descriptor with O_NOFOLLOW, so what is put in its place meanwhile is not
followed. A file is written under a name that says it is not whole, and renamed: a `kill -9` leaves the old name or the new one.
Nothing is synced: after a `kill -9` the kernel still has every byte, and what a power cut leaves is told by its reader from its
digest. So no write waits for the disk.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

PART = ".part"
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


class Files:
    """The files of one folder. Every call may block, and raises OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fd = -1

    def __repr__(self) -> str:
        return f"<Files {self.folder}>"

    def open(self) -> None:
        """Make the folder if it is not there, and hold it. Refuses a link, and a folder that others can look into."""
        self.close()
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            os.close(fd)
            raise PermissionError(13, f"belongs to another user, or others can look into it: chmod 700 {self.folder}")
        self._fd = fd

    def close(self) -> None:
        """Let go of the folder."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, name: str, data: bytes) -> None:
        """Make a file of that name with these bytes, or leave nothing of that name."""
        part = name + PART
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600, dir_fd=self._fd)
        try:
            try:
                self._fill(fd, data)
            finally:
                os.close(fd)
            self._rename(part, name)
        except BaseException:
            self.unlink(part)
            raise

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        fd = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=self._fd)
        with open(fd, "rb", buffering=0) as file:
            return file.readall()

    def unlink(self, name: str) -> None:
        """Have no file of that name."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def names(self) -> list[str]:
        """Return every name in the folder."""
        return os.listdir(self._fd)

    def _fill(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def _rename(self, part: str, name: str) -> None:
        os.rename(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
