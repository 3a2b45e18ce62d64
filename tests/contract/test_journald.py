"""Entries of the journal, by systemd's native protocol: what is sent is what journald reads."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.cli.logs import JournalHandler, LineFormatter
from supervisord_ai.errors import HostFault
from supervisord_ai.host.journald import Journald, encoded
from tests.fakes.journald import FakeJournald, decoded

NAMES = st.text("AZ_09", max_size=63).map("X".__add__)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def test_a_field_is_a_line_and_one_with_line_breaks_comes_behind_its_length() -> None:
    assert encoded({"MESSAGE": "a=b", "PRIORITY": "6"}) == b"MESSAGE=a=b\nPRIORITY=6\n"
    assert encoded({"MESSAGE": "a\nb"}) == b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"


@given(st.dictionaries(NAMES, TEXTS, max_size=5))
def test_what_is_sent_is_what_is_read(fields: dict[str, str]) -> None:
    assert decoded(encoded(fields)) == fields


@pytest.mark.parametrize("name", ["", "lower", "_PID", "1X", "A B", "A=B", "A\nB", "A" * 65])
def test_a_name_that_journald_would_leave_out_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a field"):
        encoded({name: "x"})


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[FakeJournald]:
    with FakeJournald(tmp_path / "socket") as fake:
        yield fake


@pytest.fixture
def stderr() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(journald: FakeJournald, stderr: io.StringIO) -> Iterator[logging.Logger]:
    """A log as `run` makes it under systemd."""
    otherwise = logging.StreamHandler(stderr)
    otherwise.setFormatter(LineFormatter(for_journal=True))
    journal = Journald(journald.path)
    logger = logging.Logger("supervisord_ai.agents.lifecycle")
    logger.addHandler(JournalHandler(journal, otherwise))
    yield logger
    journal.close()


def test_an_entry_says_whose_deed_it_was_and_why(journald: FakeJournald, log: logging.Logger) -> None:
    log.warning("agent %s generation %d ended after %.1f s: %s", "sonnet-07", 3, 8.5, "oom:own-cap")
    assert journald.entry() == {
        "MESSAGE": "supervisord_ai.agents.lifecycle: agent sonnet-07 generation 3 ended after 8.5 s: oom:own-cap",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "ai-supervisor",
        "LOGGER": "supervisord_ai.agents.lifecycle",
        "AGENT": "sonnet-07",
        "CAUSE": "oom:own-cap",
    }
    log.info("request %s of %s waits again: %s", "q1", "opus-01", "it is\x1b[2J gone")
    told = journald.entry()
    assert (told["REQUEST_ID"], told["AGENT"], told["CAUSE"]) == ("q1", "opus-01", "it is\\x1b[2J gone")
    assert told["PRIORITY"] == "6"


def test_a_traceback_is_one_entry_and_nothing_in_it_is_obeyed(journald: FakeJournald, log: logging.Logger) -> None:
    try:
        raise RuntimeError("bad \x1b[2J\nwords")
    except RuntimeError:
        log.exception("the daemon failed")
    told = journald.entry()
    assert told["MESSAGE"].count("\n") >= 3
    assert "\x1b" not in told["MESSAGE"]
    assert told["PRIORITY"] == "3"


def test_what_is_too_large_for_a_datagram_comes_all_the_same(journald: FakeJournald, log: logging.Logger) -> None:
    log.info("x" * 20_000_000)
    assert len(journald.entry()["MESSAGE"]) > 20_000_000


def test_where_no_journald_takes_it_the_line_is_on_stderr_with_its_priority(
    journald: FakeJournald, log: logging.Logger, stderr: io.StringIO
) -> None:
    Path(journald.path).unlink()
    log.warning("agent %s is hungry", "a")
    assert stderr.getvalue() == "<4>supervisord_ai.agents.lifecycle: agent a is hungry\n"
    journal = Journald(journald.path)
    with pytest.raises(HostFault, match="No such file"):
        journal.send({"MESSAGE": "x"})
    journal.close()


def test_a_full_journal_is_not_waited_for(journald: FakeJournald, log: logging.Logger, stderr: io.StringIO) -> None:
    for number in range(10_000):
        log.info("line %d", number)
        if stderr.getvalue():
            break
    assert stderr.getvalue().startswith("<6>supervisord_ai.agents.lifecycle: line ")
