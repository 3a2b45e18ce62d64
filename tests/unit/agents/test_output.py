"""Agents' log files: appended to, cut when they grow, never followed elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisord_ai.agents.output import LogFolder
from supervisord_ai.core.policies import LogsPolicy
from supervisord_ai.errors import HostFault


def write(logs: LogFolder, name: str, text: str) -> int:
    with logs.appending(name) as (fd, offset):
        os.write(fd, text.encode())
    return offset


def test_each_generation_appends_and_knows_where_it_begins(tmp_path: Path) -> None:
    logs = LogFolder(tmp_path / "logs", LogsPolicy())
    assert write(logs, "one", "first\n") == 0
    since = write(logs, "one", "second\nthird\n")
    assert since == 6
    assert logs.path("one").read_text() == "first\nsecond\nthird\n"
    assert logs.tail("one", since=since) == ("second", "third")
    assert logs.tail("one", since=since, lines=1) == ("third",)
    assert logs.tail("nobody", since=0) == ()
    logs.close()


def test_the_folder_is_ours_alone_and_no_descriptor_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    logs = LogFolder(tmp_path / "deep" / "logs", LogsPolicy(keep=1))
    write(logs, "one", "x")
    logs.rotate("one")
    logs.tail("one", since=0)
    assert (tmp_path / "deep" / "logs").stat().st_mode & 0o777 == 0o700
    logs.close()
    logs.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_an_agent_says_cannot_move_a_terminal(tmp_path: Path) -> None:
    logs = LogFolder(tmp_path, LogsPolicy())
    write(logs, "one", "\x1b[2Jgone\ttab\x07\n\xff".encode("latin-1").decode("latin-1"))
    assert logs.tail("one", since=0) == ("\ufffd[2Jgone\ttab\ufffd", "\xff")
    logs.close()


def test_a_log_over_its_size_is_moved_aside_and_the_writer_goes_on(tmp_path: Path) -> None:
    logs = LogFolder(tmp_path, LogsPolicy(max_size_bytes=10, keep=2))
    with logs.appending("one") as (fd, _):
        for generation in ("first", "second", "third"):
            assert not logs.is_due("one")
            os.write(fd, f"{generation} generation\n".encode())
            assert logs.is_due("one")
            logs.rotate("one")
        os.write(fd, b"now\n")
    assert (tmp_path / "one.log").read_text() == "now\n"
    assert (tmp_path / "one.log.1").read_text() == "third generation\n"
    assert (tmp_path / "one.log.2").read_text() == "second generation\n"
    assert len(list(tmp_path.iterdir())) == 3
    assert logs.tail("one", since=1000) == ("now",)  # the log was cut since
    logs.close()


@pytest.mark.parametrize("keep", [0, 1])
def test_fewer_old_ones_may_be_kept(tmp_path: Path, keep: int) -> None:
    logs = LogFolder(tmp_path, LogsPolicy(max_size_bytes=1, keep=keep))
    for _ in range(3):
        write(logs, "one", "text\n")
        logs.rotate("one")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.log", "one.log.1"][: keep + 1]
    logs.close()


def test_a_link_of_an_agents_making_is_not_followed(tmp_path: Path) -> None:
    logs = LogFolder(tmp_path / "logs", LogsPolicy(max_size_bytes=1))
    precious = tmp_path / "precious"
    precious.write_text("precious")
    logs.path("soft").symlink_to(precious)
    os.link(precious, logs.path("hard"))
    os.mkfifo(logs.path("fifo"))
    for name in ("soft", "hard", "fifo"):
        with pytest.raises(HostFault), logs.appending(name):
            pytest.fail("opened")
        with pytest.raises(HostFault):
            logs.rotate(name)
    write(logs, "one", "text\n")
    (tmp_path / "logs" / "one.log.1").symlink_to(precious)
    logs.rotate("one")
    assert precious.read_text() == "precious"
    assert (tmp_path / "logs" / "one.log.1").read_text() == "text\n"
    logs.close()


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "logs").symlink_to(tmp_path / "real")
    with pytest.raises(HostFault, match="logs"):
        LogFolder(tmp_path / "logs", LogsPolicy())


def test_a_folder_that_others_may_write_is_refused_and_not_held(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    tmp_path.chmod(0o770)
    with pytest.raises(HostFault, match="chmod 700"):
        LogFolder(tmp_path, LogsPolicy())
    tmp_path.chmod(0o750)
    LogFolder(tmp_path, LogsPolicy()).close()
    assert len(os.listdir("/proc/self/fd")) == before
