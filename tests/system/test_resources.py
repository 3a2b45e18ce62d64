"""The whole daemon where the machine fails it: clear words about whose fault it is, service as far as it can go, nothing lost."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.system.harness import ROOT, USER_LINE, Daemon, ask, config_text, eventually, journal, ollama_double, running_daemon
from tests.system.hostile import staged

pytestmark = pytest.mark.slow

MODEL = "llama3.2:3b"
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root mounts, and only root is not stopped by modes")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ollama_double("--model", MODEL, "--tokens", "3") as made:
        yield made


def question(number: int, size: int = 0) -> dict[str, object]:
    return {"model": MODEL, "prompt": f"{number} " + "x" * size, "stream": False}


def mounted(folder: Path, kind: bytes, options: bytes, flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(folder), kind, flags, options) != 0:
        pytest.skip(f"nothing may be mounted here: {os.strerror(ctypes.get_errno())}")


@needs_root
def test_on_a_full_disk_what_was_accepted_is_kept_and_who_comes_is_told(tmp_path: Path, url: str) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    mounted(state, b"tmpfs", b"size=6m,mode=0700")
    more = '[queue]\nresult_keep = "1h"\norphan_grace = "1s"\n[class.owner]\nmax_queued = 1000'
    daemon = Daemon(tmp_path, config_text(tmp_path, ollama=url, extra=more))
    try:
        daemon.start()
        promised, refused = [], None
        for number in range(60):
            told = ask(daemon.llm, "/api/generate", question(number, 400_000), headers={"Prefer": "respond-async"})
            if told.status != 202:
                refused = told
                break
            promised.append(told.json["id"])
        assert promised
        assert refused is not None, "the disk was never full"
        assert (refused.status, refused.headers["retry-after"]) == (503, "5"), refused
        assert "the journal cannot be written" in refused.json["error"]  # an agent; its owner is told where to make room:
        judge(daemon.log, f"the disk is full; make room in {state}")
        # It goes on: it says how it is, and what needs no disk is answered.
        assert ask(daemon.llm, "/api/tags").status == 200
        assert daemon.status()["agents"] is not None
        daemon.kill()  # what was promised outlives even that
        mounted(state, b"tmpfs", b"size=64m", 32)  # MS_REMOUNT
        daemon.start()
        for each in promised:
            told = ask(daemon.llm, f"/supervisor/v1/requests/{each}?wait=60", timeout_s=90)
            assert (told.status, told.json["state"]) == (200, "done"), told
        assert ask(daemon.llm, "/api/generate", question(1000)).status == 200
    finally:
        with suppress(Exception):
            daemon.stop()
        assert ctypes.CDLL(None).umount2(os.fsencode(state), 2) == 0


def refusal_of(folder: Path, config: str, **more: object) -> tuple[int, str]:
    """Start a daemon that will not; return its code and what it said."""
    (folder / "config.toml").write_text(config)
    command = [sys.executable, "-m", "supervisord_ai", "run", "--accept-smaller-machine", "--config", str(folder / "config.toml")]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, check=False, text=True, **more)  # type: ignore[call-overload]
    return int(done.returncode), str(done.stdout + done.stderr)


def judge(said: str, *words: str) -> None:
    """One who reads it knows where to look: the words are there, and no traceback is."""
    assert "Traceback" not in said, said
    for word in words:
        assert word in said, said


@needs_root
def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path, url: str) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    mounted(state, b"tmpfs", b"mode=0700", 1)  # MS_RDONLY
    try:
        code, said = refusal_of(tmp_path, config_text(tmp_path, ollama=url))
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(state), 2)
    assert code not in {0, 3}
    judge(said, str(state), "Read-only")


@pytest.mark.parametrize("name", ["journal.db", "cache.db"])
def test_a_damaged_file_is_named_or_put_aside_and_never_served(tmp_path: Path, url: str, name: str) -> None:
    with running_daemon(tmp_path, ollama=url) as daemon:
        assert ask(daemon.llm, "/api/generate", question(1)).status == 200
    file = tmp_path / "state" / name
    file.write_bytes(b"this is no database" * 1000)
    for left in ("-wal", "-shm"):
        Path(f"{file}{left}").unlink(missing_ok=True)
    if name == "cache.db":  # what can be made again is made again
        with running_daemon(tmp_path, ollama=url) as daemon:
            assert ask(daemon.llm, "/api/generate", question(1)).status == 200
            judge(daemon.log, "cache.db")
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return
    code, said = refusal_of(tmp_path, config_text(tmp_path, ollama=url))
    assert code not in {0, 3}
    judge(said, "journal.db")
    assert file.read_bytes().startswith(b"this is no database"), "what is damaged is the owner's to look at"


@needs_root
def test_links_in_the_folders_are_not_followed(tmp_path: Path, url: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "journal.db").symlink_to(victim)
    code, said = refusal_of(tmp_path, config_text(tmp_path, ollama=url))
    assert victim.read_bytes() == b"precious"
    assert code not in {0, 3}
    judge(said, "journal.db")
    (tmp_path / "state" / "journal.db").unlink()
    (tmp_path / "state" / "secret").unlink(missing_ok=True)
    (tmp_path / "state" / "secret").symlink_to(victim)
    code, said = refusal_of(tmp_path, config_text(tmp_path, ollama=url))
    assert (code not in {0, 3}, victim.read_bytes()) == (True, b"precious")
    judge(said, "secret")


@needs_root
def test_every_file_and_socket_has_the_mode_it_needs_and_no_more(tmp_path: Path) -> None:
    with staged("alice", extra='[limits]\nspool = "1MB"\n') as stage:
        assert stage.puppets["alice"].ask("/api/generate", prompt="x", stream=False, options={"temperature": 0})[0] == 200
        run, state, log = (stage.folder / name for name in ("run", "state", "log"))
        found = {}
        for top in (run, state, log):
            for path in (top, *top.rglob("*")):
                found[str(path.relative_to(stage.folder))] = path.lstat().st_mode & 0o7777
        wide = {name: oct(mode) for name, mode in found.items() if mode & 0o022}
        assert wide == {"run/llm.sock": "0o666"}, "only the agents' socket may be written by others"
        assert found["run/control.sock"] == 0o600
        assert (found["state"], found["state/journal.db"], found["state/secret"]) == (0o700, 0o600, 0o600)
        readable = {name for name, mode in found.items() if mode & 0o004}
        assert readable <= {"run", "run/llm.sock"}, readable
        assert {name for name, mode in found.items() if mode & 0o7000} == set()


def test_a_daemon_out_of_descriptors_says_so_and_serves_on_when_it_has_some(tmp_path: Path, url: str) -> None:
    daemon = Daemon(tmp_path, config_text(tmp_path, ollama=url))
    try:
        daemon.start()
        assert daemon.process is not None
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (120, 120))
        held = []
        for _ in range(200):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(5)
            with suppress(BlockingIOError):
                one.connect(str(daemon.llm))
            held.append(one)
        eventually(lambda: "waiting for connections to end" in daemon.log, what="it says so")
        for one in held:
            one.close()
        # Nobody who asks afterwards is turned away.
        for number in range(5):
            assert ask(daemon.llm, "/api/generate", question(number), timeout_s=20).status == 200
        assert daemon.process.poll() is None
        judge(daemon.log)
    finally:
        daemon.stop()


PIDS = Path("/sys/fs/cgroup/pids")
SLEEPER = f"""
[class.sonnet]
ceiling = 3
start = "100ms"
{USER_LINE}
[[agents]]
name = "a"
class = "sonnet"
command = ["sleep", "1000"]
"""


@contextmanager
def too_few_pids(daemon: int) -> Iterator[Callable[[], object]]:
    """The group that the daemon is in may have no more processes; gives what lifts it."""
    group = PIDS / f"ai-resources-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"no pids cgroup may be made here: {exc.strerror}")
    try:
        (group / "cgroup.procs").write_text(str(daemon))
        (group / "pids.max").write_text((group / "pids.current").read_text())
        yield lambda: (group / "pids.max").write_text("max")
    finally:
        (PIDS / "cgroup.procs").write_text(str(daemon))
        for pid in (group / "cgroup.procs").read_text().split():
            (PIDS / "cgroup.procs").write_text(pid)
        group.rmdir()


@contextmanager
def too_few_for_its_user(daemon: int) -> Iterator[Callable[[], object]]:
    """The agent's user has as many processes as RLIMIT_NPROC lets it have: execve(2) fails in who has just become that user."""
    before = resource.prlimit(daemon, resource.RLIMIT_NPROC)
    resource.prlimit(daemon, resource.RLIMIT_NPROC, (0, before[1]))
    yield lambda: resource.prlimit(daemon, resource.RLIMIT_NPROC, before)


