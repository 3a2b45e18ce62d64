"""The engine as a process: the secret, the lifeline, a leaver, a kill. Real llama.cpp, real sockets."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisord_ai.engine.ledger import summarise
from supervisord_ai.engine.location import MODEL, find

from .harness import ROOT, Answered, ask, eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.skipif(find().model_file is None, reason="needs `ai-supervisor engine install`"),
]

SECRET = "open sesame"
REAL_MODEL_S = 90.0


@dataclass
class Engine:
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "e.sock"

    def ask(self, target: str, payload: dict[str, object] | None = None, *, secret: str = SECRET) -> Answered:
        return ask(self.socket, target, payload, headers={"Authorization": f"Bearer {secret}"}, timeout_s=REAL_MODEL_S)

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.ask("/api/version").status == 200
        except OSError:
            return False


@contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    words = ["--socket", str(folder / "e.sock"), "--ledger", str(folder / "ledger"), "--threads", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisord_ai.engine", *words], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT
        )
    engine = Engine(process, folder)
    try:
        assert process.stdin is not None
        process.stdin.write(SECRET.encode() + b"\n")
        process.stdin.flush()
        eventually(engine.answers, within_s=REAL_MODEL_S, what="the engine")
        yield engine
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def chat(**more: object) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Write a paragraph about bees."}], **more}


def test_a_real_model_streams_and_counts(tmp_path: Path) -> None:
    with running_engine(tmp_path) as engine:
        answer = engine.ask("/api/chat", chat(options={"num_predict": 8, "temperature": 0}))
        lines = [json.loads(line) for line in answer.body.splitlines()]
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert len(lines) == 9
        assert (lines[-1]["done_reason"], lines[-1]["eval_count"]) == ("length", 8)
        assert lines[-1]["eval_duration"] > 0
        single = engine.ask("/api/chat", chat(stream=False, options={"num_predict": 8, "temperature": 0})).json
        assert single["message"]["content"] == "".join(line["message"]["content"] for line in lines)
        assert engine.ask("/api/tags", secret="guess").status == 401
        assert summarise((tmp_path / "ledger").read_text().splitlines()).ok == 2


def test_a_schema_binds_the_answer(tmp_path: Path) -> None:
    colour = {"enum": ["black", "yellow"]}
    schema = {"type": "object", "properties": {"colour": colour}, "required": ["colour"], "additionalProperties": False}
    with running_engine(tmp_path) as engine:
        answer = engine.ask("/api/chat", chat(stream=False, format=schema, options={"temperature": 0, "num_predict": 60}))
        assert json.loads(answer.json["message"]["content"])["colour"] in {"black", "yellow"}


def test_it_ends_when_its_standard_input_does_and_takes_its_sockets_along(tmp_path: Path) -> None:
    with running_engine(tmp_path) as engine:
        engine.ask("/api/generate", {"model": MODEL})
        assert engine.process.stdin is not None
        engine.process.stdin.close()
        assert engine.process.wait(15) == 0
        assert not list(tmp_path.glob("*.sock"))


def test_a_caller_that_hangs_up_ends_its_call(tmp_path: Path) -> None:
    with running_engine(tmp_path) as engine:
        body = json.dumps(chat(options={"num_predict": 1500})).encode()
        with socket.socket(socket.AF_UNIX) as leaver:
            leaver.connect(str(engine.socket))
            head = f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nContent-Length: {len(body)}\r\n\r\n"
            leaver.sendall(head.encode() + body)
            leaver.settimeout(REAL_MODEL_S)
            assert leaver.recv(1)

        def left() -> bool:
            return summarise((tmp_path / "ledger").read_text().splitlines()).left == 1

        eventually(left, what="the leaver in the ledger")
        for _ in range(2):
            assert engine.ask("/api/chat", chat(stream=False, options={"num_predict": 2})).status == 200


def test_a_killed_engine_leaves_its_calls_open_and_the_next_one_takes_over_its_socket(tmp_path: Path) -> None:
    with running_engine(tmp_path) as engine:
        engine.ask("/api/chat", chat(stream=False, options={"num_predict": 2}))
        engine.process.send_signal(signal.SIGKILL)
        engine.process.wait()
    with running_engine(tmp_path) as engine:
        engine.ask("/api/chat", chat(stream=False, options={"num_predict": 2}))
    found = summarise((tmp_path / "ledger").read_text().splitlines())
    assert (found.calls, found.ok, found.engines) == (2, 2, 2)


def test_without_a_secret_it_does_not_serve(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "supervisord_ai.engine", "--socket", str(tmp_path / "e.sock")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert (told.returncode, told.stderr.strip().splitlines()[-1]) == (1, "engine: no secret came on standard input")
