"""The door to the files of a system as they lie: read, looked at, and, where they are ours alone, mended. For `doctor`.

Nothing here raises for what is not there or may not be seen; that is an answer.
"""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import Protocol

from supervisord_ai.core.doctor import Deed, FoundFile
from supervisord_ai.errors import HostFault

READ_AT_MOST = 1 << 20
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class Tree(Protocol):
    """The files of one system, by absolute path. `RealTree` are this machine's, the fake in the tests a made up one's."""

    def read(self, path: str) -> str | None:
        """Return a text, None where it cannot be read. What Notepad puts before it is gone."""

    def names(self, path: str) -> tuple[str, ...]:
        """Return what is in a folder, sorted; () where that cannot be seen."""

    def found(self, path: str) -> FoundFile | None:
        """Return what a path is, links not followed; None where there is nothing, or nobody may look."""

    def free_bytes(self, path: str) -> int | None:
        """Return what a user may still write at a path, or at the nearest folder above it that is there."""

    def mend(self, deed: Deed) -> None:
        """Do what `--fix` may do.

        Raises:
            HostFault: it cannot be done.
        """


class RealTree:
    """This machine. `root` is another folder that stands for `/`, in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def __repr__(self) -> str:
        return f"<files below {self._root}>"

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def read(self, path: str) -> str | None:
        try:
            with self._at(path).open("rb") as file:
                return decoded(file.read(READ_AT_MOST))
        except OSError:  # also EOPNOTSUPP: /proc/pressure of a kernel that could and does not
            return None

    def names(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(self._at(path))))
        except OSError:
            return ()

    def found(self, path: str) -> FoundFile | None:
        try:
            seen = self._at(path).lstat()
        except OSError:
            return None
        is_link = stat.S_ISLNK(seen.st_mode)
        return FoundFile(seen.st_uid, stat.S_IMODE(seen.st_mode), is_link, seen.st_size, seen.st_mtime)

    def free_bytes(self, path: str) -> int | None:
        place = self._at(path)
        nearest = next(one for one in (place, *place.parents) if one.exists())
        try:
            seen = os.statvfs(nearest)
        except OSError:
            return None
        return seen.f_bavail * seen.f_frsize

    def mend(self, deed: Deed) -> None:
        place = self._at(deed.path)
        try:
            if deed.is_missing:
                place.mkdir(mode=deed.mode)
                return
            # Pinned, so that what is put in its place meanwhile is not what is changed.
            fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.fchmod(fd, deed.mode)
            finally:
                os.close(fd)
        except OSError as exc:
            raise HostFault(f"{deed.path}: {exc.strerror}") from exc


def decoded(data: bytes) -> str:
    """Return a text that may have been written on Windows."""
    for mark, coding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(coding, "replace")
    return data.decode("utf-8", "replace")
