"""One suite for processes, made up and real: spawn, hold, wait, signal, find."""

from __future__ import annotations

import errno
import os
import pwd
import resource
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from supervisord_ai.core.verdict import ExitStatus
from supervisord_ai.errors import SpawnFailed
from supervisord_ai.host import process as host_process
from supervisord_ai.host import procfs
from supervisord_ai.host.process import Account, Launch, ProcessDoor, Processes, ProcessHandle, account, allow_open_files
from supervisord_ai.host.signals import KILL, TERM
from tests.eventually import until
from tests.fakes.process import FakeProcesses, Program

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}

REAL = {
    "exits-7": ("/bin/sh", "-c", "exit 7"),
    "sleeps": ("sleep", "1000"),
    "crashes": ("/bin/sh", "-c", "kill -SEGV $$"),
    "exits-127": ("/bin/sh", "-c", "exit 127"),
    "missing": ("no-such-program",),
}
MADE_UP = {
    "exits-7": Program(lives_s=0.0, code=7),
    "sleeps": Program(),
    "crashes": Program(lives_s=0.0, dies_of=11),
    "exits-127": Program(lives_s=0.0, code=127),
}


@dataclass
class Subject:
    door: ProcessDoor
    argv: Callable[[str], tuple[str, ...]]
    left: Callable[[], int]


