"""What goes on until ^C: events over a daemon that comes and goes, and logs of agents that come later or talk to a terminal."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.cli import agent_logs, events
from supervisord_ai.cli.door import Door
from supervisord_ai.cli.main import main
from supervisord_ai.errors import NotRunning

Bytes = pytest.CaptureFixture[bytes]


class AtTheDoor(Door):
    """A daemon that is asked again and again: `steps` are what each of its turns is, and after the last ^C is typed."""

    def __init__(self, *steps: Any) -> None:
        super().__init__("/run/control.sock")
        self.steps = list(steps)
        self.asked: list[tuple[str, int | None]] = []

    def get(self, target: str) -> Any:
        return {"agents": [{"name": name, "log_path": path} for name, path in self.turn().items()]}

    def agent(self, name: str) -> Any:
        return {"log_path": self.turn()[name]}

    def events(self, target: str, *, after: int | None = None) -> Iterator[Any]:
        self.asked.append((target, after))
        yield from self.turn()

    def turn(self) -> Any:
        if not self.steps:
            raise KeyboardInterrupt
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def event(seq: int) -> dict[str, Any]:
    return {"seq": seq, "at_wall": 0.0, "kind": "agent.ended", "agent": "one", "detail": {"verdict": f"exit:{seq}"}}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens in each pause between two looks; after the last of them ^C is typed."""
    deeds: list[Callable[[], None]] = []

    def sleep(_seconds: float) -> None:
        if not deeds:
            raise KeyboardInterrupt
        deeds.pop(0)()

    monkeypatch.setattr("time.sleep", sleep)
    return deeds


def test_events_go_on_over_a_restart_without_losing_or_repeating_one_and_its_absence_is_said_once(
    pauses: list[Callable[[], None]], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = NotRunning("/run/control.sock", "start one")
    door = AtTheDoor([event(5), event(6)], gone, gone, [event(7)], gone)
    pauses += [lambda: None] * 5
    with pytest.raises(KeyboardInterrupt):
        events._follow(door, Namespace(agent="one", kind=None, json=True), 4)
    told = capsys.readouterr()
    assert [json.loads(line)["seq"] for line in told.out.splitlines()] == [5, 6, 7]
    assert [after for _, after in door.asked] == [4, 6, 6, 6, 7, 7]
    assert {target for target, _ in door.asked} == {"/v1/events?only=events&agent=one"}
    assert told.err.count("waiting for it") == 2, "once for each time that it was away"


def test_all_agents_are_followed_those_that_come_later_too_and_a_line_is_shown_when_it_is_whole(
    tmp_path: Path, pauses: list[Callable[[], None]], capsysbinary: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.log", tmp_path / "longer.log"
    one.write_bytes(b"1\n2\n3\n")

    def add(path: Path, data: bytes) -> Callable[[], None]:
        def append() -> None:
            with path.open("ab") as file:
                file.write(data)

        return append

    monkeypatch.setattr(agent_logs, "LOOK_AGAIN_S", 0.0)
    logs = {"one": str(one), "longer": str(two)}
    pauses += [add(one, b"ha"), add(one, b"lf\n"), add(two, b"first\nsecond\n")]
    with pytest.raises(KeyboardInterrupt):
        agent_logs.run(Namespace(name="*", lines=1, follow=True), AtTheDoor(*[logs] * 20))
    assert capsysbinary.readouterr().out.decode().splitlines() == [
        "one | 3",
        "one | half",
        "longer | first",  # all of it, although only one line of what was there was wanted
        "longer | second",
    ]


def test_one_agents_log_is_followed_byte_by_byte(tmp_path: Path, pauses: list[Callable[[], None]], capsysbinary: Bytes) -> None:
    path = tmp_path / "one.log"
    path.write_bytes(b"1\n2\n")

    def add() -> None:
        with path.open("ab") as file:
            file.write(b"half")

    pauses.append(add)
    with pytest.raises(KeyboardInterrupt):
        agent_logs.run(Namespace(name="one", lines=1, follow=True), AtTheDoor({"one": str(path)}))
    assert capsysbinary.readouterr().out == b"2\nhalf"


def test_on_a_terminal_an_agents_bytes_are_shown_and_not_obeyed_but_the_colour_of_its_name_is_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.log"
    path.write_bytes(b"\x1b[2Jgone\tand \xffback\x1b[0m\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for asked in ("one", "*"):
        agent_logs.run(Namespace(name=asked, lines=5, follow=False), AtTheDoor(*[{"one": str(path)}] * 3))
    alone, named = capsys.readouterr().out.splitlines()
    assert alone == "\\x1b[2Jgone\tand \ufffdback\\x1b[0m"
    assert named == f"\x1b[36mone | \x1b[0m{alone}"


def test_who_reads_the_log_may_have_had_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.log"
    path.write_bytes(b"1\n")

    def write(line: bytes) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(agent_logs, "_write", write)
    with pytest.raises(BrokenPipeError):  # and not "cannot be read": `main` ends quietly
        agent_logs.run(Namespace(name="one", lines=1, follow=False), AtTheDoor({"one": str(path)}))


def test_ctrl_c_ends_with_its_own_exit_code_and_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_args: Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(events, "run", run)
    assert main(["events", "-f"]) == 130
    assert capsys.readouterr() == ("", "")
