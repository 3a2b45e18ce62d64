"""One daemon at a time, a secret that is kept, and no database on a Windows drive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.errors import AlreadyRunning, HostFault, UsageError
from supervisord_ai.host import state_folder
from supervisord_ai.host.state_folder import StateFolder, file_system_of, holder_of

HOLD = """
import sys
from pathlib import Path
from supervisord_ai.host.state_folder import StateFolder
folder = StateFolder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_refused_and_told_the_first_ones_pid(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        assert holder_of(path) == first.pid
        with pytest.raises(AlreadyRunning) as caught:
            StateFolder(path)
        assert caught.value.pid == first.pid
        assert f"is in use by process {first.pid}: stop it first" in str(caught.value)
        first.send_signal(signal.SIGKILL)
        first.wait()
    # The kernel let go of it; nothing is left to clean up.
    assert holder_of(path) is None
    folder = StateFolder(path)
    assert holder_of(path) == os.getpid()
    folder.close()
    assert holder_of(path) is None
    folder.close()


def test_the_folder_is_ours_alone(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "a" / "state")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert (folder.path / "lock").stat().st_mode & 0o777 == 0o600
    folder.close()


def test_one_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    StateFolder(path).close()
    assert path.stat().st_mode & 0o777 == 0o700


def test_the_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    secret = folder.secret()
    assert len(secret) == 32
    assert folder.secret() == secret
    folder.close()
    again = StateFolder(tmp_path / "state")
    assert again.secret() == secret
    again.close()
    assert (tmp_path / "state" / "secret").stat().st_mode & 0o777 == 0o600
    other = StateFolder(tmp_path / "other")
    assert other.secret() != secret
    other.close()


def test_a_crash_while_the_secret_was_made_leaves_none(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    (folder.path / "secret.new").write_bytes(b"half")
    assert len(folder.secret()) == 32
    assert not (folder.path / "secret.new").exists()
    folder.close()


def test_a_secret_that_others_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.secret()
    file = folder.path / "secret"
    file.chmod(0o640)
    with pytest.raises(HostFault, match="can be read by others; delete it"):
        folder.secret()
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(HostFault, match="is damaged; delete it"):
        folder.secret()
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(HostFault, match="symbolic links"):
        folder.secret()
    folder.close()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    (path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostFault, match="symbolic links"):
        StateFolder(path)
    assert not (tmp_path / "elsewhere").exists()


MOUNTS = r"""
22 1 8:16 / / rw,relatime - ext4 /dev/sdb rw,discard
30 22 0:40 / /mnt/c rw,noatime - 9p drvfs rw,aname=drvfs;path=C:\
31 22 0:41 / /mnt/d rw,noatime shared:5 - virtiofs drvfsD rw
32 22 0:42 / /srv/share rw - nfs4 host:/x rw
33 22 0:43 / /mnt/with\040space rw - 9p drvfs rw
34 30 0:44 / /mnt/c/linux rw - tmpfs tmpfs rw
35 22 0:45 / /both rw - ext4 /dev/sdc rw
36 22 0:46 / /both rw - 9p drvfs rw
garbage
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/user/.local/state", "ext4"),
        ("/mnt/c", "9p"),
        ("/mnt/c/Users/x", "9p"),
        ("/mnt/cc", "ext4"),
        ("/mnt/d/x", "drvfs"),
        ("/srv/share/y", "nfs4"),
        ("/mnt/with space/x", "9p"),
        ("/mnt/c/linux/x", "tmpfs"),
        ("/both/x", "9p"),
    ],
)
def test_a_path_is_on_the_nearest_mount(path: str, kind: str) -> None:
    assert file_system_of(path, MOUNTS) == kind


@pytest.mark.parametrize(("kind", "words"), [("9p", "a Windows drive"), ("drvfs", "a Windows drive"), ("nfs4", "a file server")])
def test_a_folder_where_no_database_survives_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    monkeypatch.setattr(state_folder, "file_system_of", lambda path, mountinfo: kind)
    with pytest.raises(UsageError, match=rf"is on {words} \({kind}\).* set daemon.state_dir"):
        StateFolder(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()


def test_where_mounts_are_not_told_no_folder_is_refused_for_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = Path.read_text

    def read_text(path: Path, *args: Any, **named: Any) -> str:
        if str(path) == "/proc/self/mountinfo":
            raise PermissionError
        return really(path, *args, **named)

    monkeypatch.setattr(Path, "read_text", read_text)
    StateFolder(tmp_path / "state").close()


def test_a_sign_of_life_is_read_by_who_comes_after_and_none_is_left_after_the_end(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.mark_alive(1_800_000_000.0)
    folder.close()
    folder.mark_alive(1_900_000_000.0)  # a duty that was not stopped yet: the folder may be another daemon's by now
    later = StateFolder(tmp_path / "state")
    assert later.last_alive_wall == 1_800_000_000.0
    later.close()
