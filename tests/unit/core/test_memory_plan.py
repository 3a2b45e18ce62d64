"""The plan in declared numbers, and the machine it is to run on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisord_ai.core.memory_plan import (
    CapLine,
    CapsExceedAgents,
    MachineTooSmall,
    MemoryPolicy,
    PartsExceedTotal,
    cap_lines,
    fitted,
    judge_machine,
    judge_plan,
    parts,
    parts_bytes,
)
from supervisord_ai.core.roster import MB, AgentSpec, ClassPolicy

OPUS, SONNET = CapLine("opus", 36, 300 * MB), CapLine("sonnet", 95, 256 * MB)


def test_the_shipped_plan_holds_the_original_caps() -> None:
    assert judge_plan(MemoryPolicy(), (OPUS, SONNET)) == ()


def test_the_original_plan_is_two_gigabytes_short_and_has_three_ways_out() -> None:
    original = MemoryPolicy(cache_bytes=2_000 * MB, monitoring_bytes=2_000 * MB, agents_bytes=33_000 * MB)
    assert judge_plan(original, (OPUS, SONNET)) == (
        CapsExceedAgents(
            caps_bytes=35_120 * MB,
            allowed_bytes=33_000 * MB,
            free_bytes=33_000 * MB,
            agents_bytes=35_200 * MB,
            smaller_caps=(CapLine("opus", 36, 281 * MB), CapLine("sonnet", 95, 240 * MB)),
            overcommit=1.07,
        ),
    )


def test_overcommit_that_was_declared_is_no_problem() -> None:
    original = MemoryPolicy(cache_bytes=2_000 * MB, monitoring_bytes=2_000 * MB, agents_bytes=33_000 * MB, overcommit=1.07)
    assert judge_plan(original, (OPUS, SONNET)) == ()


def test_parts_that_exceed_the_total_are_found_beside_caps_that_exceed_their_part() -> None:
    greedy = MemoryPolicy(ollama_bytes=20_000 * MB, agents_bytes=30_000 * MB)
    found = judge_plan(greedy, (OPUS, SONNET))
    assert found[0] == PartsExceedTotal(54_500 * MB, 48_000 * MB)
    assert isinstance(found[1], CapsExceedAgents)
    assert found[1].free_bytes == 23_500 * MB


def test_agents_without_any_memory_have_no_finite_overcommit() -> None:
    (found,) = judge_plan(MemoryPolicy(agents_bytes=0), (OPUS,))
    assert isinstance(found, CapsExceedAgents)
    assert found.overcommit == float("inf")


def test_a_fleet_of_nobody_fits_everywhere() -> None:
    assert judge_plan(MemoryPolicy(agents_bytes=0), ()) == ()


def test_agents_are_grouped_by_class_and_cap_and_external_ones_have_none() -> None:
    small, large = ClassPolicy("a", memory_bytes=10 * MB), ClassPolicy("a", memory_bytes=20 * MB)
    specs = [AgentSpec("1", small, ("x",)), AgentSpec("2", small, ("x",)), AgentSpec("3", large, ("x",))]
    specs.append(AgentSpec("4", large, (), external=True))
    assert cap_lines(specs) == (CapLine("a", 2, 10 * MB), CapLine("a", 1, 20 * MB))


def test_a_machine_must_hold_the_parts_and_not_the_total() -> None:
    # A virtual machine that was given 48 GB reports a little less: its kernel keeps some.
    policy = MemoryPolicy()
    assert judge_machine(policy, policy.total_bytes - 1) is None
    assert judge_machine(policy, parts_bytes(policy)) is None
    assert judge_machine(policy, parts_bytes(policy) - 1) == MachineTooSmall(47_700 * MB, 47_700 * MB - 1)


def test_the_parts_are_told_in_the_order_and_by_the_names_of_the_config() -> None:
    assert [name for name, _ in parts(MemoryPolicy())] == ["os", "ollama", "cache", "monitoring", "agents"]


def test_caps_that_may_be_overcommitted_need_a_part_that_is_smaller_by_as_much() -> None:
    (found,) = judge_plan(MemoryPolicy(agents_bytes=20_000 * MB, overcommit=1.25), (OPUS, SONNET))
    assert isinstance(found, CapsExceedAgents)
    assert found.agents_bytes == 28_100 * MB  # 35,120 MB of caps


def test_where_the_others_have_taken_more_than_there_is_nothing_is_free() -> None:
    found = judge_plan(MemoryPolicy(ollama_bytes=50_000 * MB, agents_bytes=100 * MB), (OPUS,))[1]
    assert isinstance(found, CapsExceedAgents)
    assert found.free_bytes == 0


@pytest.mark.parametrize(
    ("machine_mb", "plan_mb"),  # total, os, ollama, cache, monitoring, agents, reserve
    [
        (24_050, (24_000, 1_500, 4_000, 500, 200, 17_800, 1_000)),
        (12_000, (12_000, 700, 2_000, 300, 100, 8_900, 500)),
        (2_000, (2_000, 300, 300, 300, 100, 1_000, 200)),
        (1_000, (1_000, 300, 200, 300, 100, 100, 200)),
        (400, (900, 300, 200, 300, 100, 0, 200)),  # nothing fits, and the plan says what would
    ],
)
def test_a_machine_that_cannot_hold_the_shipped_plan_gets_one_of_its_shape(machine_mb: int, plan_mb: tuple[int, ...]) -> None:
    plan = fitted(machine_mb * MB)
    told = (plan.total_bytes, *(size for _, size in parts(plan)), plan.reserve_bytes)
    assert told == tuple(size * MB for size in plan_mb)
    assert all(isinstance(size, int) for size in told)


def test_a_machine_that_can_hold_the_shipped_plan_gets_that() -> None:
    assert fitted(parts_bytes(MemoryPolicy())) == MemoryPolicy()
    assert fitted(parts_bytes(MemoryPolicy()) - 1) != MemoryPolicy()


sizes = st.integers(1, 1000).map(lambda size: size * MB)
caps = st.lists(st.builds(CapLine, st.just("c"), st.integers(1, 200), sizes), min_size=1, max_size=4)


@given(caps=caps, agents_bytes=st.integers(1, 100_000).map(lambda size: size * MB), overcommit=st.floats(1.0, 3.0))
def test_each_way_out_is_one(caps: list[CapLine], agents_bytes: int, overcommit: float) -> None:
    policy = MemoryPolicy(total_bytes=10**15, agents_bytes=agents_bytes, overcommit=overcommit)
    for found in judge_plan(policy, caps):
        assert isinstance(found, CapsExceedAgents)
        wider = MemoryPolicy(total_bytes=10**15, agents_bytes=found.agents_bytes, overcommit=overcommit)
        assert judge_plan(wider, caps) == ()
        assert judge_plan(policy, found.smaller_caps) == ()
        declared = MemoryPolicy(total_bytes=10**15, agents_bytes=agents_bytes, overcommit=found.overcommit)
        assert judge_plan(declared, caps) == ()
