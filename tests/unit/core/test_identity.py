"""Who a caller is, from made-up words of the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.effects import Level
from supervisord_ai.core.events import AgentEnded, AgentStarted, LevelChanged
from supervisord_ai.core.identity import Caller, CallerKind, IdentityPolicy, PeerFacts, Proof, Register, Stranger, TcpFacts

FLEET = "/ai-supervisor-abc/agents"
POLICY = IdentityPolicy(owner_uid=1000, owner_gid=1000, daemon_uid=0, fleet_uids=frozenset({2001, 2002}), fleet_cgroup=FLEET)


def started(
    agent: str, *, pid: int, uid: int = 2001, generation: int = 1, cgroup: bool = True, own_uid: bool = False
) -> AgentStarted:
    return AgentStarted(
        agent=agent,
        agent_class=agent.partition("-")[0],
        generation=generation,
        pid=pid,
        start_ticks=pid * 10,
        cgroup=f"{FLEET}/{agent}" if cgroup else None,
        run_tag=f"tag-{agent}-{generation}",
        uid=uid,
        own_uid=own_uid,
    )


def register(*agents: AgentStarted, policy: IdentityPolicy = POLICY) -> Register:
    made = Register(policy)
    for agent in agents:
        made.tell(agent)
    return made


def who(found: Caller | Stranger) -> str:
    return f"{found.name}/{found.proof}" if isinstance(found, Caller) else "nobody"


def process(pid: int = 500, uid: int = 2001, **more: object) -> PeerFacts:
    return replace(PeerFacts(pid, uid, uid, start_ticks=pid * 10, session=pid, cgroups=("memory:/user.slice", ":/")), **more)  # type: ignore[arg-type]


def inside(agent: str) -> tuple[str, ...]:
    return ("name=systemd:/", f"memory:{FLEET}/{agent}", ":/")


A = started("opus-01", pid=100)
B = started("sonnet-01", pid=200, uid=2002)
TOKEN_OF_A = register(A).claimed("opus-01", 1)
TOKEN_OF_B = register(B).claimed("sonnet-01", 1)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        # 1: the cgroup, or one below it
        (process(cgroups=inside("opus-01")), "opus-01/proved"),
        (process(cgroups=inside("opus-01/nested/deep")), "opus-01/proved"),
        (process(cgroups=inside("opus-01/a:b")), "opus-01/proved"),
        (process(cgroups=(f":{FLEET}/sonnet-01",)), "sonnet-01/proved"),
        # ... whatever else it shows of another agent
        (process(cgroups=inside("opus-01"), run_tag="tag-sonnet-01-1", session=200, ancestors=((200, 2000),)), "opus-01/proved"),
        (process(cgroups=inside("opus-01"), uid=1000), "opus-01/proved"),
        (process(cgroups=inside("opus-01"), uid=0), "opus-01/proved"),
        # 3: in the fleet, but no running agent's
        (process(cgroups=inside("opus-99")), "nobody"),
        (process(cgroups=inside("opus-0")), "nobody"),
        (process(cgroups=inside("opus-99"), uid=1000), "nobody"),
        (process(cgroups=(f"memory:{FLEET}",), uid=1000), "nobody"),
        # ... even with the tag or as the child of one that runs
        (process(cgroups=inside("opus-99"), run_tag="tag-opus-01-1"), "nobody"),
        # a name that only begins like the fleet's
        (process(cgroups=(f"memory:{FLEET}2/opus-01",), uid=1000), "owner/proved"),
        # 4: session before ancestry before tag
        (process(session=100), "opus-01/tagged"),
        (process(session=100, ancestors=((200, 2000),), run_tag="tag-sonnet-01-1"), "opus-01/tagged"),
        (process(ancestors=((200, 2000),), run_tag="tag-opus-01-1"), "sonnet-01/tagged"),
        (process(ancestors=((300, 3000), (100, 1000))), "opus-01/tagged"),
        (process(run_tag="tag-opus-01-1"), "opus-01/tagged"),
        (process(pid=100), "opus-01/tagged"),
        # a pid that is another process by now
        (process(ancestors=((100, 1001),), uid=1000), "owner/proved"),
        # 5: a tag nobody has, a user of the fleet
        (process(run_tag="tag-opus-01-0", uid=1000), "nobody"),
        (process(run_tag="whatever", uid=1000), "nobody"),
        (process(uid=2001), "nobody"),
        # 6: the owner, and root, who could take what is refused
        (process(uid=1000), "owner/proved"),
        (process(uid=0), "owner/proved"),
        # 8
        (process(uid=1001), "nobody"),
        # a process that has ended: only its user counts, and an agent's user is no owner's
        (process(cgroups=inside("opus-01"), pidfd_matches=False), "nobody"),
        (process(session=100, run_tag="tag-opus-01-1", uid=1000, pidfd_matches=False), "nobody"),
        # of a foreign pid namespace: not ours, so by user
        (PeerFacts(0, 1000, 1000, pidfd_matches=False), "owner/proved"),
        (PeerFacts(0, 1001, 1001, pidfd_matches=False), "nobody"),
    ],
)
def test_who_is_on_the_socket(facts: PeerFacts, expected: str) -> None:
    assert who(register(A, B).on_unix(facts)) == expected


def test_a_user_of_its_own_proves_an_agent_even_after_its_process_ended() -> None:
    alone = register(started("opus-01", pid=100, uid=2001, own_uid=True, cgroup=False), B)
    assert who(alone.on_unix(process(uid=2001, pidfd_matches=False))) == "opus-01/proved"
    assert who(alone.on_tcp(TcpFacts(2001, 1), cgroup=None, claimed=TOKEN_OF_B, holder=None)) == "opus-01/proved"
    # The cgroup of another outranks it: an agent may run a program of another user, not leave its group.
    assert who(alone.on_unix(process(uid=2001, cgroups=inside("sonnet-01")))) == "sonnet-01/proved"


@pytest.mark.parametrize("mighty_uid", [0, 1000])
def test_while_one_agent_could_be_anyone_nobody_is_proved(mighty_uid: int) -> None:
    policy = replace(POLICY, daemon_uid=1000)
    mighty = started("sonnet-02", pid=300, uid=mighty_uid)
    both = register(A, mighty, policy=policy)
    assert who(both.on_unix(process(cgroups=inside("opus-01")))) == "opus-01/tagged"
    by_group = {"cgroup": f"{FLEET}/opus-01", "claimed": None, "holder": None}
    assert who(both.on_tcp(TcpFacts(2001, 1), **by_group)) == "opus-01/tagged"  # type: ignore[arg-type]
    both.tell(AgentEnded("sonnet-02", 1, "finished"))
    assert who(both.on_unix(process(cgroups=inside("opus-01")))) == "opus-01/proved"
    assert who(both.on_tcp(TcpFacts(2001, 1), **by_group)) == "opus-01/proved"  # type: ignore[arg-type]


def test_after_its_end_nothing_of_an_agent_counts_any_more() -> None:
    gone = register(A)
    gone.tell(AgentEnded("opus-01", 1, "crash:SEGV"))
    for facts in (
        process(cgroups=inside("opus-01"), uid=1000),
        process(run_tag=A.run_tag, uid=1000),
        process(uid=2001, session=100),
    ):
        found = gone.on_unix(facts)
        assert isinstance(found, Stranger)
        assert found.may_be_starting


def test_a_late_end_of_an_old_generation_does_not_end_the_new_one() -> None:
    again = register(A, started("opus-01", pid=101, generation=2))
    again.tell(AgentEnded("opus-01", 1, "crash:SEGV"))
    found = again.on_unix(process(cgroups=inside("opus-01")))
    assert isinstance(found, Caller)
    assert found.generation == 2
    # The old main process is nobody's any more, the old tag neither.
    assert isinstance(again.on_unix(process(session=100)), Stranger)
    assert isinstance(again.on_unix(process(run_tag="tag-opus-01-1")), Stranger)


def test_the_owner_is_tagged_where_agents_run_as_him() -> None:
    shared = register(started("opus-01", pid=100, uid=1000, cgroup=False))
    assert who(shared.on_unix(process(uid=1000))) == "owner/tagged"
    assert who(shared.on_unix(process(uid=1000, session=100))) == "opus-01/tagged"


def test_a_daemon_that_runs_inside_an_agent_does_not_take_its_owner_for_that_agent() -> None:
    nested = register(policy=replace(POLICY, inherited_tag="outer"))
    assert who(nested.on_unix(process(uid=1000, run_tag="outer"))) == "owner/proved"
    assert who(nested.on_unix(process(uid=1000, run_tag="other"))) == "nobody"


@pytest.mark.parametrize(
    ("guests", "facts", "expected"),
    [
        ("owner", process(uid=1001, gid=1000), "nobody"),
        ("group", process(uid=1001, gid=1000), "guest/tagged"),
        ("group", process(uid=1001, gid=1, groups=(5, 1000)), "guest/tagged"),
        ("group", process(uid=1001, gid=1), "nobody"),
        ("group", process(uid=1000), "owner/proved"),
        ("group", process(uid=2001, gid=1000), "nobody"),
        ("none", process(uid=1000), "nobody"),
        ("none", process(uid=0), "nobody"),
        ("none", process(cgroups=inside("opus-01")), "opus-01/proved"),
    ],
)
def test_who_may_call_without_being_an_agent(guests: str, facts: PeerFacts, expected: str) -> None:
    assert who(register(A, policy=replace(POLICY, guests=guests)).on_unix(facts)) == expected


@pytest.mark.parametrize(
    ("facts", "more", "expected"),
    [
        # the kernel outranks the token
        (TcpFacts(2001, 1, 77), {"cgroup": f"{FLEET}/opus-01", "claimed": TOKEN_OF_B}, "opus-01/proved"),
        (TcpFacts(2002, 1, 77), {"cgroup": f"{FLEET}/opus-01"}, "opus-01/proved"),
        # the token, shown by a process that is not another agent's
        (TcpFacts(2001), {"claimed": TOKEN_OF_A}, "opus-01/token"),
        (TcpFacts(2001, 1), {"claimed": TOKEN_OF_A}, "nobody"),
        (TcpFacts(2001, 1), {"claimed": TOKEN_OF_A, "holder": process(uid=2001)}, "opus-01/token"),
        (TcpFacts(2001, 1), {"claimed": TOKEN_OF_A, "holder": process(cgroups=inside("opus-01"))}, "opus-01/proved"),
        (TcpFacts(2001, 1), {"claimed": TOKEN_OF_A, "holder": process(cgroups=inside("sonnet-01"))}, "sonnet-01/proved"),
        (TcpFacts(2001, 1), {"claimed": TOKEN_OF_A, "holder": process(cgroups=inside("opus-99"))}, "nobody"),
        (TcpFacts(1000, 1), {"claimed": TOKEN_OF_B}, "sonnet-01/token"),
        (TcpFacts(), {"claimed": TOKEN_OF_A}, "opus-01/token"),
        # the process behind the socket
        (TcpFacts(2001, 1), {"holder": process(cgroups=inside("opus-01"))}, "opus-01/proved"),
        (TcpFacts(2001, 1), {"holder": process(run_tag="tag-opus-01-1")}, "opus-01/tagged"),
        (TcpFacts(2001, 1), {"holder": process(cgroups=inside("opus-99"))}, "nobody"),
        (TcpFacts(2001, 1), {}, "nobody"),
        # the owner, and anybody
        (TcpFacts(1000, 1), {}, "owner/proved"),
        (TcpFacts(1001, 1), {}, "guest/tagged"),
        (TcpFacts(), {}, "guest/tagged"),
    ],
)
def test_who_is_on_tcp(facts: TcpFacts, more: dict[str, object], expected: str) -> None:
    asked: dict[str, object] = {"cgroup": None, "claimed": None, "holder": None, **more}
    assert who(register(A, B).on_tcp(facts, **asked)) == expected  # type: ignore[arg-type]


def test_without_guests_tcp_needs_a_token_or_the_owner() -> None:
    strict = register(A, policy=replace(POLICY, anonymous="refuse"))
    assert who(strict.on_tcp(TcpFacts(), cgroup=None, claimed=None, holder=None)) == "nobody"
    assert who(strict.on_tcp(TcpFacts(1000), cgroup=None, claimed=None, holder=None)) == "owner/proved"
    assert who(strict.on_tcp(TcpFacts(), cgroup=None, claimed=TOKEN_OF_A, holder=None)) == "opus-01/token"


def test_on_tcp_a_user_shared_by_owner_and_agents_does_not_decide() -> None:
    shared = register(started("opus-01", pid=100, uid=1000, cgroup=False))
    facts = TcpFacts(1000, 9)
    assert shared.wants_holder(facts)
    assert who(shared.on_tcp(facts, cgroup=None, claimed=None, holder=None)) == "nobody"
    assert who(shared.on_tcp(facts, cgroup=None, claimed=None, holder=process(uid=1000, session=100))) == "opus-01/tagged"
    assert who(shared.on_tcp(facts, cgroup=None, claimed=None, holder=process(uid=1000))) == "owner/tagged"


def test_nobody_of_the_fleet_controls_whatever_its_user_is() -> None:
    both = register(A, started("sonnet-02", pid=300, uid=1000))
    for uid in (0, 1000):
        assert both.may_control(process(uid=uid))
        assert not both.may_control(process(uid=uid, cgroups=inside("opus-01")))
        assert not both.may_control(process(uid=uid, cgroups=inside("opus-99")))
        assert not both.may_control(process(uid=uid, session=300))
        assert not both.may_control(process(uid=uid, run_tag="unknown"))
        assert not both.may_control(process(uid=uid, pidfd_matches=False))
    assert not both.may_control(process(uid=1001))
    assert not both.may_control(process(uid=2001))
    assert both.may_control(PeerFacts(0, 1000, 1000, pidfd_matches=False))  # of a foreign pid namespace: not ours


# --- whatever a process does --------------------------------------------------------------------------------------------

pids = st.sampled_from([100, 200, 300, 500])
anything = st.builds(
    PeerFacts,
    pid=pids,
    uid=st.sampled_from([0, 1000, 1001, 2001, 2002]),
    gid=st.sampled_from([0, 1000]),
    start_ticks=st.sampled_from([1000, 2000, 5]),
    cgroups=st.lists(st.sampled_from(["memory:/", f"memory:{FLEET}/sonnet-01", f":{FLEET}/opus-77"]), max_size=3).map(tuple),
    session=st.one_of(st.none(), pids),
    run_tag=st.one_of(st.none(), st.sampled_from(["tag-opus-01-1", "tag-sonnet-01-1", "old"])),
    ancestors=st.lists(st.tuples(pids, st.sampled_from([1000, 2000])), max_size=3).map(tuple),
    pidfd_matches=st.booleans(),
)


@given(anything)
def test_outside_its_cgroup_and_user_nobody_is_ever_proved_to_be_an_agent(facts: PeerFacts) -> None:
    found = register(A).on_unix(facts)
    assert who(found) != "opus-01/proved"


@given(anything)
def test_inside_an_agents_cgroup_nobody_is_ever_anyone_else(facts: PeerFacts) -> None:
    caught = replace(facts, cgroups=(f"memory:{FLEET}/opus-01", ":/"), pidfd_matches=True)
    assert who(register(A, B).on_unix(caught)) == "opus-01/proved"


@given(anything)
def test_who_shows_anything_of_the_fleet_is_neither_owner_nor_guest(facts: PeerFacts) -> None:
    both = register(A, B, policy=replace(POLICY, guests="group"))
    found = both.on_unix(facts)
    if both.is_of_fleet(facts):
        assert not isinstance(found, Caller) or found.kind is CallerKind.AGENT
        assert not both.may_control(facts)
    assert not isinstance(found, Caller) or found.proof in {Proof.PROVED, Proof.TAGGED}


def test_a_token_names_the_generation_that_runs_or_an_external_agent() -> None:
    known = Register(POLICY, {"editor": "opus"})
    known.tell(A)
    assert known.claimed("opus-01", 1) is not None
    for name, generation in (("opus-01", 2), ("opus-01", 0), ("editor", 1), ("gone", 0), ("gone", 1)):
        assert known.claimed(name, generation) is None
    external = known.claimed("editor", 0)
    assert external == Caller(CallerKind.AGENT, "editor", "opus", 0, Proof.TOKEN, None)
    known.tell(AgentEnded("opus-01", 1, "finished"))
    assert known.claimed("opus-01", 1) is None
    assert known.claimed("editor", 0) is not None


def test_an_agent_of_the_fleet_cannot_become_an_external_one_by_its_token() -> None:
    known = Register(POLICY, {"editor": "opus"})
    known.tell(A)
    token = known.claimed("editor", 0)
    in_group = {"cgroup": f"{FLEET}/opus-01", "holder": None}
    assert who(known.on_tcp(TcpFacts(2001, 1, 77), claimed=token, **in_group)) == "opus-01/proved"  # type: ignore[arg-type]
    sibling = process(uid=2001, cgroups=inside("opus-01"))
    assert who(known.on_tcp(TcpFacts(2001, 1), cgroup=None, claimed=token, holder=sibling)) == "opus-01/proved"
    outside = known.on_tcp(TcpFacts(1000, 1), cgroup=None, claimed=token, holder=None)
    assert who(outside) == "editor/token"
    assert isinstance(outside, Caller)
    assert outside.uid == 1000


def test_an_external_agent_is_whoever_shows_its_token_for_as_long_as_the_roster_has_it() -> None:
    known = Register(POLICY, {"editor": "sonnet"})
    assert known.has_externals
    assert known.claimed("editor", 0) == Caller(CallerKind.AGENT, "editor", "sonnet", 0, Proof.TOKEN, None)
    assert known.claimed("editor", 1) is None  # it has one generation, and that does not end
    assert known.claimed("other", 0) is None
    assert not Register(POLICY).has_externals


def test_an_agent_that_runs_is_found_by_its_name() -> None:
    known = register(A)
    assert known.agent("opus-01") == A
    assert known.agent("opus-02") is None


def test_what_is_no_start_and_no_end_changes_nothing() -> None:
    known = register(A)
    known.tell(LevelChanged(Level.NORMAL, Level.MINOR, "why", "queue", 0.0))
    assert known.running == (A,)


def test_what_an_ended_agent_left_to_its_heir_stays_the_heirs() -> None:
    """Two agents of one group and one pid, the second announced before the first has ended."""
    heir = replace(B, cgroup=A.cgroup, pid=A.pid)
    known = register(A, heir)
    known.tell(AgentEnded("opus-01", 1, "finished"))
    assert who(known.on_unix(process(cgroups=inside("opus-01")))) == "sonnet-01/proved"
    assert who(known.on_unix(process(session=A.pid))) == "sonnet-01/tagged"


def test_a_holder_that_is_nobody_and_will_be_nobody_is_asked_about_no_further() -> None:
    """On TCP without a token: a process of the fleet's user that is not the fleet's is the owner where the user is the owner."""
    policy = replace(POLICY, fleet_uids=frozenset({1000}), guests="owner")
    known = register(replace(A, uid=1000), policy=policy)
    stranger = process(uid=1000, pidfd_matches=False)
    assert isinstance(known.on_unix(stranger), Stranger)
    found = known.on_tcp(TcpFacts(uid=1000, inode=7), cgroup=None, claimed=None, holder=stranger)
    assert who(found).startswith("owner")


def test_whoever_leaves_the_roster_takes_the_worth_of_its_token_along() -> None:
    known = Register(POLICY, {"editor": "sonnet"})
    known.follow({"other": "opus"})
    assert known.claimed("editor", 0) is None
    assert known.claimed("other", 0) == Caller(CallerKind.AGENT, "other", "opus", 0, Proof.TOKEN, None)


def test_a_caller_is_told_with_its_class_its_generation_and_its_user() -> None:
    known = register(A, B, policy=replace(POLICY, guests="group"))
    proved = Caller(CallerKind.AGENT, "opus-01", "opus", 1, Proof.PROVED, 2001)
    owner = Caller(CallerKind.OWNER, "owner", "owner", 0, Proof.PROVED, 1000)
    guest = Caller(CallerKind.GUEST, "guest", "guest", 0, Proof.TAGGED, 1001)
    assert known.on_unix(process(cgroups=inside("opus-01"))) == proved
    assert known.on_unix(process(session=100)) == replace(proved, proof=Proof.TAGGED)
    assert known.on_unix(process(uid=1000)) == owner
    assert known.on_unix(process(uid=1001, gid=1000)) == guest
    nothing = {"cgroup": None, "claimed": None, "holder": None}
    assert known.on_tcp(TcpFacts(2001, 1), **nothing | {"cgroup": f"{FLEET}/opus-01"}) == proved  # type: ignore[arg-type]
    by_token = replace(proved, proof=Proof.TOKEN)
    shown = nothing | {"claimed": TOKEN_OF_A}
    assert known.on_tcp(TcpFacts(1000, 1), **shown) == replace(by_token, uid=1000)  # type: ignore[arg-type]
    assert known.on_tcp(TcpFacts(2001, 1), **shown | {"holder": process()}) == by_token  # type: ignore[arg-type]
    assert known.on_tcp(TcpFacts(1000, 1), **nothing) == owner
    assert known.on_tcp(TcpFacts(1001, 1), **nothing) == guest


def test_where_only_agents_may_call_the_owner_is_on_tcp_no_more_than_anybody() -> None:
    known = register(A, policy=replace(POLICY, guests="none"))
    assert who(known.on_tcp(TcpFacts(1000, 1), cgroup=None, claimed=None, holder=None)) == "guest/tagged"


def test_the_token_of_an_agent_without_a_group_is_believed_without_a_look_at_the_process() -> None:
    """There is nothing about the process that would outrank it."""
    known = register(started("opus-01", pid=100, cgroup=False))
    facts = TcpFacts(2001, 1)
    assert not known.wants_holder(facts, TOKEN_OF_A)
    assert who(known.on_tcp(facts, cgroup=None, claimed=TOKEN_OF_A, holder=None)) == "opus-01/token"


def test_a_process_with_an_agents_user_is_of_the_fleet_unless_that_user_is_the_owner() -> None:
    known = register(A, policy=replace(POLICY, fleet_uids=frozenset({2002, 1000})))
    assert [known.is_of_fleet(process(uid=uid)) for uid in (2002, 1001, 1000)] == [True, False, False]
