"""Both doors to config files, in memory and on the disk, do the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisord_ai.cli.files import DiskFiles
from supervisord_ai.config import Files
from supervisord_ai.errors import HostFault
from tests.fakes.files import MemoryFiles

CONTENT = {"config.toml": "a = 1\n", "agents.d/b.toml": "b = 2\n", "agents.d/a.toml": "c = 3\n", "agents.d/notes.txt": ""}


@pytest.fixture(params=["memory", "disk"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "memory":
        return MemoryFiles({f"{tmp_path}/{name}": text for name, text in CONTENT.items()})
    for name, text in CONTENT.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return DiskFiles()


def test_a_file_is_read(files: Files, tmp_path: Path) -> None:
    assert files.read(f"{tmp_path}/config.toml") == b"a = 1\n"


def test_a_missing_file_is_a_host_fault_that_names_it(files: Files, tmp_path: Path) -> None:
    with pytest.raises(HostFault, match=r"none\.toml cannot be read: No such file or directory"):
        files.read(f"{tmp_path}/none.toml")


def test_a_pattern_finds_files_in_order(files: Files, tmp_path: Path) -> None:
    assert files.matching(f"{tmp_path}/agents.d/*.toml") == [f"{tmp_path}/agents.d/a.toml", f"{tmp_path}/agents.d/b.toml"]


def test_a_star_does_not_look_into_folders(files: Files, tmp_path: Path) -> None:
    assert files.matching(f"{tmp_path}/*.toml") == [f"{tmp_path}/config.toml"]


def test_a_plain_name_finds_itself_or_nothing(files: Files, tmp_path: Path) -> None:
    assert files.matching(f"{tmp_path}/config.toml") == [f"{tmp_path}/config.toml"]
    assert files.matching(f"{tmp_path}/none.toml") == []
