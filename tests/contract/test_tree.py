"""The files of a system: one suite for those on a disk and those that are told of."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisord_ai.core.doctor import Deed
from supervisord_ai.errors import HostFault
from supervisord_ai.host.tree import RealTree, Tree, decoded
from tests.fakes.tree import MemoryTree


@pytest.fixture(params=["memory", "disk"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    if request.param == "memory":
        return MemoryTree({"/etc/one": "text", "/etc/two/": ""}, modes={"/etc/one": 0o640}, uid=os.geteuid())
    (tmp_path / "etc" / "two").mkdir(parents=True)
    (tmp_path / "etc" / "one").write_text("text")
    (tmp_path / "etc" / "one").chmod(0o640)
    return RealTree(tmp_path)


def test_what_is_there_is_read_listed_and_seen(tree: Tree) -> None:
    assert tree.read("/etc/one") == "text"
    assert tree.names("/etc") == ("one", "two")
    found = tree.found("/etc/one")
    assert found is not None
    assert (found.uid, found.mode, found.is_link, found.bytes) == (os.geteuid(), 0o640, False, 4)
    free = tree.free_bytes("/etc/not/there")
    assert free is not None
    assert free > 0


def test_what_is_not_there_is_no_error(tree: Tree) -> None:
    assert tree.read("/etc/none") is None
    assert tree.read("/etc/two") is None
    assert tree.names("/none") == ()
    assert tree.found("/etc/none") is None


def test_a_mode_is_changed_and_a_folder_is_made(tree: Tree) -> None:
    tree.mend(Deed("/etc/one", 0o600))
    tree.mend(Deed("/etc/three", 0o700, is_missing=True))
    assert [found.mode for path in ("/etc/one", "/etc/three") if (found := tree.found(path))] == [0o600, 0o700]


def test_what_cannot_be_mended_is_said(tree: Tree) -> None:
    for deed in (Deed("/etc/none", 0o600), Deed("/etc/two", 0o700, is_missing=True)):
        with pytest.raises(HostFault, match=deed.path):
            tree.mend(deed)


def test_a_link_is_not_followed_when_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("")
    (tmp_path / "theirs").chmod(0o644)
    (tmp_path / "ours").symlink_to(tmp_path / "theirs")
    with pytest.raises(HostFault):
        RealTree(tmp_path).mend(Deed("/ours", 0o600))
    assert (tmp_path / "theirs").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_that_notepad_wrote_is_read(coding: str) -> None:
    assert decoded("[wsl2]\r\n".encode(coding)) == "[wsl2]\r\n"


def test_a_disk_that_does_not_answer_tells_no_free_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def statvfs(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert RealTree(tmp_path).free_bytes("/etc") is None
