"""When an Ollama is doubted, in made-up time."""

from __future__ import annotations

import pytest

from supervisord_ai.core.watchdog import HangWatch, Probed, SlotWatch, most_at_once

MODEL = "llama3.2:3b"


def serve_in_turns(watch: SlotWatch, count: int, *, each_s: float = 2.0) -> list[bool]:
    """Two calls are handed over at a time, and Ollama has one slot: each speaks when the one before has ended."""
    said = []
    now = 0.0
    watch.started("0", MODEL, now)
    watch.spoke("0", MODEL, 2, now)
    for number in range(count):
        watch.started(str(number + 1), MODEL, now + 0.1)
        now += each_s
        watch.ended(str(number), MODEL, now)
        said.append(watch.spoke(str(number + 1), MODEL, 2, now + 0.01))
    return said


def test_calls_that_speak_in_turns_are_a_suspicion_at_the_third() -> None:
    assert serve_in_turns(SlotWatch(), 3) == [False, False, True]


def test_a_model_is_not_doubted_again_at_once() -> None:
    assert sum(serve_in_turns(SlotWatch(), 100)) == 1
    assert sum(serve_in_turns(SlotWatch(), 200)) == 2


def test_calls_that_speak_together_are_none() -> None:
    watch = SlotWatch()
    for number in range(20):
        now = number * 5.0
        for call in ("a", "b"):
            watch.started(f"{call}{number}", MODEL, now)
            assert not watch.spoke(f"{call}{number}", MODEL, 2, now + 2)
        for call in ("a", "b"):
            watch.ended(f"{call}{number}", MODEL, now + 4)


def test_one_moment_of_speaking_together_clears_what_was_seen() -> None:
    watch = SlotWatch()
    assert serve_in_turns(watch, 2) == [False, False]
    watch.started("x", MODEL, 4.1)
    assert not watch.spoke("x", MODEL, 2, 6)
    assert serve_in_turns(watch, 2) == [False, False]


def test_a_slow_prompt_that_ends_at_another_time_says_nothing() -> None:
    watch = SlotWatch()
    for number in range(20):
        now = number * 10.0
        watch.started(f"short{number}", MODEL, now)
        watch.spoke(f"short{number}", MODEL, 2, now)
        watch.started(f"long{number}", MODEL, now)
        watch.ended(f"short{number}", MODEL, now + 3)
        assert not watch.spoke(f"long{number}", MODEL, 2, now + 5)
        watch.ended(f"long{number}", MODEL, now + 6)


def test_a_model_with_one_slot_is_never_suspected_for_serving_in_turns() -> None:
    watch = SlotWatch()
    for number in range(10):
        watch.started(str(number), MODEL, number * 2.0)
        assert not watch.spoke(str(number), MODEL, 1, number * 2.0 + 1.5)
        watch.ended(str(number), MODEL, number * 2.0 + 1.9)


def test_a_call_given_up_without_a_byte_is_a_suspicion_at_once() -> None:
    watch = SlotWatch()
    watch.started("a", MODEL, 0)
    assert watch.ended("a", MODEL, 180, was_silent=True)
    watch.started("b", MODEL, 0)
    assert not watch.ended("b", MODEL, 181, was_silent=True)


def turn(watch: SlotWatch, at: float, *, other_at: float = -2.0, mine_at: float = -1.9, spoke_at: float = 0.01) -> bool:
    """One call ends at `at`, another has its first byte about then; when they began and it came is told from then."""
    other, mine = f"other-{at}", f"mine-{at}"
    for call, began_at in sorted(((other, other_at), (mine, mine_at)), key=lambda one: one[1]):
        watch.started(call, MODEL, at + began_at)
    watch.spoke(other, MODEL, 2, at + other_at)
    watch.ended(other, MODEL, at)
    said = watch.spoke(mine, MODEL, 2, at + spoke_at)
    watch.ended(mine, MODEL, at + 0.5)
    return said


