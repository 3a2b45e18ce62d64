"""`takeover` on a made-up system: the whole way there, the way back from every step of it, and what is refused beforehand."""

from __future__ import annotations

import os
import signal
import socket
import threading
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.cli import takeover as command
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.cli.takeover import Machine, Takeover
from supervisord_ai.config import Config, load
from supervisord_ai.core.places import Surroundings
from supervisord_ai.core.takeover import DROP_IN, OUR_UNIT
from supervisord_ai.errors import HostFault, SupervisorError, UsageError
from tests.fakes.files import MemoryFiles
from tests.fakes.services import OLLAMA, FakeSystem

TEXT = """\
# ours, and well explained
[listen]
tcp = ["127.0.0.1:11435"]  # the usual
[[ollama]]
url = "http://127.0.0.1:11434"
"""


def system(tmp_path: Path, text: str = TEXT, **changes: Any) -> tuple[FakeSystem, Takeover, Config]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    made = FakeSystem(path, **changes)
    config = load(str(path), MemoryFiles({str(path): text}), Surroundings(0, "/root", {}))
    return made, Takeover("ollama", made, made), config


def test_ollama_moves_we_take_its_address_and_the_owner_is_told(tmp_path: Path) -> None:
    made, takeover, config = system(tmp_path)
    takeover.move(config, port=11436)
    assert made.listening == {"127.0.0.1:11436": OLLAMA, "127.0.0.1:11434": OUR_UNIT, "127.0.0.1:11435": OUR_UNIT}
    says = tomllib.loads(made.config.read_text())
    assert says["ollama"] == [{"url": "http://127.0.0.1:11436"}]
    assert set(says["listen"]["tcp"]) == {"127.0.0.1:11435", "127.0.0.1:11434"}
    assert "# ours, and well explained" in made.config.read_text()
    assert "# the usual" in made.config.read_text()
    assert made.deeds == [f"write {DROP_IN}", f"restart {OLLAMA}", f"restart {OUR_UNIT}"]
    assert "reach ai-supervisor, which asks Ollama 0.12.6" in made.said[1]
    assert "--undo" in made.said[-1]


def test_undo_takes_everything_back_from_what_the_drop_in_tells(tmp_path: Path) -> None:
    made, takeover, config = system(tmp_path)
    before = dict(made.listening)
    takeover.move(config, port=11436)
    Takeover("ollama", made, made).undo()
    assert made.listening == before
    assert made.drop_ins == {}
    assert tomllib.loads(made.config.read_text()) == tomllib.loads(TEXT)
    assert "# the usual" in made.config.read_text()


def test_an_address_that_was_auto_is_auto_again(tmp_path: Path) -> None:
    made, takeover, config = system(tmp_path, TEXT.replace("http://127.0.0.1:11434", "auto"))
    takeover.move(config, port=11436)
    takeover.undo()
    assert 'url = "auto"' in made.config.read_text()


def test_where_we_do_not_run_yet_it_is_moved_and_the_owner_told_to_start_us(tmp_path: Path) -> None:
    made, takeover, config = system(tmp_path, we_run=False)
    takeover.move(config, port=11436)
    assert made.listening == {"127.0.0.1:11436": OLLAMA}
    assert any("start ai-supervisor now" in line for line in made.said)


@pytest.mark.parametrize("kind", ["fails", "interrupts"])
@pytest.mark.parametrize("deed", [f"write {DROP_IN}", f"restart {OLLAMA}", f"restart {OUR_UNIT}"])
def test_whatever_step_fails_or_is_interrupted_everything_is_as_before(tmp_path: Path, deed: str, kind: str) -> None:
    changes: dict[str, Any] = {kind: {deed}}
    made, takeover, config = system(tmp_path, **changes)
    before = dict(made.listening)
    expected: type[BaseException] = KeyboardInterrupt if kind == "interrupts" else HostFault
    with pytest.raises(expected):
        takeover.move(config, port=11436)
    assert made.listening == before
    assert made.config.read_text() == TEXT
    assert made.drop_ins == {}


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"ollama_hates_new_port": True}, r"does not answer at http://127.0.0.1:11436.*everything is as it was before"),
        ({"we_do_not_start": True}, r"ai-supervisor does not answer at http://127.0.0.1:11434.*everything is as it was before"),
    ],
)
def test_one_that_does_not_come_up_is_put_back(tmp_path: Path, trouble: dict[str, Any], words: str) -> None:
    made, takeover, config = system(tmp_path, **trouble)
    before = dict(made.listening)
    with pytest.raises(HostFault, match=words):
        takeover.move(config, port=11436)
    assert (made.listening, made.config.read_text(), made.drop_ins) == (before, TEXT, {})


