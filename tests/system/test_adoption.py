"""A real daemon is killed, told to leave and told to stop, with real children: who stays, who goes, and what is known of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from supervisord_ai.errors import HostFault
from supervisord_ai.host import procfs
from supervisord_ai.host.cages import find_cages
from tests.system.harness import USER_LINE, Daemon, config_text, eventually, journal, ollama_double

pytestmark = pytest.mark.slow

MODEL = "llama3.2:3b"
FLEET = 131


def skip_without(form: str, folder: Path) -> None:
    try:
        find_cages(folder / "probe", form=form).close()  # type: ignore[arg-type]
    except HostFault as exc:
        pytest.skip(str(exc))


@pytest.fixture(params=["v2", "v1"])
def caged(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A form of cage in which agents outlive the daemon."""
    form: str = request.param
    skip_without(form, tmp_path)
    return form


def agent(name: str, command: str, extra: str = "") -> str:
    return f"[[agents]]\nname = \"{name}\"\nclass = \"sonnet\"\ncommand = '''{command}'''\n{extra}\n"


def roster(*agents: str, extra: str = "") -> str:
    head = f'[class.sonnet]\nmemory = "40MB"\nceiling = 3\nstart = "100ms"\n{USER_LINE}'
    return f"[start]\nbatch_size = 200\n{extra}\n{head}\n" + "".join(agents)


def of_the_fleet(folder: Path) -> set[int]:
    """Everyone on this machine whose environment names this daemon's socket."""
    ours = str(folder / "run" / "llm.sock")
    stats = ((pid, procfs.stat(pid)) for pid in procfs.pids())
    alive = {pid for pid, seen in stats if seen is not None and seen.state != "Z"}
    return {pid for pid in alive if procfs.environ_value(pid, "AI_SUPERVISOR_SOCKET") == ours}


@contextmanager
def daemon_in(folder: Path, extra: str, url: str = "http://127.0.0.1:9") -> Iterator[Daemon]:
    daemon = Daemon(folder, config_text(folder, ollama=url, extra=extra))
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
        for pid in of_the_fleet(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def pids(daemon: Daemon) -> dict[str, int]:
    return {name: one["pid"] for name, one in daemon.agents().items()}


def all_run(daemon: Daemon) -> bool:
    return {one["state"] for one in daemon.agents().values()} == {"running"}


def leave(daemon: Daemon) -> float:
    """Send USR1; returns how long the daemon took to go."""
    assert daemon.process is not None
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGUSR1)
    assert daemon.process.wait(20) == 0
    return time.monotonic() - began


def test_131_agents_outlive_a_kill_a_leave_and_end_with_a_stop(caged: str, tmp_path: Path) -> None:
    extra = roster(*(agent(f"a-{n:03}", "exec sleep 100000") for n in range(FLEET)))
    with daemon_in(tmp_path, extra) as daemon:
        daemon.start("--cages", caged)
        eventually(lambda: all_run(daemon), what="131 running")
        before = pids(daemon)
        assert of_the_fleet(tmp_path) == set(before.values())

        daemon.kill()
        assert of_the_fleet(tmp_path) == set(before.values())
        daemon.start("--cages", caged)
        assert pids(daemon) == before  # the first look after it serves
        assert all_run(daemon)
        assert of_the_fleet(tmp_path) == set(before.values())

        assert leave(daemon) < 2.0 * 5  # five times the room, for a machine that is busy with something else
        assert of_the_fleet(tmp_path) == set(before.values())
        daemon.start("--cages", caged)
        assert pids(daemon) == before
        assert {one["generation"] for one in daemon.agents().values()} == {1}

        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 8.0
        assert of_the_fleet(tmp_path) == set()
    ends = journal(tmp_path, "SELECT verdict, count(*) FROM agents GROUP BY verdict")
    assert ends == [("stopped:shutdown", FLEET)]
    events = dict(journal(tmp_path, "SELECT kind, count(*) FROM events WHERE kind LIKE 'agent.%' GROUP BY kind"))
    assert (events["agent.started"], events["agent.adopted"], events["agent.ended"]) == (FLEET, 2 * FLEET, FLEET)


def test_without_cgroups_survivors_end_before_anyone_starts_and_nobody_is_left_behind(tmp_path: Path) -> None:
    extra = roster(*(agent(f"a-{n:03}", "exec sleep 100000") for n in range(FLEET)))
    with daemon_in(tmp_path, extra) as daemon:
        daemon.start("--cages", "none")
        eventually(lambda: all_run(daemon), what="131 running")
        before = set(pids(daemon).values())
        daemon.kill()
        daemon.start("--cages", "none")
        assert not before & of_the_fleet(tmp_path)
        eventually(lambda: all_run(daemon), what="131 others running")
        assert of_the_fleet(tmp_path) == set(pids(daemon).values())
        leave(daemon)
        assert of_the_fleet(tmp_path) == set()
        assert "agents cannot outlive this daemon" in daemon.log


