"""Where agents' stdout and stderr go: one file each, opened by us, appended to by the agent, cut by us when it grows.

An agent holds a plain O_APPEND descriptor and nothing of ours stands in between: no reader whose death would break its pipe,
no byte of ours copied while it writes. stdout and stderr share the file, so that what came together is read together; the
last lines before an end are therefore of both.

The file cannot be swapped below a program that holds it open, so rotation copies it aside and truncates it (O_APPEND makes the
next write start at zero). What is written between the last read and the truncation is lost: microseconds, once every
`max_size`.

The folder is ours alone (0700), every name is opened relative to it and without following links: an agent that runs as the same
user could otherwise have us write wherever a link of its making points.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supervisord_ai.core.policies import LogsPolicy
from supervisord_ai.errors import HostFault

_CHUNK_BYTES = 1 << 18
_TAIL_BYTES = 8192


class LogFolder:
    """The log files of all agents."""

    def __init__(self, log_dir: Path, policy: LogsPolicy) -> None:
        self._dir = log_dir
        self._policy = policy
        try:
            log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(log_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:
            raise HostFault(f"{log_dir}: {exc.strerror}") from exc
        found = os.fstat(self._fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            self.close()
            raise HostFault(f"{log_dir}: others may write there: chown it to uid {os.geteuid()} and chmod 700 it")

    def __repr__(self) -> str:
        return f"<logs in {self._dir}>"

    def close(self) -> None:
        """Give up the folder; agents keep what they hold."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def path(self, name: str) -> Path:
        """Return where people find an agent's log."""
        return self._dir / f"{name}.log"

    @contextmanager
    def appending(self, name: str) -> Iterator[tuple[int, int]]:
        """Yield a descriptor for the agent and the offset at which this generation begins. The descriptor is closed after.

        Raises:
            HostFault: it cannot be opened, or is not a plain file.
        """
        try:
            fd = self._open(f"{name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except OSError as exc:
            raise HostFault(f"{self.path(name)}: {exc.strerror}") from exc
        try:
            yield fd, os.fstat(fd).st_size
        finally:
            os.close(fd)

    def tail(self, name: str, *, since: int, lines: int = 20) -> tuple[str, ...]:
        """Return the last lines written since an offset, made harmless for terminals and pages."""
        try:
            fd = self._open(f"{name}.log", os.O_RDONLY)
        except OSError:
            return ()
        try:
            size = os.fstat(fd).st_size
            begin = max(since if since <= size else 0, size - _TAIL_BYTES)  # it was cut meanwhile
            text = os.pread(fd, _TAIL_BYTES, begin).decode("utf-8", "replace")
        finally:
            os.close(fd)
        return tuple(_harmless(line) for line in text.splitlines()[-lines:])

    def is_due(self, name: str) -> bool:
        """Say whether the file has grown over its size."""
        try:
            return os.stat(f"{name}.log", dir_fd=self._fd, follow_symlinks=False).st_size > self._policy.max_size_bytes
        except OSError:
            return False

    def rotate(self, name: str) -> None:
        """Move what was written aside. Blocks for as long as the copy takes: call it in a thread.

        Raises:
            HostFault: the copy failed; the log was not cut.
        """
        files = [f"{name}.log", *(f"{name}.log.{n}" for n in range(1, self._policy.keep + 1))]
        try:
            if self._policy.keep == 0:
                self._truncate(files[0])
                return
            for older, newer in zip(reversed(files[2:]), reversed(files[1:-1]), strict=True):
                with suppress(FileNotFoundError):
                    os.rename(newer, older, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            with suppress(FileNotFoundError):
                os.unlink(files[1], dir_fd=self._fd)
            self._copy_and_cut(files[0], files[1])
        except OSError as exc:
            raise HostFault(f"{self.path(name)}: {exc.strerror}") from exc

    def _copy_and_cut(self, source_name: str, target_name: str) -> None:
        source = self._open(source_name, os.O_RDWR)
        try:
            target = self._open(target_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                while chunk := os.read(source, _CHUNK_BYTES):
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(target, view) :]
                os.ftruncate(source, 0)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _truncate(self, name: str) -> None:
        fd = self._open(name, os.O_WRONLY)
        try:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def _open(self, name: str, flags: int) -> int:
        # NONBLOCK: a fifo of that name must not hold us; it means nothing for a plain file.
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o640, dir_fd=self._fd)
        if not _is_plain(fd):
            os.close(fd)
            raise OSError(0, "not a plain file with one name")
        return fd


def _is_plain(fd: int) -> bool:
    found = os.fstat(fd)
    return found.st_mode & 0o170000 == 0o100000 and found.st_nlink == 1


def _harmless(line: str) -> str:
    return "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in line)
