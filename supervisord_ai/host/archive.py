"""The door to backup files: a tar archive, packed with zstd, for us alone, whole or not there; and read without believing it.

A member is taken only if its caller expects it, and only as many bytes as it expects: what an archive says of owners, modes,
links and paths is never followed.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import zstandard

from supervisord_ai.errors import HostFault, UsageError

LEVEL = 6  # of a journal three times smaller than at 1, at 100 MB a second
_PIECE = 1 << 18


def digest_of(path: Path) -> str | None:
    """Return the SHA-256 of a file, None where there is none.

    Raises:
        HostFault: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise HostFault(f"{path}: {exc.strerror}") from exc


def write(path: Path, members: Iterable[tuple[str, bytes | Path]]) -> int:
    """Make an archive of these members, in this order; returns its size. Nothing of that name may be there.

    Raises:
        UsageError: something is.
        HostFault: it cannot be written; nothing is left of it.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        if path.exists():
            raise UsageError(f"{path} is there already: name another file")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as exc:
        raise UsageError(f"{part} is there: another backup is being written, or was cut; rm {part}") from exc
    except OSError as exc:
        raise HostFault(f"{path}: {exc.strerror}") from exc
    try:
        with open(fd, "wb") as raw:
            packer = zstandard.ZstdCompressor(LEVEL).stream_writer(raw, closefd=False)
            with packer as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                for name, content in members:
                    _add(tar, name, content)
            raw.flush()
            os.fsync(fd)
        os.link(part, path)  # unlike a rename it takes nobody's place
        return path.stat().st_size
    except FileExistsError as exc:
        raise UsageError(f"{path} is there already: name another file") from exc
    except OSError as exc:
        raise HostFault(f"{path}: {exc.strerror}") from exc
    finally:
        with suppress(OSError):
            part.unlink()


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    info = tarfile.TarInfo(name)
    info.mode = 0o600
    if isinstance(content, bytes):
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        return
    with content.open("rb") as file:
        info.size = os.fstat(file.fileno()).st_size
        tar.addfile(info, file)


@contextmanager
def reading(path: Path) -> Iterator[Reading]:
    """Open an archive.

    Raises (also what is done in the block):
        UsageError: it is none, or is damaged.
        HostFault: it cannot be read.
    """
    try:
        unpacker = zstandard.ZstdDecompressor()
        with (
            path.open("rb") as raw,
            unpacker.stream_reader(raw) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as tar,
        ):
            yield Reading(tar, path)
    except FileNotFoundError as exc:
        raise UsageError(f"there is no {exc.filename or path}") from exc
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as exc:
        raise UsageError(f"{path} is no backup, or is damaged: {exc}") from exc
    except OSError as exc:
        raise HostFault(f"{exc.filename or path}: {exc.strerror}") from exc


class Reading:
    """An archive, read once from its beginning."""

    def __init__(self, tar: tarfile.TarFile, path: Path) -> None:
        self._tar = tar
        self._path = path

    def first(self, name: str, bytes_max: int) -> bytes:
        """Return the first member, which must have this name.

        Raises:
            UsageError: it has another.
        """
        info = self._tar.next()
        if info is None or info.name != name or not info.isreg() or info.size > bytes_max:
            raise UsageError(f"{self._path} is no backup of ai-supervisor")
        file = self._tar.extractfile(info)
        assert file is not None
        return file.read()

    def unpack(self, expected: Mapping[str, tuple[int, str, Path]]) -> None:
        """Write every other member to its path, which must be free: name -> size, SHA-256, path. Each 0600, and synced.

        Raises:
            UsageError: one is missing, is not expected, or is not what it should be.
        """
        left = dict(expected)
        while (info := self._tar.next()) is not None:
            wanted = left.pop(info.name, None)
            if wanted is None or not info.isreg():
                raise UsageError(f"{self._path} is damaged: {info.name[:80]!r} is not in its manifest")
            size, digest, path = wanted
            file = self._tar.extractfile(info)
            assert file is not None
            if info.size != size or self._copy(file, path) != digest:
                raise UsageError(f"{self._path} is damaged: {info.name} is not what its manifest says")
        if left:
            raise UsageError(f"{self._path} is damaged: it lacks {', '.join(sorted(left))}")

    @staticmethod
    def _copy(source: IO[bytes], path: Path) -> str:
        digest = hashlib.sha256()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as target:
            while piece := source.read(_PIECE):
                digest.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(fd)
        return digest.hexdigest()


def put(source: Path, place: Path, mode: int) -> None:
    """Have a file that was unpacked at its place, with that mode; folders above it are made for us alone.

    Raises:
        UsageError: a draft of it is there, which is not ours to remove.
        HostFault: something is at its place, or it cannot be written.
    """
    draft = place.with_name(f"{place.name}.restored")
    _make_private(place.parent)
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError as exc:
        raise UsageError(f"{draft} is there: another restore is running, or was cut; rm {draft}") from exc
    except OSError as exc:
        raise HostFault(f"{place}: {exc.strerror}") from exc
    try:
        with open(fd, "wb") as target, source.open("rb") as file:
            while piece := file.read(_PIECE):
                target.write(piece)
            target.flush()
            os.fsync(fd)
        os.link(draft, place)
    except OSError as exc:
        raise HostFault(f"{place}: {exc.strerror}") from exc
    finally:
        with suppress(OSError):
            draft.unlink()


def _make_private(folder: Path) -> None:
    """Make what is missing of a path, each folder for us alone: mkdir(parents=True) gives the mode to the last one only."""
    try:
        for one in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
            one.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise HostFault(f"{exc.filename or folder}: {exc.strerror}") from exc
