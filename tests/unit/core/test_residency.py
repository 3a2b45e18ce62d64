"""Which model goes when the graphics memory runs full."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisord_ai.core.residency import ModelUse, Resident, Unload, UnloadPolicy, VramWatch

NOBODY: frozenset[str] = frozenset()
LLAMA = Resident("llama", "main", 3 * 10**9, in_flight=2, queued=5, used_s=100.0, last_used_at=1000.0, loaded_at=0.0)
TINY = Resident("tiny", "main", 6 * 10**8, in_flight=0, queued=0, used_s=1.0, last_used_at=900.0, loaded_at=0.0)
NOMIC = Resident("nomic", "main", 3 * 10**8, in_flight=0, queued=0, used_s=5.0, last_used_at=990.0, loaded_at=0.0)
ALL = (LLAMA, TINY, NOMIC)


def watch() -> VramWatch:
    return VramWatch(UnloadPolicy())


def at_95(models: tuple[Resident, ...], loading: frozenset[str] = NOBODY, at: VramWatch | None = None) -> Unload | None:
    """Two readings of 95 %, the second at 1000 s."""
    at = at or watch()
    assert at.judge(0.95, models, loading, 999.0) is None, "one reading is a model being exchanged"
    return at.judge(0.95, models, loading, 1000.0)


def test_the_least_used_idle_model_goes() -> None:
    unload = at_95(ALL)
    assert unload is not None
    assert (unload.name, unload.backend, unload.is_idle) == ("tiny", "main", True)
    assert unload.reason == "95% of the graphics memory is in use, the limit is 90%; nobody uses it"


def test_below_the_limit_nothing_is_unloaded() -> None:
    at = watch()
    assert all(at.judge(used, ALL, NOBODY, now) is None for now, used in enumerate([0.895, 0.5, None, 0.8] * 50))


def test_the_limit_is_reached_by_two_readings_in_a_row_at_it() -> None:
    at = watch()
    readings = [at.judge(used, ALL, NOBODY, 1000.0 + second) for second, used in enumerate([0.9, 0.89, 0.9, 0.9])]
    assert [unload is not None for unload in readings] == [False, False, False, True]


def test_while_something_is_loaded_nothing_is_unloaded() -> None:
    at = watch()
    assert all(at.judge(0.99, ALL, frozenset({"main"}), float(now)) is None for now in range(100))
    assert at.judge(0.99, ALL, NOBODY, 100.0) is not None


def test_a_model_that_somebody_waits_for_is_not_idle() -> None:
    unload = at_95((LLAMA, replace(TINY, queued=1), NOMIC))
    assert unload is not None
    assert unload.name == "nomic"


def test_where_all_are_in_use_the_least_used_is_drained_and_not_again_for_a_minute() -> None:
    busy = (LLAMA, replace(TINY, in_flight=1))
    at = watch()
    first = at_95(busy, at=at)
    assert first is not None
    assert (first.name, first.is_idle) == ("tiny", False)
    assert all(at.judge(0.95, busy, NOBODY, 1000.0 + s) is None for s in range(1, 60))
    again = at.judge(0.95, busy, NOBODY, 1060.0)
    assert again is not None
    assert again.reason.endswith("; all loaded models are in use, and it is the least")


def test_the_only_model_of_a_backend_stays_in_use_or_not() -> None:
    assert at_95((LLAMA,)) is None
    assert at_95((replace(LLAMA, in_flight=0, queued=0),)) is None


def test_a_model_that_takes_no_graphics_memory_stays() -> None:
    unload = at_95((replace(LLAMA, in_flight=0, queued=0), replace(TINY, vram_bytes=0)))
    assert unload is not None
    assert unload.name == "llama"


def test_a_model_that_was_loaded_a_moment_ago_stays() -> None:
    for loaded_at, goes in ((990.0, "nomic"), (970.1, "nomic"), (970.0, "tiny")):
        unload = at_95((LLAMA, replace(TINY, loaded_at=loaded_at), NOMIC))
        assert unload is not None
        assert unload.name == goes


def test_the_next_one_waits_until_the_first_is_gone() -> None:
    at = watch()
    at_95(ALL, at=at)
    assert [at.judge(0.95, ALL, NOBODY, 1000.0 + s) is None for s in range(1, 7)] == [True] * 5 + [False]


def test_a_limit_of_one_or_nothing_turns_it_off() -> None:
    for limit in (0.0, 1.0):
        at = VramWatch(UnloadPolicy(at=limit))
        assert all(at.judge(1.0, ALL, NOBODY, 1000.0 + second) is None for second in range(10))


RESIDENTS = st.lists(
    st.builds(
        Resident,
        name=st.sampled_from("abcdef"),
        backend=st.sampled_from(["main", "cpu"]),
        vram_bytes=st.sampled_from([0, 10**9]),
        in_flight=st.integers(0, 2),
        queued=st.integers(0, 2),
        used_s=st.floats(0, 100),
        last_used_at=st.floats(0, 900),
        loaded_at=st.floats(0, 1000),
    ),
    max_size=6,
    unique_by=lambda one: (one.name, one.backend),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 1)), RESIDENTS, st.booleans()), max_size=60))
def test_whatever_is_read_an_unload_is_allowed_and_no_busy_one_goes_before_an_idle_one(
    history: list[tuple[float | None, list[Resident], bool]],
) -> None:
    at = watch()
    last = -math.inf
    for second, (used, models, is_loading) in enumerate(history):
        loading = frozenset({"main"}) if is_loading else NOBODY
        unload = at.judge(used, models, loading, 1000.0 + second)
        if unload is None:
            continue
        victim = next(one for one in models if (one.name, one.backend) == (unload.name, unload.backend))
        assert used is not None
        assert used >= 0.9
        assert victim.backend not in loading
        assert victim.vram_bytes
        assert sum(one.backend == victim.backend for one in models) > 1
        assert 1000.0 + second - last >= at.policy.again_after_s
        last = 1000.0 + second
        if not victim.is_idle:
            others = [one for one in models if one.is_idle and one.vram_bytes and one.backend not in loading]
            fresh = [one for one in others if 1000.0 + second - one.loaded_at < at.policy.fresh_s]
            alone = [one for one in others if sum(o.backend == one.backend for o in models) == 1]
            assert len(others) == len({id(one) for one in (*fresh, *alone)})


def test_use_fades_and_is_charged_for_what_runs() -> None:
    use = ModelUse()
    use.follow(frozenset({"a", "b"}), 0.0)
    assert use.of("a", 10.0) == (0.0, 0.0), "never used: since it was loaded"
    use.call_began("1", "a", 10.0)
    assert use.of("a", 15.0) == (5.0, 15.0)
    use.call_ended("1", 20.0)
    assert use.of("a", 20.0) == (10.0, 20.0)
    seconds, last = use.of("a", 620.0)
    assert math.isclose(seconds, 10 / math.e)
    assert last == 20.0
    use.call_ended("1", 700.0)
    use.call_ended("unknown", 700.0)
    assert use.of("a", 620.0)[1] == 20.0
    use.follow(frozenset({"b", "c"}), 700.0)
    assert use.of("c", 700.0) == (0.0, 700.0)


def test_of_two_calls_at_once_the_one_that_goes_on_is_use_and_both_are_charged() -> None:
    use = ModelUse()
    use.call_began("1", "a", 10.0)
    use.call_began("2", "a", 11.0)
    use.call_ended("1", 20.0)
    assert use.of("a", 25.0) == (10.0 * math.exp(-5 / 600) + 14.0, 25.0)
    use.call_ended("2", 30.0)
    used_s = 10.0 * math.exp(-10 / 600) + 19.0
    assert math.isclose(use.of("a", 30.0)[0], used_s)
    use.call_began("3", "a", 30.5)
    assert math.isclose(use.of("a", 30.5)[0], used_s * math.exp(-0.5 / 600))


def test_a_call_that_nobody_knows_is_charged_to_no_model() -> None:
    use = ModelUse()
    use.call_ended("unknown", 1.0)
    assert use.uses == {}
    assert use.of("a", 1.0) == (0.0, -math.inf), "neither used nor loaded"
