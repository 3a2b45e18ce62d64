"""`exec -- CMD`: a process of its owner becomes one of the fleet, with its cap, its identity and its verdict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.harness import ROOT, USER_LINE, Daemon, eventually, journal, ollama_double, running_daemon

pytestmark = pytest.mark.slow

MODEL = "llama3.2:3b"
ROSTER = f"""
[class.job]
memory = "100MB"
ceiling = 3
priority = 3
grace = "500ms"
{USER_LINE}
[[agents]]
name = "nightly"
class = "job"
external = true
[[agents]]
name = "ours"
class = "job"
command = ["sleep", "600"]
"""
ASKS = f"""
import json, os, sys, urllib.request
sys.path.insert(0, {str(ROOT)!r})
from tests.system.harness import ask
from pathlib import Path
llm = Path(os.environ["AI_SUPERVISOR_SOCKET"])
who = ask(llm, "/supervisor/v1/whoami").json
answer = ask(llm, "/api/generate", {{"model": {MODEL!r}, "prompt": "x [[n=2 delay=0.001]]", "stream": False}})
print(json.dumps({{"who": who, "status": answer.status, "home": os.environ.get("MINE")}}))
sys.exit(7)
"""
HOG = "import sys; kept = [bytearray(10_000_000) for _ in range(40)]; sys.exit(0)"


def words(daemon: Daemon, *more: str) -> list[str]:
    return [sys.executable, "-m", "supervisord_ai", "exec", "--config", str(daemon.folder / "config.toml"), *more]


def run(daemon: Daemon, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = words(daemon, *more)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env})


@contextmanager
def started(daemon: Daemon, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words(daemon, *more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def verdict(daemon: Daemon, name: str) -> str:
    sql = f"SELECT verdict FROM agents WHERE name = '{name}' AND ended_wall IS NOT NULL"
    return str(eventually(lambda: journal(daemon.folder, sql), what=f"the verdict of {name}")[0][0])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with ollama_double("--model", MODEL) as url:
        folder = tmp_path_factory.mktemp("exec")
        with running_daemon(folder, ollama=url, extra=ROSTER) as daemon:
            yield daemon


def test_it_is_known_by_the_kernel_keeps_its_environment_and_its_exit_code_and_gets_a_verdict(daemon: Daemon) -> None:
    done = run(daemon, "--name", "nightly", "--", sys.executable, "-c", ASKS, MINE="yes")
    assert done.returncode == 7, done.stderr
    told = json.loads(done.stdout)
    assert (told["who"]["name"], told["who"]["class"]) == ("nightly", "job")
    assert (told["status"], told["home"]) == (200, "yes")
    # Kernels before 6.15 tell a status to its parent alone.
    assert verdict(daemon, "nightly") in {"exit:7", "exit:unknown(adopted)"}
    kinds = "SELECT kind FROM events WHERE agent = 'nightly' ORDER BY seq"
    eventually(lambda: journal(daemon.folder, kinds) == [("agent.started",), ("agent.ended",)], what="its events")


def test_its_cap_binds_before_its_first_instruction(daemon: Daemon) -> None:
    if daemon.status()["guarantee"]["level"] == "soft-rlimit":
        pytest.skip("no cgroups here: a limit of each process answers with MemoryError")
    done = run(daemon, "--class", "job", "--name", "hog", "--", sys.executable, "-c", HOG)
    assert done.returncode == -signal.SIGKILL
    assert verdict(daemon, "hog") == "oom:own-cap"


def test_two_of_one_name_one_that_we_start_and_a_class_that_is_not_there_are_refused_and_not_executed(daemon: Daemon) -> None:
    with started(daemon, "--name", "twice", "--class", "job", "--", "sleep", "600"):
        eventually(lambda: journal(daemon.folder, "SELECT pid FROM agents WHERE name = 'twice'"), what="the first")
        for more, why in (
            (("--name", "twice", "--class", "job"), "runs already"),
            (("--name", "ours"), "is an agent that we start"),
            (("--class", "none"), "there is no class 'none'"),
        ):
            done = run(daemon, *more, "--", "echo", "executed")
            assert why in done.stderr
            assert (done.returncode, done.stdout) in {(4, ""), (2, "")}
    assert verdict(daemon, "twice") in {"killed:external", "exit:unknown(adopted)"}


def test_what_it_leaves_running_is_ended_with_it(daemon: Daemon) -> None:
    done = run(daemon, "--name", "parent", "--class", "job", "--", "sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!")
    child = int(done.stdout)
    verdict(daemon, "parent")
    there = Path(f"/proc/{child}")
    eventually(lambda: not there.exists() or " Z " in (there / "stat").read_text(), what="the child's end")


def test_from_inside_the_fleet_nobody_can_ask_for_it(daemon: Daemon) -> None:
    inner = " ".join(words(daemon, "--class", "job", "--", "echo", "executed"))
    done = run(daemon, "--name", "inside", "--class", "job", "--", "sh", "-c", inner)
    assert done.returncode == 4
    assert "executed" not in done.stdout


def test_without_a_daemon_it_is_3_and_nothing_is_executed(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'[daemon]\nruntime_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n')
    done = run(Daemon(tmp_path, ""), "--class", "job", "--", "echo", "executed")
    assert (done.returncode, done.stdout) == (3, "")


def test_a_stop_of_the_daemon_ends_it_too(tmp_path: Path) -> None:
    with (
        ollama_double("--model", MODEL) as url,
        running_daemon(tmp_path, ollama=url, extra=ROSTER) as daemon,
        started(daemon, "--name", "long", "--class", "job", "--", "sleep", "600") as process,
    ):
        eventually(lambda: journal(tmp_path, "SELECT pid FROM agents WHERE name = 'long' AND pid > 0"), what="the command")
        assert daemon.stop() == 0
        assert process.wait(5) == -signal.SIGTERM
        assert journal(tmp_path, "SELECT verdict FROM agents WHERE name = 'long'") == [("stopped:shutdown",)]


def test_without_cgroups_it_is_known_by_its_mark_and_whoever_started_it_lives_on(tmp_path: Path) -> None:
    with (
        ollama_double("--model", MODEL) as url,
        running_daemon(tmp_path, ollama=url, extra=ROSTER, arguments=("--cages", "none")) as daemon,
    ):
        # A shell of its own session, as a terminal's: what ends with the command is the command's, and nothing else.
        inner = " ".join(words(daemon, "--name", "nightly", "--", sys.executable, "-c", '"$ASKS"'))
        script = f"sleep 300 & {inner}; code=$?; sleep 0.2; kill -0 $! && echo alive $code; kill $!"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=ROOT,
            env={**os.environ, "ASKS": ASKS},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,
        )
        told, alive = done.stdout.splitlines()
        assert json.loads(told)["who"]["name"] == "nightly"
        assert alive == "alive 7"
        verdict(daemon, "nightly")