@pytest.mark.parametrize(
    ("began", "is_turn"),
    [
        ({}, True),
        ({"other_at": -2.0, "mine_at": -2.0}, True),  # they began together
        ({"other_at": -1.0, "mine_at": -2.0}, False),  # it was there first: it does not wait for a slot
        ({"mine_at": -1.0, "spoke_at": 0.0}, True),  # it has waited for a second, and speaks at the very moment
        ({"mine_at": -0.9, "spoke_at": 0.0}, False),
        ({"spoke_at": 0.25}, True),
        ({"spoke_at": 0.26}, False),
    ],
)
def test_a_turn_is_a_first_byte_that_was_waited_for_just_when_another_call_has_ended(
    began: dict[str, float], is_turn: bool
) -> None:
    watch = SlotWatch()
    assert [turn(watch, at, **began) for at in (100.0, 200.0, 300.0)] == [False, False, is_turn]


def test_after_one_moment_of_speaking_together_three_turns_are_needed_again() -> None:
    watch = SlotWatch()
    assert [turn(watch, at) for at in (100.0, 200.0)] == [False, False]
    for call in ("a", "b"):
        watch.started(call, MODEL, 250.0)
        assert not watch.spoke(call, MODEL, 2, 252.0)
    for call in ("a", "b"):
        watch.ended(call, MODEL, 260.0)
    assert [turn(watch, at) for at in (300.0, 400.0, 500.0)] == [False, False, True]


def test_after_a_proof_three_turns_are_needed_again() -> None:
    watch = SlotWatch()
    assert [turn(watch, at) for at in (100.0, 200.0, 300.0)] == [False, False, True]
    watch.proved(MODEL, was_right=True)
    assert [turn(watch, at) for at in (400.0, 500.0, 600.0)] == [False, False, True]


def test_five_minutes_after_a_doubt_there_may_be_another() -> None:
    watch = SlotWatch()
    assert [watch.ended("x", MODEL, at, was_silent=True) for at in (0.0, 299.9, 300.0)] == [True, False, True]


def test_the_end_of_a_call_that_nobody_has_started_says_nothing() -> None:
    assert SlotWatch().ended("unknown", MODEL, 1.0) is False


def test_probes_that_speak_at_one_moment_are_counted() -> None:
    assert most_at_once([Probed(1, 1)]) == 1
    assert most_at_once([Probed(0, 2), Probed(1, 3)]) == 2
    assert most_at_once([Probed(0, 2), Probed(2.1, 4)]) == 1
    assert most_at_once([Probed(0, 2), Probed(None, 30)]) == 1
    assert most_at_once([Probed(None, 30), Probed(None, 30)]) == 0
    assert most_at_once([]) == 0


def test_an_engine_that_answers_nothing_any_more_is_restarted_once_in_a_while() -> None:
    watch = HangWatch()
    watch.answered()
    assert not watch.silent(100, 105)
    assert watch.silent(100, 110)
    assert not watch.silent(111, 121)
    assert not watch.silent(200, 229)
    assert watch.silent(200, 260)
    watch.answered()
    assert not watch.silent(360, 379)
    assert watch.silent(360, 380), "two minutes after the last one"
    assert not watch.silent(510, 569), "it has just been started: it looks for its GPUs"
    assert watch.silent(510, 570)


def test_an_engine_that_is_looking_for_its_gpus_is_left_alone() -> None:
    watch = HangWatch()
    assert not watch.silent(0, 10)
    assert not watch.silent(20, 30)
    watch.answered()
    assert watch.silent(31, 41)


def test_one_that_was_stopped_is_not_hung() -> None:
    watch = HangWatch()
    watch.answered()
    watch.refused()
    assert not watch.silent(10, 20)
    assert not watch.silent(21, 31)


def test_a_byte_of_a_call_that_nobody_has_started_says_nothing() -> None:
    assert SlotWatch().spoke("unknown", MODEL, 2, 1.0) is False


