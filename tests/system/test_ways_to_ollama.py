"""A real daemon and every way to an Ollama: one it keeps itself, one it finds, none."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisord_ai.host.cages import find_cages
from supervisord_ai.host.cgroup import Guarantee
from tests.system.harness import ROOT, USER_LINE, Daemon, ask, config_text, eventually, journal, ollama_double, running_daemon

pytestmark = pytest.mark.slow

GENERATE = {"model": "llama3.2:3b", "prompt": "hello", "stream": False}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def keeping(port: int, *, more: str = "") -> str:
    """The config of a backend whose `command` is the double."""
    words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.fakes.ollama_double", "--listen", f"127.0.0.1:{port}"]
    return f"command = {words!r}\nslots = 3\n{more}\n[class.engine]\n{USER_LINE}".replace("'", '"')


def backend(daemon: Daemon) -> dict[str, Any]:
    (one,) = daemon.status()["backends"]
    return dict(one)


def backend_with(daemon: Daemon, key: str, words: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        one = backend(daemon)
        return one if words in one[key] else None

    return eventually(look, what=f"{words!r} as {key}")


def ready(daemon: Daemon) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        one = backend(daemon)
        return one if one["state"] == "ready" and "engine-main ready" in one["way"] else None

    return eventually(look, what="the engine")


def pid_of(one: dict[str, Any]) -> int:
    found = re.search(r"pid (\d+)", one["way"])
    assert found, one
    return int(found[1])


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_kept_ollama_is_told_what_we_assume_comes_back_when_killed_and_ends_with_us(tmp_path: Path) -> None:
    port = free_port()
    with running_daemon(tmp_path, ollama=f"http://127.0.0.1:{port}", extra=keeping(port)) as daemon:
        one = ready(daemon)
        pid = pid_of(one)
        told = dict(word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in word)
        assert told["OLLAMA_HOST"] == f"127.0.0.1:{port}"
        assert (told["OLLAMA_NUM_PARALLEL"], told["OLLAMA_NO_CLOUD"]) == ("3", "1")
        assert ask(daemon.llm, "/api/generate", GENERATE).status == 200

        os.kill(pid, signal.SIGKILL)

        def another() -> dict[str, Any] | None:
            one = ready(daemon)
            return one if pid_of(one) != pid else None

        again = eventually(another, what="the engine's return")
        assert "1 restarts" in again["way"]
        assert ask(daemon.llm, "/api/generate", GENERATE).status == 200
        assert daemon.stop() == 0
        assert not is_alive(pid_of(again))
    ((verdict, intent),) = journal(tmp_path, "SELECT verdict, intent FROM agents WHERE name = 'engine-main'")
    assert (verdict, intent) == ("stopped:shutdown", "shutdown")
    assert "listens on" in (tmp_path / "log" / "engine-main.log").read_text()


def test_one_that_outlived_a_killed_daemon_goes_on_under_the_next(tmp_path: Path) -> None:
    if find_cages(tmp_path / "probe").guarantee is Guarantee.SOFT_RLIMIT:
        pytest.skip("without groups nobody is taken over")
    port = free_port()
    daemon = Daemon(tmp_path, config_text(tmp_path, ollama=f"http://127.0.0.1:{port}", extra=keeping(port)))
    try:
        daemon.start()
        first = pid_of(ready(daemon))
        daemon.kill()
        daemon.start()
        assert pid_of(ready(daemon)) == first
        assert ask(daemon.llm, "/api/generate", GENERATE).status == 200
        assert daemon.stop() == 0
        assert not is_alive(first)
    finally:
        daemon.stop()
    ((verdict, generation),) = journal(tmp_path, "SELECT verdict, generation FROM agents WHERE name = 'engine-main'")
    assert (verdict, generation) == ("stopped:shutdown", 1)


def test_without_groups_one_that_outlived_a_killed_daemon_is_ended_before_the_next_is_started(tmp_path: Path) -> None:
    port = free_port()
    daemon = Daemon(tmp_path, config_text(tmp_path, ollama=f"http://127.0.0.1:{port}", extra=keeping(port)))
    try:
        daemon.start("--cages", "none")
        first = pid_of(ready(daemon))
        daemon.kill()
        assert is_alive(first), "an Ollama knows nothing of us"
        daemon.start("--cages", "none")
        second = pid_of(ready(daemon))
        assert second != first
        assert not is_alive(first)
        assert "another Ollama answers" not in daemon.log
    finally:
        daemon.stop()
    assert not is_alive(second)


def test_beside_an_ollama_that_has_its_address_it_is_not_started_and_status_says_so(tmp_path: Path) -> None:
    with ollama_double() as url:
        port = int(url.rpartition(":")[2])
        with running_daemon(tmp_path, ollama=url, extra=keeping(port)) as daemon:
            backend_with(daemon, "way", "another Ollama answers")
            assert not (tmp_path / "log" / "engine-main.log").exists()


def test_one_that_takes_more_than_the_plan_gives_it_is_ended_with_that_verdict_and_nobody_else_is(tmp_path: Path) -> None:
    hog = "import time; held = bytearray(300_000_000); time.sleep(600)"
    port = free_port()
    words = json.dumps([sys.executable, "-S", "-c", hog])
    extra = f'command = {words}\n[memory]\nollama = "100MB"\n[class.engine]\n{USER_LINE}'
    sql = "SELECT verdict FROM agents WHERE name = 'engine-main' AND verdict IS NOT NULL"
    with running_daemon(tmp_path, ollama=f"http://127.0.0.1:{port}", extra=extra) as daemon:
        ((verdict,),) = eventually(lambda: journal(tmp_path, sql), what="the engine's end")
        assert verdict.startswith("oom:")
        backend_with(daemon, "detail", "restarts")


def test_auto_finds_the_ollama_of_ollama_host_and_says_where(tmp_path: Path) -> None:
    with ollama_double() as url:
        daemon = Daemon(tmp_path, config_text(tmp_path, ollama="auto"), env={"OLLAMA_HOST": url})
        try:
            daemon.start()
            one = backend_with(daemon, "state", "ready")
            assert one["way"] == f"{url} (OLLAMA_HOST)"
            assert ask(daemon.llm, "/api/generate", GENERATE).status == 200
        finally:
            daemon.stop()


def test_without_any_auto_waits_and_says_what_to_do(tmp_path: Path) -> None:
    port = free_port()
    daemon = Daemon(tmp_path, config_text(tmp_path, ollama="auto"), env={"OLLAMA_HOST": f"127.0.0.1:{port}"})
    try:
        daemon.start()
        one = backend_with(daemon, "detail", "no Ollama found")
        assert one["state"] == "waiting"
        assert f"http://127.0.0.1:{port} (OLLAMA_HOST)" in one["detail"]
        assert "ollama serve" in one["detail"]
        with ollama_double("--listen", f"127.0.0.1:{port}"):
            backend_with(daemon, "state", "ready")
    finally:
        daemon.stop()
