"""Backup files on a disk that is in the way: what is there already is left alone, and what was begun is gone."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.errors import HostFault, UsageError
from supervisord_ai.host import archive

MEMBERS = [("manifest.json", b"{}"), ("journal.db", b"rows" * 1000)]


def test_a_file_that_cannot_be_read_has_no_digest_and_one_that_is_not_there_has_none_either(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    assert archive.digest_of(tmp_path / "one") == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert archive.digest_of(tmp_path / "none") is None
    assert archive.digest_of(tmp_path / "one" / "below") is None
    with pytest.raises(HostFault, match=rf"^{tmp_path}: Is a directory$"):
        archive.digest_of(tmp_path)


def test_a_backup_that_is_being_written_or_was_cut_is_named_with_its_remedy(tmp_path: Path) -> None:
    part = tmp_path / "b.part"
    part.write_bytes(b"half")
    with pytest.raises(UsageError, match=rf"^{part} is there: another backup is being written, or was cut; rm {part}$"):
        archive.write(tmp_path / "b", MEMBERS)
    assert part.read_bytes() == b"half"
    with pytest.raises(HostFault, match=r"nowhere/b: No such file or directory$"):
        archive.write(tmp_path / "nowhere" / "b", MEMBERS)


def test_a_backup_that_somebody_put_there_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "b"

    def members() -> Any:
        yield MEMBERS[0]
        place.write_bytes(b"theirs")

    with pytest.raises(UsageError, match=rf"^{place} is there already: name another file$"):
        archive.write(place, members())
    assert place.read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_member_that_goes_while_it_is_packed_leaves_no_backup(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match=rf"^{tmp_path / 'b'}: No such file or directory$"):
        archive.write(tmp_path / "b", [MEMBERS[0], ("gone", tmp_path / "gone")])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened_or_is_another_archive_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match=rf"^{tmp_path}: Is a directory$"), archive.reading(tmp_path):
        pass
    with pytest.raises(UsageError, match=rf"^there is no {tmp_path / 'none'}$"), archive.reading(tmp_path / "none"):
        pass
    archive.write(tmp_path / "b", MEMBERS[::-1])
    with archive.reading(tmp_path / "b") as found, pytest.raises(UsageError, match=r"b is no backup of ai-supervisor$"):
        found.first("manifest.json", 1 << 20)
    with archive.reading(tmp_path / "b") as found, pytest.raises(UsageError, match=r"b is no backup of ai-supervisor$"):
        found.first("journal.db", 10)  # larger than any manifest: it is not taken into memory
    with archive.reading(tmp_path / "b") as found:
        assert found.first("journal.db", 1 << 20) == MEMBERS[1][1]


def test_a_file_is_put_in_its_place_only_if_that_is_free(tmp_path: Path) -> None:
    source = tmp_path / "unpacked"
    source.write_bytes(b"new")
    archive.put(source, tmp_path / "deep" / "er" / "one", 0o640)
    assert (tmp_path / "deep" / "er" / "one").read_bytes() == b"new"
    assert [folder.stat().st_mode & 0o777 for folder in (tmp_path / "deep", tmp_path / "deep" / "er")] == [0o700] * 2
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["one"]
    place = tmp_path / "taken"
    place.write_bytes(b"theirs")
    with pytest.raises(HostFault, match=rf"^{place}: File exists$"):
        archive.put(source, place, 0o600)
    assert place.read_bytes() == b"theirs"
    assert not (tmp_path / "taken.restored").exists()


def test_a_draft_that_we_did_not_make_is_somebodys_and_stays(tmp_path: Path) -> None:
    source, place, draft = tmp_path / "unpacked", tmp_path / "one", tmp_path / "one.restored"
    source.write_bytes(b"new")
    draft.write_bytes(b"theirs")
    with pytest.raises(UsageError, match=rf"^{draft} is there: another restore is running, or was cut; rm {draft}$"):
        archive.put(source, place, 0o600)
    assert draft.read_bytes() == b"theirs"
    assert not place.exists()
    with pytest.raises(HostFault, match=rf"^{source / 'below'}\S*: Not a directory$"):
        archive.put(source, source / "below" / "two", 0o600)


def test_a_disk_that_is_full_leaves_neither_file_nor_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "unpacked"
    source.write_bytes(b"new")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostFault, match="one: No space left on device"):
        archive.put(source, tmp_path / "one", 0o600)
    with pytest.raises(HostFault, match="b: No space left on device"):
        archive.write(tmp_path / "b", MEMBERS)
    assert [path.name for path in tmp_path.iterdir()] == ["unpacked"]