def test_a_doubt_that_was_right_may_be_had_again_at_once_and_one_that_was_wrong_may_not() -> None:
    for was_right, doubted in ((True, True), (False, False)):
        watch = SlotWatch()
        assert serve_in_turns(watch, 3)[-1]
        watch.proved(MODEL, was_right=was_right)
        watch.started("x", MODEL, 10.0)
        assert watch.ended("x", MODEL, 20.0, was_silent=True) is doubted


def silent_calls(watch: SlotWatch, *started_at: float) -> None:
    for number, at in enumerate(started_at):
        watch.started(f"mute{number}", MODEL, at, is_streamed=False)


def test_a_model_whose_slots_are_all_taken_and_silent_is_doubted_after_five_minutes_and_once() -> None:
    watch = SlotWatch()
    silent_calls(watch, 0.0, 50.0)
    assert not watch.is_mute(MODEL, 2, 299.9)
    assert not watch.is_mute(MODEL, 3, 300.0)  # there is another slot, which may work
    assert watch.is_mute(MODEL, 2, 300.0)
    assert not watch.is_mute(MODEL, 2, 305.0)
    assert not watch.is_mute("another", 2, 300.0)


def test_a_stream_is_given_up_before_that() -> None:
    watch = SlotWatch()
    silent_calls(watch, 0.0)
    watch.started("stream", MODEL, 70.0)
    assert not watch.is_mute(MODEL, 2, 369.0)


def test_callers_that_lose_patience_do_not_hide_that_nobody_is_heard() -> None:
    watch = SlotWatch()
    for number in range(8):
        at = number * 40.0
        watch.started(f"a{number}", MODEL, at, is_streamed=False)
        assert not watch.is_mute(MODEL, 1, at + 10), "its last call has only begun"
        if number < 7:
            watch.ended(f"a{number}", MODEL, at + 40.0)
    assert watch.is_mute(MODEL, 1, 310.0)


def test_a_pause_in_which_nobody_asked_is_no_silence() -> None:
    watch = SlotWatch()
    watch.started("left", MODEL, 0.0)
    watch.ended("left", MODEL, 2.0)
    silent_calls(watch, 3600.0, 3600.0)
    assert not watch.is_mute(MODEL, 2, 3899.0)
    assert watch.is_mute(MODEL, 2, 3900.0)


def test_who_speaks_or_has_just_spoken_is_no_sign_of_lost_slots() -> None:
    watch = SlotWatch()
    watch.started("long", MODEL, 0.0, is_streamed=False)
    watch.spoke("long", MODEL, 2, 1.0)
    silent_calls(watch, 1.0)
    assert not watch.is_mute(MODEL, 2, 500.0)  # a long answer beside another
    watch.ended("long", MODEL, 500.0)
    watch.started("next", MODEL, 500.0, is_streamed=False)
    assert not watch.is_mute(MODEL, 2, 799.0)
    assert watch.is_mute(MODEL, 2, 800.0)


def test_where_answers_take_long_the_silence_must_be_longer() -> None:
    watch = SlotWatch()
    watch.started("slow", MODEL, 0.0)
    watch.spoke("slow", MODEL, 2, 100.0)
    watch.ended("slow", MODEL, 101.0)
    silent_calls(watch, 101.0, 101.0)
    assert not watch.is_mute(MODEL, 2, 101.0 + 399.0)
    assert watch.is_mute(MODEL, 2, 101.0 + 400.0)


def test_calls_that_were_broken_off_for_nothing_are_let_be_until_one_is_heard() -> None:
    watch = SlotWatch()
    silent_calls(watch, 0.0, 0.0)
    assert watch.is_mute(MODEL, 2, 300.0)
    watch.proved(MODEL, was_right=False)
    silent_calls(watch, 305.0, 305.0)
    assert not watch.is_mute(MODEL, 2, 905.0)
    watch.spoke("mute0", MODEL, 2, 905.0)
    watch.ended("mute0", MODEL, 906.0)
    watch.ended("mute1", MODEL, 906.0)
    silent_calls(watch, 906.0, 906.0)
    assert watch.is_mute(MODEL, 2, 906.0 + 4 * 600.0)
