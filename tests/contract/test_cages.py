"""One suite for cages: made up, without cgroups, cgroup v1, cgroup v2; each form that works here, on real processes.

Where the v1 memory controller is writable its tests run, whatever else is true.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from supervisord_ai.errors import HostFault
from supervisord_ai.host import procfs
from supervisord_ai.host.cages import find_cages
from supervisord_ai.host.cgroup import Cage, Cages, Guarantee, folder_name, parse_mounts
from supervisord_ai.host.process import Launch, ProcessDoor, Processes, ProcessHandle
from supervisord_ai.host.signals import KILL, TERM
from tests.eventually import until, until_seen
from tests.fakes.process import FakeCages, FakeProcesses, Program

MB = 1_000_000
RUN = secrets.token_hex(8)  # nobody of another test run is found by our tags
TAG = f"one.1.{RUN}"

# A parent that ends at once, its child (another session, deaf to TERM) and that one's child (scrubbed environment).
STRAYS = "setsid sh -c \"trap '' TERM; env -i sleep 1000 & sleep 1000 & wait\" & exit 0"
DEAF = "trap '' TERM; while :; do sleep 1000; done"
BOMB = "b() { b | b & }; b; exit 0"


def is_writable(memory: str) -> bool:
    return os.access(f"/sys/fs/cgroup/{memory}", os.W_OK)


@dataclass
class Subject:
    form: str
    cages: Cages
    door: ProcessDoor
    is_real: bool
    started: list[tuple[Cage, ProcessHandle]] = field(default_factory=list)

    async def start(
        self, name: str, program: str, *, cap_bytes: int | None = 100 * MB, tag: str = TAG
    ) -> tuple[Cage, ProcessHandle]:
        cage = self.cages.cage(name)
        cage.prepare(cap_bytes, tag)
        argv = ("/bin/sh", "-c", REAL[program]) if self.is_real else (program,)
        env = {"PATH": "/usr/bin:/bin", "AI_SUPERVISOR_RUN": tag}
        handle = await self.door.spawn(Launch(argv, env, join_files=cage.join_files, rlimits=cage.rlimits), hold=True)
        self.started.append((cage, handle))
        cage.started(handle.pid)
        handle.go()
        return cage, handle


HUNGRY = f"exec '{sys.executable}' -c 'import time; held = bytearray(64_000_000); time.sleep(1000)'"
WRITES = "f=$(mktemp /var/tmp/pages.XXXXXX); head -c 80000000 /dev/zero >$f; exec 3<$f; rm $f; exec sleep 1000"
REAL = {"hungry": HUNGRY, "writes": WRITES, "sleeps": "exec sleep 1000", "deaf": DEAF, "strays": STRAYS, "exits": "exit 0"}
MADE_UP = {
    "sleeps": Program(),
    "deaf": Program(obeys_term=False),
    "strays": Program(lives_s=0.0, stray=Program(obeys_term=False, stray=Program(obeys_term=False))),
    "exits": Program(lives_s=0.0),
}


@pytest.fixture(params=["made up", "none", "v1", "v2"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    form = request.param
    if form == "made up":
        world = FakeProcesses(MADE_UP)
        yield Subject(form, FakeCages(world), world, is_real=False)
        return
    try:
        cages = find_cages(tmp_path, form=form)
    except HostFault as exc:
        if form == "v1" and is_writable("memory"):
            raise
        pytest.skip(str(exc))
    processes = Processes()
    processes.become_subreaper()
    subject = Subject(form, cages, processes, is_real=True)
    try:
        yield subject
    finally:  # a test that fails leaves nobody either
        with trio.CancelScope(shield=True):
            for cage, handle in subject.started:
                await cage.kill(within_s=10.0)
                handle.signal(KILL)
                await handle.wait()
                handle.close()
    cages.close()
    assert groups_left(tmp_path) == []


def groups_left(state_dir: Path) -> list[str]:
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if folder_name(state_dir) in folder]


async def grown(cage: Cage, size: int) -> tuple[int, ...]:
    """Return the members once there are as many as that."""

    async def look() -> tuple[int, ...]:
        members = await cage.members()
        return members if len(members) >= size else ()

    return await until_seen(look, what=f"{size} members")


def ignores_term(pid: int) -> bool:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn"))
    return bool(int(line.split()[1], 16) & 1 << (TERM - 1))


async def end(cage: Cage, handle: ProcessHandle) -> None:
    assert await cage.kill(within_s=10.0) == ()
    with trio.fail_after(10):
        await handle.wait()
    handle.close()


async def test_a_child_is_in_its_cage_and_in_no_other(subject: Subject) -> None:
    one, first = await subject.start("one", "sleeps")
    two, second = await subject.start("two", "sleeps", tag=f"two.1.{RUN}")
    assert await one.members() == (first.pid,)
    assert await two.members() == (second.pid,)
    await end(one, first)
    assert await one.members() == ()
    assert await two.members() == (second.pid,)
    await end(two, second)


async def test_a_signal_reaches_everyone_in_it(subject: Subject) -> None:
    cage, handle = await subject.start("one", "sleeps")
    await cage.signal(TERM)
    with trio.fail_after(10):
        assert (await handle.wait()).signal == TERM
    assert await cage.kill(within_s=1.0) == ()
    handle.close()


async def test_whoever_does_not_obey_is_killed(subject: Subject) -> None:
    cage, handle = await subject.start("one", "deaf")
    if subject.is_real:
        await until(lambda: ignores_term(handle.pid), what="its trap")
    await cage.signal(TERM)
    assert len(await cage.members()) >= 1
    await end(cage, handle)
    assert (await handle.wait()).signal == KILL


async def test_children_that_left_parent_session_and_environment_are_members_and_die_with_it(subject: Subject) -> None:
    cage, handle = await subject.start("one", "strays")
    with trio.fail_after(10):
        assert (await handle.wait()).code == 0
    members = await grown(cage, 3 if subject.is_real else 2)
    assert handle.pid not in members
    assert await cage.kill(within_s=10.0) == ()
    assert await cage.members() == ()
    if subject.is_real:
        await until(lambda: all((seen := procfs.stat(pid)) is None or seen.state == "Z" for pid in members), what="their ends")
    handle.close()


async def test_a_cage_is_used_again_by_the_next_generation(subject: Subject) -> None:
    cage = subject.cages.cage("one")
    for generation in range(3):
        cage, handle = await subject.start("one", "exits", cap_bytes=(50 + 25 * generation) * MB, tag=f"one.{generation}.{RUN}")
        with trio.fail_after(10):
            await handle.wait()
        assert await cage.kill(within_s=5.0) == ()
        handle.close()
    cage.prepare(30 * MB, f"one.9.{RUN}")  # lower again: v1 has an order for that


async def test_the_memory_of_everyone_who_runs_is_known(subject: Subject) -> None:
    if not subject.is_real:
        pytest.skip("nobody has memory there")
    cage, handle = await subject.start("one", "sleeps")
    subject.cages.cage("idle").prepare(MB, f"idle.1.{RUN}")
    used: dict[str, int] = {}

    async def is_measured() -> bool:
        used.update(await subject.cages.usage())
        return used.get("one", 0) > 10_000  # 0 in the instant in which it executes its program

    await until_seen(is_measured, what="its memory")
    assert set(used) == {"one"}
    assert used["one"] < 20 * MB
    assert cage.counters().memory_bytes is not None
    await end(cage, handle)


async def test_without_a_limit_nobody_is_bound_and_a_limit_may_come_later(subject: Subject) -> None:
    if not subject.is_real:
        pytest.skip("nobody has memory there")
    cage, handle = await subject.start("one", "hungry", cap_bytes=None)

    async def used() -> bool:
        return (await subject.cages.usage()).get("one", 0) > 60 * MB

    await until_seen(used, what="60 MB in use")
    needed = await cage.needed_bytes()
    assert needed is not None
    assert 60 * MB < needed < 120 * MB
    assert handle.pid in await cage.members()
    cage.limit(300 * MB)
    cage.limit(None)
    await end(cage, handle)


async def test_pages_of_files_are_not_needed(subject: Subject) -> None:
    if subject.form not in {"v1", "v2"}:
        pytest.skip("only groups are charged for pages of files")
    cage, handle = await subject.start("one", "writes", cap_bytes=None)

    async def written() -> bool:
        return (await subject.cages.usage()).get("one", 0) > 60 * MB

    await until_seen(written, what="60 MB of pages")
    needed = await cage.needed_bytes()
    assert needed is not None
    assert needed < 20 * MB
    await end(cage, handle)


async def test_what_an_earlier_supervisor_left_is_found_by_its_record(subject: Subject, tmp_path: Path) -> None:
    cage, handle = await subject.start("one", "sleeps")
    later: Cages = FakeCages(subject.door) if isinstance(subject.door, FakeProcesses) else find_cages(tmp_path, form=subject.form)  # type: ignore[arg-type]
    if subject.form != "none":
        assert later.leftovers() == ("one",)
    found = later.recorded("one", cage.record, TAG)
    assert {pid for each in found for pid in await each.members()} == {handle.pid}
    for each in found:
        assert await each.kill(within_s=10.0) == ()
    with trio.fail_after(10):
        assert (await handle.wait()).signal == KILL
    handle.close()
    for each in found:
        each.remove()


async def test_a_record_cannot_make_us_kill_outside_our_own_folder(subject: Subject) -> None:
    if subject.form in {"made up", "none"}:
        pytest.skip("there is no path to forge")
    stranger = await Processes().spawn(Launch(("sleep", "1000"), {"PATH": "/usr/bin:/bin"}))
    own = next(m.own_dir for m in parse_mounts(*map(_read, ("mountinfo", "cgroup"))) if m.is_v2 or "memory" in m.controllers)
    found = subject.cages.recorded("one", f"{subject.form}\t{own}", None)
    assert [pid for each in found for pid in await each.members()] == []
    stranger.signal(KILL)
    await stranger.wait()
    stranger.close()


def _read(name: str) -> str:
    return Path(f"/proc/self/{name}").read_text()


async def test_without_a_group_one_who_takes_our_tag_by_executing_is_found_in_the_end(tmp_path: Path) -> None:
    """A stranger's number does not change when he executes something with our tag: a look in passing passes him over."""
    cages = find_cages(tmp_path, form="none")
    cages.cage("one").prepare(100 * MB, TAG)
    turned = tmp_path / "turned"
    script = f"while ! [ -e {turned} ]; do sleep 0.02; done; exec env AI_SUPERVISOR_RUN={TAG} sleep 1000"
    stranger = await Processes().spawn(Launch(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}))
    for _ in range(3):
        assert await cages.usage() == {}
    turned.write_text("")
    await until(lambda: procfs.environ_value(stranger.pid, "AI_SUPERVISOR_RUN"), what="his turn")
    looks = 0
    while not await cages.usage():
        looks += 1
        assert looks <= 10
    assert await cages.cage("one").members() == (stranger.pid,)
    await end(cages.cage("one"), stranger)


