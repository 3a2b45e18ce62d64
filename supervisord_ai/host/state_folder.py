"""The state folder: ours alone, on a file system that can hold a database, and held by one daemon at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from pathlib import Path

from supervisord_ai.errors import AlreadyRunning, HostFault, UsageError

# On these SQLite's log cannot be shared between connections, and locks are not kept. 9p is how WSL2 shows Windows drives
# (drvfs in WSL1, virtiofs in newer ones); the others are file servers.
REFUSED_FILE_SYSTEMS = frozenset({"9p", "drvfs", "cifs", "smb3", "nfs", "nfs4"})
_LOCK = "lock"
_SECRET = "secret"  # noqa: S105 - a file name
_SECRET_BYTES = 32


class StateFolder:
    """Holds the folder until `close`, or until this process ends in any way: the lock is the kernel's (flock(2)).

    `last_alive_wall` is when its last holder left a sign of life, None where there was none.

    Raises (when made):
        AlreadyRunning: another process holds it.
        UsageError: it is on a file system that cannot hold it.
        HostFault: it cannot be made or is somebody else's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _refuse_strange_file_systems(path)
        make_folder(path, 0o700)
        self._fd, self.last_alive_wall = _lock(path)

    def __repr__(self) -> str:
        return f"<StateFolder {self.path}>"

    def secret(self) -> bytes:
        """Return the secret that tokens are made with; made on the first call and kept for ever.

        Raises:
            HostFault: it cannot be read, or others can read it.
        """
        file = self.path / _SECRET
        try:
            return _read_secret(file)
        except FileNotFoundError:
            pass
        # Written under another name first: a crash must not leave half a secret under this one.
        draft = self.path / f"{_SECRET}.new"
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(_SECRET_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        draft.rename(file)
        return _read_secret(file)

    def mark_alive(self, now_wall: float) -> None:
        """Leave a sign of life for who comes after us, if we cannot say goodbye: the time of the lock file. Nothing is synced."""
        if self._fd >= 0:
            os.utime(self._fd, (now_wall, now_wall))

    def close(self) -> None:
        """Let another daemon have it. The lock file stays: removing it would let two processes lock two files of one name."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def holder_of(path: Path) -> int | None:
    """Return the pid of the daemon that holds this folder; None when nobody does."""
    try:
        fd = os.open(path / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(fd)
    finally:
        os.close(fd)
    return None


def make_folder(path: Path, mode: int) -> None:
    """Make a folder of ours with that mode, or accept one that is ours and that nobody else can write.

    Raises:
        HostFault: it cannot be made, is a link, or belongs to or can be written by somebody else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=mode, exist_ok=True)
        found = path.lstat()
    except OSError as exc:
        raise HostFault(f"{path}: {exc.strerror}") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise HostFault(f"{path} is not a folder")
    if found.st_uid != os.geteuid():
        raise HostFault(f"{path} belongs to user {found.st_uid}, not to the user who runs this ({os.geteuid()})")
    if found.st_mode & 0o022:
        raise HostFault(f"{path} can be written by others: chmod go-w {path}")
    if stat.S_IMODE(found.st_mode) & ~mode & 0o077:
        path.chmod(mode)


def _lock(path: Path) -> tuple[int, float | None]:
    """Return the lock, and when its last holder was last alive (None: there was none), in wall seconds."""
    try:
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise HostFault(f"{path / _LOCK}: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        was = os.fstat(fd)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        pid = _pid_in(fd)
        os.close(fd)
        raise AlreadyRunning(str(path), pid) from None
    except OSError as exc:
        os.close(fd)
        what = "this file system keeps no locks" if exc.errno == errno.ENOLCK else exc.strerror
        raise HostFault(f"{path / _LOCK}: {what}") from exc
    return fd, was.st_mtime if was.st_size else None


def _pid_in(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _read_secret(file: Path) -> bytes:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise HostFault(f"{file}: {exc.strerror}") from exc
    try:
        found = os.fstat(fd)
        secret = os.read(fd, _SECRET_BYTES + 1)
    finally:
        os.close(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise HostFault(f"{file} can be read by others; delete it, and every agent gets a new token: rm {file}")
    if len(secret) != _SECRET_BYTES:
        raise HostFault(f"{file} is damaged; delete it, and every agent gets a new token: rm {file}")
    return secret


def _refuse_strange_file_systems(path: Path) -> None:
    nearest = next(p for p in (path, *path.parents) if p.exists()).resolve()
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return
    kind = file_system_of(str(nearest), mountinfo)
    if kind in REFUSED_FILE_SYSTEMS:
        where = "a Windows drive" if kind in {"9p", "drvfs"} else "a file server"
        raise UsageError(
            f"the state folder {path} is on {where} ({kind}), where a database does not survive: "
            "set daemon.state_dir to a folder of this Linux system"
        )


def file_system_of(path: str, mountinfo: str) -> str | None:
    """Return the type of the file system a path is on, from /proc/self/mountinfo; a virtiofs of WSL counts as drvfs."""
    best = ""
    kind = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = _unescape(fields[4])
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):  # the last of two mounts on one point hides the first
            best = point
            name, _, rest = right.partition(" ")
            kind = "drvfs" if name == "virtiofs" and rest.startswith("drvfs") else name
    return kind


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