@pytest.fixture(params=["made up", "real"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "made up":
        fake = FakeProcesses(MADE_UP)
        yield Subject(fake, lambda name: (name,), lambda: len(fake.processes) - len(fake.closed))
    else:
        real = Processes()
        before = len(os.listdir("/proc/self/fd"))
        yield Subject(real, REAL.__getitem__, real.statistics)
        assert len(os.listdir("/proc/self/fd")) <= before, "a descriptor was left"


async def run(subject: Subject, name: str) -> ExitStatus:
    handle = await subject.door.spawn(Launch(subject.argv(name), ENV))
    return await ended(handle)


async def ended(handle: ProcessHandle) -> ExitStatus:
    with trio.fail_after(10):
        status = await handle.wait()
        assert await handle.wait() == status
    handle.close()
    return status


async def test_an_exit_code_is_an_exit_code(subject: Subject) -> None:
    assert await run(subject, "exits-7") == ExitStatus(code=7)


async def test_a_signal_is_a_signal(subject: Subject) -> None:
    status = await run(subject, "crashes")
    assert (status.code, status.signal) == (None, 11)


async def test_a_program_that_cannot_be_executed_is_told_from_one_that_exits_127(subject: Subject) -> None:
    assert await run(subject, "missing") == ExitStatus(code=127, never_ran=True)
    assert await run(subject, "exits-127") == ExitStatus(code=127)


async def test_a_held_child_does_not_run_before_go(subject: Subject) -> None:
    handle = await subject.door.spawn(Launch(subject.argv("exits-7"), ENV), hold=True)
    with trio.move_on_after(0.2) as waited:
        await handle.wait()
    assert waited.cancelled_caught
    handle.go()
    assert await ended(handle) == ExitStatus(code=7)


async def test_a_signal_reaches_a_child_and_nobody_once_it_has_ended(subject: Subject) -> None:
    handle = await subject.door.spawn(Launch(subject.argv("sleeps"), ENV))
    assert handle.signal(TERM)
    assert await ended(handle) == ExitStatus(signal=TERM)
    assert not handle.signal(KILL)


async def test_several_tasks_may_wait_and_one_that_gives_up_takes_nothing_from_the_others(subject: Subject) -> None:
    handle = await subject.door.spawn(Launch(subject.argv("sleeps"), ENV))
    seen = []

    async def wait() -> None:
        seen.append(await handle.wait())

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):
            await handle.wait()
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        handle.signal(KILL)
    assert seen == [ExitStatus(signal=KILL)] * 2
    handle.close()


async def test_a_process_is_found_by_its_number_and_its_birth_and_not_by_the_number_alone(subject: Subject) -> None:
    handle = await subject.door.spawn(Launch(subject.argv("sleeps"), ENV))
    boot = subject.door.boot_id()
    assert subject.door.find(handle.pid, handle.start_ticks + 1, boot) is None
    assert subject.door.find(handle.pid, handle.start_ticks, "another boot") is None
    found = subject.door.find(handle.pid, handle.start_ticks, boot)
    assert found is not None
    assert found.signal(KILL)
    with trio.fail_after(10):
        # Its status belongs to its parent: we may be told, and may not.
        assert await found.wait() in {ExitStatus(), ExitStatus(signal=KILL)}
    found.close()
    assert await ended(handle) == ExitStatus(signal=KILL)
    assert subject.door.find(handle.pid, handle.start_ticks, boot) is None


async def test_cancelled_at_any_moment_a_spawn_leaves_nobody(subject: Subject) -> None:
    for pause_s in (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008):
        handle = None
        with trio.move_on_after(pause_s):
            handle = await subject.door.spawn(Launch(subject.argv("sleeps"), ENV), hold=True)
        if handle is not None:
            handle.signal(KILL)
            await ended(handle)
        assert subject.left() == 0


async def test_a_user_who_does_not_exist_is_no_cage(subject: Subject) -> None:
    with pytest.raises(SpawnFailed, match="failed:cage: there is no user nobody-there"):
        subject.door.account("nobody-there")


# --- what only the real one can show ---


def test_what_only_looks_like_a_number_is_a_name() -> None:
    with pytest.raises(SpawnFailed, match="there is no user ²"):
        account("²")


def test_a_fleet_that_starts_looks_its_user_up_once_and_the_next_start_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = 100.0, []

    def looked_up(user: str | None) -> Account:
        asked.append(user)
        return Account(user or "me", 1000 + len(asked), 1000, "/")

    monkeypatch.setattr(host_process, "account", looked_up)
    monkeypatch.setattr(host_process, "time", SimpleNamespace(monotonic=lambda: now))
    processes = Processes()
    assert {processes.account(user).uid for user in ["agents"] * 131} == {1001}
    assert processes.account(None).uid == 1002
    now += host_process.ACCOUNT_KEPT_S
    assert processes.account("agents").uid == 1003
    assert asked == ["agents", None, "agents"]


async def output_of(launch: Launch, tmp_path: Path) -> tuple[str, ExitStatus]:
    processes = Processes()
    out = tmp_path / "out"
    with out.open("wb") as file:
        handle = await processes.spawn(
            Launch(
                launch.argv,
                launch.env,
                cwd=launch.cwd,
                stdout_fd=file.fileno(),
                join_files=launch.join_files,
                account=launch.account,
                rlimits=launch.rlimits,
                oom_score_adj=launch.oom_score_adj,
            )
        )
    status = await ended(handle)
    return out.read_text(), status


async def test_the_child_has_our_environment_for_it_and_nothing_of_ours(tmp_path: Path) -> None:
    os.environ["SECRET_OF_THE_SUPERVISOR"] = "x"
    try:
        text, _ = await output_of(Launch(("/usr/bin/env",), {"ONE": "1"}), tmp_path)
    finally:
        del os.environ["SECRET_OF_THE_SUPERVISOR"]
    assert {line for line in text.splitlines() if not line.startswith("PWD=")} <= {"ONE=1", "_=/usr/bin/env", "SHLVL=0"}
    assert "ONE=1" in text


async def test_the_child_holds_no_descriptor_but_its_three_and_has_a_session_of_its_own(tmp_path: Path) -> None:
    script = "ls /proc/self/fd | tr '\\n' ' '; cut -d' ' -f1,6 /proc/$$/stat; readlink /proc/$$/fd/0; cat /proc/$$/comm; umask"
    text, _ = await output_of(Launch(("/bin/sh", "-c", script), ENV), tmp_path)
    first, stdin, comm, umask = text.splitlines()
    *descriptors, pid, session = first.split()
    assert descriptors == ["0", "1", "2", "3"]  # 3 is the folder that ls itself reads
    assert pid == session
    assert stdin == "/dev/null"
    assert comm == "sh"
    assert umask == "0022"


async def test_limits_bind_and_the_oom_score_is_set(tmp_path: Path) -> None:
    script = "ulimit -d; ulimit -c; ulimit -Sn; cat /proc/self/oom_score_adj"
    limits = (("data", 300_000_000), ("core", 0), ("nofile", 1024))
    text, _ = await output_of(Launch(("/bin/sh", "-c", script), ENV, rlimits=limits, oom_score_adj=500), tmp_path)
    assert text.split() == ["292969", "0", "1024", "500"]


async def test_a_cage_that_cannot_be_joined_means_that_nothing_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    processes = Processes()
    for join_file in (tmp_path / "no" / "cgroup.procs", Path("/dev/full")):
        with pytest.raises(SpawnFailed, match="failed:cage") as caught:
            await processes.spawn(Launch(("/usr/bin/touch", str(marker)), ENV, join_files=(str(join_file),)))
        assert str(join_file) in caught.value.detail or "space left" in caught.value.detail or "I/O error" in caught.value.detail
    assert not marker.exists()
    assert processes.statistics() == 0


async def test_a_join_file_is_written_by_the_child_itself(tmp_path: Path) -> None:
    join_file = tmp_path / "cgroup.procs"
    text, status = await output_of(Launch(("/bin/true",), ENV, join_files=(str(join_file),)), tmp_path)
    assert (text, status) == ("", ExitStatus(code=0))
    assert join_file.read_text() == "0\n"


async def test_a_folder_that_is_not_there_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(SpawnFailed, match=f"failed:exec.*{tmp_path}/no"):
        await Processes().spawn(Launch(("/bin/true",), ENV, cwd=str(tmp_path / "no")))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_root_starts_an_agent_as_somebody_else_who_can_never_become_root_again(tmp_path: Path) -> None:
    script = "id -un; id -u; grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status"
    text, _ = await output_of(Launch(("/bin/sh", "-c", script), ENV, account=account("nobody")), tmp_path)
    assert text.split() == ["nobody", "65534", "CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can")
async def test_who_is_not_root_cannot_start_an_agent_as_somebody_else() -> None:
    with pytest.raises(SpawnFailed, match="failed:cage: only root can start an agent as root"):
        await Processes().spawn(Launch(("/bin/true",), ENV, account=account("root")))


async def test_a_pipe_to_its_stdin_is_a_lifeline(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file:
        handle = await Processes().spawn(Launch(("cat",), ENV, stdin="pipe", stdout_fd=file.fileno()))
    assert handle.stdin is not None
    await handle.stdin.send_all(b"secret\n")
    await handle.stdin.aclose()
    assert await ended(handle) == ExitStatus(code=0)
    assert out.read_text() == "secret\n"


async def test_a_supervisor_that_dies_while_it_holds_a_child_takes_it_along(tmp_path: Path) -> None:
    """The child was not written down yet: if it ran, no later supervisor would know of it."""
    marker = tmp_path / "ran"
    processes = Processes()
    handle = await processes.spawn(Launch(("/usr/bin/touch", str(marker)), ENV), hold=True)
    handle._control.close()  # type: ignore[attr-defined]  # what the kernel does for a supervisor that was killed
    with trio.fail_after(10):
        status = await handle.wait()
    handle.close()
    assert status.code == 219 or status.signal == 13  # as its last words found a reader or not
    assert not marker.exists()


async def test_orphans_are_reaped_and_children_of_ours_are_left_to_those_who_wait_for_them(tmp_path: Path) -> None:
    processes = Processes()
    processes.become_subreaper()
    orphan_pid = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ >{orphan_pid}.new; mv {orphan_pid}.new {orphan_pid}; exit 3' & sleep 0.1"
    handle = await processes.spawn(Launch(("/bin/sh", "-c", script), ENV))
    pid = await until(lambda: number_in(orphan_pid), what="the orphan's pid")
    await ended(handle)
    await until(lambda: processes.reap_strays() or procfs.stat(pid) is None, what="the orphan's end")
    assert procfs.stat(pid) is None
    # One of ours that nobody has waited for yet keeps its status.
    mine = await processes.spawn(Launch(("/bin/sh", "-c", "exit 5"), ENV))
    await until(lambda: is_zombie(mine.pid), what="its end")
    processes.reap_strays()
    assert await ended(mine) == ExitStatus(code=5)


def number_in(file: Path) -> int | None:
    return int(file.read_text()) if file.exists() else None


def is_zombie(pid: int) -> bool:
    seen = procfs.stat(pid)
    return seen is not None and seen.state == "Z"


async def test_open_files_are_allowed_to_us_and_not_to_our_children(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, before[1]))
        assert allow_open_files() == min(16_384, before[1])
        with (tmp_path / "out").open("wb") as file:
            handle = await Processes().spawn(Launch(("/bin/sh", "-c", "ulimit -Sn"), ENV, stdout_fd=file.fileno()))
        assert await ended(handle) == ExitStatus(code=0)
        assert int((tmp_path / "out").read_text()) == before[0]  # what this process was started with
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- what goes wrong -----------------------------------------------------------------------------------------------------


def no_descriptors(*_: object, **__: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def forked(script: str, *, is_stray: bool) -> int:
    """Return a child of this process that no `Processes` has started; a stray has a session of its own."""
    return os.posix_spawn("/bin/sh", ["sh", "-c", script], {}, setsid=is_stray)


def taken(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def test_without_descriptors_nothing_is_started_and_nobody_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes()
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(socket, "socketpair", no_descriptors)
    with pytest.raises(SpawnFailed, match=r"failed:cage: socketpair: Too many open files"):
        await processes.spawn(Launch(REAL["sleeps"], ENV))
    monkeypatch.undo()
    started: list[int] = []

    def pidfd_open(pid: int) -> int:
        started.append(pid)
        return no_descriptors()

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    with pytest.raises(SpawnFailed, match=r"failed:cage: pidfd_open: Too many open files"):
        await processes.spawn(Launch(REAL["sleeps"], ENV))
    (pid,) = started
    assert procfs.stat(pid) is None  # it was held by the shim, which ended, and was reaped
    assert processes.statistics() == 0
    assert os.listdir("/proc/self/fd") == before


async def test_a_status_that_somebody_else_took_is_unknown_and_never_0(caplog: pytest.LogCaptureFixture) -> None:
    handle = await Processes().spawn(Launch(REAL["exits-7"], ENV))
    await until(lambda: is_zombie(handle.pid), what="its end")
    taken(handle.pid)  # by a library that waits for any child
    assert await ended(handle) == ExitStatus()
    assert caplog.messages == [f"the status of child {handle.pid} was taken by somebody else"]


async def test_strays_are_left_alone_while_a_child_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the fork and our list a child of ours cannot be told from a stray."""
    processes = Processes()
    stray = forked("exit 5", is_stray=True)
    await until(lambda: is_zombie(stray), what="its end")
    seen: list[int] = []
    really = host_process._popen

    def popen(launch: Launch, argv: list[str], fd: int) -> subprocess.Popen[bytes]:
        trio.from_thread.run_sync(lambda: seen.append(processes.reap_strays()))
        return really(launch, argv, fd)

    monkeypatch.setattr(host_process, "_popen", popen)
    handle = await processes.spawn(Launch(REAL["exits-7"], ENV), hold=True)
    assert seen == [0]
    assert is_zombie(stray)
    handle.go()
    assert await ended(handle) == ExitStatus(code=7)
    await until(lambda: processes.reap_strays() or procfs.stat(stray) is None, what="its turn")
    assert procfs.stat(stray) is None


async def test_a_shim_in_a_frozen_group_holds_up_nobody_and_is_reaped_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_process, "CAGE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(host_process, "KILL_SHIM_TIMEOUT_S", 0.02)
    monkeypatch.setattr(host_process, "send", lambda *_: True)  # frozen, it does not act on it
    before = os.listdir("/proc/self/fd")
    frozen = tmp_path / "cgroup.procs"
    os.mkfifo(frozen)  # who writes waits for one who reads
    processes = Processes()
    with pytest.raises(SpawnFailed, match="did not answer, before the agent was in its cage"):
        await processes.spawn(Launch(REAL["sleeps"], ENV, join_files=(str(frozen),)))
    (said,) = caplog.messages
    assert said.endswith("does not end when killed")
    shim = int(said.split()[1])
    try:
        assert not is_zombie(shim)
        assert (processes.statistics(), os.listdir("/proc/self/fd")) == (0, before)
    finally:
        os.kill(shim, KILL)  # thawed
    await until(lambda: is_zombie(shim), what="its end")
    later = forked("exit 5", is_stray=True)
    await until(lambda: is_zombie(later), what="the end of one that comes after it")
    assert processes.reap_strays() == 2


async def test_a_child_in_our_own_session_is_left_to_the_part_of_us_that_waits_for_it() -> None:
    mine = forked("exit 5", is_stray=False)
    await until(lambda: is_zombie(mine), what="its end")
    assert Processes().reap_strays() == 0
    assert taken(mine) == 5


async def test_what_is_needed_to_start_an_agent_as_somebody_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    somebody = Account("somebody", 4711, 4711, "/home/somebody")
    with pytest.raises(SpawnFailed, match="only root can start an agent as somebody; this supervisor is uid 1000"):
        await Processes().spawn(Launch(REAL["sleeps"], ENV, account=somebody))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SpawnFailed, match=r"setpriv is missing \(apt install util-linux\)"):
        await Processes().spawn(Launch(REAL["sleeps"], ENV, account=somebody))


def test_a_container_whose_user_has_no_name_runs_its_agents_as_that_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert account(None) == Account(str(os.geteuid()), os.geteuid(), os.getegid(), "/")
    with pytest.raises(SpawnFailed, match="there is no user 65533 on this machine"):
        account("65533")


def test_of_a_file_that_ends_while_it_is_read_nothing_is_known(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    assert procfs.read_raw(str(tmp_path)) is None  # EISDIR stands for ESRCH: opened it was
    assert procfs.read_raw("/proc/99999999/stat") is None
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is told the status of a zombie that is not ours")
def test_one_that_runs_has_no_wait_status_and_one_that_was_not_reaped_has() -> None:
    assert procfs.zombie(os.getpid()) is None
    pid = forked("exit 5", is_stray=False)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    found = procfs.zombie(pid)
    assert found is not None
    assert os.waitstatus_to_exitcode(found.wait_status) == 5
    assert taken(pid) == 5
    assert procfs.zombie(pid) is None
