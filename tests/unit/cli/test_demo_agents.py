"""The programs that the demo and the storm run as agents: what they ask, what they take for an answer, and how they misbehave.

They are run as `python -I -S`, where nothing can be measured; here their functions talk with a socket that answers as told.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.cli.demo import agent, storm_agent
from supervisord_ai.cli.demo.stage import is_alive
from tests.system.harness import eventually

WHOLE = b'{"response":"blue","done":true,"eval_count":7,"prompt_eval_count":3,"total_duration":5000000}'


def http(body: bytes, status: str = "200 OK", *heads: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *heads]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*pieces: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)


class Supervisor:
    """A socket that gives each connection the next of its answers, and keeps what was asked."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.answers: list[bytes] = []
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                first, *fields = head.decode().split("\r\n")
                headers = dict(field.split(": ", 1) for field in fields)
                while len(body) < int(headers["Content-Length"]):
                    body += connection.recv(65536)
                self.asked.append((first, headers, json.loads(body)))
                connection.sendall(self.answers.pop(0))

    def end(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path / "llm.sock")
    monkeypatch.setenv("AI_SUPERVISOR_SOCKET", str(tmp_path / "llm.sock"))
    try:
        yield made
    finally:
        made.end()


class Clock:
    """Stands for the module `time`: sleeping is what lets it pass. `last_s` is when somebody has seen enough."""

    class Enough(BaseException):
        """The test has seen what it wanted."""

    def __init__(self, last_s: float = 1e9) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._last = self.now + last_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.now > self._last:
            raise self.Enough

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(agent, "time", made)
    return made


def plan(folder: Path, role: str = "good", **changes: Any) -> dict[str, Any]:
    def question(number: int) -> dict[str, Any]:
        body = {"model": "m", "prompt": f"question {number}"}
        headers = {"X-AI-Priority": "7"}
        return {"key": f"one-{number}", "kind": "writing", "path": "/api/generate", "body": body, "headers": headers}

    made = {"name": "one", "role": role, "answers": str(folder / "answers"), "mark": str(folder / "mark")}
    return {**made, "hoard_bytes": 64, "questions": [question(1), question(2)], **changes}


