"""The door to the daemon where things go wrong: answers that are cut, silence, other people's sockets, and what to type then."""

from __future__ import annotations

import socket
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisord_ai.cli import door as door_module
from supervisord_ai.cli.door import Door, open_door, what_to_type
from supervisord_ai.core.places import Surroundings
from supervisord_ai.errors import ConfigError, Denied, NotRunning, UsageError


@contextmanager
def answering(folder: Path, answer: bytes | None) -> Iterator[tuple[Door, list[bytes]]]:
    """A control socket that gives one answer (None: nothing, while the block runs), and what it was asked."""
    listener = socket.socket(socket.AF_UNIX)
    path = folder / "control.sock"
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(10)
    asked: list[bytes] = []
    is_over = threading.Event()

    def answer_one() -> None:
        peer, _ = listener.accept()
        with peer:
            asked.append(peer.recv(65536))
            if answer is None:
                is_over.wait(10)
            else:
                peer.sendall(answer)

    thread = threading.Thread(target=answer_one)
    thread.start()
    try:
        yield Door(str(path)), asked
    finally:
        is_over.set()
        thread.join(10)
        listener.close()


def http(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def chunked(*pieces: str, is_whole: bool = True) -> bytes:
    body = "".join(f"{len(piece):x}\r\n{piece}\r\n" for piece in pieces) + ("0\r\n\r\n" if is_whole else "")
    return f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}".encode()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Le", http("{}")[:-1], chunked("{}")[:-7]])
def test_a_daemon_that_ends_in_the_middle_of_its_answer_does_not_run_any_more(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path, answer) as (door, _), pytest.raises(NotRunning, match=r"no daemon answers"):
        door.get("/v1/status")


def test_one_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "ANSWER_WITHIN_S", 0.05)
    with answering(tmp_path, None) as (door, _), pytest.raises(Denied, match=r"does not answer within 0 s"):
        door.text("/metrics")


def test_the_socket_of_somebody_else_comes_with_both_ways_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dial(path: str, within_s: float | None) -> socket.socket:
        raise PermissionError(13, "Permission denied")  # root, who runs most tests, may enter everywhere

    monkeypatch.setattr(door_module, "_dial", dial)
    with pytest.raises(
        Denied, match=r"/x is another user's \(Permission denied\): type it with sudo, or .* `owner` in \[daemon\]"
    ):
        Door("/x").get("/v1/status")


def test_what_is_not_json_is_given_as_it_came_and_an_error_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with answering(tmp_path / "one", http("up 1\n")) as (door, asked):
        assert door.text("/metrics") == "up 1\n"
        assert asked[0].startswith(b"GET /metrics HTTP/1.1\r\n")
    told = http('{"error":"no such page"}', "404 Not Found")
    with answering(tmp_path, told) as (door, _), pytest.raises(UsageError, match="no such page"):
        door.text("/nothing")


def test_a_config_that_the_daemon_refuses_comes_as_its_problems(tmp_path: Path) -> None:
    problem = '{"file":"c.toml","line":3,"key":"queue.max","what":"too many"}'
    told = http(f'{{"problems":[{problem}]}}', "422 Unprocessable Content")
    with answering(tmp_path, told) as (door, _), pytest.raises(ConfigError) as refused:
        door.post("/v1/reload")
    assert str(refused.value) == "c.toml:3: queue.max: too many"


def test_events_come_one_by_one_from_the_number_on_that_was_seen_last(tmp_path: Path) -> None:
    body = ('id: 8\ndata: {"seq":8}\n\n: still here\n\ndata: {"se', 'q":9}\n\n')
    with answering(tmp_path, chunked(*body)) as (door, asked):
        assert [event["seq"] for event in door.events("/v1/events", after=7)] == [8, 9]
        assert b"\r\nLast-Event-ID: 7\r\n" in asked[0]