# --- what only the kernel can show ---


@pytest.fixture
async def kernel(subject: Subject) -> Subject:
    if subject.form not in {"v1", "v2"}:
        pytest.skip("needs a group")
    return subject


async def test_the_cap_binds_from_the_first_instruction_and_the_neighbour_lives(kernel: Subject, tmp_path: Path) -> None:
    hog = "exec /usr/bin/python3 -I -S -c 'b = bytearray(200_000_000)'"
    REAL["hog"] = hog
    neighbour, quiet = await kernel.start("two", "sleeps", tag=f"two.1.{RUN}")
    cage, handle = await kernel.start("one", "hog", cap_bytes=60 * MB)
    before, kills_before = neighbour.counters(), kernel.cages.kills_seen()
    with trio.fail_after(30):
        status = await handle.wait()
    counters = cage.counters()
    assert kills_before is None or kernel.cages.kills_seen() != kills_before  # or the groups would not be looked at
    assert status.signal == KILL
    assert counters.oom_kills >= 1  # v2 counts the one it chose and the group it took with it
    assert counters.peak_bytes is None or 55 * MB < counters.peak_bytes <= 60 * MB + 4096
    assert neighbour.counters().oom_kills == before.oom_kills
    assert await neighbour.members() == (quiet.pid,)
    handle.close()
    await end(neighbour, quiet)


