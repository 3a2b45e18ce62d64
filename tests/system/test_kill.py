"""`kill -9` of the daemon with work in hand: who comes back gets an answer, and nobody's work is done for the dead."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.system.harness import USER_LINE, Answered, Daemon, ask, config_text, eventually, journal, ollama_double

pytestmark = pytest.mark.slow

MODEL = "llama3.2:3b"


def question(number: int, *, slow: bool) -> dict[str, object]:
    # The double reads the directive: so many tokens, so many seconds between two.
    pace = "n=60 delay=0.1" if slow else "n=2 delay=0.001"
    return {"model": MODEL, "prompt": f"question {number} [[{pace}]]", "stream": False}


def ask_and_lose(daemon: Daemon, number: int) -> None:
    """One caller that is cut off by the kill."""
    with suppress(OSError, HTTPException):
        ask(daemon.llm, "/api/generate", question(number, slow=number < 2), headers={"Idempotency-Key": f"key-{number}"})


def callers(daemon: Daemon, numbers: Sequence[int]) -> list[threading.Thread]:
    threads = [threading.Thread(target=ask_and_lose, args=(daemon, n), daemon=True) for n in numbers]
    for thread in threads:
        thread.start()
    return threads


def come_back(daemon: Daemon, numbers: Sequence[int]) -> list[Answered]:
    def one(number: int) -> Answered:
        return ask(daemon.llm, "/api/generate", question(number, slow=number < 2), headers={"Idempotency-Key": f"key-{number}"})

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


def test_fifty_queued_and_two_active_are_all_answered_after_a_kill(tmp_path: Path) -> None:
    with ollama_double("--model", MODEL) as url:
        daemon = Daemon(tmp_path, config_text(tmp_path, ollama=url))
        daemon.start()
        try:
            first = callers(daemon, range(2))
            eventually(lambda: daemon.status()["queue"]["running"] == 2, what="two running")
            rest = callers(daemon, range(2, 52))
            eventually(
                lambda: (s := daemon.status()["queue"])["running"] == 2 and s["queued"] == 50, what="two running and fifty queued"
            )
            running = {r["id"] for b in daemon.status()["backends"] for r in b["running"]}
            daemon.kill()
            for caller in first + rest:
                caller.join(30)

            daemon.start()
            answers = come_back(daemon, range(52))
            assert [a.status for a in answers] == [200] * 52
            assert all(a.json["done"] for a in answers)
            again = [a for a in answers if a.headers.get("x-ai-attempt") == "2"]
            assert len(again) == len(running) == 2
            # The same 52 rows were finished; the return of a caller made no second row.
            assert journal(tmp_path, "PRAGMA integrity_check") == [("ok",)]
            assert journal(tmp_path, "SELECT count(*) FROM requests") == [(52,)]
        finally:
            daemon.stop()


AGENT = """
import json, os, socket, time
body = json.dumps({"model": MODEL, "prompt": "for a caller that dies [[n=600 delay=0.1]]"}).encode()
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["AI_SUPERVISOR_SOCKET"])
s.sendall(b"POST /api/generate HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
while s.recv(4096):
    pass
time.sleep(3600)
"""


def test_rows_of_an_ended_generation_are_cancelled_and_not_worked_off(tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(f"MODEL = {MODEL!r}\n{AGENT}")
    roster = f"""
[memory]
agents = "1GB"
[class.sonnet]
start = "100ms"
ceiling = 3
{USER_LINE}
[[agents]]
name = "sonnet-{{n}}"
class = "sonnet"
count = 3
command = ["python3", "-I", "-S", "{script}"]
"""
    with ollama_double("--model", MODEL) as url:
        daemon = Daemon(tmp_path, config_text(tmp_path, ollama=url, extra=roster))
        daemon.start()
        try:
            eventually(
                lambda: (s := daemon.status()["queue"])["running"] == 2 and s["queued"] == 1, what="two running and one queued"
            )
            daemon.kill()
            daemon.config = config_text(tmp_path, ollama=url)  # nobody is started again, so nobody asks again
            daemon.start()
            queue = eventually(
                lambda: (s := daemon.status()["queue"])["running"] + s["queued"] == 0 and s, what="an empty queue", within_s=10
            )
            assert queue["queued"] == 0
            assert journal(tmp_path, "SELECT state FROM requests") == [("cancelled",)] * 3
        finally:
            daemon.stop()