def live(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[dict[str, Any]]:
    """One life of the demo's agent; returns all that was ever written down."""
    (folder / "plan").write_text(json.dumps(plan(folder, **changes)))
    monkeypatch.setattr("sys.argv", ["agent.py", str(folder / "plan")])
    agent.main()
    return [json.loads(line) for line in (folder / "answers").read_text().splitlines()]


def test_both_questions_are_asked_under_their_keys_and_each_answer_is_one_line(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = http(WHOLE, "200 OK", "Server-Timing: queue;dur=12.5, engine;dur=5, total", "X-AI-Attempt: 2")
    supervisor.answers = [timed, http(WHOLE, "200 OK", "Cache-Status: ai-supervisor; hit")]
    first, second = live(tmp_path, monkeypatch)
    assert [(line, head["Idempotency-Key"], body["prompt"]) for line, head, body in supervisor.asked] == [
        ("POST /api/generate HTTP/1.1", "one-1", "question 1"),
        ("POST /api/generate HTTP/1.1", "one-2", "question 2"),
    ]
    assert supervisor.asked[0][1]["X-AI-Priority"] == "7"
    assert (first["text"], first["tokens"], first["prompt_tokens"], first["engine_ms"]) == ("blue", 7, 3, 5.0)
    assert (first["attempt"], first["timing_ms"], first["is_hit"]) == (2, {"queue": 12.5, "engine": 5.0}, False)
    assert (second["key"], second["is_hit"], second["tries"]) == ("one-2", True, 1)
    assert capsys.readouterr().out.splitlines() == ["one-1 200 blue", "one-2 200 blue"]


def test_after_a_death_only_what_has_no_answer_is_asked(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answers").write_text('{"key":"one-1"}\n')
    supervisor.answers = [http(WHOLE)]
    assert [line["key"] for line in live(tmp_path, monkeypatch)] == ["one-1", "one-2"]
    assert [head["Idempotency-Key"] for _, head, _ in supervisor.asked] == ["one-2"]


def test_a_stream_is_put_together_and_an_embedding_is_counted(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [b'{"message":{"content":"bl"},"done":false}\n', b'{"message":{"content":"ue"},"done":true,"eval_count":2}\n']
    supervisor.answers = [chunked(*turns, b""), http(b'{"embeddings":[[0.1,0.2,0.3]],"prompt_eval_count":4}')]
    first, second = live(tmp_path, monkeypatch)
    assert (first["text"], first["tokens"]) == ("blue", 2)
    assert (second["text"], second["tokens"], second["prompt_tokens"]) == ("3 numbers", 0, 4)


@pytest.mark.parametrize(
    ("broken", "wait_s"),
    [
        (b"", agent.CONNECT_AGAIN_S),
        (http(WHOLE)[:-5], agent.CONNECT_AGAIN_S),
        (chunked(WHOLE), agent.CONNECT_AGAIN_S),
        (chunked(WHOLE, b"")[:-15], agent.CONNECT_AGAIN_S),
        (http(b'{"response":"bl","done":false}'), agent.CONNECT_AGAIN_S),
        (http(b'{"error":"model runner has crashed","done":true}'), agent.CONNECT_AGAIN_S),
        (http(b'{"error":"queue full"}', "503 Service Unavailable", "Retry-After: 9"), 9.0),
        (http(b'{"error":"starting"}', "502 Bad Gateway"), 1.0),
    ],
    ids=["nothing", "cut", "no last chunk", "cut chunk", "stream not done", "error in a 200", "told to wait", "not told"],
)
def test_what_is_no_whole_answer_is_asked_again_under_the_same_key_when_it_may_be(
    supervisor: Supervisor, clock: Clock, monkeypatch: pytest.MonkeyPatch, broken: bytes, wait_s: float
) -> None:
    supervisor.answers = [broken, http(WHOLE), http(WHOLE)]
    first, _ = live(supervisor.folder, monkeypatch)
    assert [head["Idempotency-Key"] for _, head, _ in supervisor.asked] == ["one-1", "one-1", "one-2"]
    assert (first["tries"], clock.slept) == (2, [wait_s])


def test_who_is_never_answered_gives_up_and_says_why(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_SUPERVISOR_SOCKET", str(tmp_path / "nobody.sock"))
    with pytest.raises(SystemExit, match=r"one: no answer to one-1: .*No such file"):
        live(tmp_path, monkeypatch)
    assert sum(clock.slept) == pytest.approx(agent.GIVE_UP_S, abs=1)


def test_the_crasher_crashes_once_between_its_questions(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(pid: int, number: int) -> None:
        raise SystemExit(f"{pid == os.getpid()} {number}")

    monkeypatch.setattr(os, "kill", crash)
    supervisor.answers = [http(WHOLE), http(WHOLE)]
    with pytest.raises(SystemExit, match=f"True {signal.SIGSEGV:d}"):
        live(tmp_path, monkeypatch, role="crasher")
    assert len(supervisor.asked) == 1
    assert [line["key"] for line in live(tmp_path, monkeypatch, role="crasher")] == ["one-1", "one-2"]


def test_a_hog_that_nobody_ends_says_so(
    supervisor: Supervisor, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.answers = [http(WHOLE)]
    with pytest.raises(SystemExit, match="hoarded 34603008 bytes and nobody minded"):
        live(tmp_path, monkeypatch, role="hog", hoard_bytes=33 * agent.HOARD_STEP_BYTES)
    assert clock.slept == [0.02, 10.0], "it lets itself be seen on the way, and stays a while"


def test_the_stubborn_one_stays_after_its_answers(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignoring: list[str] = []

    def pause() -> None:
        raise Clock.Enough

    monkeypatch.setattr(agent, "ignore_term", lambda told: ignoring.append(told["role"]))
    monkeypatch.setattr(signal, "pause", pause)
    supervisor.answers = [http(WHOLE), http(WHOLE)]
    with pytest.raises(Clock.Enough):
        live(tmp_path, monkeypatch, role="stubborn")
    assert ignoring == ["stubborn"]
    assert len((tmp_path / "answers").read_text().splitlines()) == 2


def test_the_stubborn_one_leaves_a_grandchild_that_ignores_term_in_a_session_of_its_own(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        agent.ignore_term(plan(tmp_path))
    finally:
        signal.signal(signal.SIGTERM, before)
    mark = tmp_path / "mark"
    told = eventually(lambda: mark.exists() and mark.read_text().partition("\n")[0], what="the grandchild's mark")
    pid, started = map(int, str(told).split())
    try:
        assert is_alive(pid, started)
        assert os.getsid(pid) != os.getsid(0)
        (ignored,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn")]
        assert int(ignored.split()[1], 16) & 1 << (signal.SIGTERM - 1)
    finally:
        os.kill(pid, signal.SIGKILL)


# --- the storm ------------------------------------------------------------------------------------------------------------


class Storm:
    """One asker of the storm's agent, in a folder where the weather can be set."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "answers").mkdir()
        self._monkeypatch = monkeypatch

    def weather(self, askers: str) -> None:
        (self.folder / "weather").write_text(askers)

    def ask_for(self, seconds: float, number: int = 3) -> list[dict[str, Any]]:
        """Let it go on so long; returns what it wrote down."""
        clock = Clock(seconds)
        self._monkeypatch.setattr(storm_agent, "time", clock)
        with pytest.raises(Clock.Enough):
            storm_agent.keep_asking("one", 5, str(self.folder), "m", number)
        file = self.folder / "answers" / "one.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storm:
    return Storm(tmp_path, monkeypatch)


@pytest.mark.parametrize("weather", [None, "", "no number", "3"])
def test_an_agent_of_the_storm_is_silent_until_there_are_more_askers_than_its_place(
    supervisor: Supervisor, storm: Storm, weather: str | None
) -> None:
    if weather is not None:
        storm.weather(weather)
    assert storm.ask_for(5.0) == []
    assert supervisor.asked == []


def test_who_is_turned_away_waits_as_long_as_he_was_told_and_writes_each_end_down(supervisor: Supervisor, storm: Storm) -> None:
    storm.weather("4")
    away = http(b"{}", "503 Service Unavailable", "Retry-After: 4")
    kept = http(WHOLE, "200 OK", "Cache-Status: ai-supervisor; hit", "X-AI-Degraded: cache")
    supervisor.answers = [away, kept, away]
    first, second, third = storm.ask_for(6.0)
    assert (first["status"], first["retry_after_s"], first["is_cached"], first["priority"]) == (503, 4.0, False, 5)
    assert (second["status"], second["retry_after_s"], second["is_cached"], second["degraded"]) == (200, None, True, "cache")
    assert second["sent_at"] - first["ended_at"] == pytest.approx(4.0, abs=storm_agent.LOOK_S)
    assert third["sent_at"] == second["ended_at"], "whoever was answered asks again at once"


def test_whose_wait_a_calm_ended_asks_when_the_next_storm_begins(
    supervisor: Supervisor, storm: Storm, monkeypatch: pytest.MonkeyPatch
) -> None:
    storm.weather("4")
    supervisor.answers = [http(b"{}", "503 Service Unavailable", "Retry-After: 1000")] * 2
    weathers = ["0", "0", "4"]
    sleep = Clock.sleep

    def change(clock: Clock, seconds: float) -> None:
        if weathers:
            storm.weather(weathers.pop(0))
        sleep(clock, seconds)

    monkeypatch.setattr(Clock, "sleep", change)
    first, second = storm.ask_for(2.0)
    assert second["sent_at"] - first["ended_at"] == pytest.approx(3 * storm_agent.LOOK_S)


def test_one_question_in_four_is_everybodys_and_may_come_from_the_cache(supervisor: Supervisor, storm: Storm) -> None:
    storm.weather("4")
    supervisor.answers = [http(WHOLE)] * 7 + [http(b"{}", "503 Service Unavailable", "Retry-After: 99")]
    written = storm.ask_for(10.0)
    assert [line["is_shared"] for line in written] == [True, False, False, False] * 2
    asked = [body for _, _, body in supervisor.asked]
    assert [body["options"].get("temperature") for body in asked] == [0, None, None, None] * 2
    assert asked[0]["prompt"] == asked[4]["prompt"]
    assert len({body["prompt"] for body in asked}) == 7


def test_a_daemon_that_does_not_answer_is_asked_again_and_nothing_is_written_down(supervisor: Supervisor, storm: Storm) -> None:
    storm.weather("4")
    supervisor.answers = [b"", http(WHOLE), b"\r\n\r\n", http(b"{}", "503 Service Unavailable", "Retry-After: 99")]
    assert [line["status"] for line in storm.ask_for(10.0)] == [200, 503]
    assert len(supervisor.asked) == 4


def test_an_agent_asks_with_three_askers_of_which_each_has_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[Any, ...]] = []
    clock = Clock(3599.0)
    monkeypatch.setattr(storm_agent, "time", clock)
    monkeypatch.setattr(storm_agent, "keep_asking", lambda *words: places.append(words))
    monkeypatch.setattr("sys.argv", ["storm_agent.py", "one", "3", "72", "5", "/storm", "m"])
    with pytest.raises(Clock.Enough):
        storm_agent.main()
    assert sorted(places) == [("one", 5, "/storm", "m", place) for place in (3, 75, 147)]