async def test_a_cap_is_raised_and_lowered_while_somebody_is_in_it(kernel: Subject, tmp_path: Path) -> None:
    go = tmp_path / "go"
    REAL["grows"] = (
        f"exec /usr/bin/python3 -I -S -c 'import os,time\nb = bytearray(30_000_000)\n"
        f"while not os.path.exists(\"{go}\"): time.sleep(0.01)\nc = bytearray(60_000_000)\nprint(len(b))\ntime.sleep(1000)'"
    )
    cage, handle = await kernel.start("one", "grows", cap_bytes=60 * MB)
    await until(lambda: (cage.counters().memory_bytes or 0) > 30 * MB, what="the first 30 MB")
    with pytest.raises(HostFault):
        cage.limit(10 * MB)  # it uses more: refused, and the old cap is as it was
    cage.limit(150 * MB)
    go.touch()
    await until(lambda: (cage.counters().memory_bytes or 0) > 90 * MB, what="90 MB under the raised cap")
    cage.limit(120 * MB)
    assert cage.oom_kills() == 0
    await end(cage, handle)


async def test_the_peak_is_of_this_generation_where_it_can_be_reset(kernel: Subject) -> None:
    if kernel.form != "v1":
        pytest.skip("v2 counts since the group was made")
    REAL["eats-40"] = "exec /usr/bin/python3 -I -S -c 'b = bytearray(40_000_000)'"
    cage, handle = await kernel.start("one", "eats-40")
    with trio.fail_after(30):
        await handle.wait()
    handle.close()
    peak = cage.counters().peak_bytes
    assert peak is not None
    assert peak > 40 * MB
    cage, handle = await kernel.start("one", "sleeps")
    peak = cage.counters().peak_bytes
    assert peak is not None
    assert peak < 20 * MB
    await end(cage, handle)


