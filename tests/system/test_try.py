"""`try -- CMD` as a person types it, before a double of Ollama."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.harness import ROOT, eventually, ollama_double

pytestmark = pytest.mark.slow

MODEL = "llama3.2:3b"
SCRIPT = f"""
import json, os, urllib.request

def ask(prompt, **more):
    body = json.dumps({{"model": {MODEL!r}, "prompt": prompt, "stream": False, **more}}).encode()
    request = urllib.request.Request(os.environ["OLLAMA_HOST"] + "/api/generate", body)
    request.add_header("Authorization", "Bearer " + os.environ["OLLAMA_API_KEY"])
    return json.loads(urllib.request.urlopen(request).read())["response"]

print("first:", ask("one"))
for _ in range(2):
    print("same:", ask("two", options={{"temperature": 0}}))
"""


@pytest.fixture(scope="module")
def ollama() -> Iterator[str]:
    with ollama_double("--model", MODEL) as url:
        yield url


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "supervisord_ai", "try", *words]


def tried(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), capture_output=True, text=True, cwd=ROOT, env={**os.environ, **(env or {})}, timeout=120, check=False
    )


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("ai-try-*")]


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_script_is_run_as_it_is_and_what_it_asked_is_summed_up(ollama: str, tmp_path: Path) -> None:
    script = tmp_path / "my_agent.py"
    script.write_text(SCRIPT)
    done = tried("--ollama", ollama, "--", "python3", str(script), env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["first", "same", "same"]
    assert "requests  3 asked: 2 answered, 1 cached" in done.stderr
    assert "ended     finished" in done.stderr
    assert "ai-supervisor agents add my_agent " in done.stderr
    assert left_behind(tmp_path) == []


def test_the_summary_as_json(ollama: str) -> None:
    done = tried("--ollama", ollama, "--json", "--", "sh", "-c", "echo hello; exit 3")
    assert (done.returncode, done.stdout) == (1, "hello\n")
    told = json.loads(done.stderr[done.stderr.index("{") :])
    assert told["verdict"] == "exit:3"
    assert told["totals"]["asked"] == 0


def test_a_program_that_is_not_there_is_said(ollama: str) -> None:
    done = tried("--ollama", ollama, "--", "no-such-program")
    assert done.returncode == 1
    assert "failed:exec" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_ollama_one_is_told_what_to_do() -> None:
    done = tried("--ollama", "http://127.0.0.1:9", "--", "true")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "ai-supervisor: no Ollama answers at 127.0.0.1:9: start one, name another with --ollama URL, "
        "or use the embedded engine with --engine embedded"
    ]


def test_interrupting_it_ends_the_agent_and_its_daemon_and_still_sums_up(ollama: str, tmp_path: Path) -> None:
    running = subprocess.Popen(
        command("--ollama", ollama, "--", "sh", "-c", f"echo up; sleep 300; : {tmp_path}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        family = psutil.Process(running.pid).children(recursive=True)
        assert family
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()
    assert running.returncode == 130
    assert "ended     interrupted" in told
    eventually(lambda: not any(is_alive(one) for one in family), what="nobody of the family is left")
    assert left_behind(tmp_path) == []