@pytest.mark.parametrize("has_no_restart", [True, False])
def test_one_that_failed_for_good_is_not_waited_for(tmp_path: Path, has_no_restart: bool) -> None:
    made, takeover, config = system(tmp_path, ollama_hates_new_port=True, has_no_restart=has_no_restart)
    with pytest.raises(HostFault, match="everything is as it was before"):
        takeover.move(config, port=11436)
    assert made.waits_to_the_end == (not has_no_restart)


def test_when_the_way_back_fails_too_both_are_said_and_undo_still_works(tmp_path: Path) -> None:
    made, takeover, config = system(tmp_path, ollama_hates_new_port=True, fails={f"remove {DROP_IN}"})
    with pytest.raises(HostFault, match=r"does not answer at .*11436.*putting it back failed too.*--undo"):
        takeover.move(config, port=11436)
    takeover.undo()
    assert made.listening["127.0.0.1:11434"] == OLLAMA
    assert made.config.read_text() == TEXT


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        (TEXT, {"is_mute": True}, "ollama.service does not answer at http://127.0.0.1:11434: see systemctl status"),
        (TEXT, {"has_ollama": False}, "systemd knows no ollama.service.*--print"),
        (TEXT, {"we_run": False, "has_stray_daemon": True}, "a daemon runs that systemd did not start"),
        (TEXT, {"taken": {"127.0.0.1:11436"}}, "port 11436 is taken"),
        (TEXT, {"environment": {"OLLAMA_HOST": "0.0.0.0"}}, "other machines may use it.*--yes"),
        (TEXT, {"environment": {"OLLAMA_HOST": "192.168.1.5:11434"}}, "not this machine's loopback"),
        (TEXT, {"environment": {"OLLAMA_HOST": "127.0.0.1:11436"}}, "listens at port 11436 already"),
        (TEXT, {"environment": {"OLLAMA_HOST": "127.0.0.1:11500"}}, "no .*ollama.* is the Ollama at port 11500"),
        (TEXT.replace("11434", "11999"), {}, "no .*ollama.* is the Ollama at port 11434"),
        ('ollama = [{ url = "http://127.0.0.1:11434" }]\nlisten = { tcp = [] }\n', {"we_run": False}, "left to its owner"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_changed(
    tmp_path: Path, text: str, changes: dict[str, Any], words: str
) -> None:
    made, takeover, config = system(tmp_path, text, **changes)
    if "left to its owner" in words:
        text = text.replace("url", '"u\\u0072l"')
        made.config.write_text(text)
    with pytest.raises(UsageError, match=words):
        takeover.move(config, port=11436)
    assert made.deeds == []
    assert made.config.read_text() == text


def test_others_may_lose_it_where_the_owner_says_so_and_it_moves_from_wherever_it_was(tmp_path: Path) -> None:
    text = TEXT.replace("11434", "11500")
    made, takeover, config = system(tmp_path, text, environment={"OLLAMA_HOST": "0.0.0.0:11500"})
    takeover.move(config, port=11436, may_close=True)
    assert made.listening["127.0.0.1:11500"] == OUR_UNIT


def test_twice_is_refused_and_so_is_the_way_back_from_nowhere(tmp_path: Path) -> None:
    _, takeover, config = system(tmp_path)
    with pytest.raises(UsageError, match="there is nothing to take back"):
        takeover.undo()
    takeover.move(config, port=11436)
    with pytest.raises(UsageError, match=r"was moved already, to http://127.0.0.1:11436"):
        takeover.move(config, port=11437)


def test_a_drop_in_that_somebody_changed_is_left_to_him(tmp_path: Path) -> None:
    made, takeover, config = system(tmp_path)
    takeover.move(config, port=11436)
    moved = made.config.read_text()
    (key,) = made.drop_ins
    made.drop_ins[key] = made.drop_ins[key].replace("# backend = 0\n", "")
    with pytest.raises(SupervisorError, match="was changed by somebody"):
        takeover.undo()
    assert made.config.read_text() == moved


def test_one_that_answers_where_it_was_asked_to_but_not_through_us_is_put_back(tmp_path: Path) -> None:
    made, takeover, config = system(tmp_path, we_pass_nothing_on=True)
    before = dict(made.listening)
    with pytest.raises(
        HostFault, match=r"Ollama 0\.12\.6 does not answer through ai-supervisor at .*11434; everything is as it was"
    ):
        takeover.move(config, port=11436)
    assert (made.listening, made.config.read_text()) == (before, TEXT)


def test_an_address_that_somebody_else_takes_meanwhile_is_left_to_him_and_all_is_put_back(tmp_path: Path) -> None:
    made, takeover, config = system(tmp_path, snatched="127.0.0.1:11434")
    with pytest.raises(HostFault, match=r"somebody else than ollama\.service listens at 127\.0\.0\.1:11434"):
        takeover.move(config, port=11436)
    assert (made.config.read_text(), made.drop_ins) == (TEXT, {})


def test_a_config_that_cannot_be_read_or_written_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, takeover, config = system(tmp_path)

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(command, "replace_file", refuse)
    with pytest.raises(HostFault, match=r"config\.toml cannot be written: Read-only file system; everything is as it was before"):
        takeover.move(config, port=11436)
    assert made.drop_ins == {}
    made.config.write_bytes(b"# caf\xe9\n")
    deeds = list(made.deeds)
    with pytest.raises(UsageError, match=r"config\.toml is not UTF-8"):
        takeover.move(config, port=11436)
    assert made.deeds == deeds


# --- this machine ---------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answers each path in its own way."""

    def do_GET(self) -> None:
        status, body = {
            "/api/version": (200, b'{"version":"0.12.6"}'),
            "/list": (200, b"[1]"),
            "/html": (200, b"<html>"),
        }.get(self.path, (404, b'{"error":"not found"}'))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def ollama() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_only_a_json_object_is_an_answer_and_a_port_that_somebody_has_is_not_free(ollama: str) -> None:
    machine = Machine()
    assert machine.ask(f"http://{ollama}/api/version") == {"version": "0.12.6"}
    assert [machine.ask(f"http://{ollama}{path}") for path in ("/list", "/html", "/nothing")] == [None] * 3
    assert not machine.is_free(ollama)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    assert machine.ask(f"http://{address}/api/version") is None
    assert machine.is_free(address)


def test_a_daemon_of_this_config_is_seen_by_its_socket(tmp_path: Path) -> None:
    text = f'[daemon]\nruntime_dir = "{tmp_path}"\n{TEXT}'
    config = load("/c.toml", MemoryFiles({"/c.toml": text}), Surroundings(0, "/root", {}))
    assert not Machine().daemon_is_open(config)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/control.sock")
        listener.listen()
        assert Machine().daemon_is_open(config)


def test_what_does_not_come_true_is_waited_for_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert not Machine().wait(lambda: False, 5.0)
    assert now[0] == pytest.approx(105.0, abs=2 * command.PAUSE_S)
    assert Machine().wait(lambda: now[0] > 107.0, 5.0)
    assert now[0] == pytest.approx(107.0, abs=2 * command.PAUSE_S)


def test_a_second_ctrl_c_does_not_leave_it_half_put_back() -> None:
    before = {number: signal.getsignal(number) for number in command.STOPPING}
    try:
        Machine().hear_no_more()
        for number in command.STOPPING:
            os.kill(os.getpid(), number)  # ends nothing
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- as typed -------------------------------------------------------------------------------------------------------------


def test_by_hand_it_is_printed_for_everybody_and_nothing_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["takeover", "--print", "--port", "11999"]) == Exit.GOOD
    assert 'Environment="OLLAMA_HOST=127.0.0.1:11999"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("uid", "has_systemd", "words"),
    [
        (1000, True, "only root may change another service: sudo ai-supervisor takeover"),
        (0, False, "not run by systemd: .*--print"),
    ],
)
def test_who_cannot_is_told_what_else_there_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, uid: int, has_systemd: bool, words: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(Path, "is_dir", lambda _: has_systemd)
    with pytest.raises(UsageError, match=words):
        command.run(Namespace(print_lines=False, port=11436, unit="ollama", undo=False))


def test_as_typed_it_moves_and_takes_back_and_every_signal_counts_as_ctrl_c(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, _ = system(tmp_path)
    before = {number: signal.getsignal(number) for number in command.STOPPING}
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    monkeypatch.setattr(command, "Systemctl", lambda: made)
    monkeypatch.setattr(command, "Machine", lambda: made)
    try:
        assert main(["takeover", "--port", "11500", "--config", str(made.config)]) == Exit.GOOD
        assert made.listening["127.0.0.1:11500"] == OLLAMA
        assert {signal.getsignal(number) for number in command.STOPPING} == {signal.default_int_handler}
        assert main(["takeover", "--undo"]) == Exit.GOOD
        assert made.listening["127.0.0.1:11434"] == OLLAMA
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