@needs_root
@pytest.mark.parametrize("shortage", [too_few_pids, too_few_for_its_user])
def test_an_agent_that_cannot_be_started_for_want_of_processes_is_told_of_and_started_later(
    tmp_path: Path, url: str, shortage: Callable[[int], AbstractContextManager[Callable[[], object]]]
) -> None:
    of_a_user = SLEEPER.replace(USER_LINE, 'user = "nobody"\n')  # root may always have one more
    sibling = SLEEPER[SLEEPER.index("[[agents]]") :].replace('"a"', '"b"')  # whose process that user has beside
    with running_daemon(tmp_path, ollama=url, extra=of_a_user + sibling) as daemon:
        assert daemon.process is not None
        eventually(lambda: {one["state"] for one in daemon.agents().values()} == {"running"}, what="the agents run")
        assert ask(daemon.llm, "/api/generate", question(1)).status == 200
        with shortage(daemon.process.pid) as lift:
            os.kill(daemon.agents()["a"]["pid"], signal.SIGKILL)
            eventually(lambda: "Resource temporarily unavailable" in daemon.log, what="it says why the agent is not there")
            assert ask(daemon.llm, "/api/generate", question(2)).status == 200
            lift()
            eventually(lambda: daemon.agents()["a"]["state"] == "running", what="the agent runs again")
            assert daemon.agents()["b"]["state"] == "running"
            judge(daemon.log)


@needs_root
def test_where_no_cgroup_can_be_made_agents_run_and_status_says_what_is_not_proved(tmp_path: Path, url: str) -> None:
    """As in a container without delegation: the cgroup file systems are there and cannot be written."""
    (tmp_path / "config.toml").write_text(config_text(tmp_path, ollama=url, extra=SLEEPER))
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    shut = "; ".join(f"mount -o remount,ro,bind {point}" for point in mounts)
    inner = f"{shut}; exec {sys.executable} -m supervisord_ai run --accept-smaller-machine --config {tmp_path}/config.toml"
    with (tmp_path / "daemon.log").open("ab") as log:
        process = subprocess.Popen(["unshare", "-m", "sh", "-c", inner], stdout=log, stderr=log, cwd=ROOT)
    daemon = Daemon(tmp_path, "")
    daemon.process = process
    try:
        eventually(daemon._answers, what="the control socket")
        eventually(lambda: daemon.agents()["a"]["state"] == "running", what="the agent runs")
        assert daemon.status()["identity"]["level"] == "tagged"
        assert ask(daemon.llm, "/api/generate", question(1)).status == 200
        judge(daemon.log)
        assert journal(tmp_path, "SELECT count(*) FROM requests")
    finally:
        daemon.stop()


