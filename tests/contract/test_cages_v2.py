"""cgroup v2 where this machine may have none: on a folder of files that answers as the kernel does (tests/fakes/unified.py).

What needs no memory controller runs on the real hierarchy too, wherever one can be written. That the limits bind is shown by
tests/contract/test_cages.py on a machine with cgroup v2, and by tests/vm.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisord_ai.errors import HostFault
from supervisord_ai.host import cgroup
from supervisord_ai.host.cgroup import Guarantee, Mount, parse_mounts
from supervisord_ai.host.cgroup_v2 import V2Cage, V2Cages
from tests.fakes.unified import Unified

MB = 1_000_000
FOLDER = "ai-supervisor-0123456789ab"
UNIT = "/system.slice/ai-supervisor.service"
SCOPE = "/user.slice/user-1000.slice/run-7.scope"
HOLDER = "/ai.slice/ai-agents.service"
SOMEBODY_ELSE = 1


def real_group() -> Path | None:
    """Return our own group of the machine's cgroup v2 where groups can be made in it."""
    texts = [Path(f"/proc/self/{name}").read_text() for name in ("mountinfo", "cgroup")]
    own = next((mount.own_dir for mount in parse_mounts(*texts) if mount.is_v2), None)
    return own if own is not None and os.access(own, os.W_OK) and os.access(own / "cgroup.procs", os.W_OK) else None


REAL = pytest.param("kernel", marks=pytest.mark.skipif(real_group() is None, reason="no cgroup v2 that we may write"))


