"""Whether a model is where it belongs, and as fast as it was."""

from __future__ import annotations

from supervisord_ai.core.model_health import Move, Moved, Placed, Placements, Speeds

GB = 10**9


def llama(vram_gb: float) -> list[Placed]:
    return [Placed("llama", 3 * GB, round(vram_gb * GB))]


def test_a_model_whose_share_on_the_gpu_drops_fell_and_is_told_once() -> None:
    at = Placements()
    assert at.follow(llama(3)) == []
    assert at.follow(llama(0)) == [Moved("llama", Move.FELL, 0.0, 1.0)]
    assert at.follow(llama(0)) == []
    assert at.fallen == {"llama"}


def test_it_is_back_when_ps_says_so_and_not_before() -> None:
    at = Placements()
    at.follow(llama(3))
    at.follow(llama(1))
    assert at.follow([]) == [], "unloaded is not back"
    assert at.fallen == {"llama"}
    assert at.follow(llama(2)) == [], "half is not back"
    assert at.follow(llama(2.69)) == []
    assert at.follow(llama(2.7)) == [Moved("llama", Move.BACK, 0.9, 1.0)]
    assert at.fallen == set()


def test_a_model_that_never_fitted_whole_is_judged_by_its_own_best() -> None:
    at = Placements()
    assert at.follow(llama(1.5)) == []
    assert at.follow(llama(1.2)) == []
    assert at.follow(llama(0.7)) == [Moved("llama", Move.FELL, 0.7 * GB / (3 * GB), 0.5)]


def test_on_a_machine_without_a_gpu_no_model_falls() -> None:
    at = Placements()
    assert [at.follow(llama(0)) for _ in range(5)] == [[]] * 5


def test_three_answers_at_less_than_a_third_of_the_usual_speed_are_slow() -> None:
    speeds = Speeds()
    assert [speeds.note("llama", 100, 2.0) for _ in range(20)] == [None] * 20
    assert speeds.note("llama", 100, 7.0) is None
    slowed = speeds.note("llama", 100, 7.0)
    assert slowed is not None, "the median of the last three is slow"
    assert (slowed.is_slow, round(slowed.now, 1), slowed.usual) == (True, 14.3, 50.0)
    assert [speeds.note("llama", 100, 7.0) for _ in range(200)] == [None] * 200, "what is slow does not become the usual"
    assert speeds.slow == {"llama"}
    speeds.note("llama", 100, 2.0)
    back = speeds.note("llama", 100, 2.0)
    assert back is not None
    assert not back.is_slow
    assert speeds.slow == set()


def test_a_few_tokens_and_a_new_model_tell_nothing() -> None:
    speeds = Speeds()
    for _ in range(9):
        assert speeds.note("llama", 100, 2.0) is None
    assert speeds.note("llama", 100, 100.0) is None, "there is no usual speed yet"
    other = Speeds()
    for _ in range(20):
        other.note("llama", 100, 2.0)
    assert [other.note("llama", 1, 100.0) for _ in range(9)] == [None] * 9
    assert other.note("llama", 100, 0.0) is None


def test_a_usual_speed_is_that_of_ten_answers_whatever_they_were() -> None:
    new = Speeds()
    assert [new.note("llama", 100, seconds) for seconds in (2.0,) * 6 + (10.0,) * 3] == [None] * 9
    ten = Speeds()
    assert [ten.note("llama", 100, seconds) for seconds in (2.0,) * 8 + (10.0,) * 2] == [None] * 10
    assert ten.note("llama", 100, 10.0) is not None


def test_the_usual_speed_is_that_of_the_last_fifty() -> None:
    speeds = Speeds()
    for tokens_per_s in (50,) * 100 + (20,) * 60:
        assert speeds.note("llama", tokens_per_s, 1.0) is None
    assert [speeds.note("llama", 10, 1.0) for _ in range(5)] == [None] * 5, "half of what has been usual of late"


def test_a_third_of_the_usual_speed_is_not_slow_and_eight_tokens_in_half_a_second_are_an_answer() -> None:
    speeds = Speeds()
    for _ in range(20):
        speeds.note("llama", 60, 1.0)
    assert [speeds.note("llama", 20, 1.0) for _ in range(3)] == [None] * 3
    quick = Speeds()
    for _ in range(20):
        quick.note("llama", 8, 0.5)
    assert [quick.note("llama", 8, 2.0) is not None for _ in range(2)] == [False, True]