def test_events_that_are_refused_say_why_and_those_that_break_off_say_that_nobody_answers(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with answering(tmp_path / "one", http('{"error":"too many watch"}', "503 Service Unavailable")) as (door, asked):
        with pytest.raises(Denied, match="too many watch"):
            list(door.events("/v1/events"))
        assert b"Last-Event-ID" not in asked[0]
    with answering(tmp_path, chunked('data: {"seq":1}\n', is_whole=False)) as (door, _):
        events = door.events("/v1/events")
        assert next(events) == {"seq": 1}
        with pytest.raises(NotRunning):
            next(events)


# --- where it is looked for, and what is to be typed where nobody answers --------------------------------------------------

ROOTS_SOCKET = "/run/ai-supervisor/control.sock"
ROOTS_CONFIG = "/etc/ai-supervisor/config.toml"
SYSTEM_UNIT = "/etc/systemd/system/ai-supervisor.service"
ANNS_CONFIG = "/home/ann/.config/ai-supervisor/config.toml"
ANNS_UNIT = "/home/ann/.config/systemd/user/ai-supervisor.service"


def on_a_machine(monkeypatch: pytest.MonkeyPatch, uid: int, *there: str) -> None:
    """A machine on which of all the places of ours only these are."""
    around = Surroundings(uid, "/root" if uid == 0 else "/home/ann", {"XDG_RUNTIME_DIR": "/run/user/1000"} if uid else {})
    monkeypatch.setattr(door_module, "surroundings", lambda: around)
    monkeypatch.setattr("os.path.exists", lambda path: str(path) in there)


@pytest.mark.parametrize(
    ("uid", "there", "words"),
    [
        (1000, (ROOTS_SOCKET, ANNS_UNIT), "root's daemon listens in /run/ai-supervisor: type it with sudo"),
        (1000, (ANNS_UNIT, SYSTEM_UNIT), "start it with `systemctl --user start ai-supervisor`"),
        (1000, (SYSTEM_UNIT,), "start it with `systemctl start ai-supervisor`"),
        (0, (ROOTS_SOCKET, SYSTEM_UNIT, ROOTS_CONFIG), "start it with `systemctl start ai-supervisor`"),
        (0, (ROOTS_CONFIG,), "start one with `ai-supervisor run`"),
        (1000, (), "begin with `ai-supervisor try -- CMD`, or write a config with `ai-supervisor config init`"),
    ],
)
def test_who_finds_no_daemon_is_told_what_to_type_here(
    monkeypatch: pytest.MonkeyPatch, uid: int, there: tuple[str, ...], words: str
) -> None:
    on_a_machine(monkeypatch, uid, *there)
    assert what_to_type() == words


@pytest.mark.parametrize(
    ("there", "folder"),
    [
        ((ROOTS_CONFIG,), "/run/ai-supervisor"),
        ((ROOTS_CONFIG, ANNS_CONFIG), "/run/user/1000/ai-supervisor"),
        ((ROOTS_CONFIG, "/run/user/1000/ai-supervisor/control.sock"), "/run/user/1000/ai-supervisor"),
        ((), "/run/user/1000/ai-supervisor"),
    ],
    ids=["the system's alone", "an own config", "an own daemon", "none at all"],
)
def test_a_user_without_a_daemon_of_their_own_means_the_systems(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], folder: str
) -> None:
    on_a_machine(monkeypatch, 1000, *there)
    assert open_door(Namespace(config=None)).path == f"{folder}/control.sock"


def test_a_config_that_is_named_must_be_there_and_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AI_SUPERVISOR_RUNTIME_DIR", raising=False)
    with pytest.raises(UsageError, match=f"there is no {tmp_path}/c.toml"):
        open_door(Namespace(config=f"{tmp_path}/c.toml"))
    with pytest.raises(UsageError, match=f"{tmp_path} cannot be read: Is a directory"):
        open_door(Namespace(config=str(tmp_path)))