@pytest.fixture(params=["made up", REAL])
def group(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty group, whose files are the kernel's own or those of the fake."""
    if request.param == "made up":
        yield Unified(tmp_path / "unified", monkeypatch).delegated("/test")
        return
    above = real_group()
    assert above is not None
    made = above / f"ai-supervisor-test-{secrets.token_hex(6)}"
    made.mkdir()
    yield made
    assert cgroup.remove(made)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        child.kill()
        child.wait()


def sleeper(children: list[subprocess.Popen[bytes]], cage: V2Cage) -> int:
    child = subprocess.Popen(["sleep", "1000"])
    children.append(child)
    cgroup.put_into(cage.join_files, child.pid)
    return child.pid


class TestAsTheKernelDoes:
    def test_a_file_that_this_kernel_has_not_cannot_be_made(self, group: Path) -> None:
        with pytest.raises(HostFault, match=r"memory\.nonsense <- 1: Permission denied"):
            cgroup.write(group / "memory.nonsense", "1")

    def test_nobody_is_moved_who_is_not_there(self, group: Path) -> None:
        with pytest.raises(HostFault, match=r"process 99999999 cannot be moved into \S+: No such process"):
            cgroup.put_into([str(group / "cgroup.procs")], 99_999_999)

    def test_a_controller_that_was_not_handed_down_is_not_handed_on(self, group: Path) -> None:
        below = group / "below"
        below.mkdir()
        with pytest.raises(HostFault, match=r"subtree_control <- \+memory: No such file"):
            cgroup.write(below / "cgroup.subtree_control", "+memory")

    def test_a_group_with_somebody_in_it_is_not_removed(self, group: Path, children: list[subprocess.Popen[bytes]]) -> None:
        cage = V2Cage(group / "one", None)
        cgroup.make(group / "one")
        pid = sleeper(children, cage)
        assert cgroup.procs(group) == [pid]
        cage.remove()
        assert (group / "one").is_dir()
        with pytest.raises(OSError, match="busy") as caught:
            os.rmdir(group)
        assert caught.value.errno == errno.EBUSY

    async def test_a_signal_reaches_everyone_in_it(self, group: Path, children: list[subprocess.Popen[bytes]]) -> None:
        cage = V2Cage(group / "one", None)
        cgroup.make(group / "one")
        pids = {sleeper(children, cage), sleeper(children, cage)}
        assert set(await cage.members()) == pids
        await cage.signal(signal.SIGTERM)
        assert [child.wait() for child in children] == [-signal.SIGTERM] * 2
        assert await cage.members() == ()

    @pytest.mark.parametrize("has_kill", [True, False])
    async def test_a_kill_leaves_nobody_frozen_or_not(
        self, group: Path, children: list[subprocess.Popen[bytes]], has_kill: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before 5.14 there is no cgroup.kill: a frozen group does not fork away, and must not stay frozen."""
        cage = V2Cage(group / "one", None)
        cgroup.make(group / "one")
        really = Path.exists
        if not has_kill:
            monkeypatch.setattr(Path, "exists", lambda path: path.name != "cgroup.kill" and really(path))
        sleeper(children, cage)
        sleeper(children, cage)
        assert await cage.kill(within_s=10.0) == ()
        assert [child.wait() for child in children] == [-signal.SIGKILL] * 2
        assert (group / "one" / "cgroup.freeze").read_text() == "0\n"
        cage.remove()
        assert not (group / "one").exists()
        assert await cage.kill(within_s=10.0) == ()  # there is no group any more


# --- where a supervisor has its groups ----------------------------------------------------------------------------------


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unified:
    return Unified(tmp_path / "unified", monkeypatch)


def test_alone_in_our_group_we_go_into_a_leaf_and_memory_is_handed_down_to_the_agents(unified: Unified) -> None:
    own = unified.delegated(SCOPE, os.getpid())
    cages = V2Cages.probe([unified.mount(SCOPE)], FOLDER)
    at = SCOPE.lstrip("/")
    assert unified.deeds == [  # the group must be empty before it may hand anything down
        f"{at}/{FOLDER}/daemon/cgroup.procs <- 0",
        f"{at}/cgroup.subtree_control <- +memory",
        f"{at}/{FOLDER}/cgroup.subtree_control <- +memory",
        f"{at}/{FOLDER}/agents/cgroup.subtree_control <- +memory",
        f"{at}/{FOLDER}/agents/.probe/memory.max <- {64 << 20}",
    ]
    assert unified.members(own / FOLDER / "daemon") == [os.getpid()]
    assert cages.leftovers() == ()  # the group that was tried is gone
    assert (cages.guarantee, cages.group) == (Guarantee.HARD, own / FOLDER / "agents")
    assert cages.detail == f"cgroup v2 at {own / FOLDER}"
    assert repr(cages) == f"<cages {own / FOLDER}>"
    assert cages.why_not_outlived == ""
    cages.cage("one").prepare(100 * MB, "one.1")
    cages.close()
    assert unified.members(own) == [os.getpid()]
    assert not (own / FOLDER).exists()
    assert (own / "cgroup.subtree_control").read_text() == "\n"  # as we found it


def test_where_memory_is_handed_down_already_nobody_moves(unified: Unified) -> None:
    own = unified.delegated(SCOPE)
    unified.delegated(f"{SCOPE}/supervisor", os.getpid())
    V2Cages.probe([unified.mount(SCOPE)], FOLDER).close()
    assert not [deed for deed in unified.deeds if "cgroup.procs" in deed]
    assert (own / "cgroup.subtree_control").read_text() == "memory\n"  # somebody else's doing, and left alone


def test_a_group_that_is_not_ours_alone_is_left_and_root_goes_below_the_root(unified: Unified) -> None:
    session = unified.delegated(SCOPE, os.getpid(), SOMEBODY_ELSE)
    cages = V2Cages.probe([unified.mount(SCOPE)], FOLDER)
    assert cages.group == unified.point / FOLDER / "agents"
    assert cages.cage("one").identity == f"/{FOLDER}/agents/one"
    assert set(unified.members(session)) == {os.getpid(), SOMEBODY_ELSE}  # back where we were started
    assert not (session / FOLDER).exists()


def test_of_every_place_that_was_tried_it_is_said_why_not(unified: Unified) -> None:
    session = unified.delegated(SCOPE, os.getpid(), SOMEBODY_ELSE)
    unified.tell(unified.point / "cgroup.controllers", "cpu pids\n")
    with pytest.raises(HostFault) as caught:
        V2Cages.probe([unified.mount(SCOPE)], FOLDER)
    assert str(caught.value) == (
        f"{session / 'cgroup.subtree_control'} <- +memory: Device or resource busy; "
        f"{unified.point}: the memory controller is not handed to this group"
    )


def test_without_cgroup_v2_that_is_what_is_said() -> None:
    only_v1 = [Mount(False, frozenset({"memory"}), Path("/sys/fs/cgroup/memory"), "/", "/")]
    with pytest.raises(HostFault, match=r"^no cgroup v2 is mounted$"):
        V2Cages.probe(only_v1, FOLDER)
    with pytest.raises(HostFault, match=r"^no cgroup v2 is mounted$"):
        V2Cages.in_holder(only_v1, FOLDER, HOLDER)


def test_a_folder_that_is_no_hierarchy_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match="the memory controller is not handed to this group"):
        V2Cages.probe([Mount(True, frozenset(), tmp_path, "/", "/")], FOLDER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("theirs", [".probe/memory.max", ".probe/cgroup.procs"])
def test_a_place_where_no_agent_could_be_put_or_limited_is_refused_and_left_as_it_was(unified: Unified, theirs: str) -> None:
    own = unified.delegated(SCOPE)
    unified.delegated(f"{SCOPE}/supervisor", os.getpid())
    before = unified.groups()
    unified.refused.add(theirs)
    with pytest.raises(HostFault, match=rf"{theirs}.*: Permission denied"):
        V2Cages.probe([unified.mount(SCOPE)], FOLDER)
    assert unified.groups() == before
    assert not (own / FOLDER).exists()


def test_a_child_enters_only_where_it_may_leave_so_a_group_whose_processes_are_not_ours_is_no_place(unified: Unified) -> None:
    own = unified.delegated(SCOPE)
    unified.delegated(f"{SCOPE}/supervisor", os.getpid())
    unified.refused.add("run-7.scope/cgroup.procs")
    assert V2Cages.probe([unified.mount(SCOPE)], FOLDER).group == unified.point / FOLDER / "agents"
    assert not (own / FOLDER).exists()


def test_who_moved_for_a_place_that_is_refused_after_all_moves_back(unified: Unified) -> None:
    own = unified.delegated(SCOPE, os.getpid())
    unified.refused.add("memory.max")
    with pytest.raises(HostFault, match=r"memory\.max <- \d+: Permission denied"):
        V2Cages.probe([unified.mount(SCOPE)], FOLDER)
    assert unified.members(own) == [os.getpid()]
    assert (own / "cgroup.subtree_control").read_text() == "\n"
    assert not (own / FOLDER).exists()


def test_who_cannot_move_back_stays_in_the_leaf_and_ends_without_a_fault(unified: Unified) -> None:
    own = unified.delegated(SCOPE, os.getpid())
    cages = V2Cages.probe([unified.mount(SCOPE)], FOLDER)
    unified.delegated(f"{SCOPE}/somebody/else")  # hands memory on: it cannot be taken away above
    cages.close()
    assert unified.members(own / FOLDER / "daemon") == [os.getpid()]
    assert not (own / FOLDER / "agents").exists()


def test_below_a_service_without_a_holder_nobody_outlives_us_and_that_is_said(unified: Unified) -> None:
    unified.delegated(UNIT, os.getpid())
    cages = V2Cages.probe([unified.mount(UNIT)], FOLDER)
    assert cages.why_not_outlived == "systemd ends everyone of a service with it, and no holder unit was named"


def held(unified: Unified) -> V2Cages:
    unified.delegated(UNIT, os.getpid())
    leaf = unified.delegated(HOLDER) / "holder"
    leaf.mkdir()
    cgroup.put_into([str(leaf / "cgroup.procs")], SOMEBODY_ELSE)
    unified.deeds.clear()
    return V2Cages.in_holder([unified.mount(UNIT)], FOLDER, HOLDER)


def test_in_a_holder_agents_are_below_it_and_our_own_unit_is_left_alone(unified: Unified) -> None:
    cages = held(unified)
    assert cages.group == unified.point / HOLDER.lstrip("/") / FOLDER / "agents"
    assert cages.cage("one").identity == f"{HOLDER}/{FOLDER}/agents/one"
    assert cages.why_not_outlived == ""
    assert unified.deeds[0] == f"{HOLDER.lstrip('/')}/cgroup.subtree_control <- +memory"
    assert not [deed for deed in unified.deeds if "cgroup.procs" in deed]
    assert unified.members(unified.point / UNIT.lstrip("/")) == [os.getpid()]


def test_only_who_is_below_the_holder_is_taken_over_there(unified: Unified) -> None:
    cages = held(unified)
    kept = cages.cage("one").record
    assert cages.adopt("one", kept) is not None
    elsewhere = f"v2\t{unified.point}/{SCOPE.lstrip('/')}/{FOLDER}/agents/one"
    assert cages.adopt("one", elsewhere) is None  # no limit of the fleet binds it there
    (found, by_tag) = cages.recorded("one", elsewhere, "one.1")  # but it is found, to be ended
    assert found.record == elsewhere
    assert found.identity == f"{SCOPE}/{FOLDER}/agents/one"
    assert by_tag.record is None


def test_a_later_supervisor_in_another_group_takes_over_where_the_agent_is(unified: Unified) -> None:
    unified.delegated(SCOPE, os.getpid())
    first = V2Cages.probe([unified.mount(SCOPE)], FOLDER)
    first.cage("one").prepare(100 * MB, "one.1")
    assert first.leftovers() == ("one",)
    other = "/user.slice/user-1000.slice/run-8.scope"
    unified.delegated(other)
    unified.delegated(f"{other}/supervisor")
    later = V2Cages.probe([unified.mount(other)], FOLDER)
    adopted = later.adopt("one", first.cage("one").record)
    assert adopted is not None
    assert later.cage("one") is adopted
    assert (adopted.identity, adopted.record) == (first.cage("one").identity, first.cage("one").record)
    another_form = (adopted.record or "").replace("v2", "v1", 1)
    for forged in (None, "", another_form, f"v2\t{unified.point}", f"v2\t{unified.point}/system.slice/sshd.service"):
        assert later.adopt("two", forged) is None


# --- one cage -----------------------------------------------------------------------------------------------------------


def cages_on(unified: Unified) -> V2Cages:
    unified.delegated(SCOPE)
    unified.delegated(f"{SCOPE}/supervisor")
    made = V2Cages.probe([unified.mount(SCOPE)], FOLDER)
    unified.deeds.clear()
    return made


def written(unified: Unified) -> list[str]:
    """Return what was written since the last look, by the names of the files."""
    deeds = [Path(deed).name for deed in unified.deeds]
    unified.deeds.clear()
    return deeds


def test_the_cap_is_all_of_it_and_the_agent_dies_as_a_whole(unified: Unified) -> None:
    cage = cages_on(unified).cage("one")
    cage.prepare(100 * MB, "one.1")
    # Swap first: in between nobody has a cap and a second one on disk.
    assert written(unified) == ["memory.swap.max <- 0", f"memory.max <- {100 * MB}", "memory.oom.group <- 1"]
    cage.prepare(None, "one.2")
    assert written(unified) == ["memory.swap.max <- max", "memory.max <- max", "memory.oom.group <- 1"]
    cage.limit(50 * MB)
    assert written(unified) == ["memory.swap.max <- 0", f"memory.max <- {50 * MB}"]


def test_a_kernel_without_swap_or_group_kill_still_has_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unified = Unified(tmp_path / "unified", monkeypatch, kernel=(4, 15), has_swap=False)
    cage = cages_on(unified).cage("one")
    cage.prepare(100 * MB, "one.1")
    assert written(unified) == [f"memory.max <- {100 * MB}"]


def test_a_cap_below_what_is_used_is_refused_since_the_kernel_would_kill_without_a_word(unified: Unified) -> None:
    cages = cages_on(unified)
    cage, group = cages.cage("one"), cages.group / "one"
    cage.prepare(100 * MB, "one.1")
    unified.tell(group / "memory.current", f"{60 * MB}\n")
    written(unified)
    with pytest.raises(HostFault, match=rf"one: {60 * MB} bytes are used, more than {50 * MB}"):
        cage.limit(50 * MB)
    assert written(unified) == []
    cage.limit(60 * MB)
    cage.limit(None)
    assert (group / "memory.max").read_text() == "max\n"


KILLED = "low 0\nhigh 0\nmax 24\noom {oom}\noom_kill {kills}\noom_group_kill 1\n"


def test_what_the_kernel_counted_is_read_and_a_limit_below_is_not_our_own(unified: Unified) -> None:
    cages = cages_on(unified)
    cage, group = cages.cage("one"), cages.group / "one"
    assert cage.counters() == cgroup.Counters(own_limit_hits=0)  # there is no group yet
    cage.prepare(100 * MB, "one.1")
    unified.tell(group / "memory.current", f"{40 * MB}\n")
    unified.tell(group / "memory.peak", f"{90 * MB}\n")
    unified.tell(group / "memory.events", KILLED.format(oom=3, kills=5))  # with those of the groups that the agent made below
    unified.tell(group / "memory.events.local", KILLED.format(oom=1, kills=2))
    assert cage.counters() == cgroup.Counters(oom_kills=5, own_limit_hits=1, memory_bytes=40 * MB, peak_bytes=90 * MB)
    assert cage.oom_kills() == 5


def test_an_older_kernel_has_neither_a_peak_nor_counters_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unified = Unified(tmp_path / "unified", monkeypatch, kernel=(4, 20))
    cages = cages_on(unified)
    cage, group = cages.cage("one"), cages.group / "one"
    cage.prepare(100 * MB, "one.1")
    unified.tell(group / "memory.events", KILLED.format(oom=3, kills=5))
    assert cage.counters() == cgroup.Counters(oom_kills=5, own_limit_hits=3, memory_bytes=0, peak_bytes=None)
    assert cage.outside().fleet_limit_hits is None


async def test_pages_of_files_are_not_needed(unified: Unified) -> None:
    cages = cages_on(unified)
    cage, group = cages.cage("one"), cages.group / "one"
    assert await cage.needed_bytes() is None
    cage.prepare(100 * MB, "one.1")
    unified.tell(group / "memory.current", f"{90 * MB}\n")
    stat = f"anon {20 * MB}\nfile {65 * MB}\ninactive_anon 0\nactive_anon {20 * MB}\n"
    unified.tell(group / "memory.stat", f"{stat}inactive_file {50 * MB}\nactive_file {15 * MB}\nunevictable 7\n")
    assert await cage.needed_bytes() == 25 * MB
    assert await cages.usage() == {"one": 90 * MB}
    unified.tell(group / "memory.current", "0\n")
    assert await cages.usage() == {}  # nobody is in it


def test_a_limit_of_the_fleet_is_counted_where_it_stands_and_the_machines_is_not(unified: Unified) -> None:
    cages = held(unified)
    cage = cages.cage("one")
    cage.prepare(100 * MB, "one.1")
    holder = unified.point / HOLDER.lstrip("/")
    for group, hits in ((cages.group, 1), (cages.group.parent, 2), (holder, 4), (holder.parent, 8), (cages.group / "one", 16)):
        unified.tell(group / "memory.events.local", KILLED.format(oom=hits, kills=0))
    assert cage.outside().fleet_limit_hits == 1 + 2 + 4
    (cages.group / "memory.events.local").unlink()  # a kernel before 5.2
    assert cage.outside().fleet_limit_hits is None


def test_whom_systemd_oomd_took_it_writes_on_the_group(unified: Unified) -> None:
    cages = held(unified)
    cage = cages.cage("one")
    cage.prepare(100 * MB, "one.1")
    holder = unified.point / HOLDER.lstrip("/")
    try:
        os.setxattr(holder, "user.oomd_ooms", b"1")
    except OSError:
        pytest.skip("this file system keeps no attributes of users")
    os.setxattr(cages.group / "one", "user.oomd_kill", b"3")
    os.setxattr(cages.group / "one", "user.oomd_ooms", b"2")
    os.setxattr(cages.group / "one", "user.comment", b"9")
    assert cage.outside().oomd_kills == 1 + 2 + 3
    os.setxattr(holder, "user.oomd_ooms", b"-1")  # nothing that systemd writes
    assert cage.outside().oomd_kills == 2 + 3
    assert cgroup.oomd_kills([unified.point / "no such group"]) is None


@pytest.mark.parametrize("kernel", [(5, 14), (5, 13)])
async def test_who_does_not_end_in_time_is_named_and_the_group_is_not_left_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]], kernel: tuple[int, int]
) -> None:
    unified = Unified(tmp_path / "unified", monkeypatch, kernel=kernel)
    cages = cages_on(unified)
    cage, group = cages.cage("one"), cages.group / "one"
    cage.prepare(100 * MB, "one.1")
    waits = sleeper(children, cage)
    unified.in_the_kernel.add(waits)  # for a disk: it ends when the disk answers
    written(unified)
    assert await cage.kill(within_s=0.02) == (waits,)
    assert written(unified) == (["cgroup.kill <- 1"] if kernel == (5, 14) else ["cgroup.freeze <- 1", "cgroup.freeze <- 0"])
    assert (group / "cgroup.freeze").read_text() == "0\n"
    unified.in_the_kernel.clear()
    assert await cage.kill(within_s=10.0) == ()


def test_one_counter_of_the_machine_tells_whether_any_group_need_be_read(
    unified: Unified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 1000\noom_kill 7\nnuma_hit 0\n")
    monkeypatch.setattr(cgroup, "machine_kills", lambda: cgroup.KeptFile(vmstat))
    cages = cages_on(unified)
    assert cages.kills_seen() == 7
    vmstat.write_text("nr_free_pages 1000\nnuma_hit 0\n")  # a kernel before 4.13: they are read each time
    assert cages.kills_seen() is None
