"""The command line before a real control socket, with made-up rooms behind it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisord_ai.cli.agent_logs import follow
from supervisord_ai.cli.exits import Exit
from supervisord_ai.cli.main import main
from supervisord_ai.clock import SystemClock
from supervisord_ai.control.api import Control
from supervisord_ai.control.report import Usage
from supervisord_ai.control.verbs import Verbs
from supervisord_ai.core.agent_state import AgentState
from supervisord_ai.core.cap_advice import Peak
from supervisord_ai.core.identity import PeerFacts
from supervisord_ai.core.memory_plan import MemoryPolicy
from supervisord_ai.core.own_unit import Unit
from supervisord_ai.core.roster import CLASS_DEFAULTS, AgentSpec, Roster
from supervisord_ai.host import sockets
from supervisord_ai.host.peers import KernelPeers
from supervisord_ai.serve.http import serve_listener
from tests.fakes.event_journal import FakeEventJournal
from tests.fakes.owner_views import agent_view, backend_view, fleet_view, gateway_view, identity_view


class Daemon:
    """A control socket in a thread of its own; what is behind it can be changed at any time."""

    def __init__(self, folder: Path, verbs: Verbs | None = None) -> None:
        self.folder = folder
        self._verbs = verbs
        self.fleet = fleet_view()
        self.gateway = gateway_view()
        self.roster = Roster()
        self.peaks: dict[str, Peak] = {}
        self.lets_in = True
        self._listener = sockets.bind_unix(folder / "control.sock", mode=0o600)
        self._up = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))
        self._thread.start()
        assert self._up.wait(10)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        control = Control(
            version="9.9.9",
            pid=0,
            clock=SystemClock(),
            roster=self.roster,
            memory=MemoryPolicy(),
            fleet=lambda: self.fleet,
            gateway=lambda _waiting_max: self.gateway,
            explain={"q1": {"id": "q1", "state": "queued", "attempt": 1, "position": 3, "reason": "all slots are busy"}}.get,
            identity=identity_view,
            usage=lambda: Usage(45_000_000, 1.0),
            peers=KernelPeers(),
            environment=lambda spec: {"AI_SUPERVISOR_TOKEN": f"token-of-{spec.name}", "OLLAMA_HOST": "http://127.0.0.1:1"},
            may_control=self._may_control,
            stop=self._stop.set,
            events=FakeEventJournal(),
            peaks=lambda _days: self.peaks,
            verbs=self._verbs,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve_listener, self._listener.socket, control.on_connection, kind="unix"))
            self._up.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()
        self._listener.close()

    def _may_control(self, facts: PeerFacts) -> bool:
        assert facts.pid == os.getpid()  # the kernel says who asks
        return self.lets_in

    def end(self) -> None:
        if self._thread.is_alive():
            with suppress(trio.RunFinishedError):  # a test may have stopped it
                self._token.run_sync_soon(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    running = Daemon(tmp_path)
    try:
        yield running
    finally:
        running.end()


def out(capsys: pytest.CaptureFixture[str], *words: str, code: int = Exit.GOOD) -> str:
    assert main(words) == code
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def err(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    assert main(words) == code
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def from_json(capsys: pytest.CaptureFixture[str], *words: str, code: int = Exit.GOOD) -> Any:
    return json.loads(out(capsys, *words, "--json", code=code))


def test_status_is_plain_text_in_a_pipe_and_json_when_asked(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "status")
    assert text.startswith("ai-supervisor 9.9.9   up ")
    assert "\x1b" not in text
    assert from_json(capsys, "status")["version"] == "9.9.9"


def test_the_socket_is_found_by_the_config_that_is_named(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AI_SUPERVISOR_RUNTIME_DIR")
    config = tmp_path / "c.toml"
    # What else is wrong in it does not matter: the daemon runs with what it was before.
    config.write_text(f'[daemon]\nruntime_dir = "{tmp_path}"\n[nonsense]\n')
    assert out(capsys, "health", "--config", str(config)) == "good\n"


def test_a_config_that_breaks_while_the_daemon_runs_hides_it_from_nobody(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AI_SUPERVISOR_RUNTIME_DIR")
    config = tmp_path / "c.toml"
    config.write_text(f"[daemon]\nruntime_dir = '{tmp_path}'\n[[[\n")
    assert main(["health", "--config", str(config)]) == Exit.GOOD
    told = capsys.readouterr()
    assert told.out == "good\n"
    assert "is not TOML" in told.err
    assert "ai-supervisor config check" in told.err


@pytest.mark.parametrize(
    "line",
    [
        "daemon.runtime_dir = '{}'",
        'daemon = {{ runtime_dir = "{}" }}',
        '[daemon]\n"runtime\\u005fdir" = "{}"',
        "[daemon]\n  runtime_dir='{}'#",
    ],
)
def test_however_the_key_is_written(
    line: str, daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AI_SUPERVISOR_RUNTIME_DIR")
    config = tmp_path / "c.toml"
    config.write_text(line.format(tmp_path))
    assert out(capsys, "health", "--config", str(config)) == "good\n"


def test_agents_are_listed_by_class_and_state(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.fleet = fleet_view(agent_view(), agent_view("sonnet-01", state=AgentState.BACKOFF, pid=None, verdict="exit:7"))
    assert out(capsys, "agents", "list").splitlines() == [
        "NAME       CLASS   STATE          FOR   PID  MEMORY     CAP  RESTARTS  LAST END",
        "opus-01    opus    running  20 m 34 s  4711   12 MB  300 MB         0  -",
        "sonnet-01  sonnet  backoff  20 m 34 s     -   12 MB  300 MB         0  exit:7",
    ]
    assert [one["name"] for one in from_json(capsys, "agents", "list", "--class", "opus")] == ["opus-01"]
    assert [one["name"] for one in from_json(capsys, "agents", "list", "--state", "backoff")] == ["sonnet-01"]


def test_one_agent_is_shown_and_a_near_name_is_suggested(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.fleet = fleet_view(agent_view(detail="last line: \x1b[31mbad"))
    text = out(capsys, "agents", "show", "opus-01")
    assert "its last lines" not in text
    assert "state       running for 20 m 34 s" in text
    assert "last line: \\x1b[31mbad" in text
    assert err(capsys, "agents", "show", "opus-1", code=Exit.USAGE) == (
        "ai-supervisor: there is no agent 'opus-1'; did you mean 'opus-01'?\n"
    )


def test_how_an_agent_ended_is_shown_with_peak_and_last_lines(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ("Traceback:", "MemoryError \x1b[31m")
    daemon.fleet = fleet_view(agent_view(verdict="oom:own-cap", last_peak_bytes=299_000_000, last_lines=lines))
    text = out(capsys, "agents", "show", "opus-01")
    assert "last end    oom:own-cap, peak 299 MB of 300 MB" in text
    assert "its last lines\n  Traceback:\n  MemoryError \\x1b[31m\n" in text
    assert "last_lines" not in from_json(capsys, "agents", "list")[0]


def test_caps_are_suggested_as_a_table_and_as_lines_to_paste(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    classes = CLASS_DEFAULTS["opus"], CLASS_DEFAULTS["sonnet"]
    specs = [AgentSpec(f"{one.name}-{n}", one, ("run",)) for one in classes for n in (1, 2)]
    big = AgentSpec("sonnet-9", replace(CLASS_DEFAULTS["sonnet"], memory_bytes=600_000_000), ("run",))
    daemon.roster.agents.update({spec.name: spec for spec in (*specs, big)})
    assert "nobody has been looked at yet" in out(capsys, "config", "suggest")
    mb = 1_000_000
    daemon.peaks = {
        "opus-2": Peak("opus-2", 200 * mb, days=3),
        "sonnet-1": Peak("sonnet-1", 256 * mb, days=2, kills=1),
        "sonnet-9": Peak("sonnet-9", 100 * mb),
    }
    assert out(capsys, "config", "suggest").splitlines() == [
        "CLASS   AGENTS  SEEN     CAP  NEEDED  BY        KILLED  SUGGESTED",
        "opus         2     1  300 MB  200 MB  opus-2         -     252 MB",
        "sonnet       2     1  256 MB  256 MB  sonnet-1       1     384 MB",
        "sonnet       1     1  600 MB  100 MB  sonnet-9       -     128 MB",
        "",
        "seen on 3 of the last 7 days, without pages of files; caps of now: they bind",
        "all caps together: 1,712 MB now, 1,400 MB as suggested",
        "",
        "[class.opus]",
        'memory = "252MB"',
        "[class.sonnet]",
        'memory = "384MB"',
        "# in the [[agents]] of sonnet-9",
        'memory = "128MB"',
    ]
    told = from_json(capsys, "config", "suggest", "--days", "3")
    assert (told["days"], [one["suggested_bytes"] // mb for one in told["caps"]]) == (3, [252, 384, 128])


def test_who_would_be_over_an_observed_cap_is_shown_with_what_to_type(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.fleet = replace(fleet_view(agent_view(excess_bytes=350_000_000, guarantee="observed")), guarantee="observed")
    text = out(capsys, "status")
    assert "type       ai-supervisor config suggest   (1 would be over their caps" in text
    assert "guarantee  observed: " in text
    assert "it would have exceeded its cap: 350 MB" in out(capsys, "agents", "show", "opus-01")


def test_the_last_lines_of_a_log_are_passed_on_byte_by_byte(
    daemon: Daemon, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"one\ntwo \x1b[31m\xff\nthree")
    daemon.fleet = fleet_view(agent_view(log_path=str(log)))
    assert main(["agents", "logs", "opus-01", "-n", "2"]) == Exit.GOOD
    assert capfdbinary.readouterr().out == b"two \x1b[31m\xff\nthree"


def test_a_log_that_cannot_be_read_is_one_line(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.fleet = fleet_view(agent_view(log_path="/nowhere/a.log"))
    assert err(capsys, "agents", "logs", "opus-01", code=Exit.NO) == (
        "ai-supervisor: /nowhere/a.log cannot be read: No such file or directory\n"
    )


def test_following_a_log_goes_on_after_it_was_rotated_by_truncation(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"old\n")
    with path.open("rb") as file:
        file.read()
        more = follow(file, str(path))
        with path.open("ab") as writer:
            writer.write(b"new\n")
        assert next(more) == b"new\n"
        os.truncate(path, 0)
        with path.open("ab") as writer:
            writer.write(b"anew\n")
        assert next(more) == b"anew\n"


def test_what_came_between_the_last_look_and_a_rotation_is_read_from_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"seen\n")
    with path.open("rb") as file:
        file.read()
        (tmp_path / "a.log.1").write_bytes(b"seen\nunseen, and then cut\n")
        path.write_bytes(b"n\n")
        more = follow(file, str(path))
        assert [next(more), next(more)] == [b"unseen, and then cut\n", b"n\n"]


def test_many_logs_are_read_line_by_line_with_their_names(
    daemon: Daemon, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for name, text in (("opus-01", "1\n2\n3\n"), ("opus-02", "a\nb, without an end")):
        (tmp_path / f"{name}.log").write_text(text)
    views = [agent_view(name, log_path=str(tmp_path / f"{name}.log")) for name in ("opus-01", "opus-02", "sonnet-1")]
    daemon.fleet = fleet_view(*views)
    assert main(["agents", "logs", "opus-*", "-n", "2"]) == 0
    assert capsysbinary.readouterr().out.decode().splitlines() == [
        "opus-01 | 2", "opus-01 | 3", "opus-02 | a", "opus-02 | b, without an end",
    ]  # fmt: skip
    assert main(["agents", "logs", "nobody-*"]) == Exit.USAGE


def test_the_queue_lists_runners_and_waiters(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    lines = out(capsys, "queue", "list").splitlines()
    assert lines[1].split() == ["runs", "r1", "opus-01", "3", "12", "s", "llama3.2:3b", "/api/chat", "on", "main"]
    assert lines[2].endswith("all slots are busy")
    assert lines[3] == "... and 6 more: ai-supervisor queue list -n 7"
    daemon.gateway = replace(gateway_view(backend_view(running=())), queued=0, queue=())
    assert out(capsys, "queue", "list") == "nobody runs and nobody waits\n"


def test_health_has_an_exit_code_for_scripts(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "health", "--once") == "good\n"
    daemon.gateway = gateway_view(backend_view(state="unreachable", detail="refused"))
    assert out(capsys, "health", "--once", code=Exit.NO).splitlines() == [
        "degraded",
        "  backend main is unreachable: refused",
        "what to type: ai-supervisor status",
    ]
    assert from_json(capsys, "health", code=Exit.NO)["status"] == "degraded"


def test_who_may_not_control_is_told_so_with_exit_code_four(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.lets_in = False
    for words in (["status"], ["stop"], ["agents", "list"]):
        text = err(capsys, *words, code=Exit.REFUSED)
        assert text == "ai-supervisor: control.sock is the owner's: not for agents, nor for other users\n"


def test_stop_returns_when_the_daemon_is_gone(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "stop") == "stopped\n"
    assert "no daemon answers" in err(capsys, "status", code=Exit.NOT_RUNNING)


def test_stop_says_what_systemd_still_holds_open_and_how_to_end_that_too(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisord_ai.cli.door.Door.unit", lambda _: Unit("ai-supervisor.service", "sudo systemctl"))
    assert out(capsys, "stop").splitlines() == [
        "stopped",
        "ai-supervisor.socket still listens: the next call of an agent or a client starts it again",
        "to stop both: sudo systemctl stop ai-supervisor.socket ai-supervisor",
    ]


def test_what_answers_and_is_not_ours_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AI_SUPERVISOR_RUNTIME_DIR", str(tmp_path))
    listener = sockets.bind_unix(tmp_path / "control.sock", mode=0o600)

    def answer() -> None:
        listener.socket.settimeout(10)
        peer, _ = listener.socket.accept()
        peer.recv(1000)
        peer.sendall(b"SSH-2.0-OpenSSH\r\n")
        peer.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        assert "is not ai-supervisor" in err(capsys, "status", code=Exit.REFUSED)
    finally:
        thread.join(10)
        listener.close()


def add_external(daemon: Daemon) -> None:
    daemon.roster.agents["editor"] = AgentSpec("editor", CLASS_DEFAULTS["opus"], (), external=True)


def test_the_token_of_an_external_agent_is_one_word_or_all_its_variables(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    add_external(daemon)
    assert out(capsys, "agents", "token", "editor") == "token-of-editor\n"
    said = out(capsys, "agents", "token", "editor", "--env")
    assert said == "AI_SUPERVISOR_TOKEN=token-of-editor\nOLLAMA_HOST=http://127.0.0.1:1\n"


def test_an_agent_of_ours_has_no_token_to_give_away(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.fleet = fleet_view(agent_view("opus-01"))
    daemon.roster.agents["opus-01"] = AgentSpec("opus-01", CLASS_DEFAULTS["opus"], ("true",))
    assert "finds its token in its environment" in err(capsys, "agents", "token", "opus-01", code=Exit.REFUSED)
    assert "there is no agent 'opus-02'; did you mean 'opus-01'?" in err(capsys, "agents", "token", "opus-02", code=Exit.USAGE)


def test_an_external_agent_is_listed_and_shown(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    add_external(daemon)
    assert "external" in out(capsys, "agents", "list")
    assert "external for -" in out(capsys, "agents", "show", "editor")