async def test_a_fork_bomb_does_not_outrun_a_kill(kernel: Subject) -> None:
    REAL["bomb"] = BOMB
    cage, handle = await kernel.start("one", "bomb", cap_bytes=30 * MB)
    await grown(cage, 20)
    began = trio.current_time()
    assert await cage.kill(within_s=10.0) == ()
    assert trio.current_time() - began < 10.0
    assert await cage.members() == ()
    with trio.fail_after(10):
        await handle.wait()
    handle.close()


# --- without a kernel ---


def test_our_own_place_is_read_and_never_assumed() -> None:
    hybrid = (
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "41 31 0:38 / /mnt/with\\040space rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    own = "9:name=systemd:/\n4:memory:/user/one\n1:cpu,cpuacct:/\n0::/wsl-user/distro-7/systemd\n"
    memory, cpu, v2 = parse_mounts(hybrid, own)
    assert memory.controllers == {"memory"}
    assert (str(memory.point), memory.own) == ("/sys/fs/cgroup/memory", "/user/one")
    assert cpu.controllers == {"cpu", "cpuacct"}
    assert (v2.is_v2, str(v2.point), v2.own) == (True, "/mnt/with space", "/wsl-user/distro-7/systemd")


def test_in_a_container_the_mount_shows_a_part_of_the_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    info = f"35 31 0:32 /docker/abc {tmp_path} rw - cgroup cgroup rw,memory\n"
    (memory,) = parse_mounts(info, "4:memory:/docker/abc/inside\n")
    assert memory.own_dir == tmp_path / "inside"
    (elsewhere,) = parse_mounts(info, "4:memory:/another\n")
    assert elsewhere.own_dir == tmp_path


def test_no_form_is_taken_on_faith(tmp_path: Path) -> None:
    cages = find_cages(tmp_path, form="none")
    assert cages.guarantee is Guarantee.SOFT_RLIMIT
    assert cages.detail == "sampled once a second: cgroups were not asked for"
    found = find_cages(tmp_path)
    assert found.detail
    if found.guarantee is Guarantee.SOFT_RLIMIT:
        assert "no cgroup that" in found.detail
        assert not (os.geteuid() == 0 and is_writable("memory"))


def test_signal_numbers_are_those_of_the_machine() -> None:
    assert (TERM, KILL) == (signal.SIGTERM, signal.SIGKILL)


async def test_memory_that_a_child_had_of_its_parent_before_it_executed_is_not_held_against_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """vfork lends the child its parent's memory until exec; the supervisor's is larger than many a cap."""
    cages = find_cages(tmp_path, form="none")
    cages.cage("one").prepare(40 * MB, TAG)
    looks = iter([150 * MB, 10 * MB])
    before = procfs.ProcStat(4711, "python3", "R", os.getpid(), 4711, 99, rss_bytes=0)
    monkeypatch.setattr(procfs, "pids", lambda: [4711])
    monkeypatch.setattr(procfs, "stat", lambda pid: replace(before, rss_bytes=next(looks)))
    monkeypatch.setattr(procfs, "environ_value", lambda pid, name: TAG)
    assert await cages.usage() == {"one": 10 * MB}


async def test_a_look_at_all_of_them_opens_nothing_once_they_were_looked_at(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subject.form not in {"v1", "v2"}:
        pytest.skip("there is no file of a group")
    cages = [subject.cages.cage(f"a{n}") for n in range(20)]
    for number, cage in enumerate(cages):
        cage.prepare(MB, f"a{number}.1.{RUN}")
    opened: list[str] = []
    really_open = os.open

    def counted(path: str, flags: int) -> int:
        opened.append(path)
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", counted)
    for _ in range(3):
        await subject.cages.usage()
        assert [cage.oom_kills() for cage in cages] == [0] * 20
    assert len(opened) == 2 * 20
    cages[0].remove()
    assert cages[0].oom_kills() == 0  # there is no group
    cages[0].prepare(MB, f"a0.2.{RUN}")
    assert cages[0].counters().memory_bytes is not None  # it was made again, and its file is another one


# --- who outlives us, and where he is found again ---


async def test_a_later_supervisor_takes_the_cage_over_where_it_is(subject: Subject, tmp_path: Path) -> None:
    cage, handle = await subject.start("one", "sleeps")
    if subject.form == "none":
        assert subject.cages.adopt("one", cage.record) is None
        assert "without cgroups" in subject.cages.why_not_outlived
        await end(cage, handle)
        return
    assert subject.cages.why_not_outlived == ""
    later: Cages = FakeCages(subject.door) if isinstance(subject.door, FakeProcesses) else find_cages(tmp_path, form=subject.form)  # type: ignore[arg-type]
    adopted = later.adopt("one", cage.record)
    assert adopted is not None
    assert later.cage("one") is adopted
    assert (adopted.identity, adopted.record, await adopted.members()) == (cage.identity, cage.record, await cage.members())
    await end(adopted, handle)


async def test_no_group_but_one_of_ours_is_ever_taken_over(subject: Subject) -> None:
    if subject.form in {"made up", "none"}:
        pytest.skip("there are no paths in its record")
    assert subject.cages.adopt("one", f"{subject.form}\t/sys/fs/cgroup/memory") is None
    assert subject.cages.adopt("one", None) is None