def test_a_daemon_that_forgot_everything_starts_no_second_copy(tmp_path: Path) -> None:
    """Without cgroups and without its journal it cannot know them; their fence does."""
    with daemon_in(tmp_path, roster(agent("one", "exec sleep 100000"))) as daemon:
        daemon.start("--cages", "none")
        eventually(lambda: all_run(daemon), what="it runs")
        before = of_the_fleet(tmp_path)
        daemon.kill()
        for file in (tmp_path / "state").glob("journal.db*"):
            file.unlink()
        daemon.start("--cages", "none")
        one = eventually(lambda: (seen := daemon.agents()["one"])["verdict"] and seen, what="its refusal")
        assert one["verdict"] == "failed:cage"
        assert one["detail"] == f"a copy of it runs already: its fence is held by process {before.pop()}"
        assert len(of_the_fleet(tmp_path)) == 1
        os.kill(of_the_fleet(tmp_path).pop(), signal.SIGKILL)
        eventually(lambda: all_run(daemon), what="it runs again")
        assert daemon.stop() == 0


DIES = 'while [ ! -e {folder}/{name} ]; do sleep 0.05; done; echo the last words of {name} >&2; {how}'
HOG = "exec /usr/bin/env python3 -I -S -c \"held = []\nwhile True: held.append(bytearray(4_000_000))\""
WAYS = {
    "exits": ("exit 7", "exit:7"),
    "crashes": ("kill -SEGV $$", "crash:SEGV"),
    "finishes": ("exit 0", "finished"),
    "is-killed": ("kill -KILL $$", "killed:external"),
    "eats": (HOG, "oom:own-cap"),
}


def test_an_adopted_agent_that_dies_gets_its_verdict(caged: str, tmp_path: Path) -> None:
    extra = roster(
        *(agent(name, DIES.format(folder=tmp_path, name=name, how=how)) for name, (how, _) in WAYS.items()),
        extra='[restart]\nbase = "30s"\n',
    )
    with daemon_in(tmp_path, extra) as daemon:
        daemon.start("--cages", caged)
        eventually(lambda: all_run(daemon), what="all running")
        daemon.kill()
        daemon.start("--cages", caged)
        for name in WAYS:
            (tmp_path / name).touch()
        eventually(lambda: all(one["verdict"] for one in daemon.agents().values()), what="five ends")
        told = {name: one["verdict"] for name, one in daemon.agents().items()}
        assert told == {name: verdict for name, (_, verdict) in WAYS.items()}
        ((detail,),) = journal(tmp_path, "SELECT detail FROM agents WHERE name = 'exits'")
        assert "the last words of exits" in detail
        assert daemon.stop() == 0
    assert of_the_fleet(tmp_path) == set()


def test_what_ended_while_no_daemon_ran_is_told_as_lost_and_started_again(caged: str, tmp_path: Path) -> None:
    stray = "sleep 100000 & exec sleep 100000"
    extra = roster(agent("gone", "exec sleep 100000"), agent("half-gone", stray), agent("stays", stray))
    with daemon_in(tmp_path, extra) as daemon:
        daemon.start("--cages", caged)
        eventually(lambda: all_run(daemon) and len(of_the_fleet(tmp_path)) == 5, what="three agents and two children")
        before = pids(daemon)
        daemon.kill()
        os.kill(before["gone"], signal.SIGKILL)
        os.kill(before["half-gone"], signal.SIGKILL)
        daemon.start("--cages", caged)
        eventually(lambda: all_run(daemon) and len(of_the_fleet(tmp_path)) == 5, what="three agents and two children again")
        after = {name: (one["generation"], one["verdict"]) for name, one in daemon.agents().items()}
        assert after == {"gone": (2, "lost-while-down"), "half-gone": (2, "lost-while-down"), "stays": (1, None)}
        assert pids(daemon)["stays"] == before["stays"]
        assert daemon.stop() == 0
        assert of_the_fleet(tmp_path) == set()


ASKS = """
import http.client, json, os, socket, sys, time
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["AI_SUPERVISOR_SOCKET"])
def ask(method, path, body=None):
    while True:
        try:
            connection = Unix("localhost")
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.getheader("X-AI-Attempt"), answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
body = json.dumps({"model": "llama3.2:3b", "prompt": "a long one [[n=30 delay=0.1]]", "stream": False})
print("asking", flush=True)
print(json.dumps(ask("POST", "/api/generate", body)[:2]), flush=True)
print(ask("GET", "/supervisor/v1/whoami")[2], flush=True)
time.sleep(100000)
"""


def test_an_adopted_agent_comes_back_to_its_request_as_itself(caged: str, tmp_path: Path) -> None:
    script = tmp_path / "asks.py"
    script.write_text(ASKS)
    extra = roster(agent("one", f"exec python3 {script}"))
    with ollama_double("--model", MODEL) as url, daemon_in(tmp_path, extra, url) as daemon:
        daemon.start("--cages", caged)
        eventually(lambda: daemon.status()["queue"]["running"] == 1, what="its request upstream")
        eventually(lambda: journal(tmp_path, "SELECT attempt FROM requests") == [(1,)], what="its first attempt, written down")
        (row,) = journal(tmp_path, "SELECT id FROM requests")
        daemon.kill()
        daemon.start("--cages", caged)
        log = tmp_path / "log" / "one.log"
        eventually(lambda: log.read_text().count("\n") >= 3, what="its answer")
        asking, answer, who = log.read_text().splitlines()[:3]
        assert (asking, answer) == ("asking", '["2", 200]')
        assert '"one"' in who
        assert journal(tmp_path, "SELECT id, state, attempt FROM requests") == [(*row, "done", 2)]
        assert daemon.stop() == 0
